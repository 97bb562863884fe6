"""Tables of the live stream: figures of nodes and graphs, and the changed cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import EndReason
from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, Dimension, merge
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, View
from kaywatch_agent.model.bounds import Count
from kaywatch_agent.model.records import TopologyRecord
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.web.api.figures import DIMENSIONS, Columns, PlaceGroups, columns_of
from kaywatch_agent.web.api.runs import RunInProgress, count_in_flight
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = ["LivePlaces", "LiveTable", "RecentBuckets", "TableChange"]

# Significant digits: of sums, and of quantiles, which differ from exact ones by 1.1 %.
SUM_DIGITS: Final = 6
QUANTILE_DIGITS: Final = 4
_DIGITS: Final = {
    "seconds": SUM_DIGITS,
    "cost": SUM_DIGITS,
    "wasted": SUM_DIGITS,
    "p50": QUANTILE_DIGITS,
    "p95": QUANTILE_DIGITS,
    "p99": QUANTILE_DIGITS,
}

NodePlace = tuple[str, str, str]
GraphPlace = tuple[str, str]


class ColumnChange(ResponseBody):
    """The rows of a column that have changed.

    `rows` are distances: the first from row -1, each other one from the one before;
    null for all rows of the table. A value of a count is the difference from its
    previous value, at first from 0; another value is the new one.
    """

    rows: list[Count] | None
    values: list[int | float | None]


class TableChange(ResponseBody):
    """New rows, which are appended to the table, and the changed columns.

    Counts are `executions`, `error`, `suppressed`, `fallback`, `cancelled`, `retries`,
    `tokens`, `last` (the time of the last execution in tenths of a second; 0 for none),
    for nodes `in_flight`, and for graphs `in_progress`, `visits`, `dead_ends` and
    `never_reached`. Others, of six significant digits: `seconds`, `cost`, `wasted`; of
    four: `p50`, `p95`, `p99`. Without calls of a model, `cost` and `wasted` are null.
    """

    keys: list[tuple[str, ...]]
    columns: dict[str, ColumnChange]


class LivePlaces:
    """The known nodes and graphs, regrouped only when there are new series."""

    nodes: PlaceGroups[NodePlace]
    graphs: PlaceGroups[GraphPlace]

    def __init__(self) -> None:
        self._size = -1
        self._topologies: Any = None
        self.node_names: list[NodePlace] = []
        self.graph_names: list[GraphPlace] = []

    def refresh(self, snapshot: AgentSnapshot) -> None:
        """Take over new series and graphs; places keep their numbers."""
        topologies = snapshot.view.topologies.keys()
        # Series are never removed, so a larger number means that there are new ones.
        if (len(snapshot.keys), topologies) == (self._size, self._topologies):
            return
        self._size, self._topologies = len(snapshot.keys), topologies
        self.nodes = PlaceGroups(snapshot, Kind.NODE, _node_place, self.node_names)
        self.node_names = self.nodes.groups.names
        named = ((n[0], n[1]) for n in self.node_names if n[1])
        all_names = dict.fromkeys((*self.graph_names, *named, *topologies))
        self.graphs = PlaceGroups(snapshot, Kind.RUN, _graph_place, all_names)
        self.graph_names = self.graphs.groups.names

    def node_columns(self, snapshot: AgentSnapshot, window: Window) -> Columns:
        """Return the figures of nodes within a window."""
        columns, _ = columns_of(window, self.nodes)
        in_flight = count_in_flight(snapshot)
        return {**columns, "in_flight": _counts(self.node_names, in_flight)}

    def graph_columns(
        self, snapshot: AgentSnapshot, window: Window, runs: Iterable[RunInProgress]
    ) -> Columns:
        """Return the figures of graphs within a window."""
        dimensions = DIMENSIONS | {Dimension.ACTION}
        columns, stats = columns_of(window, self.graphs, dimensions)
        ends = snapshot.view.registry.ends.values
        dead_ends = np.zeros(len(stats), np.int64)
        for group, number, count in stats.counted(Dimension.ACTION):
            if ends[number].reason == EndReason.UNMATCHED_ACTION:
                dead_ends[group] += count
        executed = set(self.node_names)
        missing = {
            place: _count_never_reached(topology, place, executed)
            for place, topology in snapshot.view.topologies.items()
        }
        started = Counter((run.service, run.graph) for run in runs)
        return {
            **columns,
            "visits": stats.attempts,
            "dead_ends": dead_ends,
            "never_reached": _counts(self.graph_names, missing),
            "in_progress": _counts(self.graph_names, started),
        }


class RecentBuckets:
    """The buckets of a window that ends now, the closed ones merged once.

    A closed bucket changes only when a late event arrives.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._parts: list[object] = []
        self._merged = EMPTY

    def of(self, view: View) -> list[Bucket]:
        """Return the buckets of the window."""
        first = int((view.now - self._seconds) // BUCKET_SECONDS)
        current = int(view.now // BUCKET_SECONDS)
        numbers = [n for n in view.buckets if n >= first]
        # The second to last bucket still receives events of clients that flush late.
        closed = sorted(n for n in numbers if n < current - 1)
        # Compared in compressed form: decompressing a bucket takes as long as merging.
        parts = [view.buckets.stored(number) for number in closed]
        if not _is_same(parts, self._parts):
            self._parts = parts
            self._merged = merge(view.buckets[n] for n in closed)
        fresh = [view.buckets[n] for n in numbers if n >= current - 1]
        return [self._merged, *fresh]


class LiveTable:
    """A table as readers have it: its keys, and its columns, rounded as sent."""

    def __init__(self) -> None:
        self._keys: Sequence[tuple[str, ...]] = []
        self._columns: Columns = {}

    def advance(self, keys: Sequence[tuple[str, ...]], columns: Columns) -> TableChange:
        """Take over the present columns; return the changes."""
        before, known_rows = self._columns, len(self._keys)
        self._keys = list(keys)
        self._columns = {name: _digits(name, new) for name, new in columns.items()}
        return self._change(before, known_rows)

    def full(self) -> TableChange:
        """Return the whole table."""
        return self._change({}, 0)

    def _change(self, before: Columns, known: int) -> TableChange:
        changes = {
            name: _column_change(before.get(name), column)
            for name, column in self._columns.items()
        }
        return TableChange(
            keys=list(self._keys[known:]),
            columns={name: change for name, change in changes.items() if change},
        )


def _column_change(
    before: NDArray[Any] | None, column: NDArray[Any]
) -> ColumnChange | None:
    is_count = column.dtype.kind == "i"
    old = np.full(len(column), 0 if is_count else np.nan, column.dtype)
    if before is not None:
        old[: len(before)] = before
    # NaN differs from itself, but two NaNs are not a change.
    same = (old == column) | ((old != old) & (column != column))
    rows = np.flatnonzero(~same)
    if not len(rows):
        return None
    # NaN becomes null.
    values = (column - old if is_count else column)[rows].tolist()
    whole = len(rows) == len(column)
    # Distances are small numbers, which take fewer bytes than the rows themselves.
    gaps = None if whole else np.diff(rows, prepend=-1).tolist()
    return ColumnChange(rows=gaps, values=values)


def _digits(name: str, column: NDArray[Any]) -> NDArray[Any]:
    """Return a column, rounded as it is sent."""
    digits = _DIGITS.get(name)
    if digits is None:
        scale = 10.0 if name == "last" else 1
        return np.rint(column * scale).astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        places = digits - 1 - np.floor(np.log10(np.abs(column)))
        # Beyond these digits, whole numbers are sent; zero has no logarithm.
        scale = 10.0 ** np.clip(places, 0, 18)
        rounded: NDArray[np.float64] = np.rint(column * scale) / scale
        return rounded


def _counts(
    places: Sequence[tuple[str, ...]], counts: Mapping[Any, int]
) -> NDArray[np.int64]:
    return np.array([counts.get(place, 0) for place in places], np.int64)


def _count_never_reached(
    topology: TopologyRecord, place: GraphPlace, executed: set[NodePlace]
) -> int:
    """Return how many nodes were never executed; 0 for a graph that has not run."""
    missing = sum((*place, node) not in executed for node in topology.nodes)
    # Before the first run, all nodes are missing, which is normal.
    return missing if missing < len(topology.nodes) else 0


def _node_place(key: SeriesKey) -> NodePlace:
    return key.service, key.graph, key.node


def _graph_place(key: SeriesKey) -> GraphPlace:
    return key.service, key.graph


def _is_same(parts: list[object], others: list[object]) -> bool:
    return len(parts) == len(others) and all(
        one is other for one, other in zip(parts, others, strict=True)
    )
