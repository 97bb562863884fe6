"""Finds the problems of nodes that built-in rules report: failing, slow, dead ends.

A check yields suspects: places that a rule reports. When that began, and how many
events it has affected since then, is found for all suspects at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.model.series import OTHER
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.units import duration, money, plural
from kaywatch_agent.web.api.diagnosis.evidence import (
    HourCounts,
    NodeEvidence,
    Onset,
)
from kaywatch_agent.web.api.diagnosis.problem import (
    Place,
    ProblemKind,
    ProblemView,
    share_text,
)

__all__ = ["CHECKS", "Suspect", "waste_details"]

# Half of the executions fail: no longer a warning.
SEVERE_SHARE: Final = 0.5

# The exceptions that a sentence names; it stays short.
NAMED_ERRORS: Final = 2

_FAILING: Final = ("success_rate_min", "error_rate_max")


class Suspect(NamedTuple):
    """A place that is probably in trouble.

    Attributes:
        kind: the kind of problem.
        place: the node.
        onset: returns since when it lasts, and how many events it affected.
        describe: returns severity, text and details.
    """

    kind: ProblemKind
    place: Place
    onset: Callable[[HourCounts], Onset]
    describe: Callable[[Onset], tuple[Severity, str, list[str]]]

    def problem(self, history: HourCounts) -> ProblemView:
        """Return the problem, with its onset from the history."""
        onset = self.onset(history)
        severity, text, details = self.describe(onset)
        if onset.is_whole:
            details = ["from the first one on", *details]
        service, graph, node = self.place
        return ProblemView(
            kind=self.kind,
            severity=severity,
            service=service,
            graph=graph,
            node=node,
            text=text,
            details=details,
            since=onset.since,
            count=onset.bad,
            cost_usd=onset.wasted,
        )


def failing(evidence: NodeEvidence) -> Iterator[Suspect]:
    """Yield nodes that fail more often than the page's thresholds allow."""
    yield from _failing("failing", evidence, list(_alerts(evidence, *_FAILING)))


def low_traffic(evidence: NodeEvidence) -> Iterator[Suspect]:
    """Yield nodes with too few executions for other rules, many of which failed."""
    known = _alerts(evidence, *_FAILING)
    longer = _of_rule(evidence, "low_traffic")
    places = [one for one in _alerts(longer, "low_traffic") if one not in known]
    yield from _failing("low_traffic", longer, places)


def slow(evidence: NodeEvidence) -> Iterator[Suspect]:
    """Yield nodes that are slower than the threshold, or than they usually are."""
    absolute = _alerts(evidence, "avg_execution_time_max")
    for place, alert in absolute.items():
        limit = alert.threshold or 0.0
        text = f"takes {duration(alert.value or 0.0)} on average"
        yield _slow(place, limit, text, f"the limit is {duration(limit)}")
    usual = evidence.alerts.usual("slow")
    for place, alert in _alerts(evidence, "slow").items():
        if place not in absolute and place in usual:
            limit = usual[place] * (alert.threshold or 1.0)
            yield _slow(place, limit, f"takes {alert.note}", usual=usual[place])


def masked(evidence: NodeEvidence) -> Iterator[Suspect]:
    """Yield nodes whose failing calls are hidden by retries or fallbacks."""
    for place in _alerts(evidence, "masked_failures"):
        yield _masked(place)


def wasteful(evidence: NodeEvidence) -> Iterator[Suspect]:
    """Yield nodes that spend much on attempts that fail."""
    for place, alert in _alerts(evidence, "wasted_spend").items():
        yield _wasteful(place, share_text(alert.value or 0.0))


def dead_ends(evidence: NodeEvidence) -> Iterator[Suspect]:
    """Yield nodes at which runs ended with an action that has no edge."""
    longer = _of_rule(evidence, "dead_end")
    places = _alerts(longer, "dead_end")
    ends = longer.dead_ends(places)
    for place in places:
        actions = ends.get(place)
        if actions:
            worst = max(actions, key=lambda name: actions[name])
            yield _dead_end(place, worst)


CHECKS: Final = (
    low_traffic,
    failing,
    masked,
    slow,
    dead_ends,
    wasteful,
)


