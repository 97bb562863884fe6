"""Packs pending events into batches: columns, and the table that they index.

Strategy: the table holds all of the recorder's series, under the recorder's own
numbers, and the strings and errors interned so far. So its bytes are the same from
batch to batch, the agent's cache of decoded tables hits, and the series columns need
no translation. Strings that have grown past their limit are started anew; every batch
carries the table that it needs, so nothing else has to know.

Columns of which all values are the same, as errors mostly are, cost one `list.count`.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from kaywatch import wire
from kaywatch.recorder import (
    EXECUTION_WIDTH,
    POINT_WIDTH,
    RUN_WIDTH,
    Recorder,
)

__all__ = ["Packer", "Sections"]

# The table is sent with every batch, so it is started anew when its strings are many
# or long. With 5,000 series and metrics (25,000 names at most, 5,000 more for those
# folded) and the 25,000 new names that a batch may bring, an index fits its 16 bits.
MAX_STRINGS: Final = 8_192
MAX_TABLE_BYTES: Final = 512 * 1024
MAX_IN_FLIGHT: Final = 1_000

_SWAP: Final = sys.byteorder == "big"


class Sections(NamedTuple):
    """What one batch carries."""

    sections: dict[str, object]
    events: int
    unpackable: int


class _Interner(dict[Any, int]):
    """A dict that numbers its keys in the order in which they are asked for."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number


