"""Open buckets, an hour of closed ones, and the totals: what is known of all series."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.history import History
from kaywatch_agent.aggregate.mapping import Mapper
from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.aggregate.step import EMPTY, Step, merge, reduce
from kaywatch_agent.model import (
    Columns,
    FailureRecord,
    Kind,
    SeriesKey,
    TopologyRecord,
)
from kaywatch_agent.protocol.messages import Batch, Failure

__all__ = ["STEP_SECONDS", "Aggregator", "Delta", "Misplaced", "View"]

STEP_SECONDS: Final = 10
HISTORY_STEPS: Final = 360  # an hour

# Between two ticks, reduce when so many events wait: 56 bytes each, so 11 MB.
MAX_PENDING: Final = 200_000

# Events from further ahead than this are put to now: their clock is wrong.
FUTURE_SECONDS: Final = 5.0

MAX_FAILURES: Final = 1_000
MAX_TOPOLOGIES: Final = 10_000


class Misplaced(StrEnum):
    """Events whose time needed care; all of them are in the totals."""

    LATE = "late"  # over an hour old: in no bucket
    FUTURE = "future"  # put to the time of arrival


class Delta(NamedTuple):
    """What one tick changes: for the store to commit as one transaction."""

    now: float
    total: Step
    steps: Mapping[int, Step]  # by step number: event time // STEP_SECONDS


class View(NamedTuple):
    """A frozen picture of everything aggregated, for those who read."""

    now: float
    since: float
    totals: Step
    steps: Mapping[int, Step]
    registry: Registry
    failures: tuple[FailureRecord, ...]
    topologies: Mapping[tuple[str, str], TopologyRecord]

    def range(self, start: float, end: float) -> list[Step]:
        """Return the steps that overlap [start, end), oldest first."""
        first = math.floor(start / STEP_SECONDS)
        last = math.ceil(end / STEP_SECONDS)
        return [self.steps[n] for n in sorted(self.steps) if first <= n < last]

    def window(self, seconds: float | None) -> Step:
        """Return the last `seconds`, in whole steps; None for since first seen."""
        if seconds is None:
            return self.totals
        return merge(self.range(self.now - seconds, self.now + STEP_SECONDS))


class Aggregator:
    """Takes batches in, and turns what is pending into steps at each tick."""

    def __init__(self, registry: Registry, now: float) -> None:
        self.registry = registry
        self.misplaced: Counter[Misplaced] = Counter()
        self.events = 0
        self._mapper = Mapper(registry)
        self._since = now
        self._pending: list[Columns] = []
        self._pending_events = 0
        self._totals = EMPTY
        self._steps = History({})
        self._fresh: dict[int, Step] = {}  # reduced, and not in the steps yet
        self._fresh_total = EMPTY
        self._delta: dict[int, Step] = {}  # in the steps, and not committed yet
        self._delta_total = EMPTY
        self._failures: deque[FailureRecord] = deque(maxlen=MAX_FAILURES)
        self._topologies: dict[tuple[str, str], TopologyRecord] = {}

    def accept(self, batch: Batch, service: str, now: float) -> int:
        """Take in the sound part of a batch; return how many events that is."""
        taken = 0
        for columns in self._mapper.columns(batch, service):
            self._pending.append(columns)
            taken += len(columns.row)
        for failure in batch.failures:
            self._failures.append(_record(failure, service, batch.client))
        for topology in batch.topologies:
            key = (service, topology.graph)
            if key in self._topologies or len(self._topologies) < MAX_TOPOLOGIES:
                self._topologies[key] = TopologyRecord(service, *topology)
        self.events += taken
        self._pending_events += taken
        if self._pending_events >= MAX_PENDING:
            self._reduce(now)
        return taken

    def lose(self, service: str, drops: Mapping[str, int], now: float) -> None:
        """Take in what a client says it lost."""
        for reason, events in drops.items():
            key = SeriesKey(Kind.LOSS, service, "", "", reason)
            row = self.registry.row(key, "")
            self._pending.append(_one(row, now, float(events)))

    def advance(self, now: float) -> Delta:
        """Take what is pending into steps and totals.

        Returns:
            All that has changed since the last `committed`.
        """
        self._reduce(now)
        fresh, self._fresh = self._fresh, {}
        total, self._fresh_total = self._fresh_total, EMPTY
        # Replaced, not mutated: a View that somebody holds stays as it is.
        self._steps = self._steps.advanced(
            _sums(self._steps, fresh), int(now // STEP_SECONDS), HISTORY_STEPS
        )
        self._totals = merge([self._totals, total])
        self._delta = {**self._delta, **_sums(self._delta, fresh)}
        self._delta_total = merge([self._delta_total, total])
        return Delta(now, self._delta_total, self._delta)

    def committed(self) -> None:
        """Forget what the last `advance` returned: it is durable."""
        self._delta = {}
        self._delta_total = EMPTY

    def view(self, now: float) -> View:
        """Return a picture of all that was advanced so far."""
        return View(
            now,
            self._since,
            self._totals,
            self._steps,
            self.registry,
            tuple(self._failures),
            dict(self._topologies),
        )

    # -- inside ----------------------------------------------------------------------

    def _reduce(self, now: float) -> None:
        if not self._pending:
            return
        joined = Columns._make(map(np.concatenate, zip(*self._pending, strict=True)))
        self._pending.clear()
        self._pending_events = 0
        joined = joined._replace(time=self._clamped(joined, now))
        oldest = int(now // STEP_SECONDS) - HISTORY_STEPS
        reduced = {n: reduce(part) for n, part in _split(joined, oldest)}
        for n, step in reduced.items():
            if n < oldest:
                self.misplaced[Misplaced.LATE] += int(step.executions.sum())
            else:
                self._fresh[n] = merge([self._fresh.get(n, EMPTY), step])
        self._fresh_total = merge([self._fresh_total, *reduced.values()])

    def _clamped(self, columns: Columns, now: float) -> NDArray[np.float64]:
        """Return the events' times, none of them in the future or before 1970."""
        time = columns.time
        if time.max() > now + FUTURE_SECONDS:
            ahead = time > now + FUTURE_SECONDS
            self.misplaced[Misplaced.FUTURE] += int(np.count_nonzero(ahead))
            time = np.where(ahead, now, time)
        # 0 is what a sender without a clock says.
        return np.where(time <= 0, now, time) if time.min() <= 0 else time


