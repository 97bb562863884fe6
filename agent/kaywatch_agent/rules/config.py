"""The tables about alerts, as the configuration file has them.

The docstrings are the reference in docs/configuration.md. `load` validates what goes
beyond a single key, and turns the tables into rules.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.rules.matchers import parse
from kaywatch_agent.rules.rule import Change, Where
from kaywatch_agent.rules.state import OnNoData
from kaywatch_agent.settings.reader import Duration, Unit

__all__ = [
    "KINDS",
    "AbsenceConfig",
    "AlertingConfig",
    "BurnRateConfig",
    "InhibitConfig",
    "RuleConfig",
    "RuleDefaults",
    "RunawayConfig",
    "SilenceConfig",
    "StuckConfig",
    "ThresholdConfig",
    "ThresholdsConfig",
    "TierConfig",
    "TransitionConfig",
]

MatcherText = Annotated[str, Unit("matcher", parse)]
Limit = float | Literal[False]


@dataclass(frozen=True, kw_only=True)
class ThresholdsConfig:
    """The built-in rules (`[alerting.thresholds]`); `false` disables a rule.

    Attributes:
        success_rate_min: minimum share of executions that succeed.
        avg_execution_time_max: maximum average seconds of executions.
        error_rate_max: maximum share of executions that fail.
        memory_usage_max: maximum memory of a service's largest process, in MiB.
        low_traffic: share of failed executions within half an hour that is reported
            from five executions on.
        process_died: how many processes of a service may die.
        dead_end: how many runs within half an hour may end at an action without an
            edge.
        never_reached: after how many runs a node that none has reached is reported.
        unusual_loop: how many times more often than in any earlier run of a week a run
            may visit a node, from ten visits on.
        runaway: the same as a number of times, for an alert of severity error. Visits
            since the run last reached a new node count one and a half times.
        silent: how many runs of a graph may be missing, compared with the same hours
            of yesterday and of a week ago.
        slow: how many times its usual average a node's average may be, from 100 ms on.
        stuck: how many times longer than its p99 an execution may take.
        masked_failures: maximum share of attempts that fail and are hidden by a retry,
            a fallback or `on_error`.
        wasted_spend: maximum share of the cost of models that is spent on failed
            attempts.
        cost_per_run: how many times as much as in the same hours of a week ago the
            models of a run may cost, on average.
        drift: by how many standard deviations the share of an action may differ from
            that of the hours before, from ten points on.
        alerts_refused_max: how many alerts of a rule may be refused, per rule.
        exports_rejected_max: how many series of a snapshot a server may reject.
    """

    success_rate_min: Limit = 0.95
    avg_execution_time_max: Limit = 5.0
    error_rate_max: Limit = 0.05
    memory_usage_max: Limit = 1024.0
    low_traffic: Limit = 0.5
    process_died: Limit = 0.0
    dead_end: Limit = 0.0
    never_reached: Limit = 100.0
    unusual_loop: Limit = 1.0
    runaway: Limit = 3.0
    silent: Limit = 30.0
    slow: Limit = 3.0
    stuck: Limit = 10.0
    masked_failures: Limit = 0.2
    wasted_spend: Limit = 0.1
    cost_per_run: Limit = 2.0
    drift: Limit = 5.0
    alerts_refused_max: Limit = 0.0
    exports_rejected_max: Limit = 0.0


@dataclass(frozen=True, kw_only=True)
class AlertingConfig:
    """All alerts (`[alerting]`). [alerts.md](alerts.md) explains rules with examples.

    Attributes:
        evaluation_interval: how often rules are evaluated, `1s` to `5m`. With `1s`,
            they are also evaluated as soon as failures arrive, or values of a custom
            metric that a rule uses. Rules use at most a twentieth of a core, so a busy
            agent evaluates them less often.
        startup_grace: after the agent's start, `absence` rules do not fire for this
            long.
        labels: labels of every alert.
        namespace: part of the key that identifies an alert to receivers; replicas of
            one agent share it.
        external_url: the base of links in messages.
        max_alerts_per_rule: more alerts of one rule are refused, counted in
            `kaywatch_alerts_refused`, and reported by the rule `alerts_refused_max`.
        default_notify: the receivers of rules without `notify`; by default all.
        group_by: alerts with equal values of these labels share a message, for
            receivers that group.
        group_wait: how long the first notification of a group waits for other alerts
            of the group. Without one that can fire or resolve in this time, it is sent
            at once.
        group_interval: minimum time between two messages of a group.
        thresholds: the [built-in rules](alerts.md#without-configuration).
    """

    evaluation_interval: Duration = "1s"
    startup_grace: Duration = "1m"
    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = ""
    external_url: str = ""
    # A label with ids in it would otherwise create alerts, and notifications, without
    # end.
    max_alerts_per_rule: int = 500
    default_notify: tuple[str, ...] | None = None
    group_by: tuple[str, ...] = ("alertname", "graph")
    group_wait: Duration = "10s"
    group_interval: Duration = "1m"
    thresholds: ThresholdsConfig = field(default_factory=ThresholdsConfig)


@dataclass(frozen=True, kw_only=True)
class RuleDefaults:
    """Defaults for all rules (`[defaults]`).

    Attributes:
        match: which series the rule looks at, as matchers `graph="checkout"`,
            `node!="x"`, `node=~"a.*"`, `node!~"b.*"`. All must match; a regular
            expression must match the whole value.
        per: one alert for each combination of these labels; `[]` for a single alert.
            By default `["service", "graph", "node"]`, for runs `["service", "graph"]`,
            for processes `["service"]`, for refused alerts `["rule"]`,
            for exports `["server"]`.
        window: the period that is evaluated, at least `10s` and at most what is stored.
        min_executions: with fewer executions in the window, the result is unknown.
            Counts such as `executions` are known without any. The default is 0 for
            `absence` and `process_died`.
        for_: how long the condition must be met; `0` fires at once.
        keep_firing_for: how long the condition must be clear; `0` resolves at once.
        cooldown: minimum time between two notifications that an alert fires.
        repeat_interval: how often a firing alert is notified again; `0` for never.
        on_no_data: what happens when data is missing for `no_data_after`. `keep` and
            `ok` resolve the alert with the reason `no_data`; `alert` makes it fire.
        no_data_after: how long data may be missing; by default twice the window, at
            least `10m`.
        severity: how severe the alert is; receivers can filter by it.
        labels: labels of its alerts, in addition to those of `per`.
        notify: the receivers, by name; `[]` for none; by default `default_notify`.
        summary: one sentence, such as `"{node}: {value:.1%} fail
            ({errors}/{executions} in {window})"`. It may name labels, `rule`, `metric`,
            `value`, `threshold`, `clear`, `window`, `executions` and `errors`. By
            default, and when a threshold's alert has resolved, it is generated.
        runbook_url: a link in messages.
        where: `host` for rules that the agent evaluates. `fleet` for rules that it
            only exports, for a Prometheus that evaluates them over all agents, see
            [fleet.md](fleet.md#one-owner-for-each-alert).
    """

    match: tuple[MatcherText, ...] = ()
    per: tuple[str, ...] | None = None
    window: Duration = "5m"
    # The least for a 95th percentile: one execution in twenty takes longer.
    min_executions: int = 20
    for_: Duration = "1m"
    keep_firing_for: Duration = "2m"
    cooldown: Duration = "5m"
    # The default of Alertmanager.
    repeat_interval: Duration = "4h"
    # An outage often stops the data as well: missing data is no reason to fire, and no
    # reason to resolve at once.
    on_no_data: OnNoData = "keep"
    no_data_after: Duration | None = None
    severity: Severity = "warning"
    labels: dict[str, str] = field(default_factory=dict)
    notify: tuple[str, ...] | None = None
    summary: str = ""
    runbook_url: str = ""
    where: Where = "host"


@dataclass(frozen=True, kw_only=True)
class RuleConfig(RuleDefaults):
    """A rule (`[[rule]]`). `[defaults]` may set any key but the first three.

    Attributes:
        name: the rule's name and the alerts' `alertname`: letters, digits, `_`, `.`,
            `-`.
        kind: what it looks for, see [Kinds](alerts.md#kinds): `threshold`, `absence`,
            `burn_rate`, `transition_share`, `stuck`, `process_died` or `runaway`.
        enabled: `false` disables the rule.
    """

    name: str
    kind: str = "threshold"
    enabled: bool = True


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig(RuleConfig):
    """A metric beyond a value.

    Attributes:
        metric: one of the [metrics](alerts.md#metrics).
        op: how the metric is compared with `value`.
        value: the value it is compared with.
        clear: the value at which the alert starts to recover; by default `value`.
        when: instead of the keys above, comparisons with `and`, `or`, `not` and
            parentheses.
        clear_when: when the alert starts to recover; by default when `when` is false.
    """

    metric: str = ""
    op: Literal["<", "<=", ">", ">="] | None = None
    value: float | None = None
    clear: float | None = None
    when: str = ""
    clear_when: str = ""


@dataclass(frozen=True, kw_only=True)
class AbsenceConfig(RuleConfig):
    """No execution for too long.

    Attributes:
        max_age: how long without an execution is too long.
        expect: label sets that must exist even if they were never seen, each with all
            labels of `per`.
        forget_after: after this time without an execution, a label set is forgotten
            unless it is expected.
    """

    min_executions: int = 0
    max_age: Duration
    expect: tuple[dict[str, str], ...] = ()
    forget_after: Duration = "1d"


@dataclass(frozen=True, kw_only=True)
class TierConfig:
    """One burn rate of a `burn_rate` rule (`[[rule.tiers]]`).

    Attributes:
        factor: how many times faster than allowed the budget is used up.
        long: a window in which the factor must be exceeded.
        short: a shorter window in which it must be exceeded as well.
        severity: the severity of this tier's rule.
        notify: the receivers of this tier's rule; by default those of the rule.
    """

    factor: float
    long: Duration
    short: Duration
    severity: Severity = "critical"
    notify: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class BurnRateConfig(RuleConfig):
    """An error budget that is used up too fast.

    Attributes:
        objective: the share of executions that must be good, such as `0.99`.
        latency_le: executions that took at most this long are good; by default, all
            that succeeded.
        slo_window: the period of the objective.
        min_events: with fewer executions in the long window, the result is unknown.
        tiers: each becomes a rule of its own. By default 14.4 over 1h and 5m and 6 over
            6h and 30m, both critical, and 1 over 3d and 6h, a warning.
    """

    objective: float
    latency_le: Duration | None = None
    slo_window: Duration = "30d"
    # With little traffic, a single error exceeds every burn rate.
    min_events: int = 50
    # The Site Reliability Workbook, chapter 5, table 5-8: 2, 5 and 10 % of the budget
    # of 30 days are used up when a tier fires.
    tiers: tuple[TierConfig, ...] = (
        TierConfig(factor=14.4, long="1h", short="5m"),
        TierConfig(factor=6.0, long="6h", short="30m"),
        TierConfig(factor=1.0, long="3d", short="6h", severity="warning"),
    )


@dataclass(frozen=True, kw_only=True)
class TransitionConfig(RuleConfig):
    """An action that is taken more or less often than it should be.

    Attributes:
        change: `share`: an action's share left its band; `new`: an action was never
            taken before; `vanished`: an action is no longer taken.
        action: the action; required for `share`, by default any for the others.
        above: fires above this share.
        below: fires below this share.
    """

    change: Change = "share"
    action: str = ""
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True, kw_only=True)
class StuckConfig(RuleConfig):
    """A node that has been in flight for too long.

    Attributes:
        factor: fires after this many times the node's 99th percentile.
        at_least: never fires earlier than this.
        max_age: fires after this time in any case; by default never.
    """

    factor: float = 10.0
    at_least: Duration = "30s"
    max_age: Duration | None = None


@dataclass(frozen=True, kw_only=True)
class ProcessDiedConfig(RuleConfig):
    """A process that died."""

    min_executions: int = 0


@dataclass(frozen=True, kw_only=True)
class RunawayConfig(RuleConfig):
    """A run that visits too many nodes.

    Attributes:
        max_visits: how many nodes a run may visit.
        max_node_visits: instead, how often a run may visit the same node.
    """

    max_visits: int | None = None
    max_node_visits: int | None = None


@dataclass(frozen=True, kw_only=True)
class InhibitConfig:
    """Alerts that suppress the notifications of others (`[[inhibit]]`).

    Attributes:
        source: matchers of the alerts that suppress others while they fire.
        target: matchers of the alerts that are not notified meanwhile.
        equal: labels that must have the same values in both alerts.
    """

    source: tuple[MatcherText, ...]
    target: tuple[MatcherText, ...]
    equal: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SilenceConfig:
    """Mutes notifications for a time (`[[silence]]`).

    Attributes:
        match: matchers of the alerts that are muted; all must match.
        starts: when it starts, such as `2026-12-01T22:00:00Z`.
        ends: when it ends.
        comment: why.
    """

    match: tuple[MatcherText, ...]
    starts: dt.datetime
    ends: dt.datetime
    comment: str = ""


KINDS: Final[Mapping[str, type[RuleConfig]]] = {
    "threshold": ThresholdConfig,
    "absence": AbsenceConfig,
    "burn_rate": BurnRateConfig,
    "transition_share": TransitionConfig,
    "stuck": StuckConfig,
    "process_died": ProcessDiedConfig,
    "runaway": RunawayConfig,
}
