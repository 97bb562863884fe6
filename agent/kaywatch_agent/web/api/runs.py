"""Runs in progress, and their problems."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.model.records import InFlight, TraceId
from kaywatch_agent.rules.metrics import NODE_LABELS
from kaywatch_agent.rules.rule import Stuck, Threshold
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.snapshot import AgentSnapshot, ClientActivity

__all__ = ["RunInProgress", "count_in_flight", "list_in_progress"]

# One failure may be chance. The row ends with one success: as Temporal's flag does.
RETRYING_FAILURES: Final = 2

Trouble = Literal["retrying", "looping", "stuck"]
NodePlace = tuple[str, str, str]


class RunInProgress(ResponseBody):
    """One run in progress: its current node, since when, and its problem.

    `retrying`: its last two calls of `exec` failed, in one node or in several; one that
    succeeds ends it. `looping`: it has visited a node more often than the rule
    `unusual_loop` allows. `stuck`: it has been in its node for longer than the rule
    `stuck` allows. `start` is 0 if it is unknown. `cost_usd` is what its calls of
    models have cost up to now, as far as their prices are known; null if none is.
    """

    service: str
    graph: str
    run: str
    client: str
    pid: Count
    host: str
    start: Moment
    node: str
    node_start: Moment
    visits: Annotated[int, Meta(ge=0, description="of nodes, without the present one")]
    trouble: list[Trouble]
    cost_usd: Annotated[float, Meta(ge=0)] | None
    tokens: Annotated[float, Meta(ge=0, description="of its calls of models")]
    unpriced_tokens: Annotated[
        float, Meta(ge=0, description="the tokens of calls without a price")
    ]
    trace_id: TraceId

    @property
    def key(self) -> str:
        """The key of the run among all runs."""
        return f"{self.client}/{self.run}"


def count_in_flight(snapshot: AgentSnapshot) -> Counter[NodePlace]:
    """Return the number of executions in progress by service, graph and node."""
    return Counter(
        (activity.service, execution.graph, execution.node)
        for activity in snapshot.activities
        for execution in activity.in_flight
    )


def list_in_progress(snapshot: AgentSnapshot) -> list[RunInProgress]:
    """Return the runs in progress: those in trouble first, then the longest."""
    trouble = _TroubleFinder(snapshot)
    runs = [
        _run(activity, executions, trouble)
        for activity in snapshot.activities
        for executions in _group_by_run(activity)
    ]
    return sorted(runs, key=lambda run: (not run.trouble, run.start, run.key))


# -- inside --------------------------------------------------------------------------


def _group_by_run(activity: ClientActivity) -> Iterator[list[InFlight]]:
    """Yield the executions in progress of each run, the latest last."""
    runs: dict[tuple[str, str], list[InFlight]] = {}
    for execution in sorted(activity.in_flight, key=lambda one: one.start):
        if execution.run and execution.graph:
            runs.setdefault((execution.graph, execution.run), []).append(execution)
    yield from runs.values()


def _run(
    activity: ClientActivity, executions: list[InFlight], trouble: _TroubleFinder
) -> RunInProgress:
    latest = executions[-1]
    # Each execution reports the cost of the whole run.
    tokens, unpriced, cost = max(
        (one.tokens, one.unpriced_tokens, one.cost_usd) for one in executions
    )
    return RunInProgress(
        service=activity.service,
        graph=latest.graph,
        run=latest.run,
        client=activity.client,
        pid=activity.pid,
        host=activity.host,
        start=latest.run_start or executions[0].start,
        node=latest.node,
        node_start=latest.start,
        visits=max(execution.visits for execution in executions),
        trouble=trouble.of(activity, executions),
        cost_usd=cost if cost or tokens > unpriced else None,
        tokens=tokens,
        unpriced_tokens=unpriced,
        trace_id=latest.trace_id,
    )


class _TroubleFinder:
    """Compares runs in progress with the limits of the built-in rules."""

    def __init__(self, snapshot: AgentSnapshot) -> None:
        self._now = snapshot.now
        is_busy = any(activity.in_flight for activity in snapshot.activities)
        alerts = snapshot.alerts() if is_busy else None
        self._stuck_after = _stuck_after(alerts, snapshot) if alerts else {}
        self._most_visits = _most_visits(alerts) if alerts else {}

    def of(self, activity: ClientActivity, executions: list[InFlight]) -> list[Trouble]:
        """Return the problem of a run."""
        graph, run = executions[0].graph, executions[0].run
        failed = max(execution.failed_attempts for execution in executions)
        trouble: list[Trouble] = []
        if failed >= RETRYING_FAILURES:
            trouble.append("retrying")
        if any(
            loop.visits
            > self._most_visits.get((activity.service, graph, loop.node), math.inf)
            for loop in activity.loops
            if loop.node and (loop.graph, loop.run) == (graph, run)
        ):
            trouble.append("looping")
        if any(self._is_stuck(activity.service, one) for one in executions):
            trouble.append("stuck")
        return trouble

    def _is_stuck(self, service: str, execution: InFlight) -> bool:
        place = service, execution.graph, execution.node
        limit = self._stuck_after.get(place, math.inf)
        return bool(execution.start) and self._now - execution.start > limit


def _stuck_after(
    alerts: AlertsSnapshot, snapshot: AgentSnapshot
) -> dict[NodePlace, float]:
    """Return after how many seconds an execution is stuck, by place, where known."""
    rule, result = alerts.settings.rules.get("stuck"), alerts.results.get("stuck")
    if rule is None or not isinstance(rule.condition, Stuck) or result is None:
        return {}
    # Only old executions are looked up: usually none of thousands of nodes has one.
    earliest = min(rule.condition.at_least, rule.condition.max_age or math.inf)
    old = {
        (activity.service, execution.graph, execution.node)
        for activity in snapshot.activities
        for execution in activity.in_flight
        if execution.start and snapshot.now - execution.start > earliest
    }
    if not old or result.labels != NODE_LABELS:
        return {}
    limits = zip(result.groups, result.threshold.tolist(), strict=True)
    return {
        (service, graph, node): limit
        for (service, graph, node), limit in limits
        if (service, graph, node) in old and not math.isnan(limit)
    }


def _most_visits(alerts: AlertsSnapshot) -> dict[NodePlace, float]:
    """Return how often a run may visit a node, by place, where a run loops."""
    rule = alerts.settings.rules.get("unusual_loop")
    if rule is None or not isinstance(rule.condition, Threshold):
        return {}
    return {
        (service, graph, node): usual * rule.condition.threshold
        for (service, graph, node), usual in alerts.usual(rule.name).items()
    }
