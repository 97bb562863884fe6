"""Folds names that are made per request into one pattern: `req-17` into `req-*`.

A name with an id in it is a new series for each request. Thousands of them fill the
limits on names, and then other nodes are counted under `__other__`, too.

Strategy: a part that can only be an id, such as a UUID, a hash or a time, is replaced
at once. Numbers are also in names such as `step1` and `gpt-4`, so they are replaced
only if a graph has more than 500 names that differ in numbers alone.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

__all__ = ["NameFolder"]

MAX_SIBLINGS: Final = 500  # names that differ only in their numbers
MAX_NAMES: Final = 10_000  # cached; later names are matched each time
MAX_FAMILIES: Final = 2_000
MAX_LOGGED: Final = 20

WILDCARD: Final = "*"

# The scope of a node's name is the name of its graph. These are the other scopes.
GRAPHS: Final = ""
ACTIONS: Final = "(actions)"
METRICS: Final = "(metrics)"

_THINGS: Final = {
    GRAPHS: ("graphs, or nodes,", "set one with kaywatch.name(...)"),
    ACTIONS: ("actions", "return one of a few from post"),
    METRICS: ("custom metrics", "use one name"),
}

_DIGITS: Final = frozenset("0123456789")
_WORD: Final = "0-9A-Za-z"

# Parts that can only be an id. `(?<![...])` and `(?![...])` are the ends of a word,
# without `_`, which often precedes an id.
_ID: Final = (
    # UUID; its 32 digits may follow a word, as in `f"Sub{uuid4().hex}"`
    rf"(?<![{_WORD}])[0-9a-f]{{8}}(?:([-_])[0-9a-f]{{4}}){{3}}\1[0-9a-f]{{12}}(?![{_WORD}])"
    rf"|[0-9a-f]{{32}}(?![{_WORD}])"
    # date and time, as in ISO 8601
    r"|(?<!\d)\d{4}-?\d\d-?\d\d[T _-]?\d\d[:.-]?\d\d(?:[:.-]?\d\d(?:[.,]\d+)?)?"
    r"(?:Z|[+-]\d\d:?\d\d)?(?!\d)"
    # seconds since 1970, and longer numbers
    r"|\d{10,}(?:\.\d+)?"
    # a hash: hexadecimal, with digits and letters
    rf"|(?<![{_WORD}])(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{{8,}}(?![{_WORD}])"
    # ULID
    rf"|(?<![{_WORD}])[0-7][0-9A-HJKMNP-TV-Z]{{25}}(?![{_WORD}])"
)
# Parts that may be an id: a hexadecimal number, a word with several numbers, or a
# number.
_NUMBER: Final = (
    rf"(?<![{_WORD}])(?:(?=[a-f]*\d)[0-9a-f]{{4,}}|[a-z]*\d+[a-z]+\d[{_WORD}]*)"
    rf"(?![{_WORD}])|\d+"
)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return a compiled pattern, at first use: an import must take no milliseconds."""
    return re.compile(pattern, re.IGNORECASE)


def _has_digit(name: str) -> bool:
    return not _DIGITS.isdisjoint(name)


class NameFolder:
    """The names of the graphs, nodes, actions and metrics of one process.

    Attributes:
        patterns: the patterns that replaced names, as (scope, pattern). The scope of a
            node's name is the name of its graph.
    """

    def __init__(self) -> None:
        self.patterns: set[tuple[str, str]] = set()
        self._known: dict[tuple[str, str], str] = {}
        self._families: dict[tuple[str, str], set[str]] = {}

    def graph(self, name: str) -> str:
        """Return the name of a graph, folded if it is made per request."""
        return self.node(GRAPHS, name)

    def action(self, name: str) -> str:
        """Return the name of an action, folded if it is made per request."""
        return self.node(ACTIONS, name)

    def metric(self, name: str) -> str:
        """Return the name of a custom metric, folded if it is made per request."""
        return self.node(METRICS, name)

    def node(self, graph: str, name: str) -> str:
        """Return the name of a node of `graph`, folded if it is made per request.

        Args:
            graph: as `graph` returned it.
            name: of the node.
        """
        explicit = self._known.get((graph, name))
        return self._fold(graph, name) if explicit is None else explicit

    def _fold(self, graph: str, name: str) -> str:
        folded = _compiled(_ID).sub(WILDCARD, name) if _has_digit(name) else name
        if folded != name:
            self._note(graph, name, folded)
            name = folded
        if _has_digit(name):
            name = self._fold_numbers(graph, name)
        if name != WILDCARD and folded == name and len(self._known) < MAX_NAMES:
            self._known[graph, name] = name
        return name

    def _fold_numbers(self, graph: str, name: str) -> str:
        """Fold the numbers in a name, unless its family is small."""
        pattern = _compiled(_NUMBER).sub(WILDCARD, name)
        key = graph, pattern
        family = self._families.get(key)
        if family is None:
            if len(self._families) >= MAX_FAMILIES:
                return name
            family = self._families.setdefault(key, set())
        if name in family:
            return name
        if len(family) < MAX_SIBLINGS:
            family.add(name)
            return name
        self._note(graph, name, pattern)
        return pattern

    def _note(self, graph: str, name: str, pattern: str) -> None:
        """Log a pattern at its first use."""
        key = graph, pattern
        if key in self.patterns or len(self.patterns) >= MAX_FAMILIES:
            return
        self.patterns.add(key)
        if len(self.patterns) <= MAX_LOGGED:
            import logging  # here, since it is rarely needed and takes milliseconds

            of_nodes = f"nodes of the graph {graph!r}", _THINGS[GRAPHS][1]
            things, fix = _THINGS.get(graph, of_nodes)
            logging.getLogger("kaywatch").warning(
                "%s with names such as %r are counted together as %r: a name per"
                " request would fill the limits; %s",
                *(things, name, pattern, fix),
            )
