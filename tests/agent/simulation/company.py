"""Twenty graphs over two weeks, with nights, weekends, deployments and faults.

Everything is made up from one seed. Graphs run by day, around the clock, at night or
without weekends; their processes are recycled, and deployed twice.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from kaywatch.wire import EndReason, Outcome
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import NodeRevisits, ProcessSample
from kaywatch_agent.model.series import ClientState, EndPoint, Kind, SeriesKey
from kaywatch_agent.simulation.synthetic import SyntheticSource

__all__ = ["DAY", "GRAPHS", "HOUR", "START", "Company", "Effect", "Fault", "Graph"]

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
START: Final = 1_800_230_400.0  # a Monday, at midnight UTC
NORMAL_END: Final = EndPoint(EndReason.NO_SUCCESSORS, "", "")
DEAD_END: Final = EndPoint(EndReason.UNMATCHED_ACTION, "Think", "refund")

# A page's threshold of 5 % is exceeded by two failures of 20, so healthy nodes of a few
# executions fail rarely.
BASE_ERRORS: Final = 0.0001

# Processes are recycled this often; deployments replace all of them.
RECYCLE_SECONDS: Final = 900.0
DEPLOYMENTS: Final = (1 * DAY + 10 * HOUR, 3 * DAY + 15 * HOUR)


class Graph(NamedTuple):
    """A graph of three nodes; the second of them calls a model.

    Attributes:
        runs: the runs of an hour, on average.
        first, last: the hours of the day within which it runs.
        weekends: whether it runs on weekends.
    """

    service: str
    name: str
    runs: int
    first: int = 0
    last: int = 24
    weekends: bool = True

    def rate(self, time: float) -> float:
        """Return the average runs of an hour: most at noon, fewest at midnight."""
        hour = time % DAY / HOUR
        # Day 0 since 1970 was a Thursday.
        is_weekend = (time // DAY + 3) % 7 >= 5
        if not self.first <= hour < self.last or (is_weekend and not self.weekends):
            return 0.0
        rhythm = 1.0 + 0.5 * math.sin((hour - 6.0) / 24.0 * 2.0 * math.pi)
        return self.runs * rhythm * (0.5 if is_weekend else 1.0)


GRAPHS: Final = (
    *(Graph("web", f"chat{n}", 60 + 10 * n) for n in range(6)),
    *(Graph("office", f"form{n}", 60 + 10 * n, 8, 18, False) for n in range(6)),
    *(Graph("nightly", f"index{n}", 40, 1, 4) for n in range(3)),
    *(Graph("agents", f"agent{n}", 50 + 20 * n, 6, 22) for n in range(4)),
    Graph("rare", "report", 4, 7, 19),
)


@dataclass(frozen=True)
class Effect:
    """The effect of a fault on the runs of its graph."""

    errors: float = 0.0
    fallbacks: float = 0.0
    retries: int = 0
    seconds: float = 1.0
    cost: float = 1.0
    wasted: float = 0.0
    revise: float = 0.0
    dead_ends: float = 0.0
    stops: bool = False
    visits: int = 0
    looping: int = 0
    dies: bool = False


@dataclass(frozen=True)
class Fault:
    """A fault of a graph, from a time after the start on, in hours.

    Attributes:
        rules: the built-in rules that may report it; one has to.
    """

    name: str
    graph: str
    start: float
    hours: float
    effect: Effect
    rules: tuple[str, ...]

    def covers(self, passed: float) -> bool:
        """Return whether the fault lasts at a time, in seconds after the start."""
        return self.start * HOUR <= passed < (self.start + self.hours) * HOUR


class Company:
    """The services; `advance` lets them work."""

    def __init__(self, faults: tuple[Fault, ...] = (), seed: int = 1) -> None:
        self.source = SyntheticSource(START - 15 * DAY)
        self._faults = faults
        self._random = random.Random(seed)
        self._pids: dict[str, int] = {}

    def advance(self, time: float, seconds: float) -> None:
        """Let the runs of a period end at its end."""
        for service in dict.fromkeys(graph.service for graph in GRAPHS):
            self._processes(service, time)
        for graph in GRAPHS:
            effect = self._effect(graph, time)
            expected = graph.rate(time) * seconds / HOUR
            count = 0 if effect.stops else self._count(expected)
            if count:
                self._run(graph, time, count, effect)
            self._loop(graph, time, effect, count)

    # -- inside ------------------------------------------------------------------------

    def _effect(self, graph: Graph, time: float) -> Effect:
        for fault in self._faults:
            if fault.graph == graph.name and fault.covers(time - START):
                return fault.effect
        return Effect()

    def _count(self, expected: float) -> int:
        """Return a number with the mean and the deviation of a Poisson distribution."""
        return max(0, round(self._random.gauss(expected, math.sqrt(expected))))

    def _share(self, count: int, share: float) -> int:
        return sum(self._random.random() < share for _ in range(count))

    def _run(self, graph: Graph, time: float, count: int, effect: Effect) -> None:
        dead = self._share(count, effect.dead_ends)
        ends = {NORMAL_END: count - dead, DEAD_END: dead}
        run = SeriesKey(Kind.RUN, graph.service, graph.name, "")
        for end, runs in ends.items():
            if runs:
                self.source.add_executions(
                    run, time, {Outcome.OK: runs}, action=end, attempts=3
                )
        for node in ("Read", "Write"):
            self._execute(graph, node, time, count, Effect())
        self._execute(graph, "Think", time, count, effect)
        cost = 0.01 * count * effect.cost * self._random.gauss(1.0, 0.1)
        values = {
            "llm_calls": float(count),
            "llm_cost_usd": cost,
            "llm_wasted_cost_usd": cost * effect.wasted,
        }
        for metric, value in values.items():
            key = SeriesKey(Kind.COUNT, graph.service, graph.name, "Think", metric)
            self.source.add_values(key, time, [value])

    def _execute(
        self, graph: Graph, node: str, time: float, count: int, effect: Effect
    ) -> None:
        key = SeriesKey(Kind.NODE, graph.service, graph.name, node)
        failed = self._share(count, BASE_ERRORS + effect.errors)
        hidden = self._share(count - failed, effect.fallbacks)
        revised = self._share(count - failed - hidden, 0.1 + effect.revise)
        rest = count - failed - hidden - revised
        seconds = 0.8 * effect.seconds * self._random.gauss(1.0, 0.1)
        for outcome, number, action in (
            (Outcome.ERROR, failed, ""),
            (Outcome.FALLBACK, hidden, "approve"),
            (Outcome.OK, revised, "revise"),
            (Outcome.OK, rest, "approve"),
        ):
            if number:
                self.source.add_executions(
                    key,
                    time,
                    {outcome: number},
                    seconds=seconds,
                    attempts=1 + effect.retries,
                    action=action,
                )

    def _loop(self, graph: Graph, time: float, effect: Effect, count: int) -> None:
        """Let the longest run visit its node again; agents do so more often."""
        is_agent = graph.service == "agents"
        visits = effect.visits or (self._random.randint(4, 18) if is_agent else 0)
        row = self.source._row(SeriesKey(Kind.NODE, graph.service, graph.name, "Think"))
        if count and visits:
            self.source._longest.setdefault(int(time // 10), {})[row] = visits
        if effect.looping:
            pid = self._pids[graph.service]
            client = self.source.clients[pid]
            loops = tuple(
                NodeRevisits(graph.name, node, effect.looping, "r-1")
                for node in ("Think", "Read")
            )
            self.source.clients[pid] = msgspec.structs.replace(client, loops=loops)

    def _processes(self, service: str, time: float) -> None:
        passed = time - START
        dies = any(
            fault.effect.dies and fault.covers(passed)
            for fault in self._faults
            if fault.graph in [one.name for one in GRAPHS if one.service == service]
        )
        old = self._pids.get(service)
        is_alive = (
            old is not None and self.source.clients[old].state is ClientState.CONNECTED
        )
        is_due = passed % RECYCLE_SECONDS < 600 or any(
            0 <= passed - at < 600 for at in DEPLOYMENTS
        )
        if dies:
            if is_alive and old is not None:
                self._end(old, time, ClientState.DIED)
        elif is_due or not is_alive:
            if is_alive and old is not None:
                self._end(old, time, ClientState.ENDED)
            self._start(service, time)

    def _end(self, pid: int, time: float, state: ClientState) -> None:
        client = self.source.clients[pid]
        self.source.clients[pid] = msgspec.structs.replace(
            client, state=state, since=time, loops=()
        )

    def _start(self, service: str, time: float) -> None:
        number = [graph.service for graph in GRAPHS].index(service)
        pid = 1000 * number + len(self.source.clients)
        while pid in self.source.clients:
            pid += 1
        self._pids[service] = pid
        self.source.clients[pid] = Client(
            id=str(pid),
            service=service,
            host="box",
            pid=pid,
            state=ClientState.CONNECTED,
            since=time,
            first_seen=time,
            sample=ProcessSample(rss_bytes=300 * 2**20, cpu_seconds=1.0),
            cpu_percent=5.0,
        )
        old = [
            one
            for one, client in self.source.clients.items()
            if client.since < time - HOUR and client.state is not ClientState.CONNECTED
        ]
        for one in old:
            del self.source.clients[one]
