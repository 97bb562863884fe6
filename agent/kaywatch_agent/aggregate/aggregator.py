"""Open buckets, an hour of closed ones, and the totals: what is known of all series."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge, reduce
from kaywatch_agent.aggregate.change import AggregateChanges, StoredState
from kaywatch_agent.aggregate.history import CompressedBucket, History
from kaywatch_agent.aggregate.mapping import Mapper, phases
from kaywatch_agent.aggregate.registry import Registry, is_overflow
from kaywatch_agent.model.records import FailureRecord, NodeRevisits, TopologyRecord
from kaywatch_agent.model.series import Columns, Kind, PhaseColumns, SeriesKey
from kaywatch_agent.protocol.batches import JoinedBatches
from kaywatch_agent.protocol.messages import Details
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = ["BUCKET_SECONDS", "Accepted", "Aggregator", "Archive", "OutOfRange", "View"]

BUCKET_SECONDS: Final = 10
HISTORY_BUCKETS: Final = 360  # an hour
LONGEST: Final = 360

# Graphs and nodes of which a bucket remembers the visits, those with the most: 90 bytes
# each, so 65 MB for an hour in which all loop.
MAX_MEASURED: Final = 2_000

# Between two ticks, reduce when so many events wait: 56 bytes each, and 40 for the
# phases of those that tell them, so 10 MB. With twice as many, glibc gave back each
# tick's memory in two of five starts: 105 ns an event instead of 62.
MAX_PENDING: Final = 100_000

# Events from further ahead than this are put to now: their clock is wrong.
FUTURE_SECONDS: Final = 5.0

# A store that can't be written to for longer than this gets the rest by the hour, so
# that what waits for it stays bounded.
MAX_DELTA_BUCKETS: Final = HISTORY_BUCKETS + 60

MAX_FAILURES: Final = 1_000
MAX_TOPOLOGIES: Final = 10_000


C = TypeVar("C", Columns, PhaseColumns)


class OutOfRange(StrEnum):
    """Events whose time needed care; all of them are in the totals."""

    LATE = "late"  # over an hour old: in no bucket
    FUTURE = "future"  # put to the time of arrival


class Archive(Protocol):
    """What the aggregation needs of a store: buckets that are not in memory."""

    @property
    def kept_seconds(self) -> float:
        """How long buckets are kept."""

    def bucket(self, number: int) -> Bucket:
        """Return a bucket by its number, EMPTY if it isn't there or can't be read."""

    def read(
        self, start: float, end: float, resolution: float
    ) -> Iterable[tuple[int, Bucket]]:
        """Yield buckets in [start, end) by when they begin; see the store's."""


class Nothing:
    """No store: what is not in memory is gone."""

    kept_seconds = float(HISTORY_BUCKETS * BUCKET_SECONDS)

    def bucket(self, number: int) -> Bucket:  # noqa: ARG002
        """Return nothing."""
        return EMPTY

    def read(self, *_: float) -> Iterable[tuple[int, Bucket]]:
        """Yield nothing."""
        return ()


class Accepted(NamedTuple):
    """How much was taken of each batch.

    Attributes:
        events: in all.
        late: of them, those too old for a bucket.
        overflow: of them, those of series beyond the caps.
    """

    events: list[int]
    late: list[int]
    overflow: list[int]


