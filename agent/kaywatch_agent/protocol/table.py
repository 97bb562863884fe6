"""The table of a batch: its strings, and the series and errors that index them.

A client sends the same table with every batch until it has a new entry. Decoded tables
are therefore cached by their bytes, and later stages may key their own caches by the
identity of a Table.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from kaywatch.wire import MAX_TABLE_ENTRIES, PHASES, PointKind
from kaywatch_agent.model.series import ErrorKey, Labels
from kaywatch_agent.protocol.limits import MAX_LABELS
from kaywatch_agent.protocol.names import clean_name

__all__ = ["TableError", "Table", "TableCache", "cut_labels"]

# Bytes of encoded tables in the cache: 1,600 clients with a hundred nodes each. Decoded
# tables take six times as much memory (measured).
CACHE_BYTES: Final = 4 * 1024 * 1024
UNNAMED: Final = "__unnamed__"


class TableError(ValueError):
    """The table is invalid, and so are all columns that index it."""


class Table:
    """A decoded table; immutable, compared by identity."""

    __slots__ = ("__weakref__", "errors", "points", "series", "strings")

    def __init__(
        self,
        strings: list[str],
        series: list[tuple[str, str]],
        points: list[tuple[PointKind, str, str, str, Labels]],
        errors: list[ErrorKey],
    ) -> None:
        self.strings = strings
        self.series = series
        self.points = points
        self.errors = errors


class _Encoded(msgspec.Struct):
    strings: list[str] = []
    series: list[tuple[int, int]] = []
    points: list[tuple[PointKind, int, int, int, dict[str, str]]] = []
    errors: list[tuple[int, str]] = []


class TableCache:
    """Decodes tables, and caches the most recently used ones."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._bytes = 0
        self._tables: OrderedDict[bytes, Table] = OrderedDict()
        self._decoder = msgspec.msgpack.Decoder(_Encoded)

    def get(self, encoded: bytes) -> Table:
        """Return the decoded table.

        Raises:
            TableError: the table is invalid.
        """
        table = self._tables.get(encoded)
        if table is not None:
            self._tables.move_to_end(encoded)
            return table
        table = self._decode(encoded)
        self._tables[encoded] = table
        self._bytes += len(encoded)
        while self._bytes > self._limit and len(self._tables) > 1:
            oldest, _ = self._tables.popitem(last=False)
            self._bytes -= len(oldest)
        return table

    def _decode(self, encoded: bytes) -> Table:
        if not encoded:
            return Table([""], [], [], [ErrorKey("", "")])
        try:
            table = self._decoder.decode(encoded)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise TableError(f"table: {error}") from None
        for name in ("strings", "series", "points", "errors"):
            size = len(getattr(table, name))
            if size > MAX_TABLE_ENTRIES:
                raise TableError(
                    f"table: {size} {name}, and an index reaches {MAX_TABLE_ENTRIES}"
                )
        return _resolve(table)


def _resolve(table: _Encoded) -> Table:
    strings = [clean_name(text) for text in table.strings] or [""]

    def text(index: int, where: str) -> str:
        if not 0 <= index < len(strings):
            raise TableError(
                f"table.{where}: string {index} of a table with {len(strings)}"
            )
        return strings[index]

    series = [
        (text(graph, "series"), text(node, "series") or UNNAMED)
        for graph, node in table.series
    ]
    points = [
        (
            kind,
            text(name, "points") or UNNAMED,
            text(graph, "points"),
            text(node, "points"),
            cut_labels(labels),
        )
        for kind, name, graph, node, labels in table.points
    ]
    errors = [
        ErrorKey(text(kind, "errors"), _phase(phase)) for kind, phase in table.errors
    ]
    return Table(strings, series, points, errors or [ErrorKey("", "")])


def cut_labels(labels: dict[str, str]) -> Labels:
    """Return sorted labels, truncated to their limits instead of rejected."""
    short = {clean_name(key): clean_name(value) for key, value in labels.items()}
    return tuple(sorted(short.items())[:MAX_LABELS])


def _phase(phase: str) -> str:
    return phase if phase in PHASES else ""
