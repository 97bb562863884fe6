"""The hot path: what an application's threads call, and where their events wait.

Strategy: every event is one `list.extend` of a flat tuple onto a list that lives as
long as the process. That is one C call, so it is atomic under threads, signals and
re-entrancy from the garbage collector without a lock, it allocates no object that the
collector tracks, and the sender can take whole columns out by slicing with a stride.
(Measured on CPython 3.11: 125 ns against 210 ns for appending a tuple.)

The one check on the hot path compares the list's length with its gate: a batch's worth
of events. The event that finds so many wakes the sender and raises the gate to the
bound, since it takes the sender 5 ms to be given the interpreter and thousands of
events may pass meanwhile; the sender sets it back before it packs. While no sender runs
(before the first event, after a fork) the gate is 0, so that the very same check leads
to the slow path.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final, NamedTuple, Protocol

__all__ = [
    "Failure",
    "Flight",
    "Looped",
    "Looping",
    "Recorder",
    "Series",
    "Topology",
    "UnderWay",
]

# Fields of one event in its flat list, in the order of the columns on the wire.
EXECUTION_WIDTH: Final = 7
PHASED_WIDTH: Final = 11  # an execution, and how its time was split
POINT_WIDTH: Final = 3
RUN_WIDTH: Final = 8

# Wake the sender at a full batch; drop beyond forty of them. At some 80 bytes per
# event, twice that with phases, those are 16 and 32 MB, and only reached when the
# sender gets no time to pack.
WAKE_EVENTS: Final = 5_000
MAX_PENDING_EVENTS: Final = 200_000

# Distinct (graph, node) pairs and custom metrics of one process; what comes later is
# folded into `__other__` of its graph. A graph built per request with a fresh name
# each time would otherwise fill the application's memory.
MAX_SERIES: Final = 5_000
OTHER: Final = "__other__"

# Full details are kept of so many failures between two batches; all are counted.
MAX_FAILURES: Final = 100

# Nodes that runs came back to, between two batches. A node is there again only if a run
# came back to it more often than any before.
MAX_LOOPED: Final = 2 * MAX_SERIES

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


# As `Series.record` has it, then what is in `wire.PHASE_COLUMNS`.
Phased = tuple[
    int, float, float, int, int, str, ErrorKey | None, float, float, float, int
]


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


class Flight(NamedTuple):
    """An execution that has started and not ended."""

    graph: str
    node: str
    started: float  # Unix seconds
    run: int  # its number, 0 for none
    visits: int  # that the run had made before it


class UnderWay(Protocol):
    """An execution under way, described only when somebody asks."""

    def flight(self) -> Flight:
        """Return where it is under way, and since when."""
        ...


class Looped(NamedTuple):
    """A run that came back to a node."""

    graph: str
    run: int  # its number
    visits: int  # of all nodes
    counts: Mapping[str, int]  # of each node


class Looping(Protocol):
    """A run under way, described only when somebody asks."""

    def looped(self) -> Looped | None:
        """Return how often it visited which node, None while it came back to none."""
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
        number: its number in the table, for `Recorder.record_phased`.
    """

    __slots__ = ("graph", "node", "number", "points", "record")

    def __init__(self, graph: str, node: str, number: int, record: Execute) -> None:
        self.graph = graph
        self.node = node
        self.number = number
        self.record = record
        self.points: dict[object, Callable[[float], None]] = {}


