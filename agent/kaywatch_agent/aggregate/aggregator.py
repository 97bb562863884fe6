"""Accepts batches, and aggregates them at each tick: an hour of buckets and the totals.

What a commit could not make durable stays in the changes, and is part of the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.json import encode as encode_json
from msgspec.structs import replace
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import EMPTY
from kaywatch_agent.aggregate.change import AggregateChanges, StoredState
from kaywatch_agent.aggregate.client_clocks import clamp_failure
from kaywatch_agent.aggregate.detail_quota import (
    OBJECT_BYTES,
    Detail,
    DetailQuota,
)
from kaywatch_agent.aggregate.details import FailureLog, LongestRuns, Topologies
from kaywatch_agent.aggregate.fact_limits import FactLimits
from kaywatch_agent.aggregate.history import History, StoredBucket
from kaywatch_agent.aggregate.mapping import Mapper, phases
from kaywatch_agent.aggregate.pending import (
    PendingEvents,
    find_late_events,
    repeat_event,
)
from kaywatch_agent.aggregate.registry import Registry, is_overflow
from kaywatch_agent.aggregate.uncommitted import Uncommitted, merge_each
from kaywatch_agent.aggregate.view import (
    BUCKET_SECONDS,
    HISTORY_BUCKETS,
    BucketArchive,
    NoArchive,
    View,
)
from kaywatch_agent.model.records import NodeRevisits, TopologyRecord
from kaywatch_agent.model.series import Columns, Kind, SeriesKey
from kaywatch_agent.protocol.batches import JoinedBatches
from kaywatch_agent.protocol.messages import Details
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = ["AcceptedCounts", "Aggregator"]


class AcceptedCounts(NamedTuple):
    """How many events were accepted, by batch.

    Attributes:
        events: all that were accepted.
        late: of these, the events too old for a bucket.
        overflow: of these, the events counted under `__other__`.
    """

    events: list[int]
    late: list[int]
    overflow: list[int]


class AggregateMetrics(Metrics):
    """The metrics of the aggregation."""

    out_of_range = Counter(
        "kaywatch_out_of_range_events_total",
        "Events too old for a bucket (late) or from the future; in the totals.",
        labels=("reason",),
        durable=True,
    )
    overflow = Counter(
        "kaywatch_overflow_series_total",
        "Lookups of series beyond a limit, counted under __other__.",
        labels=("limit",),
        durable=True,
    )
    overflow_names = Counter(
        "kaywatch_overflow_names_total",
        "Lookups of actions, errors and ends of runs beyond a limit, counted under"
        " __other__.",
        labels=("kind", "limit"),
    )
    visits_left_out = Counter(
        "kaywatch_visits_left_out_total",
        "Graphs and nodes whose longest run was forgotten: a bucket keeps 2,000.",
        durable=True,
    )
    series = Gauge("kaywatch_series", "Series known.")
    coarse = Counter(
        "kaywatch_coarse_events_total",
        "Events in wider histogram buckets, or under __other__, because their series"
        " has too many buckets, actions or errors.",
        labels=("kind",),
    )
    history_bytes = Gauge(
        "kaywatch_history_bytes", "Memory of the buckets of the last hour."
    )
    history_stored = Gauge(
        "kaywatch_history_stored_buckets",
        "Buckets of the last hour that are read from the store.",
    )
    history_dropped = Counter(
        "kaywatch_history_dropped_buckets_total",
        "Buckets of the last hour that were dropped, because there is no store.",
    )
    details_dropped = Counter(
        "kaywatch_details_dropped_total",
        "Details over the quota of their process or user, by kind.",
        labels=("kind",),
    )
    detail_bytes = Gauge("kaywatch_detail_bytes", "Memory of details, estimated.")


class Aggregator:
    """Accepts batches, and turns pending events into buckets at each tick."""

    def __init__(self, registry: Registry, now: float) -> None:
        self.registry = registry
        self.metrics = AggregateMetrics()
        self.metrics.series.set_function(lambda: len(registry.keys))
        self.details = DetailQuota(self.metrics.details_dropped, registry.quota.user_of)
        self.metrics.detail_bytes.set_function(lambda: self.details.bytes)
        self._mapper = Mapper(registry)
        self._pending = PendingEvents(self.metrics.out_of_range)
        self._failures = FailureLog()
        self._topologies = Topologies()
        self._longest = LongestRuns(self.metrics.visits_left_out)
        # Replaced, never mutated: readers hold views in other threads.
        self._view = View(now, now, EMPTY, History({}), registry, (), {})
        self._history = History({})
        self._uncommitted = Uncommitted()

    def accept(
        self, joined: JoinedBatches, owners: Sequence[str], now: float
    ) -> AcceptedCounts:
        """Accept the events of batches.

        Args:
            joined: batches of one service that share a table.
            owners: for each batch, the process whose quota its new series count for.
            now: Unix seconds.
        """
        taken, late, overflow = (np.zeros(len(owners), np.int64) for _ in range(3))
        # All sections are mapped before any is kept: all of a batch, or nothing.
        sections = list(self._mapper.columns(joined, owners))
        for columns, sizes in sections:
            # Executions come first, and only they have phases.
            split = phases(joined, columns) if columns is sections[0][0] else None
            self._pending.add(columns, split)
            taken += sizes
            if (old := find_late_events(columns.time, now)) is not None:
                late += _count_by_batch(old, sizes)
            if self.registry.overflow_rows:
                other = self.registry.find_overflow(columns.row)
                overflow += _count_by_batch(other, sizes)
        if joined.events.runs is not None:
            runs, _ = sections[-1]
            self._longest.record(_visits(runs), now)
        self._count_late(joined.service, int(late.sum()), now)
        if self._pending.full:
            self._pending.reduce(now)
        return AcceptedCounts(taken.tolist(), late.tolist(), overflow.tolist())

    def take_details(
        self, details: Details, service: str, client: str, owner: str, now: float
    ) -> None:
        """Accept the details of a batch, in addition to its events.

        Args:
            details: failures, topologies, and loops of runs that ended.
            service: the batch's service.
            client: who sent it.
            owner: the process whose quota its new series count for.
            now: Unix seconds.
        """
        if details.looped:
            self._longest.record(self._revisits(details.looped, service, owner), now)
        for failure in details.failures:
            clamped = clamp_failure(failure, now)
            self._failures.add(replace(clamped, service=service, client=client))
        for topology in details.topologies:
            self._take_topology(replace(topology, service=service), owner, now)

    def count_lost(self, service: str, drops: Mapping[str, int], now: float) -> None:
        """Count the events that a client reports as lost, by reason."""
        for reason, events in drops.items():
            key = SeriesKey(Kind.LOSS, service, "", "", reason)
            row = self.registry.row(key, "")
            self._pending.add(repeat_event(row, now, float(events)))

    def count_unknown(self, service: str, seconds: float, now: float) -> None:
        """Count a process that died, and how long before it nothing is known of."""
        row = self.registry.row(SeriesKey(Kind.UNKNOWN, service, "", ""), "")
        self._pending.add(repeat_event(row, now, seconds))

    def advance(self, now: float) -> None:
        """Move pending events into buckets and totals, where readers see them."""
        buckets, late = self._pending.take(now)
        self._count_overflow()
        limits = FactLimits(self.registry, self.metrics.coarse)
        totals, (late, *parts) = limits.add(
            self._view.totals, [late, *buckets.values()]
        )
        buckets = dict(zip(buckets, parts, strict=True))
        self._history = self._history.advance(
            merge_each(self._history, buckets),
            int(now // BUCKET_SECONDS),
            HISTORY_BUCKETS,
        )
        # Their counters were zero until now, as far as readers know.
        self.registry.add_births(self._view.now)
        since, first = self._view.since, min(buckets, default=math.inf) * BUCKET_SECONDS
        # A client may have kept events while no agent ran.
        since = first if first + BUCKET_SECONDS <= since else since
        self._view = self._view._replace(now=now, since=since, totals=totals)
        self._uncommitted.add(buckets, late)

    def changes(self, full: bool) -> AggregateChanges:
        """Return the aggregates that changed since the last call, or all of them."""
        names, new = self.registry.names, self._uncommitted
        totals = new.fix_sums(self._view.totals)
        self._view = self._view._replace(totals=totals)
        changes = AggregateChanges(
            now=self._view.now,
            since=self._view.since,
            buckets=self._history if full else new.buckets,
            late=EMPTY if full else new.late,
            totals=totals,
            keys=self.registry.keys,
            rows=len(self.registry.keys),
            names=names,
            sizes={name: len(values) for name, values in names.items()},
            failures=self._failures.changes(full),
            topologies=self._topologies.changes(full),
        )
        new.clear(None if full else totals)
        return changes

    def committed(self, change: AggregateChanges) -> None:
        """Show readers which totals are durable, and limit the history's memory."""
        self._view = self._view._replace(durable_totals=change.totals)
        self._uncommitted.committed(change.totals)
        history = self._history
        self._history = history.shrink(
            self.registry.limits.history_bytes, int(change.now // BUCKET_SECONDS)
        )
        stored = self._history.stored_count
        if isinstance(self._view.archive, NoArchive):
            self.metrics.history_dropped.add(stored - history.stored_count)
        else:
            self.metrics.history_stored.set(stored)
        self.metrics.history_bytes.set(self._history.bytes)

    def refused(self, change: AggregateChanges) -> None:
        """Add the changes of a failed commit to the next one."""
        durable = self._view.durable_totals
        self._uncommitted.refused(change.buckets, change.late, durable)
        self._failures.refused(change.failures)
        self._topologies.refused(change.topologies)

    def use(self, archive: BucketArchive) -> None:
        """Read buckets that are not in memory from an archive."""
        self._view = self._view._replace(archive=archive)
        self._history = self._history.use(archive.bucket)

    def restore(self, state: StoredState) -> None:
        """Continue from the committed state of the previous run."""
        self.registry.restore(state.keys, state.names)
        # An earlier version stored no births.
        self.registry.add_births(state.since)
        stored = {number: StoredBucket() for number in state.stored}
        self._history = History({**stored, **state.buckets}, self._view.archive.bucket)
        self._view = self._view._replace(
            since=state.since, totals=state.totals, durable_totals=state.totals
        )
        self._uncommitted.clear(state.totals)
        self._failures.latest.extend(state.failures)
        self._topologies.restore(state.topologies)
        for topology in state.topologies:
            self._reserve(topology, "")

    def view(self, now: float) -> View:
        """Return a snapshot of everything aggregated so far."""
        return self._view._replace(
            now=now,
            buckets=self._history,
            failures=tuple(self._failures.latest),
            topologies=dict(self._topologies.known),
            longest=self._longest.by_bucket,
        )

    # -- inside ------------------------------------------------------------------------

    def _take_topology(self, topology: TopologyRecord, owner: str, now: float) -> None:
        """Keep a topology that is new, if the quota of its process allows it."""
        key = (topology.service, topology.graph)
        previous = self._topologies.known.get(key)
        if previous is not None and previous.has_shape_of(topology):
            return
        if not self._reserve(topology, owner):
            if previous is not None:
                self._reserve(previous, owner)
        elif not self._topologies.add(topology, now):
            self.details.release(Detail.TOPOLOGIES, key)
            self.metrics.details_dropped.labels(Detail.TOPOLOGIES).add()

    def _reserve(self, topology: TopologyRecord, owner: str) -> bool:
        """Count the bytes of a topology; return whether there is room for it."""
        parts = len(topology.nodes) + len(topology.edges)
        size = len(encode_json(topology)) + OBJECT_BYTES * parts
        key = (topology.service, topology.graph)
        is_kept = self.details.keep(Detail.TOPOLOGIES, key, (topology,), size, owner)
        return bool(is_kept)

    def _count_overflow(self) -> None:
        registry = self.registry
        for excess, lookups in registry.overflow.items():
            self.metrics.overflow.labels(excess).add(lookups)
        registry.overflow.clear()
        for kind, names in registry.interners.items():
            for excess, lookups in names.overflow.items():
                self.metrics.overflow_names.labels(kind, excess).add(lookups)
            names.overflow.clear()

    def _count_late(self, service: str, events: int, now: float) -> None:
        if events:
            row = self.registry.row(SeriesKey(Kind.LATE, service, "", ""), "")
            self._pending.add(repeat_event(row, now, 1.0, events))

    def _revisits(
        self, loops: Iterable[NodeRevisits], service: str, owner: str
    ) -> dict[int, int]:
        """Return how often a run that ended returned to a node, by row."""
        visits: dict[int, int] = {}
        for loop in loops:
            key = SeriesKey(Kind.NODE, service, loop.graph, loop.node)
            row = self.registry.row(key, owner)
            # A row that stands for many nodes was not visited by returning to it.
            if not is_overflow(self.registry.keys[row]):
                visits[row] = max(visits.get(row, 0), loop.visits)
        return visits


def _visits(runs: Columns) -> dict[int, int]:
    """Return how many nodes the longest run of each graph visited, by row."""
    most = np.zeros(int(runs.row.max()) + 1, np.int64)
    np.maximum.at(most, runs.row, runs.attempts)
    rows = np.flatnonzero(most)
    return dict(zip(rows.tolist(), most[rows].tolist(), strict=True))


def _count_by_batch(
    chosen: NDArray[np.bool_], sizes: Sequence[int]
) -> NDArray[np.int64]:
    """Return how many of the chosen rows belong to each batch."""
    batch = np.repeat(np.arange(len(sizes)), sizes)
    return np.bincount(batch[chosen], minlength=len(sizes))