def waste_details(cost: float | None) -> list[str]:
    """Return what failed attempts cost in dollars, in words; nothing without a cost."""
    return [f"{money(cost)} spent on failed attempts"] if cost else []


# -- inside --------------------------------------------------------------------------


def _alerts(evidence: NodeEvidence, *rules: str) -> dict[Place, Alert]:
    """Return the nodes that built-in rules report, with the first alert of each."""
    alerts: dict[Place, Alert] = {}
    for alert in evidence.alerts.built_in(*rules):
        labels = alert.labels
        place = labels["service"], labels["graph"], labels["node"]
        if place in evidence.nodes:
            alerts.setdefault(place, alert)
    return alerts


def _of_rule(evidence: NodeEvidence, name: str) -> NodeEvidence:
    """Return the evidence of a rule's own window."""
    rule = evidence.alerts.settings.rules.get(name)
    if rule is None or rule.window == evidence.seconds:
        return evidence
    return NodeEvidence(evidence.snapshot, int(rule.window))


def _failing(
    kind: ProblemKind, evidence: NodeEvidence, places: Collection[Place]
) -> Iterator[Suspect]:
    for place in places:
        yield _failing_node(kind, place, evidence.seconds)


def _failing_node(kind: ProblemKind, place: Place, seconds: int) -> Suspect:
    def describe(onset: Onset) -> tuple[Severity, str, list[str]]:
        severity: Severity = "error" if onset.share >= SEVERE_SHARE else "warning"
        text = f"{share_text(onset.share)} of executions fail"
        if kind == "low_traffic":
            text = f"{onset.bad} of {onset.events} executions failed"
        return severity, text, _facts(onset, "failure")

    def onset(history: HourCounts) -> Onset:
        if kind == "low_traffic":
            return history.recent_failures(place, seconds)
        return history.failures(place)

    return Suspect(kind, place, onset, describe)


def _slow(
    place: Place, limit: float, text: str, *details: str, usual: float | None = None
) -> Suspect:
    def describe(onset: Onset) -> tuple[Severity, str, list[str]]:
        counts = [plural(onset.bad, "slow execution")]
        if usual is not None:
            longer = max(0.0, onset.seconds - usual * onset.events)
            counts.append(f"{duration(longer)} longer in total")
        return "warning", text, [*counts, *details]

    return Suspect("slow", place, lambda history: history.slow(place, limit), describe)


def _masked(place: Place) -> Suspect:
    def describe(onset: Onset) -> tuple[Severity, str, list[str]]:
        share = share_text(onset.share)
        text = f"{share} of attempts fail, hidden by retries or fallbacks"
        return "warning", text, _facts(onset, "failed attempt")

    return Suspect(
        "masked_failures",
        place,
        lambda history: history.hidden_failures(place),
        describe,
    )


def _wasteful(place: Place, share: str) -> Suspect:
    return Suspect(
        "wasted_spend",
        place,
        lambda history: history.failed_attempts(place),
        lambda onset: (
            "info",
            f"{share} of what its model calls cost is wasted",
            _facts(onset, "failed attempt"),
        ),
    )


def _dead_end(place: Place, action: str) -> Suspect:
    return Suspect(
        "dead_end",
        place,
        lambda history: history.dead_ends(place),
        lambda onset: (
            "warning",
            f'{share_text(onset.share)} of runs stop here: no edge for "{action}"',
            [plural(onset.bad, "run")],
        ),
    )


def _facts(onset: Onset, bad: str) -> list[str]:
    """Return the number of bad events, by their noun, their cost and their causes."""
    return [plural(onset.bad, bad), *_errors(onset), *waste_details(onset.wasted)]


def _errors(onset: Onset) -> list[str]:
    """Return the most frequent types of exceptions, with their shares of all."""
    total = sum(onset.errors.values())
    # Of types with the same count, the order does not change with each request.
    types = sorted(onset.errors, key=lambda name: (-onset.errors[name], name))
    named = [name for name in types if name != OTHER][:NAMED_ERRORS]
    counts = {name: onset.errors[name] for name in named}
    counts["others"] = total - sum(counts.values())
    shares = [f"{name} {share_text(n / total)}" for name, n in counts.items() if n]
    return [", ".join(shares)] if shares else []
