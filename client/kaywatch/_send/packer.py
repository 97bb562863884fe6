"""Packs pending events into batches: columns, and the table that they index.

Strategy: the table holds all of the recorder's series, under the recorder's own
numbers, and the strings and errors interned so far. So its bytes are the same from
batch to batch, the agent's cache of decoded tables hits, and the series columns need
no translation. Every batch carries the table that it needs, so the strings can be
started over at any batch once they exceed their limit.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import sub
from typing import Any, Final, NamedTuple, TypeVar

from kaywatch import wire
from kaywatch._pending import VISIT_FIELDS, EventBuffer
from kaywatch.recorder import OTHER, ExecutionInFlight, Failure, OpenSpan, Recorder

__all__ = ["BatchContent", "Packer"]

T = TypeVar("T")

# (graph, node, visits, the run's id, visits since the run last reached a new node)
Loop = tuple[str, str, int, str, int]

# The table is sent with every batch, so it is started over when its strings are many or
# long. With 5,000 series and metrics (25,000 names at most, 5,000 more for those
# folded) and the 25,000 new names that a batch may bring, an index fits its 16 bits.
MAX_STRINGS: Final = 8_192
MAX_TABLE_BYTES: Final = 512 * 1024
MAX_IN_FLIGHT: Final = 1_000
MAX_LOOPS: Final = 1_000

# A wall clock that has moved by more seconds than this was set. By NTP's adjustments
# alone, that would take half an hour.
CLOCK_STEP: Final = 1.0

MAX_ATTEMPTS: Final = 65_535  # the largest number that the column can hold

# The exceptions raised by a value that fits no column.
_UNPACKABLE: Final = (TypeError, ValueError, OverflowError, struct.error)

# Columns whose values are nearly always the same within a batch. One `list.count`, of
# 1 ns a value, then replaces the packing of every value.
_UNIFORM: Final = {"outcome", "attempts", "action", "error", "graph", "reason", "node"}

# The fields of a failure that are left out while they are empty.
_OPTIONAL_OF_FAILURE: Final = (
    *("traceback", "seconds", "run_start", "visits", "path", "path_visits", "trace_id"),
)

# The values of the columns for which an event has no field.
_USUAL: Final[Mapping[str, Any]] = {
    "outcome": 0,
    "attempts": 1,
    "action": "default",
    "error": None,
    "wait": 0.0,
    "items": 0,
}

# The machine's own order is 1 ns a value faster, and has the sizes of the wire.
_ORDER: Final = "@" if sys.byteorder == "little" else "<"


class BatchContent(NamedTuple):
    """The sections of one batch, and the number of events in and missing from them."""

    sections: dict[str, object]
    events: int = 0
    unpackable: int = 0


class _Interner(dict[Any, int]):
    """A dict that numbers its keys in the order of their first lookup."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number


class _ActionInterner(dict[str, int]):
    """A dict that numbers actions, and folds names that are made per request.

    Args:
        fold: returns the folded name.
        strings: numbers the names.
    """

    def __init__(self, fold: Callable[[str], str], strings: _Interner) -> None:
        super().__init__()
        self._fold = fold
        self._strings = strings

    def __missing__(self, action: str) -> int:
        name = self._fold(action)
        number = self._strings[name]
        if name == action:  # otherwise it would grow with each request
            self[action] = number
        return number


