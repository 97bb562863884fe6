"""Alert rules: the list, one rule, and the metrics that rules can use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.model.bounds import Count, Moment, Name, Seconds
from kaywatch_agent.rules import metrics
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.describe import condition_text, unit_of
from kaywatch_agent.rules.explain import GroupResult, nearest, rule_sentence
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.web.api.alerts import (
    AlertView,
    count_states,
    sort_by_urgency,
    view_alert,
)
from kaywatch_agent.web.api.parameters import Limit, NoQuery, OfSeverity
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["list_metrics", "list_rules", "rule_details"]


class RulesQuery(Struct, frozen=True):
    """Filters of rules."""

    kind: (
        Annotated[
            Literal[
                "threshold",
                "absence",
                "burn_rate",
                "transition_share",
                "stuck",
                "process_died",
                "runaway",
            ],
            Meta(description="Only this kind."),
        ]
        | None
    ) = None
    severity: OfSeverity | None = None


class RuleQuery(Struct, frozen=True):
    """One rule, and how many of its alerts and groups."""

    rule: Annotated[Name, Meta(min_length=1, description="The rule, percent-encoded.")]
    limit: Limit = 20


class RuleView(ResponseBody):
    """One rule; `sentence` describes what it evaluates, and when it fires and ends.

    `refused` counts the alerts over the limit at the last evaluation, `groups` the
    groups of series that the rule evaluates, and `without_data` those of them that have
    too little data in the window.
    """

    rule: str
    kind: str
    condition: str
    sentence: str
    unit: str
    severity: Severity
    window: Seconds
    min_executions: Count
    for_: Seconds = field(name="for")
    keep_firing_for: Seconds
    no_data_after: Seconds
    on_no_data: Literal["keep", "ok", "alert"]
    cooldown: Seconds
    repeat_interval: Seconds
    match: list[str]
    per: list[str]
    labels: dict[str, str]
    receivers: list[str]
    runbook_url: str
    built_in: bool
    groups: Count
    without_data: Count
    states: dict[str, int]
    refused: Count


class RuleList(ResponseBody):
    """All rules; `evaluated` is the time of the last evaluation."""

    timestamp: Moment
    evaluated: Moment
    interval: Seconds
    problem: str
    warnings: list[str]
    rules: list[RuleView]


class RuleDetails(ResponseBody):
    """One rule, its alerts, and the groups that are nearest to firing."""

    timestamp: Moment
    evaluated: Moment
    problem: str
    rule: RuleView
    alerts: list[AlertView]
    nearest: list[GroupResult]


class MetricView(ResponseBody):
    """A metric that rules can use."""

    metric: str
    unit: str
    source: str
    help: str
    labels: list[str]


class MetricList(ResponseBody):
    """The metrics that rules can use, besides custom ones as `custom.NAME.WAY`."""

    metrics: list[MetricView]
    ways: list[str]


def list_rules(snapshot: AgentSnapshot, query: RulesQuery) -> RuleList:
    """Return the matching rules."""
    alerts = snapshot.alerts()
    # One pass over the alerts, rather than one for each rule.
    by_rule: dict[str, list[Alert]] = {}
    for alert in alerts.alerts:
        by_rule.setdefault(alert.rule, []).append(alert)
    return RuleList(
        timestamp=alerts.now,
        evaluated=alerts.evaluated,
        interval=alerts.settings.interval,
        problem=alerts.problem,
        warnings=list(alerts.settings.warnings),
        rules=[
            _view(alerts, rule, by_rule.get(rule.name, []))
            for rule in alerts.settings.rules.values()
            if query.kind in (None, rule.kind)
            and query.severity in (None, rule.severity)
        ],
    )


def rule_details(snapshot: AgentSnapshot, query: RuleQuery) -> RuleDetails:
    """Return one rule, its alerts, and the groups that are nearest to firing.

    Raises:
        Problem: 404 for an unknown rule.
    """
    alerts = snapshot.alerts()
    rule = alerts.settings.rules.get(query.rule)
    if rule is None:
        raise not_found("rule", query.rule, alerts.settings.rules, "/api/v1/rules")
    own = [alert for alert in alerts.alerts if alert.rule == rule.name]
    result = alerts.results.get(rule.name)
    return RuleDetails(
        timestamp=alerts.now,
        evaluated=alerts.evaluated,
        problem=alerts.problem,
        rule=_view(alerts, rule, own),
        alerts=[
            view_alert(alerts, alert)
            for alert in sort_by_urgency(alerts, own)[: query.limit]
        ],
        nearest=nearest(rule, result, query.limit) if result else [],
    )


def list_metrics(_: AgentSnapshot, __: NoQuery) -> MetricList:
    """Return the metrics that rules can use."""
    return MetricList(
        metrics=[
            MetricView(
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


def _view(alerts: AlertsSnapshot, rule: Rule, own: Iterable[Alert]) -> RuleView:
    timing, result = rule.timing, alerts.results.get(rule.name)
    return RuleView(
        rule=rule.name,
        kind=rule.kind,
        condition=condition_text(rule),
        sentence=rule_sentence(rule),
        unit=unit_of(rule),
        severity=rule.severity,
        window=rule.window,
        min_executions=rule.min_executions,
        for_=timing.for_,
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
        # Before the first evaluation there is no result.
        groups=len(result.groups) if result else 0,
        without_data=result.unknown_count if result else 0,
        states=count_states(own),
        refused=alerts.refused.get(rule.name, 0),
    )
