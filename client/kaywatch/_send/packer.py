"""Packs pending events into batches: columns, and the table that they index.

Strategy: the table holds all of the recorder's series, under the recorder's own
numbers, and the strings and errors interned so far. So its bytes are the same from
batch to batch, the agent's cache of decoded tables hits, and the series columns need
no translation. Strings that have grown past their limit are started anew; every batch
carries the table that it needs, so nothing else has to know.

Columns of which all values are the same, as errors mostly are, cost one `list.count`.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from kaywatch import wire
from kaywatch.recorder import (
    EXECUTION_WIDTH,
    OTHER,
    PHASED_WIDTH,
    Failure,
    InFlight,
    OpenSpan,
    Recorder,
)

__all__ = ["Packer", "Sections"]

T = TypeVar("T")

Loop = tuple[str, str, int, str]  # (graph, node, visits, the run's id)

# The table is sent with every batch, so it is started anew when its strings are many
# or long. With 5,000 series and metrics (25,000 names at most, 5,000 more for those
# folded) and the 25,000 new names that a batch may bring, an index fits its 16 bits.
MAX_STRINGS: Final = 8_192
MAX_TABLE_BYTES: Final = 512 * 1024
MAX_IN_FLIGHT: Final = 1_000
MAX_LOOPS: Final = 1_000

# What a value that fits no column raises.
_MISFIT: Final = (TypeError, ValueError, OverflowError, struct.error)


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
        self._sent_loops: list[Any] = []
        self._flights: dict[OpenSpan, InFlight] = {}
        self._reset()

    def take(self, limit: int = wire.MAX_BATCH_EVENTS) -> Sections | None:
        """Return the next batch's sections with at most `limit` events of each kind.

        None when nothing is pending.
        """
        if len(self._strings) > MAX_STRINGS or len(self._table_bytes) > MAX_TABLE_BYTES:
            self._reset()
        packed: dict[str, dict[str, bytes]] = {}
        events = unpackable = 0
        rows: Counter[str] = Counter()
        for name, pending, columns in (
            # First, for their columns are longer: see `wire.PHASE_COLUMNS`.
            ("executions", self._recorder.pending.phased, self._phased),
            ("executions", self._recorder.pending.executions, self._executions),
            ("points", self._recorder.pending.points, self._point_columns),
            ("runs", self._recorder.pending.runs, self._runs),
        ):
            width = pending.width
            flat = _cut(pending.flat, (limit - rows[name]) * width)
            if not flat:
                continue
            rows[name] += len(flat) // width
            found, bad = _pack_rows(flat, width, columns)
            unpackable += bad
            count = len(flat) // width - bad
            events += count
            if count:
                packed[name] = _joined(packed[name], found) if name in packed else found
        sections: dict[str, object] = {**packed}
        self._add_details(sections)
        if not sections and not unpackable:
            return None
        sections["table"] = self._table()
        return Sections(sections, events, unpackable)

    def resend_topologies(self) -> None:
        """Put all topologies in the next batch: the agent may be a new one."""
        self._sent_topologies = -1

    # -- columns -------------------------------------------------------------------

    def _executions(
        self, flat: list[Any], width: int = EXECUTION_WIDTH
    ) -> dict[str, bytes]:
        # The column order is that of Recorder's flat tuples.
        return {
            "series": _column("H", flat[0::width]),
            "end": _column("d", flat[1::width]),
            "seconds": _column("d", flat[2::width]),
            "outcome": _repeated("B", flat[3::width]),
            "attempts": _attempts(flat[4::width]),
            "action": _indexes(flat[5::width], self._strings),
            "error": _indexes(flat[6::width], self._errors),
        }

    def _phased(self, flat: list[Any]) -> dict[str, bytes]:
        return {
            **self._executions(flat, PHASED_WIDTH),
            "prep": _column("f", flat[7::PHASED_WIDTH]),
            "exec": _column("f", flat[8::PHASED_WIDTH]),
            "wait": _column("f", flat[9::PHASED_WIDTH]),
            "items": _column("I", flat[10::PHASED_WIDTH]),
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
            sections["failures"] = [_failure(failure) for failure in failures]
        if recorder.topology_version != self._sent_topologies:
            self._sent_topologies = recorder.topology_version
            topologies = _snapshot(recorder.topologies.values())
            if topologies:
                sections["topologies"] = [t._asdict() for t in topologies]
        in_flight = self._in_flight()
        if in_flight != self._sent_in_flight:
            self._sent_in_flight = in_flight
            sections["in_flight"] = in_flight
        loops = self._loops()
        if loops != self._sent_loops:
            self._sent_loops = loops
            sections["loops"] = loops
        ended = _most((*node, "") for node in recorder.revisits.take())
        recorder.revisits.left_out += max(0, len(ended) - MAX_LOOPS)
        if ended:
            sections["looped"] = [node[:3] for node in ended[:MAX_LOOPS]]

    def _in_flight(self) -> list[tuple[str, str, float, str, int]]:
        recorder = self._recorder
        # Described once: by a clock that is set meanwhile, the time would change.
        self._flights = {
            span: self._flights.get(span) or span.in_flight()
            for span in _snapshot(recorder.in_flight)
        }
        oldest = sorted(self._flights.values(), key=_started)[:MAX_IN_FLIGHT]
        return [
            (f.graph, f.node, f.started, recorder.run_id(f.run), f.visits)
            for f in oldest
        ]

    def _loops(self) -> list[Loop]:
        recorder = self._recorder
        found: list[Loop] = []
        for run in _snapshot(recorder.runs):
            revisits = run.revisits()
            if revisits is None:
                continue
            graph, number, visits, counts = revisits
            name = recorder.run_id(number)
            # The run as a whole has no node.
            for node, times in (*_snapshot(counts.items()), ("", visits)):
                found.append((graph, node, times, name))
        return _most(found)[:MAX_LOOPS]

    # -- the table -------------------------------------------------------------------

    def _reset(self) -> None:
        self._strings = _Interner({"": 0})
        self._errors = _Interner({None: 0})
        self._table_size = (0, 0, 0, 0)
        self._table_bytes = b""

    def _table(self) -> bytes:
        recorder = self._recorder
        # Before the entries are made: what another thread adds meanwhile is for later.
        keys = len(recorder.series_table.keys), len(recorder.points_table.keys)
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
            for graph, node in _by_number(recorder.series_table.keys, ("", ""))
        ]
        points = [
            [kind, text(name), text(graph), text(node), dict(labels)]
            for kind, name, graph, node, labels in _by_number(
                recorder.points_table.keys, ("count", "", "", "", ())
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


def _most(visited: Iterable[Loop]) -> list[Loop]:
    """Return of each node the run that visited it most, the most visited first."""
    most: dict[tuple[str, str], Loop] = {}
    for loop in visited:
        graph, node, visits, _ = loop
        known = most.get((graph, node))
        # `__other__` is many nodes, each of which may have been visited once.
        if visits > 1 and node != OTHER and (known is None or visits > known[2]):
            most[graph, node] = loop
    return sorted(most.values(), key=_visits, reverse=True)


def _by_number(keys: dict[int, Any], absent: Any) -> list[Any]:
    """Return the keys in order of their numbers, which are 0 and up."""
    # A number may be missing for a moment, between its thread's taking it and using it.
    return [keys.get(number, absent) for number in range(max(keys, default=-1) + 1)]


def _snapshot(live: Collection[T]) -> list[T]:
    """Copy what other threads write to."""
    while True:
        try:
            return list(live)
        except RuntimeError:  # a finalizer wrote to it during the copy
            continue


def _failure(failure: Failure) -> dict[str, Any]:
    """Return a failure for the wire; most have no traceback."""
    fields: dict[str, Any] = failure._asdict()
    if not failure.traceback:
        del fields["traceback"]
    return fields


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
    except _MISFIT:
        sound: list[Any] = []
        for start in range(0, len(flat), width):
            row = flat[start : start + width]
            try:
                columns(row)
            except _MISFIT:
                continue
            sound.extend(row)
        packed = columns(sound) if sound else {}
        return packed, (len(flat) - len(sound)) // width


def _joined(one: dict[str, bytes], other: dict[str, bytes]) -> dict[str, bytes]:
    """Return the columns of both, the rows of `one` first."""
    return {name: column + other.get(name, b"") for name, column in one.items()}


def _column(typecode: str, values: Sequence[Any]) -> bytes:
    # 10 ns a value; array(typecode, values) takes 25.
    return struct.pack(f"<{len(values)}{typecode}", *values)


def _repeated(typecode: str, values: Sequence[Any]) -> bytes:
    """Pack a column of which the values are mostly the same."""
    if _uniform(values):
        return _column(typecode, values[:1]) * len(values)
    return _column(typecode, values)


def _indexes(values: list[Any], table: _Interner) -> bytes:
    if _uniform(values):
        return _column("H", [table[values[0]]]) * len(values)
    return _column("H", [table[value] for value in values])


def _uniform(values: Sequence[Any]) -> bool:
    return values.count(values[0]) == len(values)


def _attempts(values: list[int]) -> bytes:
    try:
        return _repeated("H", values)
    except struct.error:
        # 65,535 attempts at one execution are told as such; the column holds no more.
        return _column("H", [min(value, 65_535) for value in values])


def _name(text: str) -> str:
    # Lone surrogates, as from os.fsdecode, have no UTF-8 form.
    return text[: wire.MAX_NAME].encode("utf-8", "replace").decode("utf-8")


def _visits(loop: Loop) -> int:
    return loop[2]


def _started(flight: InFlight) -> float:
    return flight.started
