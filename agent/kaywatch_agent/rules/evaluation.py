"""One evaluation: the results of rules are applied to the alerts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.alert_store import AlertStore
from kaywatch_agent.rules.evaluate import BREACH, FINDINGS, RuleResult
from kaywatch_agent.rules.firing_context import firing_contexts
from kaywatch_agent.rules.rule import AlertSettings, Rule
from kaywatch_agent.rules.scene import WindowCache
from kaywatch_agent.rules.state import (
    AlertEvent,
    AlertState,
    ConditionStatus,
    Step,
    advance,
    end,
)

__all__ = ["Evaluation", "StateChange"]


class StateChange(NamedTuple):
    """That an alert went from one state to another, or lost its data."""

    alert: Alert
    before: AlertState
    after: AlertState


class Evaluation:
    """One evaluation of all rules: the new states of the alerts.

    Attributes:
        changes: the alerts that went from one state to another.
        refused: how many alerts were over the limit, by rule.
    """

    def __init__(
        self,
        store: AlertStore,
        settings: AlertSettings,
        windows: WindowCache,
        elapsed: float,
    ) -> None:
        """Begin.

        Args:
            store: the alerts, which are changed.
            settings: the rules.
            windows: what they look at.
            elapsed: observed seconds since the last evaluation.
        """
        self.changes: list[StateChange] = []
        self.refused: Counter[str] = Counter()
        self._now = windows.scene.now
        self._store = store
        self._settings = settings
        self._windows = windows
        self._elapsed = elapsed
        self._by_rule: dict[str, list[Alert]] = defaultdict(list)
        for alert in store.alerts.values():
            self._by_rule[alert.rule].append(alert)

    def apply(self, rule: Rule, found: RuleResult) -> None:
        """Apply the result of a rule to its alerts."""
        number = {group: n for n, group in enumerate(found.groups)}
        known = set()
        fired: list[Alert] = []
        for alert in self._by_rule.get(rule.name, ()):
            group = tuple(alert.labels.values())
            if tuple(alert.labels) != found.labels or (
                alert.meaning != rule.meaning and group not in number
            ):
                self._end(alert, "rule_changed")
                continue
            known.add(group)
            if self._advance(alert, rule, found, number.get(group)):
                fired.append(alert)
        for n, alert in self._begun(rule, found, known):
            if self._advance(alert, rule, found, n):
                fired.append(alert)
        if fired:
            seen = firing_contexts(rule, fired, self._windows)
            for alert, context in zip(fired, seen, strict=True):
                alert.context = context

    def end_orphans(self) -> None:
        """End the alerts whose rules are gone."""
        for name, alerts in self._by_rule.items():
            if name not in self._settings.rules:
                for alert in alerts:
                    self._end(alert, "rule_removed")

    # -- inside ------------------------------------------------------------------------

    def _begun(
        self, rule: Rule, found: RuleResult, known: set[tuple[str, ...]]
    ) -> list[tuple[int, Alert]]:
        """Return new alerts for the groups that breach, with the groups' numbers."""
        breaching = np.flatnonzero(found.codes == BREACH).tolist()
        groups = found.groups
        new = [n for n in breaching if groups[n] not in known | found.gone]
        room = max(0, self._settings.max_instances - len(known))
        if len(new) > room:
            self.refused[rule.name] += len(new) - room
        begun = []
        for n in new[:room]:
            labels = dict(zip(found.labels, groups[n], strict=True))
            alert = Alert(rule.name, labels, rule.meaning)
            self._store.alerts[alert.key] = alert
            begun.append((n, alert))
        return begun

    def _advance(
        self, alert: Alert, rule: Rule, found: RuleResult, n: int | None
    ) -> bool:
        """Apply one condition to one alert; return whether an episode began."""
        before = alert.life
        finding = ConditionStatus.UNKNOWN if n is None else FINDINGS[found.codes[n]]
        if n is not None:
            self._measure(alert, found, n)
            if found.groups[n] in found.gone:
                self._end(alert, "forgotten")
                return False
        if alert.meaning != rule.meaning:
            if finding is ConditionStatus.CLEAR and before.is_firing:
                self._end(alert, "rule_changed")
                return False
            if finding is not ConditionStatus.UNKNOWN:
                alert.meaning = rule.meaning
        step = advance(before, finding, self._elapsed, rule.timing, self._now)
        fired = self._follow(alert, step) is AlertEvent.FIRED
        if fired:
            alert.worst = None
        known = finding is not ConditionStatus.UNKNOWN and alert.life.is_firing
        if known and alert.weigh(self._now, falls=rule.falls):
            self._store.changed(alert, timer_only=True)
        return fired

    def _measure(self, alert: Alert, found: RuleResult, n: int) -> None:
        value, threshold = float(found.value[n]), float(found.threshold[n])
        alert.value = value if math.isfinite(value) else None
        alert.threshold = threshold if math.isfinite(threshold) else None
        alert.executions = int(found.executions[n])
        alert.errors = int(found.errors[n])
        alert.note = found.notes.get(n, alert.note)

    def _end(self, alert: Alert, reason: str) -> None:
        self._follow(alert, end(alert.life, reason, self._now))

    def _follow(self, alert: Alert, step: Step) -> AlertEvent | None:
        """Give an alert its new state, and remember what changed."""
        before, (after, crossing) = alert.life, step
        alert.life = after
        if crossing is not None:
            alert.changed(self._store.clock)
        if after.state is not before.state or after.reason != before.reason:
            alert.turn(self._now, before.state)
            self._store.changed(alert)
            self.changes.append(StateChange(alert, before.state, after.state))
        elif after is not before:
            self._store.changed(alert, timer_only=True)
        return crossing
