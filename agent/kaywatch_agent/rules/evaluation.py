"""One evaluation pass: applies the results of the rules to the alerts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final, NamedTuple

from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.alert_store import AlertStore
from kaywatch_agent.rules.departures import Departure
from kaywatch_agent.rules.firing_context import firing_contexts
from kaywatch_agent.rules.result import STATUSES, RuleResult
from kaywatch_agent.rules.rule import AlertSettings, Rule
from kaywatch_agent.rules.state import (
    AlertEvent,
    AlertState,
    ConditionStatus,
    NextState,
    Timing,
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
        alerts = self._by_rule.get(rule.name, [])
        reported = _Reported(rule, alerts)
        for alert in alerts:
            group = tuple(alert.labels.values())
            # After a change of `per` or `match`, the alert's group may no longer exist;
            # a group that merely has no data is unknown instead.
            if tuple(alert.labels) != result.labels or (
                _rule_changed(alert, rule) and group not in number
            ):
                self._end(alert, "rule_changed")
                continue
            evaluated.add(group)
            if reported.by_another(alert):
                continue
            if self._advance(alert, rule, result, number.get(group)):
                fired.append(alert)
            reported.add(alert)
        for n, alert in self._create_alerts(rule, result, evaluated, reported):
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
        self,
        rule: Rule,
        result: RuleResult,
        known: set[tuple[str, ...]],
        reported: _Reported,
    ) -> list[tuple[int, Alert]]:
        """Return new alerts for the breaching groups, with the groups' numbers."""
        groups = result.groups
        without = known | result.forgotten
        # Only a breach creates an alert: thousands of healthy series have none.
        new = [n for n in result.breaching if groups[n] not in without]
        new = reported.select(result, new)
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
        status, timing = self._observe(alert, rule, result, n)
        if n is not None and result.groups[n] in result.forgotten:
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
        step = advance(alert.lifecycle, status, self._elapsed, timing, self._now)
        fired = self._follow(alert, step) is AlertEvent.FIRED
        if fired:
            alert.worst, alert.departed = None, ""
        is_known = status is not ConditionStatus.UNKNOWN and alert.lifecycle.is_firing
        if is_known and alert.update_worst(self._now, low_is_bad=rule.low_is_bad):
            self._store.mark_changed(alert, timer_only=True)
        return fired

    def _observe(
        self, alert: Alert, rule: Rule, result: RuleResult, n: int | None
    ) -> tuple[ConditionStatus, Timing]:
        """Copy the result of a group to its alert; return the status and the timing."""
        if n is None:
            return ConditionStatus.UNKNOWN, rule.timing
        status = STATUSES[result.codes[n]]
        departed = _departed(alert, result, n, status)
        if departed is None:
            self._copy_values(alert, result, n)
            if status is not ConditionStatus.UNKNOWN and alert.lifecycle.is_firing:
                alert.departed = ""
            return status, rule.timing
        # The end was not observed, and never will be if the process has died.
        alert.departed, timing = departed.text, rule.timing
        if departed.is_final:
            timing = timing._replace(no_data_after=-1.0)
        return ConditionStatus.UNKNOWN, timing

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


# The condition is not met, and its band is left as well, as far as is known.
_NOT_MET: Final = (ConditionStatus.CLEAR, ConditionStatus.UNKNOWN)


class _Reported:
    """The causes that an alert of a rule reports, for rules with `once_per`."""

    def __init__(self, rule: Rule, alerts: list[Alert]) -> None:
        self._labels = rule.once_per
        self._by: dict[tuple[str, ...], Alert] = {}
        for alert in alerts:
            self.add(alert)

    def add(self, alert: Alert) -> None:
        """Add an alert's cause if the alert is pending or fires."""
        if self._labels and alert.lifecycle.state is not AlertState.OK:
            self._by.setdefault(self._cause(alert.labels), alert)

    def by_another(self, alert: Alert) -> bool:
        """Return whether an alert must not fire, as another one has its cause."""
        if not self._labels or alert.lifecycle.state is not AlertState.OK:
            return False
        return self._cause(alert.labels) in self._by

    def select(self, result: RuleResult, numbers: list[int]) -> list[int]:
        """Return the groups that get an alert: of each new cause, the worst one."""
        if not self._labels:
            return numbers
        worst: dict[tuple[str, ...], int] = {}
        for n in sorted(numbers, key=lambda n: -float(result.value[n])):
            labels = dict(zip(result.labels, result.groups[n], strict=True))
            worst.setdefault(self._cause(labels), n)
        return [n for cause, n in worst.items() if cause not in self._by]

    def _cause(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        return tuple([labels.get(name, "") for name in self._labels])


def _departed(
    alert: Alert, result: RuleResult, n: int, status: ConditionStatus
) -> Departure | None:
    """Return what went away while an alert fired, if it only seems to have ended."""
    life = alert.lifecycle
    if status not in _NOT_MET or not life.is_firing:
        return None
    departed = result.departed.get(result.groups[n])
    return departed if departed and departed.at >= life.started else None


def _rule_changed(alert: Alert, rule: Rule) -> bool:
    """Return whether an alert was last evaluated by another definition of its rule."""
    # It is empty after an update from a version with other fingerprints.
    return alert.rule_fingerprint not in ("", rule.fingerprint)