class Packer:
    """Takes pending events out of a recorder, a batch at a time."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._sent_topologies = -1
        self._sent: dict[str, list[Any]] = {"in_flight": [], "loops": []}
        self._in_flight: dict[OpenSpan, ExecutionInFlight] = {}
        self._clock_offset = 0.0  # of the times in it
        # By the number of a run: its visits when it was last seen with a new node.
        self._reached: dict[int, dict[str, int]] = {}
        self._reset()

    def take(self, limit: int = wire.MAX_BATCH_EVENTS) -> BatchContent | None:
        """Return the next batch's content with at most `limit` events of each kind.

        None when nothing is pending.
        """
        if len(self._strings) > MAX_STRINGS or len(self._table_bytes) > MAX_TABLE_BYTES:
            self._reset()
        sections: dict[str, Any] = {}
        room = {events.section: limit for events in self._recorder.pending}
        packed = unpackable = 0
        for events in self._recorder.pending:
            name = events.section
            fields = _cut_fields(events, room[name])
            if fields is None:
                continue
            rows = _count_rows(fields)
            room[name] -= rows
            count, columns = self._pack_rows(fields, events.columns)
            packed += count
            unpackable += rows - count
            if count:
                before = sections.get(name)
                sections[name] = (
                    columns if before is None else _join_columns(before, columns)
                )
        self._add_details(sections)
        if not sections and not unpackable:
            return None
        sections["table"] = self._table()
        return BatchContent(sections, packed, unpackable)

    def resend_state(self) -> None:
        """Put all topologies, and what is in progress, in the next batch.

        The agent may be a new one. Or the last list waited for a connection, and the
        agent cannot know by how much.
        """
        self._sent_topologies = -1
        self._sent = {"in_flight": [], "loops": []}

    # -- columns -------------------------------------------------------------------

    def _pack_rows(
        self, fields: dict[str, list[Any]], columns: Mapping[str, str]
    ) -> tuple[int, dict[str, bytes]]:
        """Pack all rows, or those whose values fit the columns; return their number."""
        try:
            return _count_rows(fields), self._columns(fields, columns)
        except _UNPACKABLE:
            pass
        valid: dict[str, list[Any]] = {name: [] for name in fields}
        for row in zip(*fields.values(), strict=True):
            try:
                one = {name: [v] for name, v in zip(fields, row, strict=True)}
                self._columns(one, columns)
            except _UNPACKABLE:
                continue
            for values, value in zip(valid.values(), row, strict=True):
                values.append(value)
        count = _count_rows(valid)
        return count, self._columns(valid, columns) if count else {}

    def _columns(
        self, fields: Mapping[str, list[Any]], columns: Mapping[str, str]
    ) -> dict[str, bytes]:
        """Return the columns of events that have these fields."""
        rows = _count_rows(fields)
        if "exec_started" in fields:
            fields = _durations(fields)
        return {
            name: self._column(name, typecode, fields.get(name) or [_USUAL[name]], rows)
            for name, typecode in columns.items()
        }

    def _column(self, name: str, typecode: str, values: list[Any], rows: int) -> bytes:
        """Return a column; one value stands for all rows."""
        if name in _UNIFORM and values.count(values[0]) == len(values):
            values = values[:1]
        table = self._tables.get(name)
        if table is not None:
            values = [table[value] for value in values]
        elif name == "attempts":
            values = [min(value, MAX_ATTEMPTS) for value in values]
        return _pack(typecode, values) * (rows // len(values))

    # -- lists -----------------------------------------------------------------------

    def _add_details(self, sections: dict[str, Any]) -> None:
        recorder = self._recorder
        failures = _cut(recorder.failures, wire.MAX_BATCH_EVENTS)
        if failures:
            sections["failures"] = [_failure(failure) for failure in failures]
        if recorder.topology_version != self._sent_topologies:
            self._sent_topologies = recorder.topology_version
            topologies = _snapshot(recorder.topologies.values())
            if topologies:
                sections["topologies"] = [t._asdict() for t in topologies]
        current: dict[str, list[Any]] = {
            "in_flight": self._executions_in_flight(),
            "loops": self._loops(),
        }
        for name, entries in current.items():
            if entries != self._sent[name]:
                self._sent[name] = sections[name] = entries
        ended = _most_visited((*node, "", 0) for node in recorder.revisits.take())
        recorder.revisits.left_out += max(0, len(ended) - MAX_LOOPS)
        if ended:
            sections["looped"] = [node[:3] for node in ended[:MAX_LOOPS]]

    def _executions_in_flight(self) -> list[tuple[Any, ...]]:
        recorder, offset = self._recorder, time.time() - time.perf_counter()
        if abs(offset - self._clock_offset) > CLOCK_STEP:
            # The clock was set. The agent takes ages from `sent` and the start, so both
            # have to be times of the same clock.
            self._clock_offset = offset
            self._in_flight = {}
        self._in_flight = {
            span: _described(span, self._in_flight.get(span))
            for span in _snapshot(recorder.in_flight)
        }
        oldest = sorted(self._in_flight.values(), key=lambda span: span.started)
        return [
            (
                one.graph,
                one.node,
                one.started,
                recorder.run_ids.text(one.run),
                one.visits,
                one.run_started,
                one.failed_attempts,
                *_cost_and_trace(one),
            )
            for one in oldest[:MAX_IN_FLIGHT]
        ]

    def _loops(self) -> list[Loop]:
        recorder = self._recorder
        loops: list[Loop] = []
        before, self._reached = self._reached, {}
        for run in _snapshot(recorder.runs):
            revisits = run.revisits()
            if revisits is None:
                continue
            graph, number, visits, live = revisits
            counts = dict(_snapshot(live.items()))
            # Looked at once per batch, which costs the application nothing: the cycle
            # may be longer than what is counted here, and is never shorter.
            reached = before.get(number, counts)
            if len(reached) < len(counts):
                reached = counts
            self._reached[number] = reached
            run_id = recorder.run_ids.text(number)
            for node, times in counts.items():
                loops.append((graph, node, times, run_id, times - reached[node]))
            # The run as a whole has no node.
            cycle = max(0, visits - sum(reached.values()))
            loops.append((graph, "", visits, run_id, cycle))
        return _most_visited(loops)[:MAX_LOOPS]

    # -- the table -------------------------------------------------------------------

    def _reset(self) -> None:
        self._strings = _Interner({"": 0})
        self._errors = _Interner({None: 0})
        named = dict.fromkeys(("graph", "node", "reason"), self._strings)
        actions = _ActionInterner(self._recorder.names.action, self._strings)
        self._tables = {**named, "action": actions, "error": self._errors}
        self._table_size = (0, 0, 0, 0)
        self._table_bytes = b""

    def _table(self) -> bytes:
        recorder = self._recorder
        # Read before encoding: keys that other threads add meanwhile count as new.
        keys = len(recorder.series_table.keys), len(recorder.points_table.keys)
        if (*keys, len(self._strings), len(self._errors)) != self._table_size:
            self._table_bytes = wire.pack(self._entries())
            # Read after encoding, which interns the names of the series.
            self._table_size = (*keys, len(self._strings), len(self._errors))
        return self._table_bytes

    def _entries(self) -> dict[str, object]:
        number = self._strings.__getitem__
        recorder = self._recorder
        series = _sort_by_number(recorder.series_table.keys, ("", ""))
        points = _sort_by_number(recorder.points_table.keys, ("count", "", "", "", ()))
        entries = {
            "series": [[*map(number, names)] for names in series],
            "points": [
                [kind, *map(number, names), dict(labels)]
                for kind, *names, labels in points
            ],
            "errors": [[number(e[0]), e[1]] if e else [0, ""] for e in self._errors],
        }
        # Last, since the entries above intern their names.
        return {"strings": [_truncate(text) for text in self._strings], **entries}


def _most_visited(loops: Iterable[Loop]) -> list[Loop]:
    """Return each node's loop with the most visits, the most visited node first."""
    most: dict[tuple[str, str], Loop] = {}
    for loop in loops:
        graph, node, visits = loop[:3]
        previous = most.get((graph, node))
        # `__other__` is many nodes, each of which may have been visited once.
        if visits > 1 and node != OTHER and (previous is None or visits > previous[2]):
            most[graph, node] = loop
    return sorted(most.values(), key=lambda loop: loop[2], reverse=True)


