"""The data of a response: one immutable snapshot, and the windows in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import (
    ALL_DIMENSIONS,
    Bucket,
    Dimension,
    merge,
)
from kaywatch_agent.aggregate.completeness import (
    Completeness,
    EventLayout,
    EventSums,
)
from kaywatch_agent.aggregate.group_stats import GroupStats, SeriesGroups
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, HOUR, View, bucket_seconds
from kaywatch_agent.model.alerts import MessageRecord, ReceiverRecord
from kaywatch_agent.model.records import InFlight, NodeRevisits
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.runtime.health import HealthReport
from kaywatch_agent.runtime.metrics import Instrument
from kaywatch_agent.units import MIB
from kaywatch_agent.web.api import schema
from kaywatch_agent.web.api.parameters import moment_seconds, window_seconds
from kaywatch_agent.web.day_before import DayBefore
from kaywatch_agent.web.event_memory import EventMemory
from kaywatch_agent.web.series_filter import SeriesColumns, SeriesFilter
from kaywatch_agent.web.series_memory import SeriesMemory
from kaywatch_agent.web.shared_results import SharedResults
from kaywatch_agent.web.view import AgentUsage, BacktestSummary

__all__ = [
    "AgentSnapshot",
    "ClientActivity",
    "OwnMetrics",
    "Window",
    "period",
]

T = TypeVar("T", bound=Hashable)
R = TypeVar("R")

# The rows of a part are read alone if all rows are this many times as many: finding
# them takes less time than decompressing the others.
PART_FACTOR: Final = 2

OwnMetrics = tuple[tuple[Instrument, dict[tuple[str, ...], float]], ...]


class ClientActivity(NamedTuple):
    """The executions in progress of one connected client."""

    client: str
    service: str
    host: str
    pid: int
    in_flight: tuple[InFlight, ...]
    loops: tuple[NodeRevisits, ...]


@dataclass(frozen=True, kw_only=True)
class AgentSnapshot:
    """Everything that a response may be built from; safe to read in another thread.

    Attributes:
        now: Unix seconds.
        started: when the agent started, Unix seconds.
        version: the agent's version.
        view: the aggregated data.
        health: the readiness of the stages.
        usage: the agent's use of resources.
        socket: the path of the socket that clients push to.
        peak_memory: the largest peak RSS of each service's clients, in bytes.
        client_states: how many clients are in each state.
        activities: what each connected client executes.
        own_metrics: the agent's own metrics.
        backtest: evaluates a rule over the past; see `AgentView`.
        day_before: returns the usual values.
        shared: keeps results that are the same for all readers.
        event_memory: remembers what became of the events of closed buckets.
        series_memory: remembers what depends on the series only.
        rules: the rules by name.
        alerts: returns all about alerts; waits until an evaluation has ended.
        alert_states: how many alerts are in each state.
        clients: descriptions of the clients, for endpoints that need them.
        messages: all messages, the newest first; can be iterated once.
        receivers: all receivers, for endpoints that need messages.
        accept: the request's Accept header.
        gzip: whether the client accepts gzip.
        classic_histograms: whether native histograms have classic buckets as well.
    """

    now: float
    started: float
    version: str
    view: View
    health: HealthReport
    usage: AgentUsage
    socket: str
    peak_memory: Mapping[str, int]
    client_states: Mapping[str, int]
    activities: tuple[ClientActivity, ...]
    own_metrics: OwnMetrics
    backtest: Callable[[Rule, float], BacktestSummary]
    day_before: DayBefore
    shared: SharedResults
    event_memory: EventMemory
    series_memory: SeriesMemory
    rules: Mapping[str, Rule]
    alerts: Callable[[], AlertsSnapshot]
    alert_states: Mapping[AlertState, int] = field(default_factory=dict)
    clients: tuple[schema.ClientDetails, ...] = ()
    messages: Iterable[MessageRecord] = ()
    receivers: tuple[ReceiverRecord, ...] = ()
    accept: str = ""
    gzip: bool = False
    classic_histograms: bool = False

    @cached_property
    def keys(self) -> list[SeriesKey]:
        """The keys of all series, by row; a copy, because the registry grows."""
        return list(self.view.registry.keys)

    @property
    def _columns(self) -> SeriesColumns:
        return self.remember("columns", lambda: SeriesColumns(self.keys))

    @property
    def rows(self) -> dict[Kind, list[int]]:
        """The rows of each kind of series."""
        return self.remember("rows", self._rows)

    def remember(self, key: Hashable, compute: Callable[[], R]) -> R:
        """Return a result that depends on the series only; see `SeriesMemory`."""
        return self.series_memory.get(key, len(self.keys), compute)

    def _rows(self) -> dict[Kind, list[int]]:
        rows: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        for row, key in enumerate(self.keys):
            rows[key.kind].append(row)
        return rows

    def series(
        self, *kinds: Kind, matches: SeriesFilter | None = None
    ) -> Iterator[SeriesKey]:
        """Yield the keys of series of some kinds that match."""
        keys = self.keys
        return (keys[row] for row in self._select(kinds, matches))

    def rows_of(self, matches: SeriesFilter) -> NDArray[np.int64] | None:
        """Return the rows of matching series, sorted; None if they are most of all."""
        included = self._columns.select(matches)
        rows = np.flatnonzero(included)
        return rows if len(rows) * PART_FACTOR <= len(included) else None

    def groups(
        self,
        kinds: Iterable[Kind],
        name: Callable[[SeriesKey], T | None],
        names: Iterable[T] = (),
        matches: SeriesFilter | None = None,
    ) -> SeriesGroups[T]:
        """Return the series of some kinds that match, in groups.

        The arguments are those of `SeriesGroups`.
        """
        return SeriesGroups(self.keys, self._select(kinds, matches), name, names)

    def _select(
        self, kinds: Iterable[Kind], matches: SeriesFilter | None
    ) -> Iterable[int]:
        """Return rows, kind by kind."""
        if matches is None:
            return chain.from_iterable(self.rows[kind] for kind in kinds)
        columns = self._columns
        included = columns.select(matches)
        return chain.from_iterable(
            np.flatnonzero(included & columns.is_of(kind)).tolist() for kind in kinds
        )

    def first_seen(self, groups: SeriesGroups[Any]) -> NDArray[np.float64]:
        """Return a time at which each group was still empty, Unix seconds."""
        births = np.full(len(self.keys), self.now)
        known = self.view.registry.births[: len(births)]
        births[: len(known)] = known
        rows = np.flatnonzero(groups.numbers >= 0)
        first = np.full(len(groups), self.now)
        np.minimum.at(first, groups.numbers[rows], births[rows])
        return first

    def memory_mb(self, services: Iterable[str]) -> float | None:
        """Return the largest peak RSS among services in MiB; None if unknown."""
        peak = max((self.peak_memory.get(name, 0) for name in services), default=0)
        return peak / MIB if peak else None

    def unaccounted(self) -> Completeness:
        """Return a count of received and lost events to which nothing was added."""
        return Completeness(self.event_layout)

    @property
    def event_layout(self) -> EventLayout:
        """What the events of each series count as."""
        overflow_rows = self.view.registry.overflow_rows
        return self.remember("events", lambda: EventLayout(self.keys, overflow_rows))

    def recent_events(
        self, start: float, end: float
    ) -> Iterator[tuple[int, EventSums]]:
        """Yield (start, sums) for the buckets in memory that overlap [start, end)."""
        view, layout = self.view, self.event_layout
        for number, sums in self.event_memory.recent(view, layout, start, end):
            yield number * BUCKET_SECONDS, sums


class Window:
    """The buckets of a period, or the totals since first seen.

    Attributes:
        seconds: the length of the window; None for the totals.
        start, end: the period that the buckets cover, Unix seconds.
    """

    def __init__(
        self,
        snapshot: AgentSnapshot,
        duration: str | int | None,
        end: str | None = None,
        buckets: list[Bucket] | None = None,
        matches: SeriesFilter | None = None,
        dimensions: Collection[Dimension] = ALL_DIMENSIONS,
    ) -> None:
        """Select buckets.

        Args:
            snapshot: where to take them from.
            duration: the length of the window, in seconds or as a parameter's text;
                rounded up to whole buckets. None selects the totals, or an hour if
                there is an end.
            end: when the window ends, as a parameter's text; None for now.
            buckets: those of the window, if they are known.
            matches: the only series whose statistics will be read; None for all.
            dimensions: the only ones that will be read of these.
        """
        seconds = window_seconds(duration) if isinstance(duration, str) else duration
        if seconds is None and end is not None:
            seconds = HOUR
        view = snapshot.view
        self.seconds = seconds
        self.start, self.end = view.since, view.now
        if seconds is not None:
            self.start, self.end = period(view, seconds, end)
        self._snapshot = snapshot
        # Completeness concerns all series, as a lost event has no known one.
        self._rows = None if matches is None else snapshot.rows_of(matches)
        self._dimensions = dimensions
        if buckets is None:
            # Merged once, as the statistics of several groups are read.
            buckets = [self._merge()]
        self._buckets = buckets

    def of_series(
        self, matches: SeriesFilter, dimensions: Collection[Dimension] = ALL_DIMENSIONS
    ) -> Window:
        """Return the same period with other series; see the constructor."""
        other: Window = copy(self)
        other._rows = self._snapshot.rows_of(matches)
        other._dimensions = dimensions
        other._buckets = [other._merge()]
        return other

    def stats(
        self,
        groups: SeriesGroups[Any],
        dimensions: Collection[Dimension] = ALL_DIMENSIONS,
    ) -> GroupStats:
        """Return the statistics of groups of series in this window."""
        return self._collect(groups.numbers, len(groups), dimensions)

    def sums(self, numbers: NDArray[np.int64], size: int) -> NDArray[np.float64]:
        """Return the sums of the values of groups; 0 for a sum that is not positive.

        Args:
            numbers: the number of the group by row; -1 for none.
            size: the number of groups.
        """
        total = self._collect(numbers, size, ()).total
        # Clients may send any number.
        return np.where(np.isfinite(total) & (total > 0), total, 0.0)

    @cached_property
    def completeness(self) -> Completeness:
        """How complete the statistics of this window are."""
        completeness = self._snapshot.unaccounted()
        if self._rows is None:
            for bucket in self._buckets:
                completeness.add(bucket)
        elif self.seconds is None:
            completeness.add(self._snapshot.view.totals)
        else:
            completeness.add(self._archived)
            for _, sums in self._snapshot.recent_events(self.start, self.end):
                completeness.add_sums(sums)
        return completeness

    @cached_property
    def _archived(self) -> Bucket:
        """The events that are no longer in memory, of all series."""
        archived = self._snapshot.view.archived(self.start, self.end)
        return merge(bucket for _, bucket in archived)

    def _merge(self) -> Bucket:
        view = self._snapshot.view
        if self.seconds is None:
            return view.totals
        numbers = view.recent_numbers(self.start, self.end)
        recent = view.buckets.merged(numbers, self._rows, self._dimensions)
        return merge(chain([self._archived], recent))

    def _collect(
        self, numbers: NDArray[np.int64], size: int, dimensions: Collection[Dimension]
    ) -> GroupStats:
        stats = GroupStats(numbers, size, dimensions)
        for bucket in self._buckets:
            stats.add(bucket)
        return stats


def period(
    view: View, duration: str | int | None, end: str | None
) -> tuple[float, float]:
    """Return a period in whole buckets of the size that is kept of its time.

    Args:
        view: determines the current time.
        duration: in seconds or as a parameter's text; None for an hour.
        end: as a parameter's text; None for now.
    """
    if isinstance(duration, str):
        duration = window_seconds(duration)
    last = view.now if end is None else min(moment_seconds(end, view.now), view.now)
    size = bucket_seconds(view.now - last)
    start = math.floor((last - (duration or HOUR)) / size) * size
    if end is None:
        # An event's clock may be ahead by less than a bucket.
        return start, last + BUCKET_SECONDS
    return start, math.ceil(last / size) * size