class View(NamedTuple):
    """A frozen picture of everything aggregated, for those who read.

    Attributes:
        now: when it was taken, Unix seconds.
        since: when the first event was seen.
        totals: all since then.
        buckets: by number, those of the last hour.
        registry: the names of rows and numbers.
        failures: the latest, oldest first.
        topologies: by service and graph.
        archive: what is older than an hour.
        longest: nodes visited in the longest run of a graph, and visits of a node in
            the run that came back to it most, by bucket and row, of the
            last hour as far as the agent ran.
    """

    now: float
    since: float
    totals: Bucket
    buckets: Mapping[int, Bucket]
    registry: Registry
    failures: tuple[FailureRecord, ...]
    topologies: Mapping[tuple[str, str], TopologyRecord]
    archive: Archive = Nothing()
    longest: Mapping[int, Mapping[int, int]] = {}

    def between(
        self, start: float, end: float, resolution: float = math.inf
    ) -> Iterator[tuple[int, Bucket]]:
        """Yield buckets that overlap [start, end) by when they begin, oldest first.

        Args:
            start: Unix seconds.
            end: Unix seconds.
            resolution: those that are older than an hour may be as long as this, in
                seconds, and longer where shorter ones are not kept.
        """
        oldest = math.floor(self.now / BUCKET_SECONDS) - HISTORY_BUCKETS
        before = min(end, oldest * BUCKET_SECONDS)
        if start < before:
            first = math.floor(start / BUCKET_SECONDS) * BUCKET_SECONDS
            for begin, bucket in self.archive.read(first, before, resolution):
                if begin // BUCKET_SECONDS not in self.buckets:
                    yield begin, bucket
        first, last = (
            math.floor(start / BUCKET_SECONDS),
            math.ceil(end / BUCKET_SECONDS),
        )
        for n in sorted(self.buckets):
            if first <= n < last:
                yield n * BUCKET_SECONDS, self.buckets[n]

    def range(self, start: float, end: float) -> list[Bucket]:
        """Return the buckets that overlap [start, end), oldest first."""
        return [bucket for _, bucket in self.between(start, end)]

    def window(self, seconds: float | None) -> Bucket:
        """Return the last `seconds`, in whole buckets; None for since first seen."""
        if seconds is None:
            return self.totals
        return merge(self.range(self.now - seconds, self.now + BUCKET_SECONDS))


class AggregateMetrics(Metrics):
    """What is counted of aggregation."""

    misplaced = Counter(
        "kaywatch_out_of_range_events_total",
        "Events too old for a bucket (late) or from the future; in the totals.",
        labels=("reason",),
        durable=True,
    )
    overflow = Counter(
        "kaywatch_overflow_series_total",
        "Look-ups of series beyond the caps, counted under __other__.",
        durable=True,
    )
    unmeasured = Counter(
        "kaywatch_visits_left_out_total",
        "Graphs and nodes over the cap, of which a bucket forgot the longest run.",
        durable=True,
    )
    series = Gauge("kaywatch_series", "Series known.")


