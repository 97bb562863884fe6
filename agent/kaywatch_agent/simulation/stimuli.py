"""The stimuli of a test of rules: executions, runs, metrics and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from kaywatch.wire import EndReason, Outcome, Phase
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import (
    InFlight,
    NodeRevisits,
    ProcessSample,
    TopologyRecord,
)
from kaywatch_agent.model.series import ClientState, EndPoint, ErrorKey, Kind, SeriesKey
from kaywatch_agent.rules.conditions import check_minimum
from kaywatch_agent.settings.reader import Duration
from kaywatch_agent.simulation.synthetic import SyntheticSource
from kaywatch_agent.units import MIB, parse_duration

__all__ = [
    "ExecutionStimulus",
    "MetricStimulus",
    "ProcessStimulus",
    "RunStimulus",
    "Stimulus",
    "TopologyStimulus",
]


class Stimulus(Protocol):
    """Something that happens during a test."""

    def times(self, length: float, /) -> Sequence[float]:
        """Return when it happens, in seconds since the start of the test."""

    def apply(self, source: SyntheticSource, time: float, number: int, /) -> None:
        """Let it happen for the `number`-th time, at a Unix time."""

    def check(self, path: str) -> None:
        """Raise ConfigError if its keys contradict each other."""


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """A stimulus that is repeated for one series."""

    service: str = "app"
    graph: str = ""
    from_: Duration = "0"
    to: Duration | None = None
    every: Duration = "10s"

    def times(self, length: float) -> Sequence[float]:
        """Return when it happens; the end is exclusive unless it is also the start."""
        start, every = parse_duration(self.from_), parse_duration(self.every)
        end = length if self.to is None else parse_duration(self.to)
        times = [start + n * every for n in range(int((end - start) // every) + 1)]
        return [time for time in times if time < end or end == start]

    def check(self, path: str) -> None:
        """Raise ConfigError for an invalid interval."""
        if parse_duration(self.every) < 1:
            raise ConfigError(
                f"{path}.every", f'"{self.every}": expected at least "1s"'
            )
        if self.to is not None and parse_duration(self.to) < parse_duration(self.from_):
            raise ConfigError(
                f"{path}.to", f'"{self.to}" is before from = "{self.from_}"'
            )


@dataclass(frozen=True, kw_only=True)
class Finished(Repeated):
    """Runs or executions that end, each with an outcome."""

    count: int = 1
    errors: int = 0
    suppressed: int = 0
    fallbacks: int = 0
    cancelled: int = 0
    seconds: float = 0.1
    error: str = "Error"
    phase: Phase = Phase.EXEC

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many executions have each outcome."""
        others = {
            Outcome.ERROR: self.errors,
            Outcome.SUPPRESSED: self.suppressed,
            Outcome.FALLBACK: self.fallbacks,
            Outcome.CANCELLED: self.cancelled,
        }
        return {Outcome.OK: self.count - sum(others.values()), **others}

    def check(self, path: str) -> None:
        """Raise ConfigError for an invalid interval or invalid counts."""
        super().check(path)
        for key in ("count", "errors", "suppressed", "fallbacks", "cancelled"):
            check_minimum(path, key, getattr(self, key), 0)
        if self.outcomes[Outcome.OK] < 0:
            raise ConfigError(
                f"{path}.count",
                f"{self.count}: expected at least the sum of errors, suppressed,"
                " fallbacks and cancelled",
            )

    def end(
        self,
        source: SyntheticSource,
        key: SeriesKey,
        time: float,
        attempts: int,
        action: str | EndPoint = "",
    ) -> None:
        """Let them end at a Unix time."""
        source.add_executions(
            key,
            time,
            self.outcomes,
            seconds=self.seconds,
            attempts=attempts,
            action=action,
            error=ErrorKey(self.error, self.phase),
        )


@dataclass(frozen=True, kw_only=True)
class RunStimulus(Finished):
    """Runs that end: normally, unless `dead_end` names a node and an action.

    Attributes:
        visits: the nodes that each run visited.
        dead_end: the last node, and its action that no edge has.
    """

    visits: int = 1
    dead_end: tuple[str, ...] = ()

    def check(self, path: str) -> None:
        """Raise ConfigError for invalid counts."""
        super().check(path)
        check_minimum(path, "visits", self.visits, 1)
        if self.dead_end and len(self.dead_end) != 2:
            raise ConfigError(f"{path}.dead_end", 'expected ["node", "action"]')

    def apply(self, source: SyntheticSource, time: float, _: int) -> None:
        """Let the runs end."""
        key = SeriesKey(Kind.RUN, self.service, self.graph, "")
        end = EndPoint(EndReason.NO_SUCCESSORS, "", "")
        if self.dead_end:
            end = EndPoint(EndReason.UNMATCHED_ACTION, *self.dead_end)
        self.end(source, key, time, self.visits, end)


