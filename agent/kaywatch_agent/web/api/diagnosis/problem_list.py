"""The problems of a period, the most urgent first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

from kaywatch_agent.model.alerts import SEVERITIES, AlertDetails
from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.rules.built_in import BUILT_IN
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.units import duration
from kaywatch_agent.web.api.diagnosis.alert_problems import (
    alert_problem,
    built_in_problems,
)
from kaywatch_agent.web.api.diagnosis.evidence import HourCounts, NodeEvidence
from kaywatch_agent.web.api.diagnosis.live_checks import troubled_runs
from kaywatch_agent.web.api.diagnosis.node_checks import (
    CHECKS,
    Suspect,
    waste_details,
)
from kaywatch_agent.web.api.diagnosis.problem import (
    ProblemKind,
    ProblemView,
)
from kaywatch_agent.web.api.parameters import Service, WindowText, window_seconds
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["list_problems"]

DEFAULT_WINDOW: Final = "5m"
MAX_PROBLEMS: Final = 100
# With less between their beginnings, problems of a place began together: the bucket of
# an onset is known.
OTHER_ONSET_SECONDS: Final = 20.0

_FAILURES: Final[tuple[ProblemKind, ...]] = ("failing", "low_traffic")
# Their details contain what failed attempts cost.
_WITH_COST: Final = (*_FAILURES, "masked_failures")
_LOOPS: Final = ("runaway", "unusual_loop")

# The metrics of rules whose values the text of a problem already has.
_SAID: Final[Mapping[ProblemKind, tuple[str, ...]]] = {
    **dict.fromkeys(_FAILURES, ("error_rate", "success_rate")),
    "masked_failures": ("masked_rate", "retry_rate"),
    "slow": ("latency_avg",),
}


class ProblemsQuery(Struct, frozen=True):
    """A window that ends now, and a service."""

    window: WindowText | None = None
    service: Service | None = None


class ProblemList(ResponseBody):
    """Problems, the most urgent first; at most 100, even if `matching` is higher."""

    time: Moment
    matching: Annotated[Count, Meta(description="the number of problems")]
    problems: list[ProblemView]


def list_problems(snapshot: AgentSnapshot, query: ProblemsQuery) -> ProblemList:
    """Return the present problems: place, cause, beginning and cost."""
    window = query.window or DEFAULT_WINDOW
    problems = [
        problem
        for problem in snapshot.shared.get(
            ("problems", window), snapshot.now, lambda: _problems(snapshot, window)
        )
        if not query.service or problem.service in ("", query.service)
    ]
    return ProblemList(
        time=snapshot.now, matching=len(problems), problems=problems[:MAX_PROBLEMS]
    )


# -- inside --------------------------------------------------------------------------


def _problems(snapshot: AgentSnapshot, window: str) -> list[ProblemView]:
    """Return the problems of all services, the most urgent first."""
    evidence = NodeEvidence(snapshot, window_seconds(window))
    problems = list(
        _merged([*_by_figures(evidence), *_present(evidence)], snapshot.now)
    )
    problems = _with_alerts(problems, snapshot.alerts(), snapshot.now)
    return sorted(problems, key=_urgency)


def _by_figures(evidence: NodeEvidence) -> Iterator[ProblemView]:
    """Yield the problems of nodes."""
    suspects = [suspect for check in CHECKS for suspect in check(evidence)]
    places = {place for suspect in suspects for place in _places(suspect)}
    # Usually nothing is wrong, and no history has to be read.
    if not places:
        return
    history = HourCounts(evidence, places)
    for suspect in suspects:
        yield suspect.problem(history)


def _places(suspect: Suspect) -> Iterator[tuple[str, str, str]]:
    """Yield the node, and its graph for the ends of runs."""
    service, graph, _ = suspect.place
    yield suspect.place
    if suspect.kind == "dead_end":
        yield service, graph, ""


def _present(evidence: NodeEvidence) -> Iterator[ProblemView]:
    yield from troubled_runs(evidence)
    yield from built_in_problems(evidence.snapshot.alerts())


def _merged(problems: Iterable[ProblemView], now: float) -> Iterator[ProblemView]:
    """Yield one problem for each place; the others of the place are its details.

    A node that contains a graph fails if a node inside fails, which is one problem.
    """
    problems = sorted(problems, key=_importance)
    failing = {(one.service, one.graph) for one in problems if one.kind in _FAILURES}
    first: dict[tuple[str, str, str, str], ProblemView] = {}
    for one in problems:
        if one.kind in _FAILURES and (one.service, one.node) in failing:
            continue
        # Each run and each process is a problem of its own.
        own = "" if one.node and not one.run else f"{one.kind} {one.run} {one.text}"
        key = one.service, one.graph, one.node, own
        if key not in first:
            first[key] = one
        elif one.kind != "wasted_spend":
            _add_detail(first[key], one, now)
        elif first[key].kind not in _WITH_COST:
            first[key].details += waste_details(one.cost_usd)
    yield from first.values()


def _add_detail(problem: ProblemView, other: ProblemView, now: float) -> None:
    """Append another problem of the place, with its age if that is another one."""
    text = other.text
    ages = [now - each.since for each in (problem, other) if each.since is not None]
    if len(ages) == 2 and abs(ages[0] - ages[1]) > OTHER_ONSET_SECONDS:
        text += f", for {duration(round(max(0.0, ages[1])), parts=1)}"
    problem.details.append(text)


def _with_alerts(
    problems: list[ProblemView], alerts: AlertsSnapshot, now: float
) -> list[ProblemView]:
    """Return the problems with their firing alerts; any other alert is a problem."""
    known = alerts.same_cause()
    # One problem may fulfil the conditions of several rules; one of them reports it.
    problems = [one for one in problems if not any(a.id in known for a in one.alerts)]
    shown = {ref.id for problem in problems for ref in problem.alerts}
    for alert in alerts.alerts:
        if not alert.lifecycle.is_firing or alert.id in shown or alert.id in known:
            continue
        facts = alerts.describe(alert)
        same = [problem for problem in problems if _is_about(facts, problem)]
        for problem in same:
            _add_alert(problem, facts, now)
        if not same:
            kind: ProblemKind = "runaway" if facts.rule in _LOOPS else "alert"
            problems.append(alert_problem(facts, kind))
    return problems


def _add_alert(problem: ProblemView, facts: AlertDetails, now: float) -> None:
    own = alert_problem(facts)
    # Its condition was met before it fired.
    own.since = facts.started
    # The rule's severity is the user's, so that of the check does not count any more.
    severities = [problem.severity] if problem.alerts else []
    problem.severity = max([*severities, facts.severity], key=_rank)
    problem.alerts += own.alerts
    metric = facts.condition.split(" ")[0]
    if facts.rule not in BUILT_IN and metric not in _SAID.get(problem.kind, ()):
        _add_detail(problem, own, now)


def _is_about(facts: AlertDetails, problem: ProblemView) -> bool:
    """Return whether an alert is about the place of a problem.

    A run that goes in circles is one problem of its graph. Its alerts name one of the
    nodes on its way.
    """
    names = ["service", "graph", "node"]
    if facts.rule in _LOOPS:
        if problem.kind != "runaway":
            return False
        names.remove("node")
    known = [name for name in names if facts.labels.get(name)]
    return bool(known) and all(
        facts.labels[name] == getattr(problem, name) for name in known
    )


_rank = SEVERITIES.index


def _importance(problem: ProblemView) -> tuple[float, ...]:
    """Return the sort key within a place: failures, then the severest, then latest."""
    is_other = problem.kind not in _FAILURES
    return is_other, -_rank(problem.severity), -(problem.since or 0.0)


def _urgency(problem: ProblemView) -> tuple[float, ...]:
    """Return the sort key of a problem: the severest first, then the latest."""
    return -_rank(problem.severity), -(problem.since or 0.0)
