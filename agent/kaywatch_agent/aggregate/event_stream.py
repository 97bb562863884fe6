"""Single executions and runs as they arrive, for subscribers.

Strategy: without subscribers, a batch costs one look at an empty list. A subscriber's
filter is an array over the batch's table and a comparison of columns. Objects are made
only for the events that match, and for no more of them than the subscriber's rate.
Events over the rate, and events that a slow subscriber does not read, are counted.
"""

from __future__ import annotations

import collections
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.client_clocks import clamp_time
from kaywatch_agent.model.bounds import OUTCOMES, OutcomeName
from kaywatch_agent.model.records import ExecutionRecord, FailureRecord, RunRecord
from kaywatch_agent.protocol.messages import Events, Executions, Runs
from kaywatch_agent.protocol.table import Table
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = [
    "MAX_RATE",
    "QUEUE",
    "BatchSource",
    "Event",
    "EventStream",
    "Filter",
    "MissReason",
    "Subscriber",
]

# Events per second for one subscriber. Each costs about 10 us of the agent's CPU.
MAX_RATE: Final = 1_000

# Events that wait for one subscriber; beyond that, the oldest are dropped.
QUEUE: Final = 1_000

# A client records a failure's details right after its execution; more time passes when
# the thread waits for the interpreter in between.
NEAR_SECONDS: Final = 0.1

Event = ExecutionRecord | RunRecord
FailureKey = tuple[str, str, str, OutcomeName]  # (graph, node, type, outcome)
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


class MissReason(StrEnum):
    """Why a subscriber did not get an event that matched its filter."""

    LIMITED = "limited"  # over its rate
    SLOW = "slow"  # it does not read


class Filter(NamedTuple):
    """Selects events; an empty field matches everything."""

    services: frozenset[str] = frozenset()
    graphs: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()
    outcomes: frozenset[Outcome] = frozenset()
    slower_than: float = 0.0  # seconds
    runs: bool = False  # whether runs are wanted, too

    def matches(self, graph: str, node: str) -> bool:
        """Return whether events of a node are wanted."""
        return (not self.graphs or graph in self.graphs) and (
            not self.nodes or node in self.nodes
        )


class BatchSource(NamedTuple):
    """Where a batch came from, and when."""

    now: float  # Unix seconds
    service: str
    pid: int
    client: str

    def event_time(self, time: float) -> float:
        """Return an event's time, or that of its arrival if its clock is wrong."""
        return clamp_time(time, self.now)


class Subscriber:
    """One subscriber: a filter, a rate, and a bounded queue."""

    def __init__(self, filter: Filter, rate: int, wake: Callable[[], None]) -> None:
        """Prepare a subscription.

        Args:
            filter: selects events.
            rate: events per second, at most.
            wake: called when there is something to read.
        """
        self.filter = filter
        self._rate = rate
        self._wake = wake
        self._queue: deque[Event] = deque()
        self._missed: collections.Counter[MissReason] = collections.Counter()
        self._misses_due = False  # to be returned by `read`
        self._room = rate  # events left in this second
        self._matched = 0  # in this second
        self._limited = 0  # of these, over the rate
        self._share = 1.0  # of a batch's matching events that are let through
        self._wanted: WeakKeyDictionary[Table, Mask] = WeakKeyDictionary()
        outcomes = filter.outcomes or frozenset(Outcome)
        self._outcomes = np.isin(np.arange(256), list(outcomes))

    def read(self) -> Event | collections.Counter[MissReason] | None:
        """Return the next event, or counts of missed events, or None for nothing."""
        if self._misses_due and self._missed:
            self._misses_due = False
            missed, self._missed = self._missed, collections.Counter()
            return missed
        return self._queue.popleft() if self._queue else None

    # -- called by the event stream ----------------------------------------------------

    def take(
        self, events: Events, failures: Sequence[FailureRecord], source: BatchSource
    ) -> int:
        """Queue a batch's matching events; return how many old ones were dropped."""
        matching: list[Event] = []
        if events.executions is not None:
            matching += self._executions(
                events.table, events.executions, failures, source
            )
        if self.filter.runs and events.runs is not None:
            matching += self._runs(events.table, events.runs, source)
        matching.sort(key=_time)
        self._queue += matching
        over = max(0, len(self._queue) - QUEUE)
        for _ in range(over):
            self._queue.popleft()
        self._missed[MissReason.SLOW] += over
        if matching:
            self._wake()
        return over

    def tick(self) -> int:
        """Begin another second; return how many events were over the last one's rate.

        Every batch of the next second is thinned out by the excess of the last one.
        Otherwise, clients that send early in a second would use up the whole rate.
        """
        self._share = min(1.0, self._rate / max(1, self._matched))
        self._room, self._matched = self._rate, 0
        limited, self._limited = self._limited, 0
        self._missed[MissReason.LIMITED] += limited
        self._missed = +self._missed
        if self._missed:
            self._misses_due = True
            self._wake()
        return limited

    def _executions(
        self,
        table: Table,
        part: Executions,
        failures: Sequence[FailureRecord],
        source: BatchSource,
    ) -> list[ExecutionRecord]:
        selected = self._wanted.get(table)
        if selected is None:
            matches = [self.filter.matches(*key) for key in table.series]
            selected = self._wanted[table] = np.array(matches, np.bool_)
        if not selected.any():
            return []
        matching = selected[part.series] & self._matching(part.outcome, part.seconds)
        rows = self._limit(np.flatnonzero(matching), part.outcome)
        return _execution_records(rows, part, table, failures, source)

    def _runs(self, table: Table, part: Runs, source: BatchSource) -> list[RunRecord]:
        matching = self._matching(part.outcome, part.seconds)
        strings = table.strings
        rows = [
            row
            for row in np.flatnonzero(matching).tolist()
            if self.filter.matches(strings[part.graph[row]], strings[part.node[row]])
        ]
        limited = self._limit(np.array(rows, np.int64), part.outcome)
        return [_run_record(row, part, strings, source) for row in limited.tolist()]

    def _matching(
        self, outcome: NDArray[np.uint8], seconds: NDArray[np.float64]
    ) -> Mask:
        matching: Mask = self._outcomes[outcome]
        if self.filter.slower_than:
            matching = matching & (seconds > self.filter.slower_than)
        return matching

    def _limit(self, rows: Rows, outcome: NDArray[np.uint8]) -> Rows:
        """Return the rows that the rate allows, failures first."""
        room = min(self._room, int(np.ceil(len(rows) * self._share)))
        limited = rows
        if len(rows) > room:
            failed = outcome[rows] != Outcome.OK
            first = _spread(rows[failed], room)
            rest = _spread(rows[~failed], room - len(first))
            limited = np.concatenate((first, rest))
        self._matched += len(rows)
        self._room -= len(limited)
        self._limited += len(rows) - len(limited)
        return limited


