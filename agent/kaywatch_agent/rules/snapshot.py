"""All about alerts at one moment, for those who show them; nothing in it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kaywatch_agent.model.alerts import AlertDetails
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.describe import all_labels, describe
from kaywatch_agent.rules.evaluate import RuleResult
from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.rule import AlertSettings, Rule
from kaywatch_agent.rules.silence import Silence

__all__ = ["AlertsSnapshot"]


class AlertsSnapshot(NamedTuple):
    """What is known of alerts.

    Attributes:
        now: Unix seconds.
        settings: rules, and what else is set.
        instances: the alerts.
        silences: all that are remembered.
        found: the last result of each rule, by name.
        refused: how many alerts were over the limit, by rule.
        clock: the alerts' own, in seconds.
        evaluated: when rules were evaluated last, Unix seconds.
        problem: the error of that evaluation; empty for none.
        host: where the agent runs.
    """

    now: float
    settings: AlertSettings
    instances: tuple[Alert, ...] = ()
    silences: tuple[Silence, ...] = ()
    found: Mapping[str, RuleResult] = {}
    refused: Mapping[str, int] = {}
    clock: float = 0.0
    evaluated: float = 0.0
    problem: str = ""
    host: str = ""

    def rule(self, instance: Alert) -> Rule | None:
        """Return an alert's rule; None when it is gone."""
        return self.settings.rules.get(instance.rule)

    def describe(self, instance: Alert) -> AlertDetails:
        """Return the facts about an alert."""
        return describe(instance, self.settings, self.host, self.clock)

    def labels(self, instance: Alert) -> dict[str, str]:
        """Return all labels of an alert, with `alertname` and `severity`."""
        return all_labels(instance, self.settings)

    def silencing(self, instance: Alert) -> list[Silence]:
        """Return the silences that cover an alert now."""
        labels = self.labels(instance) if self.silences else {}
        return [
            silence
            for silence in self.silences
            if silence.holds(self.now) and matches(silence.matchers, labels)
        ]

    def wall(self, clock: float) -> float:
        """Return a time of the alerts' clock in Unix seconds, as near as can be."""
        return self.now - (self.clock - clock)
