"""Parses and evaluates `when = "success_rate < 0.95 and executions >= 20"`.

Strategy: Python's own parser reads the text, and an allow list of its nodes becomes a
tree of predicates: `and`, `or`, `not`, and a metric compared with a number. Nothing is
ever executed. Truth has three values, as in Kleene's logic: an unknown operand matters
only if the result depends on it. With true, unknown and false as 1, 0 and -1, `and` is
the minimum, `or` the maximum and `not` the negative, of whole arrays at once.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FALSE",
    "TRUE",
    "UNKNOWN",
    "Truth",
    "AllOf",
    "AnyOf",
    "Compare",
    "Predicate",
    "Not",
    "leading",
    "parse",
]

TRUE: Final = 1
UNKNOWN: Final = 0
FALSE: Final = -1

# People write expressions of a line. Parsing and evaluation recurse, and may not
# exhaust the stack.
MAX_CHARACTERS: Final = 500
MAX_DEPTH: Final = 20

Values = Mapping[str, NDArray[np.float64]]
Truth = NDArray[np.int8]

_OPERATIONS: Final[
    Mapping[str, Callable[[NDArray[np.float64], float], NDArray[np.bool_]]]
] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}

_OPERATORS: Final[Mapping[type[ast.cmpop], str]] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


class Compare(NamedTuple):
    """A metric compared with a number."""

    metric: str
    op: str
    value: float

    def truth(self, values: Values) -> Truth:
        """Return where it is true; unknown where the metric is NaN."""
        column = values[self.metric]
        truth = np.where(_OPERATIONS[self.op](column, self.value), TRUE, FALSE)
        return np.where(np.isnan(column), UNKNOWN, truth).astype(np.int8)

    def metrics(self) -> set[str]:
        """Return its metrics."""
        return {self.metric}

    def comparisons(self) -> tuple[Compare, ...]:
        """Return itself."""
        return (self,)

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.value:g}"


class AllOf(NamedTuple):
    """A conjunction."""

    parts: tuple[Predicate, ...]

    def truth(self, values: Values) -> Truth:
        """Return where all parts are true."""
        truth: Truth = np.minimum.reduce([part.truth(values) for part in self.parts])
        return truth

    def metrics(self) -> set[str]:
        """Return their metrics."""
        return set().union(*(part.metrics() for part in self.parts))

    def comparisons(self) -> tuple[Compare, ...]:
        """Return their comparisons, from left to right."""
        return tuple(one for part in self.parts for one in part.comparisons())

    def __str__(self) -> str:
        return " and ".join(_wrapped(part, AnyOf) for part in self.parts)


class AnyOf(NamedTuple):
    """A disjunction."""

    parts: tuple[Predicate, ...]

    def truth(self, values: Values) -> Truth:
        """Return where a part is true."""
        truth: Truth = np.maximum.reduce([part.truth(values) for part in self.parts])
        return truth

    def metrics(self) -> set[str]:
        """Return their metrics."""
        return set().union(*(part.metrics() for part in self.parts))

    def comparisons(self) -> tuple[Compare, ...]:
        """Return their comparisons, from left to right."""
        return tuple(one for part in self.parts for one in part.comparisons())

    def __str__(self) -> str:
        return " or ".join(map(str, self.parts))


class Not(NamedTuple):
    """A negation."""

    part: Predicate

    def truth(self, values: Values) -> Truth:
        """Return where its operand is false."""
        return -self.part.truth(values)

    def metrics(self) -> set[str]:
        """Return its metrics."""
        return self.part.metrics()

    def comparisons(self) -> tuple[Compare, ...]:
        """Return its comparisons."""
        return self.part.comparisons()

    def __str__(self) -> str:
        return f"not {_wrapped(self.part, AnyOf, AllOf)}"


Predicate = Compare | AllOf | AnyOf | Not


def parse(text: str, known: Callable[[str], bool], names: Collection[str]) -> Predicate:
    """Parse a predicate.

    Args:
        text: such as `latency_p95 > 2.5 and throughput >= 1`.
        known: whether a metric exists.
        names: metrics to suggest for an unknown one.

    Raises:
        ValueError: the part that is invalid, and what is allowed.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text)} characters; at most {MAX_CHARACTERS}")
    try:
        with warnings.catch_warnings():
            # Python warns of `1and`, on stderr and without the name of the rule.
            warnings.simplefilter("error", SyntaxWarning)
            tree = ast.parse(text.strip(), mode="eval")
    # A null byte is a ValueError, deep nesting one of the last two.
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text!r}: invalid syntax; {_EXAMPLE}") from None
    return _predicate(tree.body, known, names, 0)


def leading(predicate: Predicate) -> Compare:
    """Return the first comparison of a predicate: the one that is shown."""
    match predicate:
        case Compare():
            return predicate
        case Not(part):
            return leading(part)
        case _:
            return leading(predicate.parts[0])


# -- inside --------------------------------------------------------------------------

_EXAMPLE: Final = 'write it like "success_rate < 0.95 and executions >= 20"'


def _predicate(
    node: ast.expr, known: Callable[[str], bool], names: Collection[str], depth: int
) -> Predicate:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = tuple(_predicate(v, known, names, depth + 1) for v in values)
            return AllOf(parts) if isinstance(op, ast.And) else AnyOf(parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Not(_predicate(operand, known, names, depth + 1))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _compare(left, op, right, known, names)
        case ast.Compare():
            raise ValueError(f"{ast.unparse(node)}: chained comparison; {_EXAMPLE}")
    raise ValueError(f"{ast.unparse(node)}: not a comparison; {_EXAMPLE}")


def _compare(
    left: ast.expr,
    op: ast.cmpop,
    right: ast.expr,
    known: Callable[[str], bool],
    names: Collection[str],
) -> Compare:
    metric = _metric(left)
    if metric is None or type(op) not in _OPERATORS:
        whole = f"{ast.unparse(left)} … {ast.unparse(right)}"
        raise ValueError(
            f"{whole}: expected a metric, then < <= > >= == or !=, then a number"
        )
    if not known(metric):
        near = difflib.get_close_matches(metric, names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{metric}: unknown metric{hint}")
    return Compare(metric, _OPERATORS[type(op)], _number(right))


def _metric(node: ast.expr) -> str | None:
    """Return a name, dotted for custom metrics: `custom.queue_depth.max`."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            front = _metric(value)
            return front and f"{front}.{attribute}"
    return None


def _number(node: ast.expr) -> float:
    match node:
        # In Python, True is an int.
        case ast.Constant(value=int() | float() as value) if not isinstance(
            value, bool
        ):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
    raise ValueError(f"{ast.unparse(node)}: expected a number")


def _wrapped(part: Predicate, *kinds: type) -> str:
    return f"({part})" if isinstance(part, kinds) else str(part)
