"""Answers about alerts, rules and silences; each from one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from kaywatch_agent.model.alerts import SEVERITIES
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.alert import Alert, alert_id
from kaywatch_agent.rules.describe import condition_text, unit_of
from kaywatch_agent.rules.explain import nearest, rule_sentence
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.web.api import alert_shapes as shapes
from kaywatch_agent.web.api.parameters import (
    AlertsQuery,
    NoQuery,
    RuleQuery,
    RulesQuery,
    SilencesQuery,
)
from kaywatch_agent.web.api.silences import silence_row
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.reading import Reading

__all__ = [
    "alert_list",
    "find",
    "metric_list",
    "row",
    "rule_list",
    "rule_story",
    "silence_list",
]

_URGENCY: Final = {
    AlertState.FIRING: 0,
    AlertState.RECOVERING: 1,
    AlertState.PENDING: 2,
    AlertState.OK: 3,
}


def alert_list(reading: Reading, query: AlertsQuery) -> shapes.AlertList:
    """Return the alerts that match, the worst first."""
    picture = reading.picture()
    found = [i for i in picture.alerts if _asked(picture, i, query)]
    found = _worst_first(picture, found)
    return shapes.AlertList(
        timestamp=picture.now,
        matching=len(found),
        states=_states(picture.alerts),
        alerts=[row(picture, instance) for instance in found[: query.limit]],
    )


def rule_list(reading: Reading, query: RulesQuery) -> shapes.RuleList:
    """Return the rules that match."""
    picture = reading.picture()
    by_rule = _by_rule(picture.alerts)
    return shapes.RuleList(
        timestamp=picture.now,
        evaluated=picture.evaluated,
        interval=picture.settings.interval,
        problem=picture.problem,
        warnings=list(picture.settings.warnings),
        rules=[
            _rule_row(picture, rule, by_rule.get(rule.name, []))
            for rule in picture.settings.rules.values()
            if query.kind in (None, rule.kind)
            and query.severity in (None, rule.severity)
        ],
    )


def rule_story(reading: Reading, query: RuleQuery) -> shapes.RuleStory:
    """Return one rule, its alerts, and what is nearest to firing.

    Raises:
        Problem: 404.
    """
    picture = reading.picture()
    rule = picture.settings.rules.get(query.rule)
    if rule is None:
        raise not_found("rule", query.rule, picture.settings.rules, "/api/v1/rules")
    mine = [i for i in picture.alerts if i.rule == rule.name]
    found = picture.results.get(rule.name)
    return shapes.RuleStory(
        timestamp=picture.now,
        evaluated=picture.evaluated,
        problem=picture.problem,
        rule=_rule_row(picture, rule, mine),
        alerts=[row(picture, i) for i in _worst_first(picture, mine)[: query.limit]],
        nearest=[
            shapes.GroupRow(
                alert=alert_id(rule.name, group.labels),
                labels=dict(group.labels),
                finding=group.status.value,
                value=group.value,
                threshold=group.threshold,
                executions=group.executions,
                errors=group.errors,
                metrics=dict(group.metrics),
                text=group.text,
            )
            for group in (nearest(rule, found, query.limit) if found else ())
        ],
    )


def metric_list(_: Reading, __: NoQuery) -> shapes.MetricList:
    """Return what rules can be about."""
    return shapes.MetricList(
        metrics=[
            shapes.MetricRow(
                metric=name,
                unit=metric.unit,
                source=metric.source.value,
                help=metric.help,
                labels=list(metric.source.labels),
            )
            for name, metric in metrics.METRICS.items()
        ],
        ways=list(metrics.WAYS),
    )


def silence_list(reading: Reading, query: SilencesQuery) -> shapes.SilenceList:
    """Return the silences that match, those that hold first."""
    picture = reading.picture()
    rows = [silence_row(silence, picture) for silence in picture.silences]
    order = ("active", "pending", "expired")
    rows = [r for r in rows if query.state in (None, r.status.state)]
    rows.sort(key=lambda r: (order.index(r.status.state), r.endsAt, r.id))
    return shapes.SilenceList(timestamp=picture.now, silences=rows)


def find(picture: AlertsSnapshot, name: str) -> Alert:
    """Return the alert with an id.

    Raises:
        Problem: 404.
    """
    instance = next((i for i in picture.alerts if i.id == name), None)
    if instance is None:
        known = [i.id for i in picture.alerts]
        raise not_found("alert", name, known, "/api/v1/alerts")
    return instance


def row(picture: AlertsSnapshot, instance: Alert) -> shapes.AlertRow:
    """Return an alert as it is shown."""
    alert, life = picture.describe(instance), instance.lifecycle
    rule = picture.rule(instance)
    return shapes.AlertRow(
        id=instance.id,
        rule=alert.rule,
        state=life.state.value,
        since=_since(instance),
        held=life.progress,
        blind=life.no_data_for,
        severity=alert.severity,
        labels=alert.labels,
        summary=alert.summary,
        condition=alert.condition,
        value=alert.value,
        threshold=alert.threshold,
        clear=alert.clear,
        unit=alert.unit,
        window=alert.window_seconds,
        executions=alert.executions,
        errors=alert.errors,
        completeness=alert.completeness,
        episode=alert.episode,
        started=life.started or None,
        fired=life.fired or None,
        ended=life.ended,
        reason=life.reason,
        flapping=alert.flapping,
        note=alert.note,
        receivers=list(rule.notify) if rule else [],
        held_back={name: str(why) for name, why in instance.suppressions.items()}
        if life.is_firing
        else {},
        told={
            name: shapes.AlertTold(
                last=told.last, episode=told.episode, at=picture.wall(told.at)
            )
            for name, told in instance.notified.items()
        },
        silenced_by=[silence.id for silence in picture.silencing(instance)],
        runbook_url=alert.runbook_url,
        dashboard_url=alert.dashboard_url,
        silence_url=alert.silence_url,
        dedup_key=alert.dedup_key,
        fingerprint=alert.fingerprint,
    )


# -- inside --------------------------------------------------------------------------


def _asked(picture: AlertsSnapshot, instance: Alert, query: AlertsQuery) -> bool:
    state = instance.lifecycle.state
    if query.state == "active":
        if state is AlertState.OK:
            return False
    elif query.state not in (None, state.value):
        return False
    if query.rule not in (None, instance.rule):
        return False
    labels = picture.labels(instance)
    return all(
        wanted in (None, labels.get(name, ""))
        for name, wanted in (
            ("severity", query.severity),
            ("service", query.service),
            ("graph", query.graph),
            ("node", query.node),
        )
    )


def _worst_first(picture: AlertsSnapshot, instances: Iterable[Alert]) -> list[Alert]:
    def urgency(instance: Alert) -> tuple[int, int, float, str]:
        rule, life = picture.rule(instance), instance.lifecycle
        worst = SEVERITIES.index(rule.severity) if rule else 0
        newest = life.ended or life.fired or life.started
        return _URGENCY[life.state], -worst, -newest, instance.id

    return sorted(instances, key=urgency)


def _since(instance: Alert) -> float | None:
    """Return when an alert came into its state."""
    life = instance.lifecycle
    match life.state:
        case AlertState.PENDING:
            return life.started
        case AlertState.FIRING:
            return life.fired
        case AlertState.OK:
            return life.ended
    turns = [e.time for e in instance.timeline if e.after == life.state]
    return turns[-1] if turns else None


def _rule_row(
    picture: AlertsSnapshot, rule: Rule, instances: Iterable[Alert]
) -> shapes.RuleRow:
    timing, found = rule.timing, picture.results.get(rule.name)
    return shapes.RuleRow(
        rule=rule.name,
        kind=rule.kind,
        condition=condition_text(rule),
        sentence=rule_sentence(rule),
        unit=unit_of(rule),
        severity=rule.severity,
        window=rule.window,
        min_executions=rule.min_executions,
        hold=timing.for_,
        keep_firing_for=timing.keep_firing_for,
        no_data_after=timing.no_data_after,
        on_no_data=timing.on_no_data,
        cooldown=rule.cooldown,
        repeat_interval=rule.repeat_interval,
        match=[str(matcher) for matcher in rule.match],
        per=list(rule.per),
        labels=dict(rule.labels),
        receivers=list(rule.notify),
        runbook_url=rule.runbook_url,
        built_in=rule.built_in,
        groups=len(found.groups) if found else 0,
        states=_states(instances),
        refused=picture.refused.get(rule.name, 0),
    )


def _states(instances: Iterable[Alert]) -> dict[str, int]:
    counts = Counter(instance.lifecycle.state for instance in instances)
    return {state.value: counts[state] for state in AlertState}


def _by_rule(instances: Iterable[Alert]) -> dict[str, list[Alert]]:
    found: dict[str, list[Alert]] = {}
    for instance in instances:
        found.setdefault(instance.rule, []).append(instance)
    return found
