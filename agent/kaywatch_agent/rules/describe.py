"""Describes alerts and rules for people and notifications: facts, and one sentence."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from kaywatch_agent.model.alerts import AlertDetails, dedup_key
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.expression import Compare, Predicate
from kaywatch_agent.rules.rule import (
    Absence,
    AlertSettings,
    BurnRate,
    Rule,
    Stuck,
    Threshold,
    Transition,
)
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.units import duration, quantity

__all__ = [
    "FIELDS",
    "check_template",
    "condition_text",
    "describe",
    "predicate_text",
    "unit_of",
]

# The fields of a summary's template, besides the alert's labels.
FIELDS: Final = (
    "rule", "value", "threshold", "clear", "window", "executions", "errors", "metric"
)  # fmt: skip


def describe(
    alert: Alert, settings: AlertSettings, host: str, clock: float
) -> AlertDetails:
    """Return an alert as notifications carry it.

    Args:
        alert: the alert.
        settings: the rules and everything else that is configured.
        host: the agent's host name.
        clock: the alert clock, in seconds.
    """
    rule = settings.rules.get(alert.rule)
    life, context, worst = alert.lifecycle, alert.context, alert.worst
    labels = settings.own_labels(alert)
    return AlertDetails(
        id=alert.id,
        rule=alert.rule,
        severity=settings.severity_of(alert),
        labels=labels,
        dedup_key=dedup_key(settings.namespace, alert.rule, alert.labels),
        episode=life.episode,
        resolved=not life.is_firing,
        reason=life.reason,
        condition=condition_text(rule),
        value=alert.value,
        threshold=alert.threshold,
        clear=_clear_at(rule),
        unit=unit_of(rule),
        worst=worst.value if worst else None,
        worst_at=worst.time if worst else None,
        window_seconds=rule.window if rule else 0.0,
        executions=alert.executions,
        errors=alert.errors,
        completeness=context.completeness,
        started=life.started,
        fired=life.fired,
        ended=life.ended,
        summary=_summary(alert, rule, labels),
        error_classes=context.error_classes,
        transition=context.transition,
        history=context.history,
        evidence=context.evidence,
        host=host,
        runbook_url=rule.runbook_url if rule else "",
        dashboard_url=_dashboard(alert, settings),
        silence_url=_link(settings, "/silence", alert=alert.id),
        flapping=alert.is_flapping(clock),
        note=_note(alert, rule),
    )


def condition_text(rule: Rule | None) -> str:
    """Return the condition of a rule, such as `error_rate > 0.05`."""
    match rule.condition if rule else None:
        case Threshold(breach=breach):
            return predicate_text(breach)
        case Absence(max_age=age):
            return f"no execution for {quantity(age, 'seconds')}"
        case BurnRate() as burn:
            return f"burn rate > {burn.factor:g} of objective {burn.objective:g}"
        case Transition(change="share") as share:
            ends = {"above": share.above, "below": share.below}
            parts = [
                f"{word} {end:.0%}" for word, end in ends.items() if end is not None
            ]
            return f"share of {share.action} {' or '.join(parts)}"
        case Transition(change="new"):
            return "an action that was never taken before"
        case Transition():
            return "an action that is no longer taken"
        case Stuck() as stuck:
            text = f"in flight for over {stuck.factor:g} times its p99"
            if stuck.max_age is None:
                return text
            return f"{text}, or {quantity(stuck.max_age, 'seconds')}"
    return ""


def predicate_text(predicate: Predicate) -> str:
    """Return a predicate; a size in bytes with its unit."""
    if isinstance(predicate, Compare):
        metric, op, value = predicate
        if metrics.find(metric).unit == "bytes":
            return f"{metric} {op} {quantity(value, 'bytes')}"
    return str(predicate)


def unit_of(rule: Rule | None) -> str:
    """Return the unit of a rule's value."""
    match rule.condition if rule else None:
        case Threshold(metric=metric):
            return metrics.find(metric).unit
        case Absence() | Stuck():
            return "seconds"
        case Transition():
            return "ratio"
    return ""


def check_template(template: str) -> str:
    """Return the template of a summary if it is valid.

    Raises:
        ValueError: the part that is invalid, and why.
    """
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r}: {error}") from None
    for _, name, spec, conversion in fields:
        if name is None:
            continue
        if not name.isidentifier() or conversion:
            raise ValueError(f"{{{name}}}: expected a plain name such as {{node}}")
        if spec and name in ("value", "threshold", "clear"):
            try:
                format(1.5, spec)
            except ValueError as error:
                raise ValueError(f"{{{name}:{spec}}}: {error}") from None
    return template


