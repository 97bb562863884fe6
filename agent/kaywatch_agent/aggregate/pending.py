"""Events that wait for the next tick, and their reduction to buckets.

Strategy: columns are only collected on arrival. `reduce` joins all of them, splits
them by bucket and aggregates each part once, so the cost of a tick hardly depends on
the number of batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge
from kaywatch_agent.aggregate.client_clocks import clamp_times, is_future
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, HISTORY_BUCKETS
from kaywatch_agent.model.series import Columns, PhaseColumns
from kaywatch_agent.runtime.metrics import Counter

__all__ = ["OutOfRange", "PendingEvents", "find_late_events", "repeat_event"]

# Reduce between two ticks once this many events wait. Each takes 31 bytes, and 36 more
# if its phases are known: 7 MB. With twice as many, glibc returned each tick's memory
# to the system in two of five starts, and an event cost 105 ns instead of 62.
MAX_PENDING: Final = 100_000

C = TypeVar("C", Columns, PhaseColumns)


class OutOfRange(StrEnum):
    """Why an event's time could not be used as it is; the totals include all events."""

    LATE = "late"  # over an hour old: in no bucket
    FUTURE = "future"  # counted at the time of arrival


class PendingEvents:
    """Collects events until they are taken as buckets."""

    def __init__(self, out_of_range: Counter) -> None:
        self._out_of_range = out_of_range
        self._columns: list[Columns] = []
        self._phases: list[PhaseColumns] = []
        self._size = 0
        self._buckets: dict[int, Bucket] = {}  # reduced since the last `take`
        self._late = EMPTY

    def add(self, columns: Columns, phases: PhaseColumns | None = None) -> None:
        """Collect events, and the phases of those among them that have any."""
        self._columns.append(columns)
        self._size += len(columns.row)
        if phases is not None:
            self._phases.append(phases)

    @property
    def full(self) -> bool:
        """Whether enough events are pending to reduce them now."""
        return self._size >= MAX_PENDING

    def take(self, now: float) -> tuple[dict[int, Bucket], Bucket]:
        """Return all events as buckets by number, and those too late for a bucket."""
        self.reduce(now)
        buckets, self._buckets = self._buckets, {}
        late, self._late = self._late, EMPTY
        return buckets, late

    def reduce(self, now: float) -> None:
        """Aggregate the events that wait."""
        if not self._columns:
            return
        columns = _join(self._columns)
        phases = _join(self._phases) if self._phases else None
        self._columns.clear()
        self._phases.clear()
        self._size = 0
        ahead = int(np.count_nonzero(is_future(columns.time, now)))
        if ahead:
            self._out_of_range.labels(OutOfRange.FUTURE).add(ahead)
        oldest = _oldest(now)
        phases_of = {} if phases is None else dict(_split(phases, oldest, now))
        # Aggregate everything before any of it is kept: all or nothing.
        reduced = {
            n: reduce(part, phases_of.get(n))
            for n, part in _split(columns, oldest, now)
        }
        for number, bucket in reduced.items():
            if number < oldest:
                late = int(bucket.executions.sum())
                self._out_of_range.labels(OutOfRange.LATE).add(late)
                self._late = merge([self._late, bucket])
            else:
                previous = self._buckets.get(number, EMPTY)
                self._buckets[number] = merge([previous, bucket])


def find_late_events(time: NDArray[np.float64], now: float) -> NDArray[np.bool_] | None:
    """Return which events are too old for a bucket; None if no event is.

    An event without a time is not.
    """
    oldest = _oldest(now) * BUCKET_SECONDS
    if time.min() >= oldest:
        return None
    late: NDArray[np.bool_] = (time < oldest) & (time > 0)
    return late


def repeat_event(row: int, now: float, value: float, count: int = 1) -> Columns:
    """Return `count` equal events of one series."""
    zero = np.zeros(count, np.uint8)
    return Columns(
        np.full(count, row, np.int32),
        np.full(count, now),
        np.full(count, value),
        zero,
        zero,
        zero,
        zero,
    )


def _oldest(now: float) -> int:
    """Return the number of the oldest bucket that still accepts events."""
    return int(now // BUCKET_SECONDS) - HISTORY_BUCKETS


def _join(pending: Sequence[C]) -> C:
    columns: list[Any] = [np.concatenate(parts) for parts in zip(*pending, strict=True)]
    return type(pending[0])(*columns)


def _split(columns: C, oldest: int, now: float) -> Iterator[tuple[int, C]]:
    """Yield the columns of each bucket; all those before `oldest` as one, first."""
    time = clamp_times(columns.time, now)
    columns = columns._replace(time=time)
    low, high = (int(bound) // BUCKET_SECONDS for bound in (time.min(), time.max()))
    if low == high or high < oldest:
        yield max(low, oldest - 1), columns
        return
    numbers = np.maximum(time.astype(np.int64) // BUCKET_SECONDS, oldest - 1)
    for number in np.unique(numbers).tolist():
        at = np.flatnonzero(numbers == number)
        part: list[Any] = [column[at] for column in columns]
        yield number, type(columns)(*part)