class Aggregator:
    """Takes batches in, and turns what is pending into buckets at each tick."""

    def __init__(self, registry: Registry, now: float) -> None:
        self.registry = registry
        self.metrics = AggregateMetrics()
        self.metrics.series.set_function(lambda: len(registry.keys))
        self.events = 0
        self._mapper = Mapper(registry)
        self._since = self._now = now
        self._pending: list[Columns] = []
        self._pending_phases: list[PhaseColumns] = []
        self._pending_events = 0
        self._totals = EMPTY
        self._buckets = History({})
        self._fresh: dict[int, Bucket] = {}  # reduced, and not in the buckets yet
        self._fresh_late = EMPTY  # in the totals alone
        self._delta: dict[int, Bucket] = {}  # in the buckets, and in no change yet
        self._delta_late = EMPTY
        self._delta_failures: list[FailureRecord] = []
        self._delta_topologies: dict[tuple[str, str], TopologyRecord] = {}
        self._failures: deque[FailureRecord] = deque(maxlen=MAX_FAILURES)
        self._topologies: dict[tuple[str, str], TopologyRecord] = {}
        self._archive: Archive = Nothing()
        self._longest: dict[int, dict[int, int]] = {}

    def accept(
        self, joined: JoinedBatches, owners: Sequence[str], now: float
    ) -> Accepted:
        """Take in the events of batches.

        Args:
            joined: batches of one service that share a table.
            owners: of each batch, the process that its new series are counted for.
            now: Unix seconds.
        """
        taken, late, overflow = (np.zeros(len(owners), np.int64) for _ in range(3))
        executions = joined.events.executions
        # All sections are mapped before any is kept: all of a batch, or nothing.
        for columns, sizes in list(self._mapper.columns(joined, owners)):
            self._pending.append(columns)
            taken += sizes
            if (old := _late(columns.time, now)) is not None:
                late += _by_batch(old, sizes)
            if self.registry.overflow_rows:
                folds = np.isin(columns.row, self.registry.overflow_rows)
                overflow += _by_batch(folds, sizes)
            if executions is not None:
                split = phases(joined, columns)
                if split is not None:
                    self._pending_phases.append(split)
                executions = None  # they come first
        if joined.events.runs is not None:
            self._measure(_visits(self._pending[-1]), now)
        self._count(joined.service, int(taken.sum()), int(late.sum()), now)
        return Accepted(taken.tolist(), late.tolist(), overflow.tolist())

    def take_details(
        self, details: Details, service: str, client: str, owner: str, now: float
    ) -> None:
        """Take in what a batch contains beside its events.

        Args:
            details: failures, topologies, and loops of runs that ended.
            service: that the batch is of.
            client: who sent it.
            owner: the process that its new series are counted for.
            now: Unix seconds.
        """
        if details.looped:
            self._measure(self._looped(details.looped, service, owner), now)
        for failure in details.failures:
            record = replace(failure, service=service, client=client)
            self._failures.append(record)
            self._delta_failures.append(record)
        for topology in details.topologies:
            self._wire(replace(topology, service=service))

    def lose(self, service: str, drops: Mapping[str, int], now: float) -> None:
        """Take in what a client says it lost."""
        for reason, events in drops.items():
            key = SeriesKey(Kind.LOSS, service, "", "", reason)
            row = self.registry.row(key, "")
            self._pending.append(_same(row, now, float(events)))

    def advance(self, now: float) -> None:
        """Take what is pending into buckets and totals, for readers to see."""
        self._reduce(now)
        self._now = now
        registry = self.registry
        self.metrics.overflow.add(registry.overflow_count)
        registry.overflow_count = 0
        fresh, self._fresh = self._fresh, {}
        late, self._fresh_late = self._fresh_late, EMPTY
        # Replaced, not mutated: a View that somebody holds stays as it is.
        self._buckets = self._buckets.advanced(
            _sums(self._buckets, fresh), int(now // BUCKET_SECONDS), HISTORY_BUCKETS
        )
        self._totals = merge([self._totals, *fresh.values(), late])
        self._defer(fresh, late)

    def changes(self, full: bool) -> AggregateChanges:
        """Return what was advanced since the last call, or all that is known."""
        buckets: Mapping[int, Bucket] = self._buckets if full else self._delta
        topologies = self._topologies if full else self._delta_topologies
        change = AggregateChanges(
            now=self._now,
            since=self._since,
            buckets=buckets,
            late=EMPTY if full else self._delta_late,
            totals=self._totals,
            keys=self.registry.keys,
            rows=len(self.registry.keys),
            names=self.registry.names,
            sizes={name: len(values) for name, values in self.registry.names.items()},
            failures=tuple(self._failures if full else self._delta_failures),
            topologies=tuple(topologies.values()),
        )
        self._delta, self._delta_late = {}, EMPTY
        self._delta_failures, self._delta_topologies = [], {}
        return change

    def committed(self, change: AggregateChanges) -> None:
        """Do nothing: readers see what was advanced, durable or not."""

    def refused(self, change: AggregateChanges) -> None:
        """Put into the next commit what this one did not make durable."""
        self._defer(change.buckets, change.late)
        self._delta_failures[:0] = change.failures
        for topology in change.topologies:
            key = (topology.service, topology.graph)
            self._delta_topologies.setdefault(key, topology)

    def use(self, archive: Archive) -> None:
        """Read from a store what is not in memory."""
        self._archive = archive

    def restore(self, found: StoredState) -> None:
        """Go on from what was committed before a restart."""
        self.registry.restore(found.keys, found.names)
        self._since = found.since
        self._totals = found.totals
        stored: dict[int, Bucket | CompressedBucket | None] = dict.fromkeys(
            found.stored
        )
        self._buckets = History({**stored, **found.buckets}, self._archive.bucket)
        self._failures.extend(found.failures)
        for topology in found.topologies:
            self._topologies[topology.service, topology.graph] = topology

    def view(self, now: float) -> View:
        """Return a picture of all that was advanced so far."""
        return View(
            now,
            self._since,
            self._totals,
            self._buckets,
            self.registry,
            tuple(self._failures),
            dict(self._topologies),
            self._archive,
            self._longest,
        )

    # -- inside ----------------------------------------------------------------------

    def _count(self, service: str, taken: int, late: int, now: float) -> None:
        if late:
            row = self.registry.row(SeriesKey(Kind.LATE, service, "", ""), "")
            self._pending.append(_same(row, now, 1.0, late))
        self.events += taken
        self._pending_events += taken + late
        if self._pending_events >= MAX_PENDING:
            self._reduce(now)

    def _looped(
        self, loops: Iterable[NodeRevisits], service: str, owner: str
    ) -> dict[int, int]:
        """Return how often a run that ended came back to a node, by row."""
        found: dict[int, int] = {}
        for loop in loops:
            key = SeriesKey(Kind.NODE, service, loop.graph, loop.node)
            row = self.registry.row(key, owner)
            # What stands for many nodes was not visited by coming back.
            if not is_overflow(self.registry.keys[row]):
                found[row] = max(found.get(row, 0), loop.visits)
        return found

    def _measure(self, visits: Mapping[int, int], now: float) -> None:
        """Remember the most visits in one run, by row."""
        bucket = int(now // BUCKET_SECONDS)
        known = dict(self._longest.get(bucket, {}))
        for row, most in visits.items():
            known[row] = max(known.get(row, 0), most)
        if len(known) > MAX_MEASURED:
            self.metrics.unmeasured.add(len(known) - MAX_MEASURED)
            most_first = sorted(known.items(), key=itemgetter(1), reverse=True)
            known = dict(most_first[:MAX_MEASURED])
        recent = {n: rows for n, rows in self._longest.items() if n > bucket - LONGEST}
        # Replaced, not mutated: a View that somebody holds stays as it is.
        self._longest = {**recent, bucket: known}

    def _reduce(self, now: float) -> None:
        if not self._pending:
            return
        joined = _joined(self._pending)
        split = _joined(self._pending_phases) if self._pending_phases else None
        self._pending.clear()
        self._pending_phases.clear()
        self._pending_events = 0
        if joined.time.max() > now + FUTURE_SECONDS:
            ahead = int(np.count_nonzero(joined.time > now + FUTURE_SECONDS))
            self.metrics.misplaced.labels(OutOfRange.FUTURE).add(ahead)
        oldest = _oldest(now)
        known = dict(_split(split, oldest, now)) if split is not None else {}
        reduced = {
            n: reduce(part, known.get(n)) for n, part in _split(joined, oldest, now)
        }
        for n, bucket in reduced.items():
            if n < oldest:
                late = int(bucket.executions.sum())
                self.metrics.misplaced.labels(OutOfRange.LATE).add(late)
                self._fresh_late = merge([self._fresh_late, bucket])
            else:
                self._fresh[n] = merge([self._fresh.get(n, EMPTY), bucket])

    def _defer(self, buckets: Mapping[int, Bucket], late: Bucket) -> None:
        """Keep for the next change what is new."""
        self._delta = {**self._delta, **_sums(self._delta, buckets)}
        self._delta_late = merge([self._delta_late, late])
        del self._delta_failures[: -MAX_FAILURES or None]
        if len(self._delta) > MAX_DELTA_BUCKETS:
            self._delta = _coarse(self._delta)

    def _wire(self, topology: TopologyRecord) -> None:
        key = (topology.service, topology.graph)
        known = self._topologies.get(key)
        room = known is not None or len(self._topologies) < MAX_TOPOLOGIES
        if known != topology and room:
            self._topologies[key] = self._delta_topologies[key] = topology


def _visits(runs: Columns) -> dict[int, int]:
    """Return how many nodes the longest run of each graph visited, by row."""
    top = np.zeros(int(runs.row.max()) + 1, np.int64)
    np.maximum.at(top, runs.row, runs.attempts)
    rows = np.flatnonzero(top)
    return dict(zip(rows.tolist(), top[rows].tolist(), strict=True))


def _oldest(now: float) -> int:
    """Return the number of the oldest bucket that there is a bucket for."""
    return int(now // BUCKET_SECONDS) - HISTORY_BUCKETS


def _late(time: NDArray[np.float64], now: float) -> NDArray[np.bool_] | None:
    """Return which events are too old for a bucket, None if no event is.

    Those without a time are not.
    """
    oldest = _oldest(now) * BUCKET_SECONDS
    if time.min() >= oldest:
        return None
    old: NDArray[np.bool_] = (time < oldest) & (time > 0)
    return old


def _by_batch(chosen: NDArray[np.bool_], sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return how many of the chosen rows are of each batch."""
    batch = np.repeat(np.arange(len(sizes)), sizes)
    return np.bincount(batch[chosen], minlength=len(sizes))


def _joined(pending: Sequence[C]) -> C:
    """Return all columns as one."""
    columns: list[Any] = [np.concatenate(parts) for parts in zip(*pending, strict=True)]
    return type(pending[0])(*columns)


def _clamped(time: NDArray[np.float64], now: float) -> NDArray[np.float64]:
    """Return the events' times, none of them in the future or before 1970."""
    if time.max() > now + FUTURE_SECONDS:
        time = np.where(time > now + FUTURE_SECONDS, now, time)
    # 0 is what a sender without a clock says.
    return np.where(time <= 0, now, time) if time.min() <= 0 else time


def _sums(
    buckets: Mapping[int, Bucket], more: Mapping[int, Bucket]
) -> dict[int, Bucket]:
    """Return the buckets of `more`, with what `buckets` has of them merged in."""
    return {n: merge([buckets.get(n, EMPTY), bucket]) for n, bucket in more.items()}


def _coarse(buckets: Mapping[int, Bucket]) -> dict[int, Bucket]:
    """Return the buckets with all but the last hour's merged by the hour."""
    newest = max(buckets)
    parts: dict[int, list[Bucket]] = defaultdict(list)
    for n, bucket in buckets.items():
        old = n < newest - HISTORY_BUCKETS
        parts[n - n % HISTORY_BUCKETS if old else n].append(bucket)
    return {n: merge(part) for n, part in parts.items()}


def _split(columns: C, oldest: int, now: float) -> Iterator[tuple[int, C]]:
    """Yield the columns of each bucket; those before `oldest` as one, first."""
    time = _clamped(columns.time, now)
    columns = columns._replace(time=time)
    low, high = (int(bound) // BUCKET_SECONDS for bound in (time.min(), time.max()))
    if low == high or high < oldest:
        yield max(low, oldest - 1), columns
        return
    number = np.maximum(time.astype(np.int64) // BUCKET_SECONDS, oldest - 1)
    for n in np.unique(number).tolist():
        at = np.flatnonzero(number == n)
        part: list[Any] = [column[at] for column in columns]
        yield n, type(columns)(*part)


def _same(row: int, now: float, value: float, count: int = 1) -> Columns:
    """Return so many events that are all alike."""
    zero = np.zeros(count, np.int64)
    return Columns(
        np.full(count, row),
        np.full(count, now),
        np.full(count, value),
        np.zeros(count, np.uint8),
        zero,
        zero,
        zero,
    )
