"""Splits an encoded batch into several that a broker's packet limit allows.

This is a slow path, since batches are packed for the known limit. It is needed for
batches that were packed before a broker announced its limit, or that it rejected.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from kaywatch import wire

__all__ = ["Part", "split"]

# Column sections with their columns, and the table that each index refers to.
_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "executions": {**wire.EXECUTION_COLUMNS, **wire.PHASE_COLUMNS},
    "points": wire.POINT_COLUMNS,
    "runs": wire.RUN_COLUMNS,
}
_INDEXED: Final[Mapping[str, Mapping[str, str]]] = {
    "executions": {"series": "series", "action": "strings", "error": "errors"},
    "points": {"series": "points"},
    "runs": dict.fromkeys(("graph", "reason", "node", "action"), "strings"),
}
_LISTS: Final = ("failures", "topologies", "looped")
# Each replaces what the previous batch said, so only one part may have it.
_STATES: Final[tuple[str, ...]] = ("in_flight", "loops", "process")
_LONG: Final = {"in_flight", "loops"}

Sections = dict[str, Any]


class Part(NamedTuple):
    """The sections of one part of a batch, and the number of its events."""

    sections: Sections
    events: int


def split(sections: Sections, fits: Callable[[Sections], bool]) -> Iterator[Part]:
    """Yield parts of a batch in order, each as large as `fits` allows.

    An event, or an entry of a list, that does not fit alone is left out.

    Args:
        sections: those of the batch; not changed.
        fits: whether a batch with these sections is small enough.
    """
    table = wire.decode(sections["table"]) if "table" in sections else {}
    pending = [{**sections, "table": table}]
    while pending:
        part = pending.pop()
        packed = _with_own_table(part)
        if fits(packed):
            yield Part(packed, sum(_count(part, name) for name in _COLUMNS))
        else:
            pending.extend(reversed(_halves(part)))


def _halves(sections: Sections) -> list[Sections]:
    """Return both halves of a batch; fewer if it cannot be divided."""
    table = sections["table"]
    states = {name: sections[name] for name in _STATES if name in sections}
    counts = {name: _count(sections, name) for name in (*_COLUMNS, *_LISTS)}
    total = sum(counts.values())
    if total and states:
        rest = {name: part for name, part in sections.items() if name not in states}
        halves = [rest, states]
    elif total > 1:
        halves = _split_sections(sections, counts, total // 2)
    else:
        halves = [_halve_states(states)]
    return [{**half, "table": table} for half in halves if half]


def _split_sections(
    sections: Sections, counts: Mapping[str, int], middle: int
) -> list[Sections]:
    """Return the first `middle` rows and entries, and those after them."""
    first: Sections = {}
    second: Sections = {}
    for name, count in counts.items():
        here = min(count, middle)
        middle -= here
        if here:
            first[name] = _cut(sections[name], name, 0, here)
        if here < count:
            second[name] = _cut(sections[name], name, here, count)
    return [first, second]


def _halve_states(states: Sections) -> Sections:
    """Return half of the entries of each state: the oldest, or most visited, ones."""
    halves = {
        name: states[name][: len(states[name]) // 2] for name in states.keys() & _LONG
    }
    return {name: entries for name, entries in halves.items() if entries}


def _count(sections: Sections, name: str) -> int:
    """Return the number of rows or entries of a section."""
    section = sections.get(name, ())
    if name not in _COLUMNS or not section:
        return len(section)
    column, typecode = next(iter(_COLUMNS[name].items()))
    return len(section[column]) // struct.calcsize(f"<{typecode}")


def _cut(section: Any, name: str, start: int, end: int) -> Any:
    """Return some rows or entries; columns of phases may be shorter than the others."""
    if name not in _COLUMNS:
        return section[start:end]
    part = {}
    for column, data in section.items():
        size = struct.calcsize(f"<{_COLUMNS[name][column]}")
        part[column] = data[start * size : end * size]
    return part


# -- tables ----------------------------------------------------------------------------


def _with_own_table(sections: Sections) -> Sections:
    """Return the sections with a table of only the entries that they use."""
    table = _Table(sections["table"])
    own = {
        name: table.translate(name, value) if name in _COLUMNS else value
        for name, value in sections.items()
        if name != "table"
    }
    if any(name in own for name in _COLUMNS):
        own["table"] = wire.pack(table.entries())
    return own


class _Table:
    """The used part of a table, and the new numbers of its entries."""

    def __init__(self, table: Mapping[str, list[Any]]) -> None:
        self._table = table
        self._numbers: dict[str, dict[int, int]] = {
            name: {} for name in ("strings", "series", "points", "errors")
        }
        # In every table, the first string is empty and the first error is none.
        self._number("strings", 0)
        self._number("errors", 0)

    def translate(self, section: str, columns: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return columns whose indices refer to the new table."""
        indexed = _INDEXED[section]
        return {
            name: self._translate(indexed[name], data) if name in indexed else data
            for name, data in columns.items()
        }

    def entries(self) -> dict[str, list[Any]]:
        """Return the new table; it numbers the strings of its own entries."""
        table = self._table

        def string(number: int) -> int:
            return self._number("strings", number)

        entries = {
            "series": [
                [*map(string, table["series"][old])] for old in self._numbers["series"]
            ],
            "points": [
                [kind, *map(string, names), labels]
                for old in self._numbers["points"]
                for kind, *names, labels in [table["points"][old]]
            ],
            "errors": [
                [string(kind), phase]
                for old in self._numbers["errors"]
                for kind, phase in [table["errors"][old]]
            ],
        }
        strings = [table["strings"][n] for n in self._numbers["strings"]]
        return {"strings": strings, **entries}

    def _translate(self, kind: str, data: bytes) -> bytes:
        layout = f"<{len(data) // 2}H"
        numbers = [self._number(kind, n) for n in struct.unpack(layout, data)]
        return struct.pack(layout, *numbers)

    def _number(self, kind: str, old: int) -> int:
        numbers = self._numbers[kind]
        return numbers.setdefault(old, len(numbers))
