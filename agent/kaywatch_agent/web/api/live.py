"""The data of the live stream: everything once, and then the changes of each tick.

Strategy: figures are columns over a table of keys that only grows, and an update has
the rows of a column that changed. Counts are sent as differences, other numbers in few
digits: 500 nodes that are all active take some 15 kB per second. `full` is the same
type, as the difference from nothing, so that a reader needs one function for both.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from kaywatch_agent.model.bounds import Count, Moment, Rate
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.runtime.health import Readiness
from kaywatch_agent.units import MIB
from kaywatch_agent.web.api.alerts import sort_by_urgency
from kaywatch_agent.web.api.live_tables import (
    LivePlaces,
    LiveTable,
    RecentBuckets,
    TableChange,
)
from kaywatch_agent.web.api.parameters import window_seconds
from kaywatch_agent.web.api.runs import RunInProgress, list_in_progress
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = ["LiveQuery", "LiveReport", "LiveUpdate", "first_update"]

# The maximum length of lists in an update; other endpoints have the rest.
MAX_ALERTS: Final = 100
MAX_RUNS: Final = 20

# Seconds between two measurements of the agent's CPU.
CPU_SECONDS: Final = 5.0


class LiveQuery(Struct, frozen=True):
    """A window, and how many updates to send."""

    window: Annotated[
        Literal["1m", "5m", "15m", "1h"], Meta(description="The window of figures.")
    ] = "5m"
    limit: (
        Annotated[int, Meta(ge=1, le=1_000_000, description="End after N events.")]
        | None
    ) = None


class LiveStage(ResponseBody):
    """The readiness of one stage, and its problem."""

    name: str
    status: Readiness
    detail: str


class LiveHealth(ResponseBody):
    """The readiness of the agent."""

    status: Readiness
    stages: list[LiveStage]


class LiveCompleteness(ResponseBody):
    """The share of the window's events that arrived, and the missing ones."""

    ratio: Rate | None
    dropped: Count
    deaths: Count
    unknown_seconds: Annotated[float, Meta(ge=0)]


class LiveAgent(ResponseBody):
    """The resources that the agent uses; CPU is in percent of one core."""

    cpu_percent: Annotated[float, Meta(ge=0)] | None
    memory_bytes: Count
    store_bytes: Count


class AlertRow(ResponseBody):
    """One alert that is not ok.

    `same_cause` is the id of another firing alert that already reports its cause; empty
    for none.
    """

    id: str
    rule: str
    severity: str
    state: AlertState
    labels: dict[str, str]
    summary: str
    since: Moment
    value: float | None
    threshold: float | None
    same_cause: str


class AlertsChange(ResponseBody):
    """Alerts that are not ok, the most urgent first.

    `active` is their number, `order` the ids of the first 100, and `changed` those of
    them that are new or have changed.
    """

    active: Count
    order: list[str]
    changed: list[AlertRow]


class RunsChange(ResponseBody):
    """Runs in progress: those in trouble first, then the longest.

    `active` is their number, `order` the keys (`client/run`) of the first 20, and
    `changed` those of them that are new or have changed.
    """

    active: Count
    order: list[str]
    changed: list[RunInProgress]


class LiveUpdate(ResponseBody):
    """The data of the events `full` and `changes`; null for what has not changed.

    `since` is when counting began, in the store; a window that begins earlier has data
    for a part only.
    """

    time: Moment
    since: Moment | None
    version: str | None
    window: str | None
    health: LiveHealth | None
    completeness: LiveCompleteness | None
    agent: LiveAgent | None
    processes: dict[str, int] | None
    nodes: TableChange
    graphs: TableChange
    runs: RunsChange | None
    alerts: AlertsChange | None


_LISTS: Final[dict[str, type[RunsChange | AlertsChange]]] = {
    "runs": RunsChange,
    "alerts": AlertsChange,
}


def first_update(snapshot: AgentSnapshot, query: LiveQuery) -> LiveUpdate:
    """Return everything."""
    report = LiveReport(query.window)
    report.advance(snapshot)
    return report.full()