def _sums(steps: Mapping[int, Step], more: Mapping[int, Step]) -> dict[int, Step]:
    """Return the steps of `more`, with what `steps` has of them merged in."""
    return {n: merge([steps.get(n, EMPTY), step]) for n, step in more.items()}


def _split(columns: Columns, oldest: int) -> Iterator[tuple[int, Columns]]:
    """Yield the columns of each step; what is older than `oldest` as one, before it."""
    time = columns.time
    low, high = (int(bound) // STEP_SECONDS for bound in (time.min(), time.max()))
    if low == high or high < oldest:
        yield max(low, oldest - 1), columns
        return
    number = np.maximum(time.astype(np.int64) // STEP_SECONDS, oldest - 1)
    for n in np.unique(number).tolist():
        at = np.flatnonzero(number == n)
        yield n, Columns._make(column[at] for column in columns)


def _one(row: int, now: float, value: float) -> Columns:
    zero = np.zeros(1, np.int64)
    return Columns(
        np.array([row], np.int64),
        np.array([now]),
        np.array([value]),
        np.zeros(1, np.uint8),
        zero,
        zero,
        zero,
    )


def _record(failure: Failure, service: str, client: str) -> FailureRecord:
    return FailureRecord(
        time=failure.time,
        service=service,
        graph=failure.graph,
        node=failure.node,
        type=failure.type,
        message=failure.message,
        phase=failure.phase,
        attempts=failure.attempts,
        outcome=Outcome(failure.outcome).name.lower(),
        run=failure.run,
        client=client,
    )