@dataclass(frozen=True, kw_only=True)
class ExecutionStimulus(Finished):
    """Executions of a node that end."""

    node: str
    retries: int = 0
    action: str = ""

    def check(self, path: str) -> None:
        """Raise ConfigError for an invalid interval or invalid counts."""
        super().check(path)
        check_minimum(path, "retries", self.retries, 0)

    def apply(self, source: SyntheticSource, time: float, _: int) -> None:
        """Let the executions end."""
        key = SeriesKey(Kind.NODE, self.service, self.graph, self.node)
        self.end(source, key, time, self.retries + 1, self.action)


@dataclass(frozen=True, kw_only=True)
class MetricStimulus(Repeated):
    """Values of a custom metric; the last of `values` is repeated."""

    name: str
    node: str = ""
    kind: Literal["gauge", "count", "observe"] = "gauge"
    value: float = 0.0
    values: tuple[float, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)

    def apply(self, source: SyntheticSource, time: float, number: int) -> None:
        """Record the next value."""
        labels, kind = tuple(sorted(self.labels.items())), Kind[self.kind.upper()]
        key = SeriesKey(kind, self.service, self.graph, self.node, self.name, labels)
        values = self.values or (self.value,)
        source.add_values(key, time, [values[min(number, len(values) - 1)]])


@dataclass(frozen=True, kw_only=True)
class InFlightConfig:
    """A node in flight in a process."""

    graph: str = ""
    node: str = ""
    age: Duration = "0"
    run: str = ""
    visits: int = 0


@dataclass(frozen=True, kw_only=True)
class RevisitsConfig:
    """The visits of a node by a run in progress; without `node`, of all its nodes."""

    graph: str = ""
    node: str = ""
    visits: int = 0
    run: str = ""
    cycle: int = 0


@dataclass(frozen=True, kw_only=True)
class ProcessStimulus:
    """The state of a client process from a time on."""

    pid: int = 1
    at: Duration = "0"
    service: str = "app"
    host: str = "test"
    state: ClientState = ClientState.CONNECTED
    memory_mb: float | None = None
    cpu_percent: float | None = None
    in_flight: tuple[InFlightConfig, ...] = ()
    loops: tuple[RevisitsConfig, ...] = ()

    def times(self, _: float) -> Sequence[float]:
        """Return when it takes this state."""
        return [parse_duration(self.at)]

    def check(self, path: str) -> None:
        """Raise ConfigError for an invalid pid."""
        if self.pid < 1:
            raise ConfigError(f"{path}.pid", f"{self.pid}: expected at least 1")

    def apply(self, source: SyntheticSource, time: float, _: int) -> None:
        """Give the process this state."""
        known = source.clients.get(self.pid)
        # A process that dies has not freed its memory before.
        sample = None if known is None else known.sample
        if self.memory_mb is not None:
            rss = int(self.memory_mb * MIB)
            sample = ProcessSample(rss_bytes=rss, cpu_seconds=0.0)
        cpu_percent = self.cpu_percent
        if cpu_percent is None and known is not None:
            cpu_percent = known.cpu_percent
        source.clients[self.pid] = Client(
            id=str(self.pid),
            service=self.service,
            host=self.host,
            pid=self.pid,
            state=self.state,
            since=time,
            first_seen=time if known is None else known.first_seen,
            sample=sample,
            cpu_percent=cpu_percent,
            in_flight=tuple(
                InFlight(f.graph, f.node, time - parse_duration(f.age), f.run, f.visits)
                for f in self.in_flight
            ),
            loops=tuple(
                NodeRevisits(r.graph, r.node, r.visits, r.run, r.cycle)
                for r in self.loops
            ),
        )


@dataclass(frozen=True, kw_only=True)
class TopologyStimulus:
    """The nodes of a graph, as its clients report them."""

    graph: str
    nodes: tuple[str, ...]
    service: str = "app"
    at: Duration = "0"

    def times(self, _: float) -> Sequence[float]:
        """Return when they are reported."""
        return [parse_duration(self.at)]

    def check(self, path: str) -> None:
        """Raise ConfigError without a node."""
        if not self.nodes:
            raise ConfigError(
                f"{path}.nodes", "the list is empty; name the nodes of the graph"
            )

    def apply(self, source: SyntheticSource, time: float, _: int) -> None:
        """Report them."""
        source.topologies[self.service, self.graph] = TopologyRecord(
            service=self.service,
            graph=self.graph,
            start=self.nodes[0],
            nodes=self.nodes,
            since=time,
            changed=time,
        )
