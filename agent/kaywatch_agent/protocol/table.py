"""The table of a batch: its strings, and the series and errors that index them.

Clients send the same table with every batch until something new comes up, so decoded
tables are cached by their bytes, and later stages may key their own caches on the
Table object's identity.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from kaywatch.wire import MAX_NAME, MAX_TABLE_ENTRIES, PHASES, PointKind
from kaywatch_agent.model.series import ErrorKey, Labels
from kaywatch_agent.protocol.limits import MAX_LABELS

__all__ = ["TableError", "Table", "TableCache", "cut_labels"]

# Bytes of encoded tables kept decoded, at six times that in memory (measured): 1,600
# clients with a hundred nodes each.
CACHE_BYTES: Final = 4 * 1024 * 1024
UNNAMED: Final = "__unnamed__"


class TableError(ValueError):
    """The table can't be used, and with it nothing that indexes it."""


class Table:
    """Decoded; immutable, compared by identity."""

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
    """Decodes tables, and remembers the most recent ones."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._bytes = 0
        self._tables: OrderedDict[bytes, Table] = OrderedDict()
        self._decoder = msgspec.msgpack.Decoder(_Encoded)

    def get(self, encoded: bytes) -> Table:
        """Return the table that `encoded` is.

        Raises:
            TableError: saying what is wrong with it.
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
            found = self._decoder.decode(encoded)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise TableError(f"table: {error}") from None
        for name in ("strings", "series", "points", "errors"):
            size = len(getattr(found, name))
            if size > MAX_TABLE_ENTRIES:
                raise TableError(
                    f"table: {size} {name}, and an index reaches {MAX_TABLE_ENTRIES}"
                )
        return _resolve(found)


def _resolve(found: _Encoded) -> Table:
    strings = [text[:MAX_NAME] for text in found.strings] or [""]

    def text(index: int, where: str) -> str:
        if not 0 <= index < len(strings):
            raise TableError(
                f"table.{where}: string {index} of a table with {len(strings)}"
            )
        return strings[index]

    series = [
        (text(graph, "series"), text(node, "series") or UNNAMED)
        for graph, node in found.series
    ]
    points = [
        (
            kind,
            text(name, "points") or UNNAMED,
            text(graph, "points"),
            text(node, "points"),
            cut_labels(labels),
        )
        for kind, name, graph, node, labels in found.points
    ]
    errors = [
        ErrorKey(text(kind, "errors"), _phase(phase)) for kind, phase in found.errors
    ]
    return Table(strings, series, points, errors or [ErrorKey("", "")])


def cut_labels(labels: dict[str, str]) -> Labels:
    """Return labels in order, cut to their limits: nothing is refused for them."""
    short = {key[:MAX_NAME]: value[:MAX_NAME] for key, value in labels.items()}
    return tuple(sorted(short.items())[:MAX_LABELS])


def _phase(phase: str) -> str:
    return phase if phase in PHASES else ""