class LiveReport:
    """The data of one window's stream as readers have it. One thread at a time."""

    def __init__(self, window: str) -> None:
        self._window = window
        self._buckets = RecentBuckets(window_seconds(window))
        self._places = LivePlaces()
        self._cpu = _CpuMeter()
        self._time = 0.0
        self._nodes = LiveTable()
        self._graphs = LiveTable()
        self._sections: dict[str, Any] = {}

    def advance(self, snapshot: AgentSnapshot) -> LiveUpdate:
        """Take over a snapshot; return the changes."""
        self._time = snapshot.now
        window = Window(
            snapshot,
            window_seconds(self._window),
            buckets=self._buckets.of(snapshot.view),
        )
        runs = list_in_progress(snapshot)
        places = self._places
        places.refresh(snapshot)
        nodes = self._nodes.advance(
            places.node_names, places.node_columns(snapshot, window)
        )
        graphs = self._graphs.advance(
            places.graph_names, places.graph_columns(snapshot, window, runs)
        )
        sections = self._present(snapshot, window, runs)
        before, self._sections = self._sections, sections
        return self._update(before, nodes, graphs)

    def restarted(self) -> LiveReport:
        """Return a new report, whose first update contains everything."""
        return LiveReport(self._window)

    def full(self) -> LiveUpdate:
        """Return all data, for a new reader."""
        return self._update({}, self._nodes.full(), self._graphs.full())

    def _present(
        self, snapshot: AgentSnapshot, window: Window, runs: list[RunInProgress]
    ) -> dict[str, Any]:
        completeness = window.completeness
        counts = completeness.of(completeness.services)
        alerts = snapshot.alerts()
        usage = snapshot.usage
        active = [a for a in alerts.alerts if a.lifecycle.state is not AlertState.OK]
        # Rendering takes most of the time, so only shown rows are rendered.
        urgent = sort_by_urgency(alerts, active)[:MAX_ALERTS]
        causes = alerts.same_cause()
        rows = [_alert_row(alerts, each, causes.get(each.id, "")) for each in urgent]
        return {
            "since": snapshot.view.since,
            "version": snapshot.version,
            "window": self._window,
            "health": _health(snapshot),
            "completeness": LiveCompleteness(
                ratio=counts.ratio,
                dropped=sum(counts.dropped.values()),
                deaths=counts.deaths,
                unknown_seconds=counts.unknown_seconds,
            ),
            "agent": LiveAgent(
                cpu_percent=self._cpu.percent(snapshot.now, usage.cpu_seconds),
                # In whole MiB, so that they seldom change. Zero is no store.
                memory_bytes=usage.memory_bytes // MIB * MIB,
                store_bytes=-(-usage.store_bytes // MIB) * MIB,
            ),
            "processes": dict(snapshot.client_states),
            "runs": (len(runs), {run.key: run for run in runs[:MAX_RUNS]}),
            "alerts": (len(active), {row.id: row for row in rows}),
        }

    def _update(
        self, before: dict[str, Any], nodes: TableChange, graphs: TableChange
    ) -> LiveUpdate:
        changed: dict[str, Any] = {}
        for name, value in self._sections.items():
            previous = before.get(name)
            if value == previous:
                changed[name] = None
            elif name in _LISTS:
                changed[name] = _list_change(_LISTS[name], previous, value)
            else:
                changed[name] = value
        return LiveUpdate(time=self._time, nodes=nodes, graphs=graphs, **changed)


# -- inside --------------------------------------------------------------------------


class _CpuMeter:
    """The agent's use of the CPU, measured every few seconds."""

    def __init__(self) -> None:
        self._since: tuple[float, float] | None = None
        self._percent: float | None = None

    def percent(self, now: float, cpu_seconds: float) -> float | None:
        """Return the percentage of one core; None before it was measured."""
        if self._since is None:
            self._since = now, cpu_seconds
        elapsed = now - self._since[0]
        if elapsed >= CPU_SECONDS:
            used = cpu_seconds - self._since[1]
            self._percent = round(100.0 * max(0.0, used) / elapsed, 1)
            self._since = now, cpu_seconds
        return self._percent


def _health(snapshot: AgentSnapshot) -> LiveHealth:
    return LiveHealth(
        status=snapshot.health.status,
        stages=[
            LiveStage(name=name, status=stage.status, detail=stage.problem)
            for name, stage in snapshot.health.stages.items()
        ],
    )


def _alert_row(alerts: AlertsSnapshot, alert: Alert, same_cause: str) -> AlertRow:
    facts, life = alerts.describe(alert), alert.lifecycle
    value = facts.value
    return AlertRow(
        id=facts.id,
        rule=facts.rule,
        severity=facts.severity,
        state=life.state,
        labels=facts.labels,
        summary=facts.summary,
        since=life.fired or life.started or 0.0,
        # Four digits, so that a value that merely jitters is not sent again each
        # second.
        value=None if value is None else float(f"{value:.4g}"),
        threshold=facts.threshold,
        same_cause=same_cause,
    )


def _list_change(
    kind: type[RunsChange | AlertsChange],
    before: tuple[int, dict[str, Any]] | None,
    now: tuple[int, dict[str, Any]],
) -> RunsChange | AlertsChange:
    previous = before[1] if before else {}
    active, rows = now
    fresh = [row for key, row in rows.items() if row != previous.get(key)]
    return kind(active=active, order=list(rows), changed=fresh)
