"""Decode queued batches into events and details; join batches that share a table.

Strategy: the processes of one program send the same table. The columns of all batches
with the same table and service are joined and checked together (`columns`), so a batch
of twenty events costs a few microseconds; see `docs/benchmarks.md`. Batches of rows
have no table, so one is built for all batches of a service.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import ErrorCode
from kaywatch_agent.model.records import (
    FailureRecord,
    InFlight,
    NodeRevisits,
    ProcessSample,
    TopologyRecord,
)
from kaywatch_agent.protocol.columns import (
    BAD_INPUT,
    EXECUTIONS,
    POINTS,
    RUNS,
    BatchErrors,
    Rows,
)
from kaywatch_agent.protocol.lists import ItemDecoder
from kaywatch_agent.protocol.messages import (
    Batch,
    Details,
    Events,
    Executions,
    Phases,
    Points,
    Runs,
)
from kaywatch_agent.protocol.rows import read_rows
from kaywatch_agent.protocol.table import Table, TableCache, TableError

__all__ = ["NO_DETAILS", "BatchReader", "JoinedBatches"]

_COLUMNS: Final = (EXECUTIONS, POINTS, RUNS)
NO_DETAILS: Final = Details()
MAX_JOINED_BYTES: Final = 65_535  # bytes


class JoinedBatches(NamedTuple):
    """The valid events of batches that share a service and a table.

    Attributes:
        service: the service of the batches.
        members: the positions of the batches in the argument of `BatchReader.events`.
        events: the events of all batches, in the order of `members`.
        executions: the number of executions of each batch.
        points: the number of points of each batch.
        runs: the number of runs of each batch.
    """

    service: str
    members: Sequence[int]
    events: Events
    executions: Sequence[int]
    points: Sequence[int]
    runs: Sequence[int]

    def each(self) -> Iterator[tuple[int, Events]]:
        """Yield each batch's position and its own events (as views)."""
        table = self.events.table
        starts = [0, 0, 0]
        for at, member in enumerate(self.members):
            parts: list[Any] = []
            for section, sizes in enumerate(self[3:]):
                size: int = sizes[at]
                part = slice(starts[section], starts[section] + size)
                starts[section] = part.stop
                columns = self.events[section + 1]
                parts.append(_part(columns, part) if size else None)
            yield member, Events(table, *parts)


class BatchReader:
    """Reads the sections of batches, with a cache of decoded tables."""

    def __init__(self) -> None:
        self._tables = TableCache()

    def events(
        self,
        batches: Sequence[Batch],
        services: Sequence[str],
        errors: Sequence[BatchErrors],
    ) -> Iterator[JoinedBatches]:
        """Yield the valid events of all batches.

        Args:
            batches: the decoded headers with encoded sections.
            services: the service of each batch.
            errors: counts the errors of each batch.
        """
        groups: dict[tuple[int, str], tuple[Table, list[int]]] = {}
        of_rows: dict[str, list[int]] = {}  # positions by service
        for at, batch in enumerate(batches):
            if batch.encoded.events:
                of_rows.setdefault(services[at], []).append(at)
                continue
            table = self._table(batch, errors[at])
            if table is not None:
                group = groups.setdefault((id(table), services[at]), (table, []))
                group[1].append(at)
        for service, positions in of_rows.items():
            for members in _row_groups(positions, batches):
                yield _join_rows(service, members, batches, errors)
        for (_, service), (table, members) in groups.items():
            yield _join_columns(service, table, members, batches, errors)

    def details(self, batch: Batch, errors: BatchErrors) -> Details:
        """Return the valid items of a batch's other sections; count the rejected."""
        encoded = batch.encoded
        if not (
            encoded.failures
            or encoded.topologies
            or encoded.in_flight
            or encoded.loops
            or encoded.looped
            or encoded.process
        ):
            return NO_DETAILS
        return Details(
            failures=_failures.decode(encoded.failures, "failures", errors) or (),
            topologies=_topologies.decode(encoded.topologies, "topologies", errors)
            or (),
            in_flight=_in_flight.decode(encoded.in_flight, "in_flight", errors),
            loops=_revisits.decode(encoded.loops, "loops", errors),
            looped=_revisits.decode(encoded.looped, "looped", errors) or (),
            process=_process(encoded.process, errors),
        )

    def _table(self, batch: Batch, errors: BatchErrors) -> Table | None:
        """Return the table of a batch's columns; None if it is invalid."""
        encoded = batch.encoded
        try:
            return self._tables.get(encoded.table)
        except TableError as error:
            lost = sum(
                section.count_claimed(columns)
                for section in _COLUMNS
                if (columns := getattr(encoded, section.name))
            )
            errors.count(ErrorCode.BAD_TABLE, str(error), max(1, lost))
            return None


