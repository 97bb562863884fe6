"""`when = "success_rate < 0.95 and executions >= 20"`: parsed, and found true or not.

Strategy: Python's own parser reads the text, and a whitelist of its nodes becomes a
tree of conditions: `and`, `or`, `not`, and a metric compared with a number. Nothing of
it is ever executed. Truth has three values, as Kleene's logic has: what isn't known
decides nothing that is decided without it. As 1, 0 and -1, `and` is the least, `or` the
greatest and `not` the negative, of whole arrays at once.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FALSE",
    "TRUE",
    "UNKNOWN",
    "All",
    "Any",
    "Compare",
    "Predicate",
    "Not",
    "leading",
    "parse",
]

TRUE: Final = 1
UNKNOWN: Final = 0
FALSE: Final = -1

MAX_CHARACTERS: Final = 500
MAX_DEPTH: Final = 20

Values = Mapping[str, NDArray[np.float64]]
Truth = NDArray[np.int8]

_TESTS: Final[
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
    """A metric against a number."""

    metric: str
    op: str
    value: float

    def truth(self, values: Values) -> Truth:
        """Return where it is so; unknown where the metric is NaN."""
        found = values[self.metric]
        truth = np.where(_TESTS[self.op](found, self.value), TRUE, FALSE)
        return np.where(np.isnan(found), UNKNOWN, truth).astype(np.int8)

    def metrics(self) -> set[str]:
        """Return the metrics in it."""
        return {self.metric}

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {self.value:g}"


class All(NamedTuple):
    """All of several conditions."""

    parts: tuple[Predicate, ...]

    def truth(self, values: Values) -> Truth:
        """Return where all are true."""
        truth: Truth = np.minimum.reduce([part.truth(values) for part in self.parts])
        return truth

    def metrics(self) -> set[str]:
        """Return the metrics in them."""
        return set().union(*(part.metrics() for part in self.parts))

    def __str__(self) -> str:
        return " and ".join(_wrapped(part, Any) for part in self.parts)


class Any(NamedTuple):
    """One of several conditions."""

    parts: tuple[Predicate, ...]

    def truth(self, values: Values) -> Truth:
        """Return where one is true."""
        truth: Truth = np.maximum.reduce([part.truth(values) for part in self.parts])
        return truth

    def metrics(self) -> set[str]:
        """Return the metrics in them."""
        return set().union(*(part.metrics() for part in self.parts))

    def __str__(self) -> str:
        return " or ".join(map(str, self.parts))


class Not(NamedTuple):
    """The opposite of a condition."""

    part: Predicate

    def truth(self, values: Values) -> Truth:
        """Return where the condition is false."""
        return -self.part.truth(values)

    def metrics(self) -> set[str]:
        """Return the metrics in it."""
        return self.part.metrics()

    def __str__(self) -> str:
        return f"not {_wrapped(self.part, Any, All)}"


Predicate = Compare | All | Any | Not


def parse(text: str, known: Callable[[str], bool], names: Collection[str]) -> Predicate:
    """Return the condition that a text is.

    Args:
        text: such as `latency_p95 > 2.5 and throughput >= 1`.
        known: whether a metric exists.
        names: metrics to suggest where one does not.

    Raises:
        ValueError: saying what in it can't be used, and what can.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text)} characters; at most {MAX_CHARACTERS}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} can't be read; {_EXAMPLE}") from None
    return _condition(tree.body, known, names, 0)


def leading(condition: Predicate) -> Compare:
    """Return the first comparison in a condition: the one that is shown."""
    match condition:
        case Compare():
            return condition
        case Not(part):
            return leading(part)
        case _:
            return leading(condition.parts[0])


# -- inside --------------------------------------------------------------------------

_EXAMPLE: Final = 'write it like "success_rate < 0.95 and executions >= 20"'


def _condition(
    node: ast.expr, known: Callable[[str], bool], names: Collection[str], depth: int
) -> Predicate:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = tuple(_condition(v, known, names, depth + 1) for v in values)
            return All(parts) if isinstance(op, ast.And) else Any(parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Not(_condition(operand, known, names, depth + 1))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _compare(left, op, right, known, names)
        case ast.Compare():
            raise ValueError(
                f"{ast.unparse(node)}: one comparison at a time; {_EXAMPLE}"
            )
    raise ValueError(f"{ast.unparse(node)}: is no comparison; {_EXAMPLE}")


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
        raise ValueError(f"{whole}: a metric, then < <= > >= == or !=, then a number")
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
        case ast.Constant(value=int() | float() as value) if not isinstance(
            value, bool
        ):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
    raise ValueError(f"{ast.unparse(node)}: expected a number")


def _wrapped(part: Predicate, *kinds: type) -> str:
    return f"({part})" if isinstance(part, kinds) else str(part)