# -- inside --------------------------------------------------------------------------


def _note(alert: Alert, rule: Rule | None) -> str:
    left = alert.context.budget_left
    if left is None or rule is None or not isinstance(rule.condition, BurnRate):
        return alert.note
    budget = f"of the error budget of {duration(rule.condition.slo_window)}"
    text = f"{quantity(left, 'ratio')} {budget} was left when it fired"
    if left <= 0:
        text = f"all {budget} was used up when it fired"
    return f"{alert.note}; {text}" if alert.note else text


def _clear_at(rule: Rule | None) -> float | None:
    threshold = rule is not None and isinstance(rule.condition, Threshold)
    return rule.condition.clear_at if threshold else None  # type: ignore[union-attr]


def _summary(alert: Alert, rule: Rule | None, labels: Mapping[str, str]) -> str:
    where = " / ".join(value for value in alert.labels.values() if value) or alert.rule
    if rule is None:
        return f"{where}: the rule was removed"
    # A template describes the problem. A resolved threshold has none to describe.
    resolved = alert.lifecycle.state is AlertState.OK
    if rule.summary and not (resolved and isinstance(rule.condition, Threshold)):
        return _fill(rule.summary, _fields(alert, rule, labels))
    unit = unit_of(rule)
    match rule.condition:
        case Threshold() as threshold:
            return f"{where}: {_comparison(alert, rule, threshold)}"
        case Absence() if alert.value is None:
            return f"{where}: no execution was ever seen"
        case Absence():
            return f"{where}: no execution for {quantity(alert.value, unit)}"
        case BurnRate():
            return f"{where}: {alert.note or condition_text(rule)}"
        case Stuck():
            return f"{where}: in flight for {quantity(alert.value, unit)}"
        case Transition(change="share", action=action):
            share = quantity(alert.value, unit)
            return f"{where}: {action} after {share} of executions"
    return f"{where}: {condition_text(rule)}"


def _comparison(alert: Alert, rule: Rule, condition: Threshold) -> str:
    """Return such as `error rate 7.0 %, above 5.0 % (7 of 100 failed in 5m)`."""
    unit, value, threshold = unit_of(rule), alert.value, alert.threshold
    name = condition.metric.removeprefix("custom.").replace("_", " ")
    text = f"{name} {quantity(value, unit)}"
    if threshold is not None:
        op = getattr(condition.breach, "op", ">")
        text += f", {_side(op, value, threshold)} {quantity(threshold, unit)}"
    if alert.executions:
        failed = f"{alert.errors} of {alert.executions} failed"
        text += f" ({failed} in {duration(rule.window)})"
    return text


def _side(op: str, value: float | None, threshold: float) -> str:
    """Return `above` or `below` if the value is on the bad side, else `limit`."""
    if value is None or (value == threshold and not op.endswith("=")):
        return "limit"
    if op.startswith("<"):
        return "below" if value <= threshold else "limit"
    return "above" if value >= threshold else "limit"


def _fields(alert: Alert, rule: Rule, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        **labels,
        "rule": rule.name,
        "metric": getattr(rule.condition, "metric", rule.kind),
        "value": alert.value,
        "threshold": alert.threshold,
        "clear": _clear_at(rule),
        "window": quantity(rule.window, "seconds"),
        "executions": alert.executions,
        "errors": alert.errors,
    }


def _fill(template: str, values: Mapping[str, Any]) -> str:
    """Return a template with its values; unknown fields stay as they are."""
    parts = []
    for text, name, spec, _ in string.Formatter().parse(template):
        parts.append(text)
        if name is None:
            continue
        value = values.get(name, f"{{{name}}}")
        try:
            parts.append(format(value, spec or ""))
        except (ValueError, TypeError):
            # A value of None has no number format.
            parts.append(str(value))
    return "".join(parts)


def _dashboard(alert: Alert, settings: AlertSettings) -> str:
    """Return the link to the page: the graph or the node, with the alert."""
    places = {name: alert.labels.get(name, "") for name in ("service", "graph", "node")}
    view = "graph" if places["graph"] else "alerts"
    return _link(settings, "/", view=view, **places, alert=alert.id)


def _link(settings: AlertSettings, path: str, **query: str) -> str:
    if not settings.external_url:
        return ""
    given = {name: value for name, value in query.items() if value}
    return f"{settings.external_url}{path}" + (f"?{urlencode(given)}" if given else "")
