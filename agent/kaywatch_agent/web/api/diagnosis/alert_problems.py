"""Problems that rules find: one for each alert, as the page describes problems.

What a rule finds is computed by the rule alone; the page shows it once the condition is
met, even before the alert fires.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from kaywatch_agent.model.alerts import AlertDetails
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.web.api.diagnosis.problem import AlertRef, ProblemKind, ProblemView

__all__ = ["alert_problem", "built_in_problems"]

# The problems that are shown as the alert describes them, by built-in rule. The others
# have an onset and a cost, which the checks of nodes add.
_KINDS: Final[Mapping[str, ProblemKind]] = {
    "process_died": "process_died",
    "memory_usage_max": "memory",
    "silent": "silent",
    "never_reached": "never_reached",
    "drift": "drift",
    "cost_per_run": "cost_per_run",
}


def built_in_problems(alerts: AlertsSnapshot) -> Iterator[ProblemView]:
    """Yield the problems that built-in rules have found, pending ones included."""
    for alert in alerts.built_in(*_KINDS):
        kind, is_firing = _KINDS[alert.rule], alert.lifecycle.is_firing
        yield alert_problem(alerts.describe(alert), kind, is_firing=is_firing)


def alert_problem(
    facts: AlertDetails, kind: ProblemKind = "alert", *, is_firing: bool = True
) -> ProblemView:
    """Return an alert as a problem."""
    labels = facts.labels
    service, graph, node = (
        labels.get(name, "") for name in ("service", "graph", "node")
    )
    place = " / ".join(filter(None, (service, graph, node)))
    # Most summaries begin with the place, or with the rule's name without one.
    summary = facts.summary.removeprefix(place or facts.rule).lstrip("/: ")
    text, *details = summary.split("; ")
    return ProblemView(
        kind=kind,
        severity=facts.severity,
        service=service,
        graph=graph,
        node=node,
        text=text,
        details=details,
        since=facts.fired if is_firing else facts.started,
        count=None,
        cost_usd=None,
        alerts=[AlertRef(facts.id, facts.rule, node)] if is_firing else [],
    )