def _sort_by_number(keys: dict[int, Any], absent: Any) -> list[Any]:
    """Return the keys in order of their numbers, which are 0 and up."""
    # A number is missing while its thread has taken it and not used it yet.
    return [keys.get(number, absent) for number in range(max(keys, default=-1) + 1)]


def _described(span: OpenSpan, known: ExecutionInFlight | None) -> ExecutionInFlight:
    """Return an execution in progress with the times that were sent before.

    They are computed from the monotonic clock, and would change by the microsecond.
    """
    if known is None:
        return span.in_flight()
    cost_usd, tokens, unpriced_tokens = span.run_cost()
    return known._replace(
        failed_attempts=span.failed_attempts(),
        cost_usd=cost_usd,
        tokens=tokens,
        unpriced_tokens=unpriced_tokens,
    )


def _cost_and_trace(execution: ExecutionInFlight) -> tuple[float | str, ...]:
    """Return the cost and trace of its run, for the wire; most runs have neither."""
    cost = execution.cost_usd, execution.tokens, execution.unpriced_tokens
    if execution.trace_id:
        return *cost, execution.trace_id
    return cost if any(cost) else ()


def _snapshot(live: Collection[T]) -> list[T]:
    """Copy a collection that other threads change."""
    while True:
        try:
            return list(live)
        except RuntimeError:  # a finalizer changed it during the copy
            continue


