"""Describes alerts and rules for people and notifications: facts, and one sentence."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from kaywatch_agent.model.alerts import NO_DATA, AlertDetails, dedup_key
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
from kaywatch_agent.rules.sentences import (
    next_step,
    states_value,
    threshold_sentence,
)
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.units import duration, quantity

__all__ = [
    "FIELDS",
    "check_template",
    "fields_of",
    "condition_text",
    "describe",
    "predicate_text",
    "unit_of",
]

# The fields of a summary's template, besides the alert's labels.
FIELDS: Final[tuple[str, ...]] = (
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
    summary, note = _summary(alert, rule, labels), _note(alert, rule)
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
        clear=_clear_at(alert, rule),
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
        summary=summary,
        error_classes=context.error_classes,
        transition=context.transition,
        history=context.history,
        evidence=context.evidence,
        host=host,
        in_words=_is_in_words(rule),
        runbook_url=rule.runbook_url if rule else "",
        dashboard_url=_dashboard(alert, settings),
        silence_url=_link(settings, "/silence", alert=alert.id),
        flapping=alert.is_flapping(clock),
        # A sentence that contains the note needs no second one.
        note="" if note in summary else note,
        next_step=_next_step(alert, rule),
        cost=context.cost,
    )


def _is_in_words(rule: Rule | None) -> bool:
    match rule.condition if rule else None:
        case Threshold() as condition:
            return not states_value(condition)
    return False


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
                f"{word} {100 * end:g} %"
                for word, end in ends.items()
                if end is not None
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


def fields_of(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    """Return the parts of a summary's template, as `string.Formatter.parse` does.

    Raises:
        ValueError: it is no template.
    """
    try:
        return list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r}: {error}") from None


def check_template(template: str) -> str:
    """Return the template of a summary if it is valid.

    Raises:
        ValueError: the part that is invalid, and why.
    """
    for _, name, spec, conversion in fields_of(template):
        if name is None:
            continue
        # `_fill` looks up plain names, and converts nothing.
        if not name.isidentifier() or conversion:
            raise ValueError(f"{{{name}}}: expected a plain name such as {{node}}")
        # These are numbers. The format of a label depends on its value.
        if spec and name in ("value", "threshold", "clear"):
            try:
                format(1.5, spec)
            except ValueError as error:
                raise ValueError(f"{{{name}:{spec}}}: {error}") from None
    return template


# -- inside --------------------------------------------------------------------------


def _note(alert: Alert, rule: Rule | None) -> str:
    share_left = alert.context.budget_left
    if share_left is None or rule is None or not isinstance(rule.condition, BurnRate):
        return alert.note
    budget = f"of the error budget of {duration(rule.condition.slo_window)}"
    text = f"{quantity(share_left, 'ratio')} {budget} was left when it fired"
    if share_left <= 0:
        text = f"all {budget} was used up when it fired"
    return f"{alert.note}; {text}" if alert.note else text


def _next_step(alert: Alert, rule: Rule | None) -> str:
    if not alert.lifecycle.is_firing:
        return ""
    match rule.condition if rule else None:
        case Threshold() as threshold:
            return next_step(threshold)
        case Stuck():
            return "look at what the execution waits for; a timeout would end it"
        case Absence():
            return "check that its process runs, and what starts its runs"
    return ""


def _clear_at(alert: Alert, rule: Rule | None) -> float | None:
    match rule.condition if rule else None:
        case Threshold(clear_at=clear, threshold=threshold, model_factor=factor):
            # A node that calls models may have a higher limit of its own.
            if factor and clear is not None and alert.threshold:
                return clear * alert.threshold / threshold
            return clear
    return None


def _summary(alert: Alert, rule: Rule | None, labels: Mapping[str, str]) -> str:
    where = " / ".join(value for value in alert.labels.values() if value) or alert.rule
    if rule is None:
        return f"{where}: the rule was removed"
    # A template describes the problem. A resolved threshold has none to describe.
    resolved = alert.lifecycle.state is AlertState.OK
    if resolved and alert.lifecycle.reason == NO_DATA:
        silent = f", or too little, for {duration(rule.timing.no_data_after)}"
        why = f": {alert.departed}" if alert.departed else silent
        return f"{where}: no data{why}; not confirmed healthy"
    if rule.summary and not (resolved and isinstance(rule.condition, Threshold)):
        return _fill(rule.summary, _fields(alert, rule, labels))
    return f"{where}: {_sentence(alert, rule)}"


def _sentence(alert: Alert, rule: Rule) -> str:
    """Return the state of an alert in one sentence, without its location."""
    unit = unit_of(rule)
    match rule.condition:
        case Threshold() as threshold:
            return threshold_sentence(alert, rule, threshold)
        case Absence() if alert.value is None:
            return "no execution was ever seen"
        case Absence():
            return f"no execution for {quantity(alert.value, unit)}"
        case BurnRate():
            return alert.note or condition_text(rule)
        case Stuck() if alert.lifecycle.state is AlertState.OK:
            return "the execution is no longer in flight"
        case Stuck():
            text = f"one execution has taken {quantity(alert.value, unit)} so far"
            limit = f"(limit {quantity(alert.threshold, unit)})"
            return f"{text} {limit}" + (alert.note and f": {alert.note}")
        case Transition(change="share", action=action):
            share = quantity(alert.value, unit)
            return f"{action} after {share} of executions"
    return condition_text(rule)


def _fields(alert: Alert, rule: Rule, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        **labels,
        "rule": rule.name,
        "metric": getattr(rule.condition, "metric", rule.kind),
        "value": alert.value,
        "threshold": alert.threshold,
        "clear": _clear_at(alert, rule),
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
    parameters = {name: value for name, value in query.items() if value}
    return f"{settings.external_url}{path}" + (
        f"?{urlencode(parameters)}" if parameters else ""
    )