class Recorder:
    """Holds what the application recorded until the sender takes it.

    Attributes:
        record_phased: hot as `Series.record`: records one execution of which the
            phases are known, all of its fields given, the series by its number.
        phased, phased_gate: what that appends to, and in its first item the length
            below which it does no more. The list and its gate stay the same objects.
    """

    def __init__(self, on_pressure: Callable[[], None] | None = None) -> None:
        self.executions: list[Any] = []
        # Apart, so that an execution that tells no phases costs nothing for them.
        self.phased: list[Any] = []
        self.points: list[Any] = []
        self.runs: list[Any] = []
        self.failures: list[Failure] = []
        self.topologies: dict[str, Topology] = {}
        self.topology_version = 0
        self.in_flight: set[UnderWay] = set()
        self.under_way: set[Looping] = set()
        self.looped: list[tuple[str, str, int]] = []  # (graph, node, visits)
        self.loops_left_out = 0  # of runs that ended, for want of room
        self._most: dict[tuple[str, str], int] = {}  # of what is in `looped`
        self.run_prefix = os.urandom(4).hex()
        self.series_keys: dict[int, tuple[str, str]] = {}
        self.point_keys: dict[int, PointKey] = {}
        self.pending_dropped = 0  # refused at the gate since the start
        self.folded = 0  # series folded into __other__
        self._series: dict[tuple[str, str], Series] = {}
        self._points: dict[object, Callable[[float], None]] = {}
        # Lengths of the pending lists, by their width, from which the slow path is
        # taken; in lists, so that closures see them change. The first counts and the
        # last is what `_full` raises: of an open gate they are one, of a closed one
        # two, so that no raise that comes late can open it.
        widths = EXECUTION_WIDTH, PHASED_WIDTH, POINT_WIDTH, RUN_WIDTH
        self._gates: dict[int, list[int]] = {width: [0, 0] for width in widths}
        self.phased_gate = self._gates[PHASED_WIDTH]
        self._on_pressure = on_pressure
        self.record_phased = self._phased_call()
        self._numbers = count(1)
        # Dense, since they are the indexes of the tables that go with the columns.
        self._series_numbers = count()
        self._point_numbers = count()

    # -- set-up: slow, cached, bounded -------------------------------------------

    def series(self, graph: str, node: str) -> Series:
        """Return the bound series of a node, made at first use."""
        found = self._series.get((graph, node))
        return found if found is not None else self._make_series(graph, node)

    def point(
        self,
        kind: str,
        name: str,
        graph: str,
        node: str,
        labels: Mapping[str, str] | None = None,
    ) -> Callable[[float], None]:
        """Return the hot call of one custom metric: `add(value)`."""
        flat = tuple(sorted(labels.items())) if labels else ()
        key = (kind, name, graph, node, flat)
        found = self._points.get(key)
        if found is not None:
            return found
        if len(self._points) >= MAX_SERIES and name != OTHER:
            self.folded += 1
            return self.point(kind, OTHER, "", "")
        number = next(self._point_numbers)
        self.point_keys[number] = key
        return self._points.setdefault(key, self._point_call(number))

    def run_id(self, number: int) -> str:
        """Return the id of the run with that number, empty for 0."""
        return f"{self.run_prefix}-{number}" if number else ""

    def next_number(self) -> int:
        """Return a number unique in this process: of a run, of a frame."""
        return next(self._numbers)

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
        pending, gate = self.runs, self._gates[RUN_WIDTH]
        if len(pending) >= gate[0] and self._full(pending, RUN_WIDTH):
            return
        pending.extend(
            (graph, time.time(), seconds, outcome, reason, node, action, visits)
        )

    def loop_ended(self, graph: str, counts: Mapping[str, int]) -> None:
        """Keep how often a run that ended came back to its nodes, where it is news.

        Two threads may both think so; what is left out is never more than what is kept.
        """
        most = self._most
        for node, visits in counts.items():
            key = graph, node
            if visits > most.get(key, 1):
                most[key] = visits
                if len(self.looped) < MAX_LOOPED:
                    self.looped.append((graph, node, visits))
                else:
                    self.loops_left_out += 1

    def failed(self, failure: Failure) -> None:
        """Keep the details of a failure, as long as there is room."""
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)
        if not self._gates[EXECUTION_WIDTH][0]:
            self._pressure()

    def wired(self, topology: Topology) -> None:
        """Keep a graph's topology; the newest of a name wins."""
        if self.topologies.get(topology.graph) == topology:
            return
        if len(self.topologies) < MAX_SERIES or topology.graph in self.topologies:
            self.topologies[topology.graph] = topology
            self.topology_version += 1

    # -- the sender's side ---------------------------------------------------------

    def pending(self) -> tuple[list[Any], ...]:
        """Return the lists of events, flat, that the sender is to take."""
        return self.executions, self.phased, self.points, self.runs

    def open_gate(self) -> None:
        """Let events through without the slow path: a sender is running."""
        for width, gate in self._gates.items():
            gate[:] = [WAKE_EVENTS * width]

    def take_looped(self) -> list[tuple[str, str, int]]:
        """Return how often runs that ended came back to nodes, since the last call."""
        taken = self.looped[:]
        del self.looped[: len(taken)]
        self._most.clear()
        return taken

    def lower_gate(self) -> None:
        """Ask for another wake: the sender is about to take what is pending."""
        for width, gate in self._gates.items():
            gate[-1] = WAKE_EVENTS * width

    def close_gate(self) -> None:
        """Send the next event through the slow path: no sender is running."""
        for gate in self._gates.values():
            gate[:] = [0, 0]

    def forget(self) -> None:
        """Drop all that is pending: after a fork it is the parent's."""
        for pending in (*self.pending(), self.failures, self.looped):
            pending.clear()
        self.in_flight.clear()
        self.under_way.clear()
        self._most.clear()
        self.run_prefix = os.urandom(4).hex()
        self.pending_dropped = 0
        self.topology_version += 1
        self.close_gate()

    # -- inside ----------------------------------------------------------------------

    def _make_series(self, graph: str, node: str) -> Series:
        if len(self._series) >= MAX_SERIES and node != OTHER:
            self.folded += 1
            known = (graph, OTHER) in self._series or len(self._series) < 2 * MAX_SERIES
            return self.series(graph if known else OTHER, OTHER)
        # No lock: of two threads that make the same series, one loses setdefault and
        # leaves a number that nothing refers to.
        number = next(self._series_numbers)
        self.series_keys[number] = (graph, node)
        made = Series(graph, node, number, self._execution_call(number))
        return self._series.setdefault((graph, node), made)

    def _execution_call(self, number: int) -> Execute:
        pending, gate = self.executions, self._gates[EXECUTION_WIDTH]
        extend, now, full = pending.extend, time.time, self._full

        def record(
            seconds: float,
            outcome: int = 0,
            attempts: int = 1,
            action: str = "default",
            error: ErrorKey | None = None,
        ) -> None:
            if len(pending) >= gate[0] and full(pending, EXECUTION_WIDTH):
                return
            extend((number, now(), seconds, outcome, attempts, action, error))

        return record

    def _phased_call(self) -> Callable[[Phased], None]:
        pending, gate = self.phased, self._gates[PHASED_WIDTH]
        extend, full = pending.extend, self._full

        def record_phased(event: Phased) -> None:
            if len(pending) >= gate[0] and full(pending, PHASED_WIDTH):
                return
            extend(event)

        return record_phased

    def _point_call(self, number: int) -> Callable[[float], None]:
        pending, gate = self.points, self._gates[POINT_WIDTH]
        extend, now, full = pending.extend, time.time, self._full

        def add(value: float) -> None:
            if len(pending) >= gate[0] and full(pending, POINT_WIDTH):
                return
            extend((number, now(), value))

        return add

    def _full(self, pending: list[Any], width: int) -> bool:
        """Wake the sender; return whether the event has to be dropped."""
        # Raised before the wake, so that the sender lowers it after.
        self._gates[width][-1] = MAX_PENDING_EVENTS * width
        self._pressure()
        if len(pending) < MAX_PENDING_EVENTS * width:
            return False
        self.pending_dropped += 1
        return True

    def _pressure(self) -> None:
        if self._on_pressure is not None:
            self._on_pressure()
