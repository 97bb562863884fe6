"""Rules and settings, once their tables have been read and validated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

import msgspec

from kaywatch_agent.model.alerts import Severity
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.expression import Predicate, leading
from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.metrics import Metric, MetricSource, find
from kaywatch_agent.rules.mute import MuteWindow
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.state import Timing

__all__ = [
    "Absence",
    "AlertSettings",
    "BurnRate",
    "Change",
    "Condition",
    "Grouping",
    "Inhibition",
    "Rule",
    "Stuck",
    "Threshold",
    "Transition",
    "Where",
]


@dataclass(frozen=True)
class Threshold:
    """A metric beyond a value, or a combination of such comparisons.

    Attributes:
        breach: when the condition is met.
        clear: when it is clear; between the two, the alert keeps its state.
        metric: the metric that is shown.
        threshold: the value that `metric` is compared with.
        clear_at: the value at which it is clear; None if that is not one number.
        model_factor: for nodes that call a model, how many times the usual value is
            allowed, if that is more than the threshold; 0 for none.
    """

    breach: Predicate
    clear: Predicate
    metric: str
    threshold: float
    clear_at: float | None
    model_factor: float = 0.0

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics of the condition, by name."""
        names = self.breach.metrics() | self.clear.metrics()
        return {name: find(name) for name in sorted(names)}

    @cached_property
    def needs_executions(self) -> bool:
        """Whether `min_executions` applies: not to counts, and not to processes."""
        return any(
            not metric.counts
            and metric.source in (MetricSource.NODES, MetricSource.RUNS)
            for metric in self.metrics.values()
        )


@dataclass(frozen=True)
class Absence:
    """No execution for too long; all durations are in seconds.

    Attributes:
        max_age: how long is too long.
        expect: label sets that must exist even if they were never seen.
        forget_after: when a label set that is not expected is forgotten.
        grace: after the agent's start, nothing is absent for this long.
    """

    max_age: float
    expect: tuple[Mapping[str, str], ...]
    forget_after: float
    grace: float = 60.0


@dataclass(frozen=True)
class BurnRate:
    """An error budget that is used up too fast; all durations are in seconds.

    See the Site Reliability Workbook, chapter 5, table 5-8: in a long and in a short
    window, the errors exceed `factor` times what the objective allows. A rule has one
    tier; a table with several tiers becomes several rules.

    Attributes:
        objective: the share of executions that must be good, such as 0.99.
        slo_window: the period of the objective.
        latency_le: an execution that took at most this long is good; if None, one that
            succeeded is.
        factor: how many times faster than allowed.
        long, short: the windows.
        min_events: with fewer in the long window, the result is unknown.
        min_bad: with fewer bad executions in the short window, it is not a breach.
    """

    objective: float
    slo_window: float
    latency_le: float | None
    factor: float
    long: float
    short: float
    min_events: int
    # One or two failures in a short window are a high rate, but no outage.
    min_bad: int = 3


Change = Literal["share", "new", "vanished"]


@dataclass(frozen=True)
class Transition:
    """An action that is taken more or less often than it should be.

    Attributes:
        change: `share`: its share of executions left its band; `new`: it was never
            taken before; `vanished`: it is no longer taken.
        action: the action; empty for any, unless `change` is `share`.
        above, below: the ends of the band; None for no limit.
    """

    change: Change
    action: str = ""
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Stuck:
    """A node that has been in flight for too long.

    Attributes:
        factor: longer than this many times its 99th percentile.
        max_age: or longer than this many seconds; None for no such limit.
        at_least: it never fires before this many seconds.
    """

    factor: float
    max_age: float | None
    at_least: float


# What evaluates a rule: each agent, or a Prometheus that has the data of all.
Where = Literal["host", "fleet"]

Condition = Threshold | Absence | BurnRate | Transition | Stuck

# A change of these makes it a different rule; the others may change while it fires.
_IDENTITY: Final = ("kind", "window", "match", "per", "condition", "min_executions")


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: also the label `alertname` of its alerts.
        kind: threshold, absence, burn_rate, transition_share, stuck, …
        condition: what it looks for.
        timing: how long the condition must be met or clear.
        window: in seconds.
        min_executions: with fewer in the window, the result is unknown.
        match: the series that it looks at.
        per: there is one alert for each combination of these labels.
        cooldown: minimum seconds between two `firing` notifications of an alert.
        repeat_interval: seconds until a firing alert is notified again; 0 for never.
        severity, labels, summary, runbook_url: for notifications.
        notify: the receivers' names.
        built_in: whether it exists without configuration.
        where: what evaluates it.
        once_per: at most one alert fires for each combination of these labels, as the
            nodes of one loop have one cause; empty for no such limit.
    """

    name: str
    kind: str
    condition: Condition
    timing: Timing
    window: float
    min_executions: int
    match: tuple[Matcher, ...]
    per: tuple[str, ...]
    cooldown: float
    repeat_interval: float
    severity: Severity
    labels: Mapping[str, str] = field(default_factory=dict)
    notify: tuple[str, ...] = ()
    summary: str = ""
    runbook_url: str = ""
    built_in: bool = False
    where: Where = "host"
    once_per: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the rule's condition, which edits of other keys do not change."""
        parts = [repr(getattr(self, name)) for name in _IDENTITY]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]

    @property
    def low_is_bad(self) -> bool:
        """Whether lower values are worse."""
        match self.condition:
            case Threshold(breach=breach):
                return leading(breach).op.startswith("<")
            case Transition(above=None, below=float()):
                return True
        return False


