"""Single executions and runs as they arrive, for those who listen.

Strategy: with nobody listening a batch costs one look at an empty list. A listener's
filter is an array over the batch's table and a comparison of columns; objects are made
of what is left, and of no more than the listener's rate. What is over it is counted,
as is what a slow listener leaves in its queue.
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
from kaywatch_agent.model.bounds import OUTCOMES, OutcomeName
from kaywatch_agent.model.records import ExecutionRecord, FailureRecord, RunRecord
from kaywatch_agent.protocol.messages import Events, Executions, Runs
from kaywatch_agent.protocol.table import Table
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = [
    "MAX_RATE",
    "QUEUE",
    "Event",
    "EventStream",
    "Filter",
    "Subscriber",
    "MissReason",
    "BatchSource",
]

# Events a second that one listener gets at most: some 10 us of the agent's CPU each.
MAX_RATE: Final = 1_000

# Events that wait for a listener; of more, the oldest fall out.
QUEUE: Final = 1_000

# A failure's details are stamped right after its execution; a process that waits for
# the interpreter meanwhile takes longer.
NEAR_SECONDS: Final = 0.1

# As the aggregation has it.
FUTURE_SECONDS: Final = 5.0

Event = ExecutionRecord | RunRecord
FailureKey = tuple[str, str, str, OutcomeName]  # (graph, node, type, outcome)
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


class MissReason(StrEnum):
    """Why a listener didn't get an event that it asked for."""

    LIMITED = "limited"  # more than its rate
    SLOW = "slow"  # it doesn't read


class Filter(NamedTuple):
    """Which events; what is empty lets everything through."""

    services: frozenset[str] = frozenset()
    graphs: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()
    outcomes: frozenset[Outcome] = frozenset()
    slower_than: float = 0.0  # seconds
    runs: bool = False  # those, too

    def place(self, graph: str, node: str) -> bool:
        """Whether that is where events are wanted from."""
        return (not self.graphs or graph in self.graphs) and (
            not self.nodes or node in self.nodes
        )


class BatchSource(NamedTuple):
    """Who a batch is from, and when it came."""

    now: float  # Unix seconds
    service: str
    pid: int
    client: str

    def at(self, time: float) -> float:
        """Return an event's time: of those without a clock, or a wrong one, now."""
        return time if 0 < time <= self.now + FUTURE_SECONDS else self.now


class Subscriber:
    """One who listens: a filter, a rate, and a bounded queue."""

    def __init__(self, filter: Filter, rate: int, wake: Callable[[], None]) -> None:
        """Listen to nothing yet.

        Args:
            filter: which events.
            rate: how many a second at most.
            wake: called when there is something to read.
        """
        self.filter = filter
        self._rate = rate
        self._wake = wake
        self._queue: deque[Event] = deque()
        self._missed: collections.Counter[MissReason] = collections.Counter()
        self._told = False  # of what was missed, at a tick
        self._left = rate  # of this second
        self._matched = 0  # in this second
        self._limited = 0  # of those, over the rate
        self._share = 1.0  # of the matching events that fit into the rate
        self._places: WeakKeyDictionary[Table, Mask] = WeakKeyDictionary()
        outcomes = filter.outcomes or frozenset(Outcome)
        self._outcomes = np.isin(np.arange(256), list(outcomes))

    def read(self) -> Event | collections.Counter[MissReason] | None:
        """Return the next event, or what was missed, or None when there is nothing."""
        if self._told and self._missed:
            self._told = False
            missed, self._missed = self._missed, collections.Counter()
            return missed
        return self._queue.popleft() if self._queue else None

    # -- the feed's side -----------------------------------------------------------

    def take(
        self, events: Events, failures: Sequence[FailureRecord], sender: BatchSource
    ) -> int:
        """Queue what is wanted of a batch; return how many fell out of the queue."""
        found: list[Event] = []
        if events.executions is not None:
            found += self._executions(events.table, events.executions, failures, sender)
        if self.filter.runs and events.runs is not None:
            found += self._runs(events.table, events.runs, sender)
        found.sort(key=_time)
        self._queue += found
        over = max(0, len(self._queue) - QUEUE)
        for _ in range(over):
            self._queue.popleft()
        self._missed[MissReason.SLOW] += over
        if found:
            self._wake()
        return over

    def tick(self) -> int:
        """Begin another second; return how many events the rate left out of the last.

        Each batch of the next one is thinned by what the last one had too much of, so
        that those who send early in a second don't take it all.
        """
        self._share = min(1.0, self._rate / max(1, self._matched))
        self._left, self._matched = self._rate, 0
        limited, self._limited = self._limited, 0
        self._missed[MissReason.LIMITED] += limited
        self._missed = +self._missed
        if self._missed:
            self._told = True
            self._wake()
        return limited

    def _executions(
        self,
        table: Table,
        part: Executions,
        failures: Sequence[FailureRecord],
        sender: BatchSource,
    ) -> list[ExecutionRecord]:
        places = self._places.get(table)
        if places is None:
            wanted = [self.filter.place(*key) for key in table.series]
            places = self._places[table] = np.array(wanted, np.bool_)
        if not places.any():
            return []
        matches = places[part.series] & self._matching(part.outcome, part.seconds)
        rows = self._chosen(np.flatnonzero(matches), part.outcome)
        return _execution_records(rows, part, table, failures, sender)

    def _runs(self, table: Table, part: Runs, sender: BatchSource) -> list[RunRecord]:
        matches = self._matching(part.outcome, part.seconds)
        strings = table.strings
        rows = [
            row
            for row in np.flatnonzero(matches).tolist()
            if self.filter.place(strings[part.graph[row]], strings[part.node[row]])
        ]
        chosen = self._chosen(np.array(rows, np.int64), part.outcome)
        return [_run_record(row, part, strings, sender) for row in chosen.tolist()]

    def _matching(
        self, outcome: NDArray[np.uint8], seconds: NDArray[np.float64]
    ) -> Mask:
        matches: Mask = self._outcomes[outcome]
        if self.filter.slower_than:
            matches = matches & (seconds > self.filter.slower_than)
        return matches

    def _chosen(self, rows: Rows, outcome: NDArray[np.uint8]) -> Rows:
        """Return those of the rows that fit into the rate, failures first."""
        room = min(self._left, int(np.ceil(len(rows) * self._share)))
        chosen = rows
        if len(rows) > room:
            failed = outcome[rows] != Outcome.OK
            first = _spread(rows[failed], room)
            rest = _spread(rows[~failed], room - len(first))
            chosen = np.concatenate((first, rest))
        self._matched += len(rows)
        self._left -= len(chosen)
        self._limited += len(rows) - len(chosen)
        return chosen


