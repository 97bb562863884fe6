"""An alert as facts, for those who tell of it and those who show it."""

from __future__ import annotations

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
from kaywatch_agent.rules.summary import fill, usual
from kaywatch_agent.units import duration, quantity

__all__ = ["all_labels", "condition_of", "describe", "labels_of", "unit_of", "words"]


def labels_of(
    instance: Alert, rule: Rule | None, settings: AlertSettings
) -> dict[str, str]:
    """Return the labels of an alert, but for `alertname` and `severity`."""
    own = {name: value for name, value in instance.labels.items() if value}
    return {**settings.labels, **(rule.labels if rule else {}), **own}


def all_labels(instance: Alert, settings: AlertSettings) -> dict[str, str]:
    """Return all labels of an alert, with `alertname` and `severity`."""
    rule = settings.rules.get(instance.rule)
    return {
        **labels_of(instance, rule, settings),
        "alertname": instance.rule,
        "severity": rule.severity if rule else "warning",
    }


def describe(
    instance: Alert, settings: AlertSettings, host: str, clock: float
) -> AlertDetails:
    """Return the facts about an alert.

    Args:
        instance: the alert.
        settings: the rules, and what else is set.
        host: where the agent runs.
        clock: the alerts' own, in seconds.
    """
    rule = settings.rules.get(instance.rule)
    life, context, worst = instance.life, instance.context, instance.worst
    labels = labels_of(instance, rule, settings)
    unit = unit_of(rule)
    return AlertDetails(
        id=instance.id,
        rule=instance.rule,
        severity=rule.severity if rule else "warning",
        labels=labels,
        dedup_key=dedup_key(settings.namespace, instance.rule, instance.labels),
        episode=life.episode,
        resolved=not life.is_firing,
        reason=life.reason,
        condition=condition_of(rule),
        value=instance.value,
        threshold=instance.threshold,
        clear=_clear(rule),
        unit=unit,
        worst=worst.value if worst else None,
        worst_at=worst.time if worst else None,
        window_seconds=rule.window if rule else 0.0,
        executions=instance.executions,
        errors=instance.errors,
        completeness=context.completeness,
        started=life.started,
        fired=life.fired,
        ended=life.ended,
        summary=_summary(instance, rule, labels, unit),
        error_classes=context.error_classes,
        transition=context.transition,
        history=context.history,
        evidence=context.evidence,
        host=host,
        runbook_url=rule.runbook_url if rule else "",
        dashboard_url=_link(settings, "/", graph=instance.labels.get("graph", "")),
        silence_url=_link(settings, "/silence", alert=instance.id),
        flapping=instance.flapping(clock),
        note=_note(instance, rule),
    )


def condition_of(rule: Rule | None) -> str:
    """Return what a rule looks for, in words."""
    if rule is None:
        return ""
    match rule.test:
        case Threshold(breach=breach):
            return words(breach)
        case Absence(max_age=age):
            return f"no execution for {quantity(age, 'seconds')}"
        case BurnRate() as test:
            return f"burn rate > {test.factor:g} of objective {test.objective:g}"
        case Transition(change="share") as test:
            ends = [
                f"{word} {end:.0%}"
                for word, end in (("above", test.above), ("below", test.below))
                if end is not None
            ]
            return f"share of {test.action} {' or '.join(ends)}"
        case Transition(change="new"):
            return "an action that was never taken before"
        case Transition():
            return "an action that is no longer taken"
        case Stuck() as test:
            text = f"at work for over {test.factor:g} times its p99"
            if test.max_age is None:
                return text
            return f"{text}, or {quantity(test.max_age, 'seconds')}"


# -- inside --------------------------------------------------------------------------


def words(condition: Predicate) -> str:
    """Return a condition; bytes as people write them."""
    if isinstance(condition, Compare):
        metric, op, value = condition
        if metrics.find(metric).unit == "bytes":
            return f"{metric} {op} {quantity(value, 'bytes')}"
    return str(condition)


def unit_of(rule: Rule | None) -> str:
    """Return the unit of what a rule looks at."""
    match rule.test if rule else None:
        case Threshold(metric=metric):
            return metrics.find(metric).unit
        case Absence() | Stuck():
            return "seconds"
        case Transition():
            return "ratio"
    return ""


def _note(instance: Alert, rule: Rule | None) -> str:
    left = instance.context.budget_left
    if left is None or rule is None or not isinstance(rule.test, BurnRate):
        return instance.note
    of = f"of the error budget of {duration(rule.test.slo_window)}"
    budget = f"{quantity(left, 'ratio')} {of} was left when it fired"
    if left <= 0:
        budget = f"all {of} was used up when it fired"
    return f"{instance.note}; {budget}" if instance.note else budget


def _clear(rule: Rule | None) -> float | None:
    return rule.test.clear_at if rule and isinstance(rule.test, Threshold) else None


def _summary(
    instance: Alert, rule: Rule | None, labels: dict[str, str], unit: str
) -> str:
    where = " / ".join(value for value in instance.labels.values() if value)
    if rule is None:
        return f"{where or instance.rule}: the rule is gone"
    over = instance.life.state is AlertState.OK and isinstance(rule.test, Threshold)
    if rule.summary and not over:  # it says what is wrong, which isn't so any more
        return fill(
            rule.summary,
            {
                **labels,
                "rule": rule.name,
                "metric": getattr(rule.test, "metric", rule.kind),
                "value": instance.value,
                "threshold": instance.threshold,
                "clear": _clear(rule),
                "window": quantity(rule.window, "seconds"),
                "executions": instance.executions,
                "errors": instance.errors,
            },
        )
    where = where or instance.rule
    match rule.test:
        case Threshold(metric=metric, breach=breach):
            op = getattr(breach, "op", ">")
            counts = (instance.executions, instance.errors, rule.window)
            return usual(
                where, metric, op, instance.value, instance.threshold, unit, counts
            )
        case Absence():
            age = "never" if instance.value is None else quantity(instance.value, unit)
            last = (
                "it never ran"
                if instance.value is None
                else f"the last ended {age} ago"
            )
            return f"{where}: no execution, {last}"
        case BurnRate():
            return f"{where}: {instance.note or condition_of(rule)}"
        case Stuck():
            return f"{where}: at work for {quantity(instance.value, unit)}"
        case Transition(change="share", action=action):
            share = quantity(instance.value, unit)
            return f"{where}: {action} after {share} of executions"
    return f"{where}: {condition_of(rule)}"


def _link(settings: AlertSettings, path: str, **query: str) -> str:
    if not settings.external_url:
        return ""
    known = {name: value for name, value in query.items() if value}
    return f"{settings.external_url}{path}" + (f"?{urlencode(known)}" if known else "")