# -- inside --------------------------------------------------------------------------

_failures: Final = ItemDecoder(FailureRecord)
_topologies: Final = ItemDecoder(TopologyRecord)
_in_flight: Final = ItemDecoder(InFlight, array_like=True)
_revisits: Final = ItemDecoder(NodeRevisits, array_like=True)
_samples: Final = msgspec.msgpack.Decoder(ProcessSample)


def _process(encoded: msgspec.Raw, errors: BatchErrors) -> ProcessSample | None:
    """Return the resource usage of the process; None if missing or invalid."""
    if not encoded:
        return None
    try:
        return _samples.decode(encoded)
    except BAD_INPUT as error:
        errors.count(ErrorCode.BAD_SECTION, f"process: {error}")
        return None


def _join_columns(
    service: str,
    table: Table,
    members: list[int],
    batches: Sequence[Batch],
    errors: Sequence[BatchErrors],
) -> JoinedBatches:
    encoded = [batches[member].encoded for member in members]
    problems = [errors[member] for member in members]
    executions = EXECUTIONS.read([one.executions for one in encoded], table, problems)
    points = POINTS.read([one.points for one in encoded], table, problems)
    runs = RUNS.read([one.runs for one in encoded], table, problems)
    return _join_sections(service, table, members, executions, points, runs)


def _row_groups(
    positions: Sequence[int], batches: Sequence[Batch]
) -> Iterator[list[int]]:
    """Yield groups of batches whose rows can share a table.

    A row takes more than one byte, so 64 KiB of rows cannot exhaust 16-bit indexes.
    """
    group: list[int] = []
    size = 0
    for at in positions:
        more = len(memoryview(batches[at].encoded.events))
        if group and size + more > MAX_JOINED_BYTES:
            yield group
            group, size = [], 0
        group.append(at)
        size += more
    yield group


def _join_rows(
    service: str,
    members: list[int],
    batches: Sequence[Batch],
    errors: Sequence[BatchErrors],
) -> JoinedBatches:
    encoded = [batches[member].encoded.events for member in members]
    problems = [errors[member] for member in members]
    table, executions, points = read_rows(encoded, problems)
    return _join_sections(service, table, members, executions, points, None)


def _join_sections(
    service: str,
    table: Table,
    members: list[int],
    executions: Rows | None,
    points: Rows | None,
    runs: Rows | None,
) -> JoinedBatches:
    none = [0] * len(members)
    return JoinedBatches(
        service,
        members,
        Events(
            table,
            _executions(executions) if executions else None,
            Points(*points.columns) if points else None,
            Runs(*runs.columns) if runs else None,
        ),
        executions.sizes if executions else none,
        points.sizes if points else none,
        runs.sizes if runs else none,
    )


def _executions(rows: Rows) -> Executions:
    phases = None
    if rows.optional:
        phases = Phases._make([*rows.optional, _rows_with_phases(rows)])
    return Executions._make([*rows.columns, phases])


def _rows_with_phases(rows: Rows) -> slice | NDArray[np.intp]:
    """Return the rows that have optional columns: the first ones of each batch."""
    if rows.optional_sizes == rows.sizes:
        return slice(None)
    starts = np.cumsum([0, *rows.sizes[:-1]])
    more = np.array(rows.optional_sizes)
    ends = np.cumsum(more)
    described: NDArray[np.intp] = np.arange(ends[-1])
    described += np.repeat(starts - (ends - more), more)
    return described


def _part(columns: Any, part: slice) -> Any:
    """Return some rows of columns, without their phases."""
    fields = columns[:-1] if isinstance(columns, Executions) else columns
    return type(columns)(*(column[part] for column in fields))