class EventStreamMetrics(Metrics):
    """The metrics of the event stream."""

    subscribers = Gauge(
        "kaywatch_event_subscribers", "Open event streams for single events."
    )
    missed = Counter(
        "kaywatch_event_misses_total",
        "Events that subscribers asked for and did not get.",
        labels=("reason",),
    )


class EventStream:
    """Passes batches on to subscribers.

    Attributes:
        subscribers: while there are none, `take` need not be called.
    """

    def __init__(self) -> None:
        self.subscribers: list[Subscriber] = []
        self.metrics = EventStreamMetrics()
        self.metrics.subscribers.set_function(lambda: len(self.subscribers))

    def subscribe(self, subscriber: Subscriber) -> None:
        """Add a subscriber, from the next batch on."""
        self.subscribers.append(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a subscriber."""
        self.subscribers.remove(subscriber)

    def take(
        self, events: Events, failures: Sequence[FailureRecord], source: BatchSource
    ) -> None:
        """Pass a batch on to the subscribers of its service."""
        for subscriber in self.subscribers:
            services = subscriber.filter.services
            if not services or source.service in services:
                dropped = subscriber.take(events, failures, source)
                self._count(MissReason.SLOW, dropped)

    def tick(self) -> None:
        """Begin another second."""
        for subscriber in self.subscribers:
            self._count(MissReason.LIMITED, subscriber.tick())

    def _count(self, reason: MissReason, events: int) -> None:
        if events:
            self.metrics.missed.labels(reason).add(events)


# -- records ---------------------------------------------------------------------------


def _execution_records(
    rows: Rows,
    part: Executions,
    table: Table,
    failures: Sequence[FailureRecord],
    source: BatchSource,
) -> list[ExecutionRecord]:
    ordered = rows[np.argsort(part.end[rows], kind="stable")]
    details = _FailureMatcher(failures)
    # One `tolist` per column: reading scalars one at a time takes ten times as long.
    columns = (column[ordered].tolist() for column in part[:7])
    return [
        _execution_record(values, table, details, source)
        for values in zip(*columns, strict=True)
    ]


def _execution_record(
    values: tuple[int, float, float, int, int, int, int],
    table: Table,
    details: _FailureMatcher,
    source: BatchSource,
) -> ExecutionRecord:
    series, end, seconds, outcome, attempts, action, error = values
    graph, node = table.series[series]
    kind, phase = table.errors[error]
    name = OUTCOMES[outcome]
    failure = details.take((graph, node, kind, name), end) if error else None
    return ExecutionRecord(
        time=source.event_time(end),
        service=source.service,
        graph=graph,
        node=node,
        outcome=name,
        seconds=seconds,
        # 0 if the execution failed before its first attempt.
        attempts=max(1, attempts),
        action=table.strings[action],
        type=kind,
        phase=phase,
        message=failure.message if failure is not None else "",
        run=failure.run if failure is not None else "",
        pid=source.pid,
        client=source.client,
    )


def _run_record(
    row: int, part: Runs, strings: Sequence[str], source: BatchSource
) -> RunRecord:
    return RunRecord(
        time=source.event_time(float(part.end[row])),
        service=source.service,
        graph=strings[part.graph[row]],
        outcome=OUTCOMES[int(part.outcome[row])],
        seconds=float(part.seconds[row]),
        reason=strings[part.reason[row]],
        node=strings[part.node[row]],
        action=strings[part.action[row]],
        visits=int(part.visits[row]),
        pid=source.pid,
        client=source.client,
    )


class _FailureMatcher:
    """Matches the failures of a batch with the executions that they describe."""

    def __init__(self, failures: Sequence[FailureRecord]) -> None:
        self._waiting: defaultdict[FailureKey, deque[FailureRecord]]
        self._waiting = defaultdict(deque)
        for failure in sorted(failures, key=_time):
            key = failure.graph, failure.node, failure.type, failure.outcome
            self._waiting[key].append(failure)

    def take(self, key: FailureKey, end: float) -> FailureRecord | None:
        """Return the failure recorded right after `end`; call in order of `end`."""
        waiting = self._waiting.get(key)
        while waiting and waiting[0].time < end:
            waiting.popleft()
        if waiting and waiting[0].time < end + NEAR_SECONDS:
            return waiting.popleft()
        return None


def _spread(rows: Rows, count: int) -> Rows:
    """Return `count` of the rows, evenly spaced."""
    if len(rows) <= count:
        return rows
    return rows[np.arange(count) * len(rows) // max(1, count)]


def _time(event: Event | FailureRecord) -> float:
    return event.time
