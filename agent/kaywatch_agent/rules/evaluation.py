"""One evaluation pass: applies the results of the rules to the alerts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import NamedTuple

from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.alert_store import AlertStore
from kaywatch_agent.rules.firing_context import firing_contexts
from kaywatch_agent.rules.result import STATUSES, RuleResult
from kaywatch_agent.rules.rule import AlertSettings, Rule
from kaywatch_agent.rules.state import (
    AlertEvent,
    AlertState,
    ConditionStatus,
    NextState,
    advance,
    end,
)
from kaywatch_agent.rules.windows import WindowCache

__all__ = ["Evaluation", "StateChange"]


class StateChange(NamedTuple):
    """An alert that changed its state, or its reason.

    `alert` is live; the other fields are as they were at `time`, Unix seconds.
    """

    time: float
    alert: Alert
    before: AlertState
    after: AlertState
    reason: str
    value: float | None


class Evaluation:
    """One evaluation of all rules.

    Attributes:
        changes: the changes of state.
        refused: alerts over the limit of their rule, by rule.
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
            store: the alerts; they are modified.
            settings: the rules.
            windows: the data.
            elapsed: observed seconds since the previous evaluation.
        """
        self.changes: list[StateChange] = []
        self.refused: Counter[str] = Counter()
        self._now = windows.input.now
        self._store = store
        self._settings = settings
        self._windows = windows
        self._elapsed = elapsed
        self._by_rule: dict[str, list[Alert]] = defaultdict(list)
        for alert in store.alerts.values():
            self._by_rule[alert.rule].append(alert)

    def apply(self, rule: Rule, result: RuleResult) -> None:
        """Apply the result of a rule to its alerts."""
        number = {group: n for n, group in enumerate(result.groups)}
        evaluated: set[tuple[str, ...]] = set()
        fired: list[Alert] = []
        for alert in self._by_rule.get(rule.name, ()):
            group = tuple(alert.labels.values())
            # After a change of `per` or `match`, the alert's group may no longer exist;
            # a group that merely has no data is unknown instead.
            if tuple(alert.labels) != result.labels or (
                _rule_changed(alert, rule) and group not in number
            ):
                self._end(alert, "rule_changed")
                continue
            evaluated.add(group)
            if self._advance(alert, rule, result, number.get(group)):
                fired.append(alert)
        for n, alert in self._create_alerts(rule, result, evaluated):
            if self._advance(alert, rule, result, n):
                fired.append(alert)
        if fired:
            contexts = firing_contexts(rule, fired, self._windows)
            for alert, context in zip(fired, contexts, strict=True):
                alert.context = context

    def end_orphans(self) -> None:
        """End the alerts whose rules were removed."""
        for rule, alerts in self._by_rule.items():
            if rule not in self._settings.rules:
                for alert in alerts:
                    self._end(alert, "rule_removed")

    # -- inside ------------------------------------------------------------------------

    def _create_alerts(
        self, rule: Rule, result: RuleResult, known: set[tuple[str, ...]]
    ) -> list[tuple[int, Alert]]:
        """Return new alerts for the breaching groups, with the groups' numbers."""
        groups = result.groups
        without = known | result.forgotten
        # Only a breach creates an alert: thousands of healthy series have none.
        new = [n for n in result.breaching if groups[n] not in without]
        # New alerts are refused. Prometheus ends all alerts of a rule that exceeds its
        # limit, in the middle of an outage.
        room = max(0, self._settings.max_alerts - len(known))
        if len(new) > room:
            self.refused[rule.name] += len(new) - room
        created = []
        for n in new[:room]:
            labels = dict(zip(result.labels, groups[n], strict=True))
            alert = Alert(rule.name, labels, rule.fingerprint)
            self._store.alerts[alert.key] = alert
            created.append((n, alert))
        return created

    def _advance(
        self, alert: Alert, rule: Rule, result: RuleResult, n: int | None
    ) -> bool:
        """Apply the result of a group to its alert; return whether an episode began."""
        status = ConditionStatus.UNKNOWN if n is None else STATUSES[result.codes[n]]
        if n is not None:
            self._copy_values(alert, result, n)
            if result.groups[n] in result.forgotten:
                self._end(alert, "forgotten")
                return False
        # `keep_firing_for` waits for a value to recover; here the value did not change.
        clear = status is ConditionStatus.CLEAR
        if clear and alert.lifecycle.is_firing and _rule_changed(alert, rule):
            self._end(alert, "rule_changed")
            return False
        # Without data, the new definition has no result yet.
        if status is not ConditionStatus.UNKNOWN:
            alert.rule_fingerprint = rule.fingerprint
        step = advance(alert.lifecycle, status, self._elapsed, rule.timing, self._now)
        fired = self._follow(alert, step) is AlertEvent.FIRED
        if fired:
            alert.worst = None
        is_known = status is not ConditionStatus.UNKNOWN and alert.lifecycle.is_firing
        if is_known and alert.update_worst(self._now, low_is_bad=rule.low_is_bad):
            self._store.mark_changed(alert, timer_only=True)
        return fired

    def _copy_values(self, alert: Alert, result: RuleResult, n: int) -> None:
        value, threshold = float(result.value[n]), float(result.threshold[n])
        alert.value = value if math.isfinite(value) else None
        # The limit of a node that is no longer in flight is that of its episode.
        if math.isfinite(threshold):
            alert.threshold = threshold
        alert.executions = int(result.executions[n])
        alert.errors = int(result.errors[n])
        # Only breaching groups have notes: a resolved alert keeps that of its episode.
        alert.note = result.notes.get(n, alert.note)

    def _end(self, alert: Alert, reason: str) -> None:
        self._follow(alert, end(alert.lifecycle, reason, self._now))

    def _follow(self, alert: Alert, step: NextState) -> AlertEvent | None:
        """Set the alert's next state, and record what changed."""
        before, (after, event) = alert.lifecycle, step
        alert.lifecycle = after
        if event is not None:
            alert.add_flap(self._store.clock)
        if after.state is not before.state or after.reason != before.reason:
            alert.add_change(self._now, before.state)
            self._store.mark_changed(alert)
            change = StateChange(
                self._now, alert, before.state, after.state, after.reason, alert.value
            )
            self.changes.append(change)
        # A life cycle is immutable, so the same object means that no timer advanced.
        elif after is not before:
            self._store.mark_changed(alert, timer_only=True)
        return event


def _rule_changed(alert: Alert, rule: Rule) -> bool:
    """Return whether an alert was last evaluated by another definition of its rule."""
    # It is empty after an update from a version with other fingerprints.
    return alert.rule_fingerprint not in ("", rule.fingerprint)
