"""Records events on the application's threads, for the sender to take.

Strategy: the names of an event are resolved once, into a bound call that knows its
number in the table on the wire. `kaywatch._pending` describes the hot path.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from kaywatch._names import NameFolder
from kaywatch._pending import EventBuffers
from kaywatch._run_ids import RunIds
from kaywatch._tables import MAX_SERIES, NumberedTable, Revisits

__all__ = [
    "Failure",
    "ExecutionInFlight",
    "OpenRun",
    "OpenSpan",
    "Recorder",
    "RunVisits",
    "Series",
    "Topology",
]

OTHER: Final = "__other__"

# Failures whose details are kept between two batches; all failures are counted.
MAX_FAILURES: Final = 100
MAX_RETRIED: Final = 50  # the rest is reserved for other failures

ErrorKey = tuple[str, str]  # (exception's type, phase)
Labels = tuple[tuple[str, str], ...]
PointKey = tuple[str, str, str, str, Labels]  # (kind, name, graph, node, labels)


class Execute(Protocol):
    """Record one execution; see `Series.record`."""

    def __call__(
        self,
        seconds: float,
        outcome: int = 0,
        attempts: int = 1,
        action: str = "default",
        error: ErrorKey | None = None,
    ) -> None: ...


class Failure(NamedTuple):
    """The details of one failed, suppressed or replaced execution."""

    time: float
    graph: str
    node: str
    type: str
    message: str
    phase: str
    attempts: int
    outcome: int
    run: str
    traceback: str = ""
    seconds: float = 0.0  # its duration, 0.0 if it has not ended
    run_start: float = 0.0  # Unix seconds, 0.0 without a run
    visits: int = 0  # the number of visits in the run, including this one
    path: tuple[str, ...] = ()  # the nodes that the run visited, including this one
    path_visits: tuple[int, ...] = ()  # by node of `path`; empty if once each
    trace_id: str = ""  # of the application's trace; empty without one


class ExecutionInFlight(NamedTuple):
    """An execution in progress."""

    graph: str
    node: str
    started: float  # Unix seconds
    run: int  # its number, 0 for none
    visits: int  # the number of visits in the run before this one
    run_started: float  # Unix seconds, 0.0 without a run
    failed_attempts: int  # calls of `exec` in its run that failed in a row up to now
    cost_usd: float = 0.0  # of the LLM calls of its run up to now, as far as known
    tokens: float = 0.0  # of these calls
    unpriced_tokens: float = 0.0  # the tokens of calls without a price
    trace_id: str = ""  # of the application's trace in which its run started


class OpenSpan(Protocol):
    """An execution in progress, described only when a batch is packed."""

    def in_flight(self) -> ExecutionInFlight:
        """Return which node is executed, and since when."""
        ...

    def failed_attempts(self) -> int:
        """Return how many calls of `exec` in its run failed in a row up to now."""
        ...

    def run_cost(self) -> tuple[float, float, float]:
        """Return the dollars, tokens and unpriced tokens of its run up to now."""
        ...


class RunVisits(NamedTuple):
    """The visits of a run that came back to a node."""

    graph: str
    run: int  # its number
    visits: int  # of all nodes
    counts: Mapping[str, int]  # of each node


class OpenRun(Protocol):
    """A run in progress, described only when a batch is packed."""

    def revisits(self) -> RunVisits | None:
        """Return the visits of each node, None while no node was visited twice."""
        ...


class Topology(NamedTuple):
    """The nodes and edges of one graph, as wired."""

    graph: str
    start: str
    nodes: tuple[str, ...]
    edges: tuple[tuple[str, str, str], ...]  # (node, action, next node)


class Series:
    """One (graph, node) of this process, with its hot calls bound.

    Attributes:
        graph: the graph's name, empty outside any graph.
        node: the node's name.
        number: its number in the table, for the visits in `Recorder.pending`.
        record: `record(seconds, outcome=0, attempts=1, action="default", error=None)`
            records one execution that ends now. Never raises, blocks or does I/O.
        record_plain: `record_plain(seconds)` does the same with these defaults, and
            takes less time.
    """

    __slots__ = ("graph", "node", "number", "points", "record", "record_plain")

    def __init__(
        self,
        graph: str,
        node: str,
        number: int,
        record: Execute,
        record_plain: Callable[[float], None],
    ) -> None:
        self.graph = graph
        self.node = node
        self.number = number
        self.record = record
        self.record_plain = record_plain
        self.points: dict[object, Callable[[float], None]] = {}


class Recorder:
    """Holds what the application recorded until the sender takes it.

    Attributes:
        pending: events, by kind.
        failures: details of failed executions.
        topologies: by graph; `topology_version` changes with each of them.
        in_flight, runs: executions and runs in progress.
        revisits: the nodes that ended runs visited more than once.
        names: folds names that are made per request.
        series_table, points_table: the events refer to these by number.
        run_ids: makes the ids of runs.
    """

    def __init__(
        self,
        on_pressure: Callable[[], object] = lambda: None,
        is_sending: Callable[[], bool] = lambda: True,
        on_first: Callable[[], object] = lambda: None,
        on_failure: Callable[[], object] = lambda: None,
    ) -> None:
        self.pending = EventBuffers.waking(on_pressure, is_sending, on_first)
        self.failures: list[Failure] = []
        self.topologies: dict[str, Topology] = {}
        self.topology_version = 0
        self.in_flight: set[OpenSpan] = set()
        self.runs: set[OpenRun] = set()
        self.revisits = Revisits()
        self.names = NameFolder()
        self.series_table: NumberedTable[tuple[str, str], Series] = NumberedTable()
        self.points_table: NumberedTable[PointKey, Callable[[float], None]] = (
            NumberedTable()
        )
        self.run_ids = RunIds()
        self._on_failure = on_failure

    @property
    def folded(self) -> int:
        """Series and metrics beyond the limit, folded into `__other__`."""
        return self.series_table.folded + self.points_table.folded

    @property
    def has_batch(self) -> bool:
        """Whether a batch's worth of events is pending, which must not wait."""
        return any(len(events.flat) >= events.wake_at for events in self.pending)

    # -- set-up: slow, cached, bounded -------------------------------------------

    def series(self, graph: str, node: str) -> Series:
        """Return the bound series of a node, made at first use."""
        key, table = (graph, node), self.series_table
        series = table.objects.get(key)
        if series is not None:
            return series
        graph = self.names.graph(graph)
        node = self.names.node(graph, node)
        key = graph, node
        series = table.objects.get(key)
        if series is not None:
            return series
        if len(table.objects) >= MAX_SERIES and node != OTHER:
            table.folded += 1
            has_room = (graph, OTHER) in table.objects or len(
                table.objects
            ) < 2 * MAX_SERIES
            return self.series(graph if has_room else OTHER, OTHER)

        def make(number: int) -> Series:
            record, record_plain = self._execute(number), self._execute_plain(number)
            return Series(graph, node, number, record, record_plain)

        return table.add(key, make)

    def point(
        self,
        kind: str,
        name: str,
        graph: str,
        node: str,
        labels: Mapping[str, str] | None = None,
    ) -> Callable[[float], None]:
        """Return the hot call of one custom metric: `add(value)`."""
        pairs = tuple(sorted(labels.items())) if labels else ()
        key, table = (kind, name, graph, node, pairs), self.points_table
        add = table.objects.get(key)
        if add is not None:
            return add
        graph = self.names.graph(graph)
        node = self.names.node(graph, node)
        name = self.names.metric(name)
        key = kind, name, graph, node, pairs
        add = table.objects.get(key)
        if add is not None:
            return add
        if len(table.objects) >= MAX_SERIES and name != OTHER:
            table.folded += 1
            return self.point(kind, OTHER, "", "")
        return table.add(key, self._add)

    # -- events -------------------------------------------------------------------

    def run_ended(
        self,
        graph: str,
        seconds: float,
        outcome: int,
        reason: str,
        node: str,
        action: str,
        visits: int,
    ) -> None:
        """Record that a run of `graph` ended now, at `node` with `action`."""
        end = graph, time.time(), seconds, outcome, reason, node, action, visits
        self.pending.runs.record(end)

    def ensure_sender(self) -> None:
        """Start a sender if none runs, since a run may hang before its first event."""
        executions = self.pending.executions
        # As `is_open`, which would be another call for every run.
        if len(executions.watermark) != 1:
            executions.wake()

    def add_failure(self, failure: Failure) -> None:
        """Keep the details of a failure, up to the limit, and send it early."""
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)
        self._on_failure()

    def add_retried_failure(self, failure: Failure) -> None:
        """Keep the details of a retried error, if there is enough room."""
        if len(self.failures) < MAX_RETRIED:
            self.failures.append(failure)
        executions = self.pending.executions
        # As `is_open`, which would be another call for every run.
        if len(executions.watermark) != 1:
            executions.wake()

    def add_topology(self, topology: Topology) -> None:
        """Keep a graph's topology, replacing one of the same name."""
        topology = self._with_folded_names(topology)
        if self.topologies.get(topology.graph) == topology:
            return
        if len(self.topologies) < MAX_SERIES or topology.graph in self.topologies:
            self.topologies[topology.graph] = topology
            self.topology_version += 1

    def _with_folded_names(self, topology: Topology) -> Topology:
        graph = self.names.graph(topology.graph)

        def fold(node: str) -> str:
            return self.names.node(graph, node)

        nodes = dict.fromkeys(map(fold, topology.nodes))
        edges = dict.fromkeys(
            (fold(node), self.names.action(action), fold(successor))
            for node, action, successor in topology.edges
        )
        return Topology(graph, fold(topology.start), tuple(nodes), tuple(edges))

    # -- the sender's side ---------------------------------------------------------

    def open(self) -> None:
        """Let events through: a sender is running."""
        for events in self.pending:
            events.watermark[:] = [0]

    def rearm(self) -> None:
        """Ask for another check: the sender is about to take all pending events."""
        for events in self.pending:
            events.watermark[-1] = 0

    def close(self) -> None:
        """Send the next event through the slow path: no sender is running."""
        for events in self.pending:
            events.watermark[:] = [0, 0]

    def forget(self, before: float = math.inf) -> None:
        """Discard what is pending: after a fork it belongs to the parent.

        Args:
            before: Unix seconds; later events and failures are this process's own.
        """
        for events in self.pending:
            events.forget(before)
        self.failures[:] = [one for one in self.failures if one.time >= before]
        self.revisits.take()
        self.in_flight.clear()
        self.runs.clear()
        self.run_ids.renew()
        self.topology_version += 1
        self.close()

    # -- hot: closures over local names, which Python looks up fastest -------------

    def _execute(self, number: int) -> Execute:
        record_event, now = self.pending.executions.record, time.time

        def record(
            seconds: float,
            outcome: int = 0,
            attempts: int = 1,
            action: str = "default",
            error: ErrorKey | None = None,
        ) -> None:
            record_event((number, now(), seconds, outcome, attempts, action, error))

        return record

    def _execute_plain(self, number: int) -> Callable[[float], None]:
        events = self.pending.plain
        pending, watermark, is_full = events.flat, events.watermark, events.is_full
        extend, now = pending.extend, time.time

        def record_plain(seconds: float) -> None:
            if len(pending) >= watermark[0] and is_full():
                return
            extend((number, now(), seconds))

        return record_plain

    def _add(self, number: int) -> Callable[[float], None]:
        events = self.pending.points
        pending, watermark, is_full = events.flat, events.watermark, events.is_full
        extend, now = pending.extend, time.time

        def add(value: float) -> None:
            if len(pending) >= watermark[0] and is_full():
                return
            extend((number, now(), value))

        return add