class EventStreamMetrics(Metrics):
    """What is counted of the feed."""

    listeners = Gauge(
        "kaywatch_event_subscribers", "Open event streams for single events."
    )
    missed = Counter(
        "kaywatch_event_misses_total",
        "Events that listeners asked for and did not get.",
        labels=("reason",),
    )


class EventStream:
    """Hands batches to those who listen.

    Attributes:
        listeners: all of them; with none, `take` need not be called.
    """

    def __init__(self) -> None:
        self.listeners: list[Subscriber] = []
        self.metrics = EventStreamMetrics()
        self.metrics.listeners.set_function(lambda: len(self.listeners))

    def listen(self, listener: Subscriber) -> None:
        """Let one listen from the next batch on."""
        self.listeners.append(listener)

    def leave(self, listener: Subscriber) -> None:
        """Let one go."""
        self.listeners.remove(listener)

    def take(
        self, events: Events, failures: Sequence[FailureRecord], sender: BatchSource
    ) -> None:
        """Hand a batch to each listener whose service it is of."""
        for listener in self.listeners:
            services = listener.filter.services
            if not services or sender.service in services:
                self._count(MissReason.SLOW, listener.take(events, failures, sender))

    def tick(self) -> None:
        """Begin another second."""
        for listener in self.listeners:
            self._count(MissReason.LIMITED, listener.tick())

    def _count(self, reason: MissReason, events: int) -> None:
        if events:
            self.metrics.missed.labels(reason).add(events)


# -- records -------------------------------------------------------------------------


def _execution_records(
    rows: Rows,
    part: Executions,
    table: Table,
    failures: Sequence[FailureRecord],
    sender: BatchSource,
) -> list[ExecutionRecord]:
    ordered = rows[np.argsort(part.end[rows], kind="stable")]
    details = _Details(failures)
    found = []
    # One `tolist` for each column: a scalar at a time takes ten times as long.
    for series, end, seconds, outcome, attempts, action, error in zip(
        *(column[ordered].tolist() for column in part[:7]), strict=True
    ):
        graph, node = table.series[series]
        kind, phase = table.errors[error]
        name = OUTCOMES[outcome]
        failure = details.take((graph, node, kind, name), end) if error else None
        found.append(
            ExecutionRecord(
                time=sender.at(end),
                service=sender.service,
                graph=graph,
                node=node,
                outcome=name,
                seconds=seconds,
                # An execution that failed before its first attempt says 0.
                attempts=max(1, attempts),
                action=table.strings[action],
                type=kind,
                phase=phase,
                message=failure.message if failure is not None else "",
                run=failure.run if failure is not None else "",
                pid=sender.pid,
                client=sender.client,
            )
        )
    return found


def _run_record(
    row: int, part: Runs, strings: Sequence[str], sender: BatchSource
) -> RunRecord:
    return RunRecord(
        time=sender.at(float(part.end[row])),
        service=sender.service,
        graph=strings[part.graph[row]],
        outcome=OUTCOMES[int(part.outcome[row])],
        seconds=float(part.seconds[row]),
        reason=strings[part.reason[row]],
        node=strings[part.node[row]],
        action=strings[part.action[row]],
        visits=int(part.visits[row]),
        pid=sender.pid,
        client=sender.client,
    )


class _Details:
    """The failures of a batch, each given to the execution that it is of."""

    def __init__(self, failures: Sequence[FailureRecord]) -> None:
        self._found: defaultdict[FailureKey, deque[FailureRecord]] = defaultdict(deque)
        for failure in sorted(failures, key=_time):
            key = failure.graph, failure.node, failure.type, failure.outcome
            self._found[key].append(failure)

    def take(self, key: FailureKey, end: float) -> FailureRecord | None:
        """Return the first that was told right after `end`; asked for in order."""
        waiting = self._found.get(key)
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
