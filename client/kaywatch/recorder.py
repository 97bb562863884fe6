"""Records events on the application's threads, for the sender to take.

Strategy: the names of an event are resolved once, into a bound call that knows its
number in the table on the wire. `kaywatch._pending` describes the hot path.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from itertools import count
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from kaywatch._names import NameFolder
from kaywatch._pending import EventBuffers
from kaywatch._run_ids import RunIds

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

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Distinct (graph, node) pairs and custom metrics of one process; later ones are
# folded into `__other__` of their graph. A graph built per request with a fresh name
# each time would otherwise fill the application's memory.
MAX_SERIES: Final = 5_000
OTHER: Final = "__other__"

# Failures whose details are kept between two batches; all failures are counted.
MAX_FAILURES: Final = 100
MAX_RETRIED: Final = 50  # the others are for failures that no retry answered

# Entries for nodes that runs revisited, between two batches. A node gets another entry
# only when a run revisited it more often than any run before.
MAX_REVISITS: Final = 2 * MAX_SERIES

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
    run_start: float = 0.0  # Unix seconds, 0.0 without a run
    visits: int = 0  # made by the run, with this one
    path: tuple[str, ...] = ()  # the nodes that the run visited, including this one
    path_visits: tuple[int, ...] = ()  # of each of them; empty if once each


class ExecutionInFlight(NamedTuple):
    """An execution in progress."""

    graph: str
    node: str
    started: float  # Unix seconds
    run: int  # its number, 0 for none
    visits: int  # made by the run before this one
    run_started: float  # Unix seconds, 0.0 without a run
    failed_attempts: int  # calls of `exec` in its run that failed in a row up to now


class OpenSpan(Protocol):
    """An execution in progress, described only when a batch is packed."""

    def in_flight(self) -> ExecutionInFlight:
        """Return which node is executed, and since when."""
        ...

    def failed_attempts(self) -> int:
        """Return how many calls of `exec` in its run failed in a row up to now."""
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
        record: `record(seconds, outcome=0, attempts=1, action="default", error=None)`
            records one execution that ends now. Never raises, blocks or does I/O.
        number: its number in the table, for `Recorder.phased`.
    """

    __slots__ = ("graph", "node", "number", "points", "record")

    def __init__(self, graph: str, node: str, number: int, record: Execute) -> None:
        self.graph = graph
        self.node = node
        self.number = number
        self.record = record
        self.points: dict[object, Callable[[float], None]] = {}


class Numbered(Generic[K, V]):
    """Objects made by key, each with the number that it has in the table on the wire.

    Attributes:
        keys: by number, from 0 without gaps.
        made: by key.
        folded: keys that exceeded the limit.
    """

    def __init__(self) -> None:
        self.keys: dict[int, K] = {}
        self.made: dict[K, V] = {}
        self.folded = 0
        self._numbers = count()

    def add(self, key: K, make: Callable[[int], V]) -> V:
        """Add `make(number)` under a new key and return it.

        No lock: of two threads that add the same key, one loses setdefault and leaves
        a number that nothing refers to.
        """
        number = next(self._numbers)
        self.keys[number] = key
        return self.made.setdefault(key, make(number))


class Revisits:
    """The nodes that ended runs visited more than once, until a batch takes them.

    Attributes:
        left_out: entries that exceeded the limit.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._nodes: list[tuple[str, str, int]] = []  # (graph, node, visits)
        self._most: dict[tuple[str, str], int] = {}  # the most visits in `_nodes`

    def add(self, graph: str, counts: Mapping[str, int]) -> None:
        """Keep the visits of a run that ended, where they exceed those kept before.

        Two threads may both add an entry for a node; the larger one counts.
        """
        most = self._most
        for node, visits in counts.items():
            key = graph, node
            if visits > most.get(key, 1):
                most[key] = visits
                if len(self._nodes) < MAX_REVISITS:
                    self._nodes.append((graph, node, visits))
                else:
                    self.left_out += 1

    def take(self) -> list[tuple[str, str, int]]:
        """Return all (graph, node, visits) added since the last call."""
        taken = self._nodes[:]
        del self._nodes[: len(taken)]
        self._most.clear()
        return taken


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
        self.series_table: Numbered[tuple[str, str], Series] = Numbered()
        self.points_table: Numbered[PointKey, Callable[[float], None]] = Numbered()
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
        series = table.made.get(key)
        if series is not None:
            return series
        graph = self.names.graph(graph)
        node = self.names.node(graph, node)
        key = graph, node
        series = table.made.get(key)
        if series is not None:
            return series
        if len(table.made) >= MAX_SERIES and node != OTHER:
            table.folded += 1
            has_room = (graph, OTHER) in table.made or len(table.made) < 2 * MAX_SERIES
            return self.series(graph if has_room else OTHER, OTHER)
        return table.add(
            key, lambda number: Series(graph, node, number, self._execute(number))
        )

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
        add = table.made.get(key)
        if add is not None:
            return add
        graph = self.names.graph(graph)
        node = self.names.node(graph, node)
        name = self.names.metric(name)
        key = kind, name, graph, node, pairs
        add = table.made.get(key)
        if add is not None:
            return add
        if len(table.made) >= MAX_SERIES and name != OTHER:
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

    def failed(self, failure: Failure) -> None:
        """Keep the details of a failure, up to the limit, and send it early."""
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)
        self._on_failure()

    def retried(self, failure: Failure) -> None:
        """Keep the details of an error that a retry answered, if there is much room."""
        if len(self.failures) < MAX_RETRIED:
            self.failures.append(failure)
        if not self.pending.executions.is_open:
            self.pending.executions.wake()

    def wired(self, topology: Topology) -> None:
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
        events = self.pending.executions
        pending, watermark, is_full = events.flat, events.watermark, events.is_full
        extend, now = pending.extend, time.time

        def record(
            seconds: float,
            outcome: int = 0,
            attempts: int = 1,
            action: str = "default",
            error: ErrorKey | None = None,
        ) -> None:
            if len(pending) >= watermark[0] and is_full():
                return
            extend((number, now(), seconds, outcome, attempts, action, error))

        return record

    def _add(self, number: int) -> Callable[[float], None]:
        events = self.pending.points
        pending, watermark, is_full = events.flat, events.watermark, events.is_full
        extend, now = pending.extend, time.time

        def add(value: float) -> None:
            if len(pending) >= watermark[0] and is_full():
                return
            extend((number, now(), value))

        return add