class Inhibition(msgspec.Struct, frozen=True):
    """While a source alert fires, its target alerts are not notified.

    Attributes:
        source, target: matchers over all labels, including `alertname` and `severity`.
        equal: labels that must have the same value in both alerts.
        same_cause: whether both are about the same failures. Then the source also
            inhibits while it is pending, and after it has ended, for as long as the
            window of the other rule contains its failures.
    """

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()
    same_cause: bool = False

    def equal_values(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Return the values of the labels that must be equal."""
        return tuple([labels.get(name, "") for name in self.equal])


@dataclass(frozen=True)
class Grouping:
    """How alerts share messages, for receivers that group.

    Attributes:
        group_by: the labels that define a group.
        group_wait: seconds that a group's first notification waits for other alerts.
        group_interval: minimum seconds between two messages of a group.
    """

    group_by: tuple[str, ...] = ("alertname", "graph")
    group_wait: float = 10.0
    group_interval: float = 60.0


@dataclass(frozen=True)
class AlertSettings:
    """The tables about alerts: `[alerting]`, `[[rule]]` and so on.

    Attributes:
        rules: the rules that the agent evaluates, by name.
        inhibitions: built in and configured.
        silences: the configured ones.
        mutes: recurring times at which alerts are muted.
        interval: minimum seconds between two evaluations.
        labels: added to every alert.
        namespace: part of the dedup keys; the same on all replicas.
        external_url: the base of links; empty for none.
        max_alerts: alerts per rule; more are refused and counted.
        grouping: how alerts share messages.
        warnings: settings that are valid and probably not intended.
        fleet_rules: the rules that it only exports, by name.
    """

    rules: Mapping[str, Rule]
    inhibitions: tuple[Inhibition, ...] = ()
    silences: tuple[Silence, ...] = ()
    mutes: tuple[MuteWindow, ...] = ()
    interval: float = 1.0
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    external_url: str = ""
    max_alerts: int = 500
    grouping: Grouping = field(default_factory=Grouping)
    warnings: tuple[str, ...] = ()
    fleet_rules: Mapping[str, Rule] = field(default_factory=dict)

    @cached_property
    def custom_metrics(self) -> frozenset[bytes]:
        """The names of the custom metrics that rules look at, in UTF-8."""
        return frozenset(
            name.encode()
            for rule in self.rules.values()
            if isinstance(rule.condition, Threshold)
            for metric in rule.condition.metrics.values()
            if metric.source is MetricSource.CUSTOM
            for name in metric.names
        )

    def silences_at(self, now: float) -> tuple[Silence, ...]:
        """Return the configured silences, with the present or next one of each mute."""
        occurrences = [mute.occurrence(now) for mute in self.mutes]
        return (*self.silences, *filter(None, occurrences))

    def own_labels(self, alert: Alert) -> dict[str, str]:
        """Return the labels of an alert, except `alertname` and `severity`."""
        return self._own_labels(alert.rule, alert.labels)

    def severity_of(self, alert: Alert) -> Severity:
        """Return an alert's severity: a warning, if its rule was removed."""
        return self._severity(alert.rule)

    def all_labels(self, alert: Alert) -> dict[str, str]:
        """Return all labels of an alert, including `alertname` and `severity`."""
        return self.labels_of(alert.rule, alert.labels)

    def labels_of(self, rule: str, per: Mapping[str, str]) -> dict[str, str]:
        """Return all labels of the alert that a rule has or may have.

        Args:
            rule: the rule's name.
            per: the labels by which the rule groups, with their values.
        """
        labels = self._own_labels(rule, per)
        return {**labels, "alertname": rule, "severity": self._severity(rule)}

    def _own_labels(self, name: str, per: Mapping[str, str]) -> dict[str, str]:
        rule = self.rules.get(name)
        own = {label: value for label, value in per.items() if value}
        return {**self.labels, **(rule.labels if rule else {}), **own}

    def _severity(self, name: str) -> Severity:
        rule = self.rules.get(name)
        return rule.severity if rule else "warning"
