"""Finds problems of runs in progress."""

from __future__ import annotations

from collections.abc import Iterator

from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.units import money
from kaywatch_agent.web.api.diagnosis.evidence import NodeEvidence
from kaywatch_agent.web.api.diagnosis.problem import Place, ProblemKind, ProblemView
from kaywatch_agent.web.api.runs import RunInProgress, list_in_progress

__all__ = ["troubled_runs"]


def troubled_runs(evidence: NodeEvidence) -> Iterator[ProblemView]:
    """Yield one problem for each place with runs in progress that loop or are stuck.

    Runs that retry are left to the check of masked failures.
    """
    looping: dict[Place, list[RunInProgress]] = {}
    stuck: dict[Place, list[RunInProgress]] = {}
    for run in list_in_progress(evidence.snapshot):
        if "looping" in run.trouble:
            looping.setdefault((run.service, run.graph, ""), []).append(run)
        if "stuck" in run.trouble:
            stuck.setdefault((run.service, run.graph, run.node), []).append(run)
    for place, runs in looping.items():
        yield _runaway(place, runs)
    for place, runs in stuck.items():
        yield _stuck(place, runs)


# -- inside --------------------------------------------------------------------------


def _problem(
    kind: ProblemKind,
    severity: Severity,
    place: Place,
    text: str,
    details: list[str],
    *,
    since: float | None = None,
    run: str = "",
) -> ProblemView:
    service, graph, node = place
    return ProblemView(
        kind=kind,
        severity=severity,
        service=service,
        graph=graph,
        node=node,
        text=text,
        details=details,
        since=since,
        count=None,
        cost_usd=None,
        run=run,
    )


def _runaway(place: Place, runs: list[RunInProgress]) -> ProblemView:
    worst = max(runs, key=lambda run: run.visits)
    text = "a run goes in circles"
    visits = f"{worst.visits:,} node visits so far"
    where = [f"now at {worst.node}", f"pid {worst.pid}"]
    details = [visits, *_cost(worst), *where, *_others(runs)]
    return _problem(
        "runaway", "error", place, text, details, since=worst.start, run=worst.run
    )


def _stuck(place: Place, runs: list[RunInProgress]) -> ProblemView:
    first = min(runs, key=lambda run: run.node_start)
    text = "a run is stuck here"
    details = [*_cost(first), f"pid {first.pid}", *_others(runs)]
    return _problem(
        "stuck", "warning", place, text, details, since=first.node_start, run=first.run
    )


def _cost(run: RunInProgress) -> list[str]:
    """Return the cost so far of the run's calls of models, if it made any."""
    unpriced = f"{run.unpriced_tokens:,.0f} tokens"
    if run.cost_usd is None:
        return [f"{unpriced} without a price"] if run.unpriced_tokens else []
    more = f" and {unpriced} without a price" if run.unpriced_tokens else ""
    return [f"{money(run.cost_usd)}{more} spent on models"]


def _others(runs: list[RunInProgress]) -> list[str]:
    more = len(runs) - 1
    return [f"and {more} more run{'' if more == 1 else 's'}"] if more else []
