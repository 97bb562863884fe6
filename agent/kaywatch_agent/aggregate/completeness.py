"""Counts which share of the recorded events arrived, and what became of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import Bucket
from kaywatch_agent.aggregate.group_stats import SeriesGroups
from kaywatch_agent.model.series import Kind, SeriesKey

__all__ = ["Completeness", "EventCounts", "EventLayout", "EventSums"]

# What the events of a series count as: indexes of the sums.
_RECEIVED, _OVERFLOW, _LATE, _LOST, _DEATHS = range(5)
_KINDS: Final = 5


@dataclass(frozen=True)
class EventCounts:
    """What became of the events of some services.

    Attributes:
        received: counted events, including those under `__other__`.
        dropped: lost events by reason, the most frequent first.
        late: events that only the totals contain.
        overflow: received events that are counted under `__other__`.
        deaths: processes that died.
        unknown_seconds: before these deaths, in total; events of that time may be
            missing.
    """

    received: int
    dropped: Mapping[str, int]
    late: int
    overflow: int
    deaths: int
    unknown_seconds: float

    @property
    def ratio(self) -> float | None:
        """The share of the recorded events that arrived, 0 to 1; None without any.

        Each death counts as one lost event, since its last moments are unknown.
        """
        recorded = self.received + sum(self.dropped.values())
        return self.received / (recorded + self.deaths) if recorded else None


class EventSums(NamedTuple):
    """The events of a bucket, by cell of an `EventLayout`, without zeros.

    Cells of series that are added later have higher numbers, so these stay correct.
    """

    cells: NDArray[np.int64]
    events: NDArray[np.float64]
    losers: NDArray[np.int64]
    lost: NDArray[np.float64]  # lost events, or unknown seconds


class EventLayout:
    """What the events of each series count as.

    Attributes:
        services: their names, by number.
        losses: the series whose total is a number of lost events, or of unknown
            seconds.
        losers: the services of these, by number.
        size: the number of series.
    """

    def __init__(
        self, keys: Sequence[SeriesKey], overflow_rows: Collection[int]
    ) -> None:
        """Assign series to services and kinds.

        Args:
            keys: all series, by row.
            overflow_rows: the rows that stand for other series.
        """
        services = SeriesGroups(keys, range(len(keys)), lambda key: key.service)
        self.services = services.names
        self.size = len(keys)
        kinds = np.full(len(keys), _RECEIVED)
        kinds[[row for row in overflow_rows if row < len(keys)]] = _OVERFLOW
        kinds[_rows(keys, Kind.LATE)] = _LATE
        deaths = _rows(keys, Kind.UNKNOWN)
        kinds[deaths] = _DEATHS
        losses = _rows(keys, Kind.LOSS)
        kinds[losses] = _LOST
        self._loss_rows = np.array(sorted(losses + deaths), np.int64)
        self._cells = services.numbers * _KINDS + kinds
        self.losses = [keys[row] for row in self._loss_rows.tolist()]
        self.losers = services.numbers[self._loss_rows]

    def sum(self, bucket: Bucket) -> EventSums:
        """Return the sums of a bucket."""
        # Series that appeared after `keys` was read are not counted.
        known_rows = int(np.searchsorted(bucket.rows, self.size))
        cells = self._cells[bucket.rows[:known_rows]]
        events = np.bincount(cells, bucket.executions[:known_rows]).astype(np.float64)
        some = np.flatnonzero(events)
        at = np.searchsorted(bucket.rows, self._loss_rows)
        inside = np.flatnonzero(at < len(bucket.rows))
        present = inside[bucket.rows[at[inside]] == self._loss_rows[inside]]
        return EventSums(some, events[some], present, bucket.total[at[present]])


class Completeness:
    """Adds up, bucket by bucket, what became of the events of each service.

    A lost event has no known node, so a node's completeness is that of its services.
    """

    def __init__(self, layout: EventLayout) -> None:
        """Start with nothing."""
        self._layout = layout
        self._number = {name: n for n, name in enumerate(layout.services)}
        self._events = np.zeros(len(layout.services) * _KINDS)
        self._lost = np.zeros(len(layout.losses))

    @property
    def services(self) -> list[str]:
        """The names of all services."""
        return self._layout.services

    def add(self, bucket: Bucket) -> None:
        """Add a bucket."""
        self.add_sums(self._layout.sum(bucket))

    def add_sums(self, sums: EventSums) -> None:
        """Add the sums of a bucket by this layout, or by one with fewer series."""
        self._events[sums.cells] += sums.events
        self._lost[sums.losers] += sums.lost

    def of(self, services: Iterable[str]) -> EventCounts:
        """Return what became of the events of some services."""
        at = [self._number[name] for name in services if name in self._number]
        events = self._events.reshape(-1, _KINDS)[at].sum(axis=0)
        dropped: Counter[str] = Counter()
        unknown = 0.0
        layout = self._layout
        for n in np.flatnonzero(np.isin(layout.losers, at)).tolist():
            key, lost = layout.losses[n], float(self._lost[n])
            if key.kind is Kind.LOSS:
                dropped[key.metric] += round(lost)
            else:
                unknown += lost
        return EventCounts(
            received=round(events[_RECEIVED] + events[_OVERFLOW]),
            dropped={reason: lost for reason, lost in dropped.most_common() if lost},
            late=round(events[_LATE]),
            overflow=round(events[_OVERFLOW]),
            deaths=round(events[_DEATHS]),
            unknown_seconds=unknown,
        )


def _rows(keys: Sequence[SeriesKey], kind: Kind) -> list[int]:
    return [row for row, key in enumerate(keys) if key.kind is kind]
