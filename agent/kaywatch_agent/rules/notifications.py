"""Decides who is notified of an alert, and gives the reason for each who is not.

Silences, inhibitions, cooldowns and severities suppress `firing` notifications only.
A receiver that was notified that an alert fires is always notified that it resolved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from kaywatch_agent.model.alerts import SEVERITIES, NotificationKind, Severity
from kaywatch_agent.rules.alert import (
    FLAPS,
    Alert,
    LastNotification,
    Suppression,
    SuppressionReason,
)
from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.rule import AlertSettings, Inhibition, Rule
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.units import duration

__all__ = ["Decision", "Suppressor", "cooldown", "plan_notifications"]

# Flapping doubles the cooldown, up to an hour.
MAX_COOLDOWN: Final = 3600.0

# Returns why a receiver must not be notified that an alert fires; None if it may be.
FindSuppression = Callable[[Alert, Rule, str], Suppression | None]


class Decision(NamedTuple):
    """A notification that is due, or the reason why there is none.

    Attributes:
        receiver: the receiver's name.
        kind: of the notification; None if it is suppressed.
        last: the receiver's last notification, once this one is planned.
        suppression: why the receiver is not notified.
    """

    receiver: str
    kind: NotificationKind | None
    last: LastNotification | None = None
    suppression: Suppression | None = None


def plan_notifications(
    alert: Alert, rule: Rule | None, suppress: FindSuppression, clock: float
) -> Iterator[Decision]:
    """Yield the notifications of an alert that are due or suppressed now.

    Args:
        alert: the alert after the evaluation.
        rule: its rule; None if the rule was removed.
        suppress: returns why a receiver must not be notified.
        clock: the alert clock, in seconds.
    """
    life = alert.lifecycle
    if not life.is_firing:
        for receiver, last in alert.notified.items():
            if last.last == "firing":
                resolved = LastNotification(
                    life.episode, "resolved", clock, last.fired_at
                )
                yield Decision(receiver, NotificationKind.RESOLVED, resolved)
    # While an alert recovers, nothing is sent: it may resolve or relapse.
    elif rule is not None and life.state is AlertState.FIRING:
        for receiver in rule.notify:
            decision = _plan_firing(alert, rule, receiver, suppress, clock)
            if decision is not None:
                yield decision


def cooldown(alert: Alert, rule: Rule, clock: float) -> float:
    """Return the minimum seconds between two `firing` notifications of an alert."""
    doubled = rule.cooldown * 2.0 ** (alert.count_flaps(clock) // FLAPS)
    return max(rule.cooldown, min(doubled, MAX_COOLDOWN))


class Suppressor:
    """The silences, inhibitions and severities that apply in one evaluation."""

    def __init__(
        self,
        settings: AlertSettings,
        silences: Iterable[Silence],
        min_severity: Mapping[str, Severity],
        alerts: Iterable[Alert],
        now: float,
        clock: float,
    ) -> None:
        """Index the alerts that inhibit others, and the active silences.

        Args:
            settings: the rules, inhibitions and silences of the configuration.
            silences: the silences created at runtime.
            min_severity: the minimum severity of a notification, by receiver.
            alerts: all alerts.
            now: Unix seconds.
            clock: the alert clock, in seconds.
        """
        configured = (*settings.silences_at(now), *silences)
        self._settings = settings
        self._silences = [s for s in configured if s.is_active(now)]
        self._min_severity = min_severity
        self._now = now
        self._clock = clock
        self._inhibitions = InhibitionIndex(
            settings.inhibitions, alerts, settings.all_labels, clock
        )

    def find(self, alert: Alert, rule: Rule, receiver: str) -> Suppression | None:
        """Return why a receiver must not be notified that an alert fires."""
        labels = self._settings.all_labels(alert)
        for silence in self._silences:
            if silence.mutes(labels, self._now):
                return self._silenced(silence)
        source, text = self._inhibitions.find_source(labels, rule.window)
        if source:
            return Suppression(SuppressionReason.INHIBITED, text, by=source)
        minimum = self._min_severity.get(receiver)
        if minimum and SEVERITIES.index(rule.severity) < SEVERITIES.index(minimum):
            text = f"below min_severity {minimum}"
            return Suppression(SuppressionReason.SEVERITY, text)
        return None

    def _silenced(self, silence: Silence) -> Suppression:
        author, comment = silence.created_by or silence.id, silence.comment
        return Suppression(
            SuppressionReason.SILENCED,
            f"by {author}: {comment or 'no comment'}",
            self._clock + silence.ends_at.timestamp() - self._now,
            silence.id,
        )


class InhibitionIndex:
    """The alerts that inhibit others, by the labels that must be equal."""

    def __init__(
        self,
        inhibitions: Iterable[Inhibition],
        alerts: Iterable[Alert],
        labels_of: Callable[[Alert], Mapping[str, str]],
        clock: float,
    ) -> None:
        """Index the alerts that fire, or may inhibit others about the same failures.

        Args:
            inhibitions: those of the configuration, and the built-in ones.
            alerts: all alerts.
            labels_of: returns all labels of an alert.
            clock: the alert clock, in seconds.
        """
        self._clock = clock
        self._sources: list[tuple[Inhibition, dict[tuple[str, ...], Alert]]] = [
            (inhibition, {}) for inhibition in inhibitions
        ]
        # The first source stays, so that the reason does not change with each
        # evaluation; but one that fires comes before one that does not.
        for alert in sorted(alerts, key=lambda alert: not alert.lifecycle.is_firing):
            if self._sources and _seconds_since_end(alert, clock) < math.inf:
                self._add(alert, labels_of(alert))

    def find_source(self, labels: Mapping[str, str], window: float) -> tuple[str, str]:
        """Return the id of an alert that inhibits another, and the reason.

        Both are empty if there is none. As in Alertmanager, an alert that matches both
        sides of an inhibition inhibits neither itself nor others like it.

        Args:
            labels: of the other alert.
            window: of its rule, in seconds.
        """
        for inhibition, sources in self._sources:
            if matches(inhibition.target, labels) and not matches(
                inhibition.source, labels
            ):
                source = sources.get(inhibition.equal_values(labels))
                if source is not None and (text := self._reason(source, window)):
                    return source.id, text
        return "", ""

    def _add(self, alert: Alert, labels: Mapping[str, str]) -> None:
        for inhibition, sources in self._sources:
            is_source = alert.lifecycle.is_firing or inhibition.same_cause
            if is_source and matches(inhibition.source, labels):
                sources.setdefault(inhibition.equal_values(labels), alert)

    def _reason(self, source: Alert, window: float) -> str:
        if source.lifecycle.is_firing:
            return f"while {source.rule} fires"
        if source.lifecycle.state is AlertState.PENDING:
            return f"while {source.rule} is pending"
        if _seconds_since_end(source, self._clock) <= window:
            return f"{source.rule} has ended; the window still contains its failures"
        return ""


# -- inside --------------------------------------------------------------------------


def _plan_firing(
    alert: Alert, rule: Rule, receiver: str, suppress: FindSuppression, clock: float
) -> Decision | None:
    """Return the decision about a firing alert; None if nothing is due."""
    last, episode = alert.notified.get(receiver), alert.lifecycle.episode
    repeats = last is not None and (last.last, last.episode) == ("firing", episode)
    if last is not None and repeats:
        interval = rule.repeat_interval
        if not interval or clock - last.at < interval:
            return None
    suppression = suppress(alert, rule, receiver)
    # The cooldown is between episodes; `repeat_interval` limits what is sent within
    # one.
    if suppression is None and last is not None and not repeats:
        suppression = _cooling_down(alert, rule, last, clock)
    if suppression is not None:
        return Decision(receiver, None, suppression=suppression)
    if last is not None and repeats:
        repeat = LastNotification(episode, "firing", clock, last.fired_at)
        return Decision(receiver, NotificationKind.REPEAT, repeat)
    first = LastNotification(episode, "firing", clock, clock)
    return Decision(receiver, NotificationKind.FIRING, first)


def _cooling_down(
    alert: Alert, rule: Rule, last: LastNotification, clock: float
) -> Suppression | None:
    seconds = cooldown(alert, rule, clock)
    until = last.fired_at + seconds
    if until <= clock:
        return None
    text = f"next notification in {duration(until - clock)} at the earliest"
    if seconds > rule.cooldown:
        text += f"; the alert is flapping, so the cooldown is {duration(seconds)}"
    return Suppression(SuppressionReason.COOLDOWN, text, until)


def _seconds_since_end(alert: Alert, clock: float) -> float:
    """Return how long ago an alert ended: 0 while it is pending or fires.

    Infinite if it never fired.
    """
    life = alert.lifecycle
    if life.is_firing or life.state is AlertState.PENDING:
        return 0.0
    # `ended` is reset once the condition is met again.
    return clock - alert.flap_times[-1] if alert.flap_times else math.inf