def _failure(failure: Failure) -> dict[str, Any]:
    """Return a failure for the wire, without empty fields."""
    fields: dict[str, Any] = failure._asdict()
    for name in _OPTIONAL_OF_FAILURE:
        if not fields[name]:
            del fields[name]
    return fields


def _cut(pending: list[Any], limit: int) -> list[Any]:
    """Take the oldest `limit` items out of a list that others append to."""
    taken = pending[:limit]
    # One C call; items appended between the two statements come after the deleted ones.
    del pending[: len(taken)]
    return taken


def _cut_fields(events: EventBuffer, limit: int) -> dict[str, list[Any]] | None:
    """Take the oldest `limit` events, as the values of each field; None without any."""
    flat, width = events.flat, len(events.fields)
    size = min(len(flat) // width, limit) * width
    if not size:
        return None
    fields = {
        name: flat[position:size:width] for position, name in enumerate(events.fields)
    }
    del flat[:size]  # as in `_cut`
    return fields


def _count_rows(fields: Mapping[str, list[Any]]) -> int:
    return len(next(iter(fields.values())))


def _durations(fields: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the fields of visits with durations and Unix times.

    The offset of the two clocks is that of now. So if the wall clock is set, the times
    of the visits since the last batch follow.
    """
    offset = time.time() - time.perf_counter()
    series, ended, started, exec_started, exec_ended, actions = (
        fields[name] for name in VISIT_FIELDS
    )
    return {
        "series": series,
        "end": [offset + moment for moment in ended],
        "seconds": [*map(sub, ended, started)],
        "action": actions,
        "prep": [*map(sub, exec_started, started)],
        "exec": [*map(sub, exec_ended, exec_started)],
    }


def _join_columns(one: dict[str, bytes], other: dict[str, bytes]) -> dict[str, bytes]:
    """Return the columns of both, the rows of `one` first."""
    return {name: column + other.get(name, b"") for name, column in one.items()}


def _pack(typecode: str, values: Sequence[Any]) -> bytes:
    # 6 ns a value; array(typecode, values) takes 14.
    return struct.pack(f"{_ORDER}{len(values)}{typecode}", *values)


def _truncate(name: str) -> str:
    # Lone surrogates, as from os.fsdecode, have no UTF-8 form.
    return name[: wire.MAX_NAME].encode("utf-8", "replace").decode("utf-8")
