"""Why a rule is quiet: what it found of each group, those nearest to firing first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.describe import condition_of, words
from kaywatch_agent.rules.evaluate import FINDINGS, RuleResult
from kaywatch_agent.rules.expression import Compare
from kaywatch_agent.rules.metrics import MetricSource
from kaywatch_agent.rules.rule import Absence, BurnRate, Rule, Stuck, Threshold
from kaywatch_agent.rules.state import ConditionStatus
from kaywatch_agent.units import duration

__all__ = ["GroupResult", "nearest", "sentence"]

_ORDER: Final = {ConditionStatus.BREACH: 0, ConditionStatus.BAND: 1}


class GroupResult(NamedTuple):
    """What was found of one group of series.

    Attributes:
        labels: what it is.
        finding: what was found.
        value: of the metric that is shown; None when it isn't known.
        threshold: what it is compared with.
        executions, errors: in the window.
        metrics: all values that were looked at.
        text: why it is no breach, or that it is one.
    """

    labels: Mapping[str, str]
    finding: ConditionStatus
    value: float | None
    threshold: float | None
    executions: int
    errors: int
    metrics: Mapping[str, float | None]
    text: str


def nearest(rule: Rule, found: RuleResult, limit: int) -> list[GroupResult]:
    """Return the groups that are nearest to firing, and those that would fire first."""
    values, thresholds = found.value.tolist(), found.threshold.tolist()
    codes = found.codes.tolist()
    upward = not rule.falls

    def distance(n: int) -> tuple[int, float]:
        value, threshold = values[n], thresholds[n]
        away = threshold - value if upward else value - threshold
        if not math.isfinite(away):
            return _ORDER.get(FINDINGS[codes[n]], 3), 0.0
        return _ORDER.get(FINDINGS[codes[n]], 2), away / max(abs(threshold), 1e-9)

    order = sorted(range(len(found.groups)), key=distance)[:limit]
    return [_group(rule, found, n) for n in order]


def sentence(rule: Rule) -> str:
    """Return what a rule looks for, when it fires and when it ends, in words."""
    text = condition_of(rule)
    if isinstance(rule.test, Threshold):
        text += f" over {duration(rule.window)}"
    if rule.match:
        text += f", where {' and '.join(map(str, rule.match))}"
    text += f", per {' and '.join(rule.per)}" if rule.per else ", all together"
    if _counts(rule):
        text += f", of {rule.min_executions} executions or more"
    hold, keep = rule.timing.hold, rule.timing.keep
    text += f"; fires after {duration(hold)}" if hold else "; fires at once"
    clear = rule.test.clear if isinstance(rule.test, Threshold) else None
    well = words(clear) if isinstance(clear, Compare) else ""
    if keep:
        after = f" of {well}" if well else " without it"
        return f"{text}, ends after {duration(keep)}{after}"
    return f"{text}, ends at once" + (f" with {well}" if well else "")


# -- inside --------------------------------------------------------------------------


def _group(rule: Rule, found: RuleResult, n: int) -> GroupResult:
    finding = FINDINGS[found.codes[n]]
    return GroupResult(
        dict(zip(found.labels, found.groups[n], strict=True)),
        finding,
        _known(float(found.value[n])),
        _known(float(found.threshold[n])),
        int(found.executions[n]),
        int(found.errors[n]),
        {name: _known(float(column[n])) for name, column in found.metrics.items()},
        _text(rule, found, n, finding),
    )


def _text(rule: Rule, found: RuleResult, n: int, finding: ConditionStatus) -> str:
    match finding:
        case ConditionStatus.BREACH:
            return "the condition is met"
        case ConditionStatus.BAND:
            clear = getattr(rule.test, "clear", None)
            return f"not met, nor clear again: that is {clear}" if clear else "not met"
        case ConditionStatus.CLEAR:
            return "not met"
    executions = int(found.executions[n])
    least = (
        rule.test.min_events if isinstance(rule.test, BurnRate) else rule.min_executions
    )
    if executions < least and not isinstance(rule.test, Absence | Stuck):
        window = duration(
            rule.test.long if isinstance(rule.test, BurnRate) else rule.window
        )
        return f"too few executions: {executions} in {window}, {least} are needed"
    if isinstance(rule.test, Absence):
        return "not known yet: the agent has not looked for long enough"
    if isinstance(rule.test, Stuck):
        return f"its p99 is not known before {rule.min_executions} executions"
    return f"no data in {duration(rule.window)}"


def _counts(rule: Rule) -> bool:
    if not isinstance(rule.test, Threshold):
        return not isinstance(rule.test, Absence | BurnRate | Stuck)
    return bool(rule.min_executions) and any(
        not metric.counts and metric.source in (MetricSource.NODES, MetricSource.RUNS)
        for metric in map(metrics.find, sorted(rule.test.breach.metrics()))
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
