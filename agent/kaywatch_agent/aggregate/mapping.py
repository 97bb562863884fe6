"""A batch's own indexes become the registry's numbers, an array at a time.

Strategy: for each (table, service) there is one array per kind of index, filled as
its entries are first used. Clients repeat their tables, so in the steady state a
batch costs a few `take`s and no Python per event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.model.series import Columns, EndPoint, Kind, PhaseColumns, SeriesKey
from kaywatch_agent.protocol.messages import Batch, Executions, Points, Runs
from kaywatch_agent.protocol.table import Table

__all__ = ["Mapper", "phases"]

UNKNOWN = -1

# Services that share one table: copies of a program under several names.
MAX_SERVICES = 64

_KINDS = {"observe": Kind.OBSERVE, "count": Kind.COUNT, "gauge": Kind.GAUGE}

Ints = NDArray[np.int64]


class _Maps:
    """The numbers of one table's entries for one service, as far as known."""

    def __init__(self, table: Table) -> None:
        self.series = _unknown(len(table.series))
        self.points = _unknown(len(table.points))
        self.graphs = _unknown(len(table.strings))
        self.actions = _unknown(len(table.strings))
        self.errors = _unknown(len(table.errors))


class Mapper:
    """Turns the sections of batches into columns of registry numbers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._maps: WeakKeyDictionary[Table, dict[str, _Maps]] = WeakKeyDictionary()

    def columns(self, batch: Batch, service: str, client: str = "") -> list[Columns]:
        """Return the events of a batch, a Columns for each section it has.

        Args:
            batch: as decoded.
            service: that it is of.
            client: whose new series are; by default the batch's.
        """
        table = batch.table
        client = client or batch.client
        by_service = self._maps.setdefault(table, {})
        maps = by_service.get(service)
        if maps is None:
            if len(by_service) >= MAX_SERVICES:
                by_service.clear()
            maps = by_service[service] = _Maps(table)
        found = []
        if batch.executions is not None and len(batch.executions.series):
            found.append(
                self._executions(batch.executions, table, maps, service, client)
            )
        if batch.points is not None and len(batch.points.series):
            found.append(self._points(batch.points, table, maps, service, client))
        if batch.runs is not None and len(batch.runs.graph):
            found.append(self._runs(batch.runs, table, maps, service, client))
        return found

    def _executions(
        self, part: Executions, table: Table, maps: _Maps, service: str, client: str
    ) -> Columns:
        registry = self._registry

        def row(index: int) -> int:
            graph, node = table.series[index]
            return registry.row(SeriesKey(Kind.NODE, service, graph, node), client)

        def action(index: int) -> int:
            return registry.actions.number(table.strings[index])

        def error(index: int) -> int:
            return registry.errors.number(table.errors[index])

        return Columns(
            _translate(part.series, maps.series, row),
            part.end,
            part.seconds,
            part.outcome,
            # An execution that failed before its first attempt says 0.
            np.maximum(part.attempts, 1).astype(np.int64),
            _translate(part.action, maps.actions, action),
            _translate(part.error, maps.errors, error),
        )

    def _points(
        self, part: Points, table: Table, maps: _Maps, service: str, client: str
    ) -> Columns:
        registry = self._registry

        def row(index: int) -> int:
            kind, name, graph, node, labels = table.points[index]
            key = SeriesKey(_KINDS[kind], service, graph, node, name, labels)
            return registry.row(key, client)

        size = len(part.series)
        none = np.zeros(size, np.int64)
        return Columns(
            _translate(part.series, maps.points, row),
            part.time,
            part.value,
            np.zeros(size, np.uint8),
            none,
            none,
            none,
        )

    def _runs(
        self, part: Runs, table: Table, maps: _Maps, service: str, client: str
    ) -> Columns:
        registry = self._registry
        strings = table.strings

        def row(index: int) -> int:
            key = SeriesKey(Kind.RUN, service, strings[index], "")
            return registry.row(key, client)

        # (reason, node, action) as one number: 16 bits each.
        joined = (
            (part.reason.astype(np.int64) << 32)
            | (part.node.astype(np.int64) << 16)
            | part.action
        )
        distinct, where = np.unique(joined, return_inverse=True)
        ends = np.array(
            [
                registry.ends.number(
                    EndPoint(
                        strings[end >> 32],
                        strings[(end >> 16) & 0xFFFF],
                        strings[end & 0xFFFF],
                    )
                )
                for end in distinct.tolist()
            ],
            np.int64,
        )
        return Columns(
            _translate(part.graph, maps.graphs, row),
            part.end,
            part.seconds,
            part.outcome,
            part.visits.astype(np.int64),
            ends[where],
            np.zeros(len(joined), np.int64),
        )


def phases(batch: Batch, columns: Sequence[Columns]) -> PhaseColumns | None:
    """Return how the time of a batch's executions was split, if any tells that.

    Args:
        batch: as decoded.
        columns: what `Mapper.columns` made of it; executions come first.
    """
    if batch.executions is None or batch.executions.phases is None:
        return None
    found = batch.executions.phases
    first = slice(len(found.prep))
    of = columns[0]
    return PhaseColumns(of.row[first], of.time[first], of.value[first], *found)


def _unknown(size: int) -> Ints:
    return np.full(size, UNKNOWN, np.int64)


def _translate(
    indexes: NDArray[np.uint16], known: Ints, look_up: Callable[[int], int]
) -> Ints:
    """Map indexes to numbers, asking `look_up` for those not seen before."""
    numbers = known[indexes]
    if numbers.min() == UNKNOWN:
        for index in np.unique(indexes[numbers == UNKNOWN]).tolist():
            known[index] = look_up(index)
        numbers = known[indexes]
    return numbers