class Packer:
    """Takes pending events out of a recorder, a batch at a time."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._sent_topologies = -1
        self._sent_in_flight: list[Any] = []
        self._reset()

    def take(self, limit: int = wire.MAX_BATCH_EVENTS) -> Sections | None:
        """Return the next batch's sections with at most `limit` events of each kind.

        None when nothing is pending.
        """
        if len(self._strings) > MAX_STRINGS or len(self._table_bytes) > MAX_TABLE_BYTES:
            self._reset()
        recorder = self._recorder
        sections: dict[str, object] = {}
        events = unpackable = 0
        for name, pending, width, columns in (
            ("executions", recorder.executions, EXECUTION_WIDTH, self._executions),
            ("points", recorder.points, POINT_WIDTH, self._point_columns),
            ("runs", recorder.runs, RUN_WIDTH, self._runs),
        ):
            flat = _cut(pending, limit * width)
            if not flat:
                continue
            packed, bad = _pack_rows(flat, width, columns)
            unpackable += bad
            count = len(flat) // width - bad
            events += count
            if count:
                sections[name] = packed
        self._add_details(sections)
        if not sections and not unpackable:
            return None
        sections["table"] = self._table()
        return Sections(sections, events, unpackable)

    def resend_topologies(self) -> None:
        """Put all topologies in the next batch: the agent may be a new one."""
        self._sent_topologies = -1

    # -- columns -------------------------------------------------------------------

    def _executions(self, flat: list[Any]) -> dict[str, bytes]:
        # The column order is that of Recorder's flat tuples.
        return {
            "series": _column("H", flat[0::7]),
            "end": _column("d", flat[1::7]),
            "seconds": _column("d", flat[2::7]),
            "outcome": _column("B", flat[3::7]),
            "attempts": _attempts(flat[4::7]),
            "action": _indexes(flat[5::7], self._strings),
            "error": _indexes(flat[6::7], self._errors),
        }

    def _point_columns(self, flat: list[Any]) -> dict[str, bytes]:
        return {
            "series": _column("H", flat[0::3]),
            "time": _column("d", flat[1::3]),
            "value": _column("d", flat[2::3]),
        }

    def _runs(self, flat: list[Any]) -> dict[str, bytes]:
        strings = self._strings
        return {
            "graph": _indexes(flat[0::8], strings),
            "end": _column("d", flat[1::8]),
            "seconds": _column("d", flat[2::8]),
            "outcome": _column("B", flat[3::8]),
            "reason": _indexes(flat[4::8], strings),
            "node": _indexes(flat[5::8], strings),
            "action": _indexes(flat[6::8], strings),
            "visits": _column("I", flat[7::8]),
        }

    def _add_details(self, sections: dict[str, object]) -> None:
        recorder = self._recorder
        failures = _cut(recorder.failures, wire.MAX_BATCH_EVENTS)
        if failures:
            sections["failures"] = [failure._asdict() for failure in failures]
        if recorder.topology_version != self._sent_topologies:
            self._sent_topologies = recorder.topology_version
            topologies = _snapshot(recorder.topologies)
            if topologies:
                sections["topologies"] = [t._asdict() for t in topologies]
        oldest = sorted(_snapshot(recorder.in_flight), key=_started)[:MAX_IN_FLIGHT]
        in_flight = [
            (graph, node, started, recorder.run_id(run))
            for graph, node, started, run in oldest
        ]
        if in_flight != self._sent_in_flight:
            self._sent_in_flight = in_flight
            sections["in_flight"] = in_flight

    # -- the table -------------------------------------------------------------------

    def _reset(self) -> None:
        self._strings = _Interner({"": 0})
        self._errors = _Interner({None: 0})
        self._table_size = (0, 0, 0, 0)
        self._table_bytes = b""

    def _table(self) -> bytes:
        recorder = self._recorder
        # Before the entries are made: what another thread adds meanwhile is for later.
        keys = len(recorder.series_keys), len(recorder.point_keys)
        if (*keys, len(self._strings), len(self._errors)) != self._table_size:
            self._table_bytes = wire.pack(self._entries())
            # After it: the entries' own names are among the strings.
            self._table_size = (*keys, len(self._strings), len(self._errors))
        return self._table_bytes

    def _entries(self) -> dict[str, object]:
        text = self._strings.__getitem__
        recorder = self._recorder
        series = [
            [text(graph), text(node)]
            for graph, node in _by_number(recorder.series_keys, ("", ""))
        ]
        points = [
            [kind, text(name), text(graph), text(node), dict(labels)]
            for kind, name, graph, node, labels in _by_number(
                recorder.point_keys, ("count", "", "", "", ())
            )
        ]
        errors = [[text(e[0]), e[1]] if e else [0, ""] for e in list(self._errors)]
        strings = [_name(string) for string in self._strings]
        return {
            "strings": strings,
            "series": series,
            "points": points,
            "errors": errors,
        }


def _by_number(keys: dict[int, Any], absent: Any) -> list[Any]:
    """Return the keys in order of their numbers, which are 0 and up."""
    # A number may be missing for a moment, between its thread's taking it and using it.
    return [keys.get(number, absent) for number in range(max(keys, default=-1) + 1)]


def _snapshot(live: dict[Any, Any]) -> list[Any]:
    """Copy the values of a dict that other threads write to."""
    while True:
        try:
            return list(live.values())
        except RuntimeError:  # a finalizer wrote to it during the copy
            continue


def _cut(pending: list[Any], limit: int) -> list[Any]:
    """Take the oldest `limit` items out of a list that others append to."""
    taken = pending[:limit]
    # One C call; what was appended between the two statements stays behind it.
    del pending[: len(taken)]
    return taken


def _pack_rows(
    flat: list[Any], width: int, columns: Callable[[list[Any]], dict[str, bytes]]
) -> tuple[dict[str, bytes], int]:
    """Pack all rows, or where a value fits no column, those that do."""
    try:
        return columns(flat), 0
    except (TypeError, ValueError, OverflowError):
        sound: list[Any] = []
        for start in range(0, len(flat), width):
            row = flat[start : start + width]
            try:
                columns(row)
            except (TypeError, ValueError, OverflowError):
                continue
            sound.extend(row)
        packed = columns(sound) if sound else {}
        return packed, (len(flat) - len(sound)) // width


def _column(typecode: str, values: Iterable[Any]) -> bytes:
    column = array(typecode, values)
    if _SWAP:
        column.byteswap()
    return column.tobytes()


def _indexes(values: list[Any], table: _Interner) -> bytes:
    first = values[0]
    if values.count(first) == len(values):
        return _column("H", [table[first]]) * len(values)
    return _column("H", map(table.__getitem__, values))


def _attempts(values: list[int]) -> bytes:
    try:
        return _column("H", values)
    except OverflowError:
        # 65,535 attempts at one execution are told as such; the column holds no more.
        return _column("H", [min(value, 65_535) for value in values])


def _name(text: str) -> str:
    # Lone surrogates, as from os.fsdecode, have no UTF-8 form.
    return text[: wire.MAX_NAME].encode("utf-8", "replace").decode("utf-8")


def _started(item: tuple[str, str, float, int]) -> float:
    return item[2]
