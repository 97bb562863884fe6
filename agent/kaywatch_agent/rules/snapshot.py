"""The state of all alerts at one moment, for readers in any thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kaywatch_agent.model.alerts import AlertDetails
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.built_in import INHIBITIONS
from kaywatch_agent.rules.describe import describe
from kaywatch_agent.rules.notifications import InhibitionIndex
from kaywatch_agent.rules.result import RuleResult
from kaywatch_agent.rules.rule import AlertSettings, Rule
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.rules.windows import Group

__all__ = ["AlertsSnapshot"]


class AlertsSnapshot(NamedTuple):
    """The alerts, rules and silences at one moment. Nothing in it changes.

    Attributes:
        now: Unix seconds.
        settings: the rules and everything else that is configured.
        alerts: all alerts, or only the changed ones.
        silences: configured and created at runtime.
        results: the last result of each rule, by rule.
        refused: alerts over the limit of their rule, by rule.
        clock: the alert clock, in seconds.
        evaluated: when the rules were last evaluated, Unix seconds.
        problem: the error of that evaluation; empty for none.
        host: the agent's host name.
    """

    now: float
    settings: AlertSettings
    alerts: tuple[Alert, ...] = ()
    silences: tuple[Silence, ...] = ()
    results: Mapping[str, RuleResult] = {}
    refused: Mapping[str, int] = {}
    clock: float = 0.0
    evaluated: float = 0.0
    problem: str = ""
    host: str = ""

    def rule(self, alert: Alert) -> Rule | None:
        """Return an alert's rule; None if it was removed."""
        return self.settings.rules.get(alert.rule)

    def built_in(self, *rules: str) -> Iterator[Alert]:
        """Yield the alerts of built-in rules whose condition is met, or was lately."""
        for alert in self.alerts:
            rule = self.rule(alert)
            is_active = alert.lifecycle.state is not AlertState.OK
            if is_active and alert.rule in rules and rule is not None and rule.built_in:
                yield alert

    def usual(self, rule: str) -> Mapping[Group, float]:
        """Return the usual values behind a rule's values, by group, where known."""
        result = self.results.get(rule)
        return {} if result is None else result.usual

    def describe(self, alert: Alert) -> AlertDetails:
        """Return an alert as notifications carry it."""
        return describe(alert, self.settings, self.host, self.clock)

    def labels(self, alert: Alert) -> dict[str, str]:
        """Return all labels of an alert, including `alertname` and `severity`."""
        return self.settings.all_labels(alert)

    def active_silences(self, alert: Alert) -> list[Silence]:
        """Return the silences that mute an alert now."""
        labels = self.labels(alert) if self.silences else {}
        return [s for s in self.silences if s.mutes(labels, self.now)]

    def same_cause(self) -> dict[str, str]:
        """Return the firing alerts with the cause of another one, by id: its id.

        Both are about one problem, and only the other one is notified.
        """
        targets = {m.value for one in INHIBITIONS for m in one.target}
        rules = targets | {m.value for one in INHIBITIONS for m in one.source}
        firing = [
            alert
            for alert in self.alerts
            if alert.lifecycle.is_firing and alert.rule in rules
        ]
        index = InhibitionIndex(INHIBITIONS, firing, self.labels, self.clock)
        sources = {
            alert.id: index.find_source(self.labels(alert), 0.0)[0]
            for alert in firing
            if alert.rule in targets
        }
        return {name: source for name, source in sources.items() if source}

    def wall(self, clock: float) -> float:
        """Return a time of the alert clock as Unix seconds, approximately."""
        return self.now - (self.clock - clock)
