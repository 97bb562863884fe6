"""Explains why a rule does not fire: its groups, those nearest to firing first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from kaywatch_agent.model.bounds import Count
from kaywatch_agent.rules.alert import alert_id
from kaywatch_agent.rules.describe import condition_text, predicate_text
from kaywatch_agent.rules.expression import Compare
from kaywatch_agent.rules.result import STATUSES, RuleResult
from kaywatch_agent.rules.rule import Absence, BurnRate, Rule, Stuck, Threshold
from kaywatch_agent.rules.state import ConditionStatus
from kaywatch_agent.units import duration

__all__ = ["GroupResult", "nearest", "rule_sentence"]

_ORDER: Final = {ConditionStatus.BREACH: 0, ConditionStatus.BAND: 1}


class GroupResult(msgspec.Struct, frozen=True):
    """The last result of a rule for one group of series.

    Attributes:
        alert: the id that the group's alert has or would have.
        labels: the group's labels.
        status: of the condition.
        value: of the metric that is shown; None if unknown.
        threshold: what it is compared with.
        executions, errors: in the window.
        needed: how many executions the result needs; 0 if it needs none.
        metrics: all values that were used.
        text: why it is not a breach, or that it is one.
    """

    alert: str
    labels: dict[str, str]
    status: ConditionStatus
    value: float | None
    threshold: float | None
    executions: Count
    errors: Count
    needed: Count
    metrics: dict[str, float | None]
    text: str


def nearest(rule: Rule, result: RuleResult, limit: int) -> list[GroupResult]:
    """Return the results of the groups that are nearest to firing."""
    values, thresholds = result.value.tolist(), result.threshold.tolist()
    statuses = [STATUSES[code] for code in result.codes.tolist()]

    def distance(n: int) -> tuple[int, float]:
        missing = thresholds[n] - values[n]
        if not math.isfinite(missing):
            return _ORDER.get(statuses[n], 3), 0.0
        if rule.low_is_bad:
            missing = -missing
        # Distances are relative to the threshold, which may differ between groups.
        return _ORDER.get(statuses[n], 2), missing / max(abs(thresholds[n]), 1e-9)

    order = sorted(range(len(result.groups)), key=distance)[:limit]
    labels = [dict(zip(result.labels, result.groups[n], strict=True)) for n in order]
    return [
        GroupResult(
            alert_id(rule.name, own),
            own,
            statuses[n],
            _finite(values[n]),
            _finite(thresholds[n]),
            int(result.executions[n]),
            int(result.errors[n]),
            _needed(rule),
            {name: _finite(float(all_[n])) for name, all_ in result.metrics.items()},
            _status_text(rule, result, n, statuses[n]),
        )
        for n, own in zip(order, labels, strict=True)
    ]


def rule_sentence(rule: Rule) -> str:
    """Return in words what a rule looks for, when it fires and when it resolves."""
    text = condition_text(rule)
    if isinstance(rule.condition, Threshold):
        text += f" over {duration(rule.window)}"
    if rule.match:
        text += f", where {' and '.join(map(str, rule.match))}"
    text += f", per {_listed(rule.per)}" if rule.per else ", for all series together"
    if _needs_executions(rule):
        text += f", with at least {rule.min_executions} executions"
    for_, keep_firing_for = rule.timing.for_, rule.timing.keep_firing_for
    text += f"; fires after {duration(for_)}" if for_ else "; fires at once"
    clear = rule.condition.clear if isinstance(rule.condition, Threshold) else None
    clear_text = predicate_text(clear) if isinstance(clear, Compare) else ""
    if keep_firing_for:
        what = f"of {clear_text}" if clear_text else "without it"
        return f"{text}, resolves after {duration(keep_firing_for)} {what}"
    return f"{text}, resolves at once" + (f" when {clear_text}" if clear_text else "")


# -- inside --------------------------------------------------------------------------


def _listed(names: Sequence[str]) -> str:
    """Return such as `service, graph and node`."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _status_text(
    rule: Rule, result: RuleResult, n: int, status: ConditionStatus
) -> str:
    condition, executions = rule.condition, int(result.executions[n])
    compared = result.compared.get(result.groups[n], "")
    match status:
        case ConditionStatus.BREACH:
            return "the condition is met"
        case ConditionStatus.BAND:
            clear = condition.clear if isinstance(condition, Threshold) else None
            return f"not met, but not clear either; clear is {clear}"
        case ConditionStatus.CLEAR:
            return f"not met: {compared}" if compared else "not met"
    match condition:
        case Absence():
            return "no data: the agent has not been observing for long enough"
        case Stuck():
            return f"no data: its p99 needs at least {rule.min_executions} executions"
    window = condition.long if isinstance(condition, BurnRate) else rule.window
    if executions < _needed(rule):
        noun = "execution" if executions == 1 else "executions"
        counted = f"{executions} {noun} in {duration(window)}"
        return f"no data: {counted}, {_needed(rule)} are needed"
    if executions:
        return "no data: it has not been observed for long enough"
    return f"no data in {duration(window)}"


def _needed(rule: Rule) -> int:
    """Return how many executions in the window the result needs; 0 for none."""
    if isinstance(rule.condition, BurnRate):
        return rule.condition.min_events
    return rule.min_executions if _needs_executions(rule) else 0


def _needs_executions(rule: Rule) -> bool:
    match rule.condition:
        case Threshold() as condition:
            return bool(rule.min_executions) and condition.needs_executions
        case Absence() | BurnRate() | Stuck():
            return False
    return True


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
