"""Who is notified of an alert: pure, with the reason where somebody is not.

Silences, inhibitions, cooldowns and filters suppress what begins, never what ends: a
receiver that was notified of an alert is notified of its end.
"""

from __future__ import annotations

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
from kaywatch_agent.rules.describe import all_labels
from kaywatch_agent.rules.matchers import matches
from kaywatch_agent.rules.rule import AlertSettings, Inhibition, Rule
from kaywatch_agent.rules.silence import Silence, covering
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.units import duration

__all__ = ["Decision", "Suppressor", "cooldown", "plan_notifications"]

# Flapping doubles the cooldown, up to an hour.
MAX_COOLDOWN: Final = 3600.0

# Returns why a receiver must not be notified that an alert fires; None if it may.
Suppress = Callable[[Alert, Rule, str], Suppression | None]


class Decision(NamedTuple):
    """That a receiver is to be notified, or why it is not.

    Attributes:
        receiver: its name.
        kind: of the notification; None for none.
        last: what the receiver was notified of last, afterwards.
        suppression: why it is not notified.
    """

    receiver: str
    kind: NotificationKind | None
    last: LastNotification | None = None
    suppression: Suppression | None = None


def plan_notifications(
    alert: Alert, rule: Rule | None, suppress: Suppress, clock: float
) -> Iterator[Decision]:
    """Yield what is to be decided about an alert now.

    Args:
        alert: after the evaluation.
        rule: None when it is gone.
        suppress: why a receiver must not be notified that the alert fires.
        clock: the alerts' own, in seconds.
    """
    episode = alert.life.episode
    if not alert.life.is_firing:
        for receiver, told in alert.told.items():
            if told.last == "firing":
                last = LastNotification(episode, "resolved", clock, told.fired_at)
                yield Decision(receiver, NotificationKind.RESOLVED, last)
    elif rule is not None and alert.life.state is AlertState.FIRING:
        for receiver in rule.notify:
            decision = _firing(alert, rule, receiver, suppress, clock)
            if decision is not None:
                yield decision


def cooldown(alert: Alert, rule: Rule, clock: float) -> float:
    """Return the least seconds between two notifications that an alert fires."""
    doubled = rule.cooldown * 2.0 ** (alert.flaps(clock) // FLAPS)
    return max(rule.cooldown, min(doubled, MAX_COOLDOWN))


class Suppressor:
    """What suppresses notifications in one evaluation."""

    def __init__(
        self,
        settings: AlertSettings,
        silences: Iterable[Silence],
        min_severity: Mapping[str, Severity],
        alerts: Iterable[Alert],
        now: float,
        clock: float,
    ) -> None:
        """Index the alerts that fire, and the silences that are active.

        Args:
            settings: the rules, inhibitions and silences of the configuration.
            silences: the other ones.
            min_severity: by receiver, the least severity that it is notified of.
            alerts: all of them.
            now: Unix seconds.
            clock: the alerts' own, in seconds.
        """
        everything = (*settings.silences, *silences)
        self._settings = settings
        self._silences = [silence for silence in everything if silence.holds(now)]
        self._min_severity = min_severity
        self._now = now
        self._clock = clock
        self._inhibitions = InhibitionIndex(
            settings.inhibitions,
            (
                (alert.id, all_labels(alert, settings))
                for alert in alerts
                if settings.inhibitions and alert.life.is_firing
            ),
        )

    def find(self, alert: Alert, rule: Rule, receiver: str) -> Suppression | None:
        """Return why a receiver must not be notified that an alert fires."""
        labels = all_labels(alert, self._settings)
        silence = covering(self._silences, labels, self._now)
        if silence is not None:
            text = silence.comment or "no comment"
            text = f"by {silence.created_by or silence.id}: {text}"
            left = silence.ends_at.timestamp() - self._now
            until = self._clock + left
            return Suppression(SuppressionReason.SILENCED, text, until, silence.id)
        source, name = self._inhibitions.source(labels)
        if source:
            text = f"while {name} fires"
            return Suppression(SuppressionReason.INHIBITED, text, by=source)
        least = self._min_severity.get(receiver)
        if least and SEVERITIES.index(rule.severity) < SEVERITIES.index(least):
            text = f"it is only told of {least} and worse"
            return Suppression(SuppressionReason.SEVERITY, text)
        return None


class InhibitionIndex:
    """Which alerts inhibit others, by the labels that have to be equal."""

    def __init__(
        self,
        inhibitions: Iterable[Inhibition],
        firing: Iterable[tuple[str, Mapping[str, str]]],
    ) -> None:
        """Take the ids and labels of all alerts that fire."""
        self._sources: list[
            tuple[Inhibition, dict[tuple[str, ...], tuple[str, str]]]
        ] = [(inhibition, {}) for inhibition in inhibitions]
        for name, labels in firing:
            for inhibition, known in self._sources:
                if matches(inhibition.source, labels):
                    source = (name, labels["alertname"])
                    known.setdefault(_equal(inhibition, labels), source)

    def source(self, labels: Mapping[str, str]) -> tuple[str, str]:
        """Return the id and the rule of an alert that inhibits one; empty for none.

        An alert that is on both sides of an inhibition does not inhibit itself, nor
        others like it, as in Alertmanager.
        """
        for inhibition, known in self._sources:
            if matches(inhibition.target, labels) and not matches(
                inhibition.source, labels
            ):
                found = known.get(_equal(inhibition, labels))
                if found is not None:
                    return found
        return "", ""


# -- inside --------------------------------------------------------------------------


def _firing(
    alert: Alert, rule: Rule, receiver: str, suppress: Suppress, clock: float
) -> Decision | None:
    """Return what is decided about an alert that fires; None for nothing new."""
    known, episode = alert.told.get(receiver), alert.life.episode
    aware = (
        known if known and (known.last, known.episode) == ("firing", episode) else None
    )
    if aware is not None:
        interval = rule.repeat_interval
        if not interval or clock - aware.at < interval:
            return None
    suppression = suppress(alert, rule, receiver)
    if suppression is not None:
        return Decision(receiver, None, suppression=suppression)
    if aware is not None:
        last = LastNotification(episode, "firing", clock, aware.fired_at)
        return Decision(receiver, NotificationKind.REPEAT, last)
    if known is not None:
        seconds = cooldown(alert, rule, clock)
        until = known.fired_at + seconds
        if until > clock:
            text = f"told again in {duration(until - clock)} at the earliest"
            if seconds > rule.cooldown:
                text += f"; it flaps, so its cooldown is {duration(seconds)}"
            reason = SuppressionReason.COOLDOWN
            return Decision(
                receiver, None, suppression=Suppression(reason, text, until)
            )
    last = LastNotification(episode, "firing", clock, clock)
    return Decision(receiver, NotificationKind.FIRING, last)


def _equal(inhibition: Inhibition, labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple([labels.get(name, "") for name in inhibition.equal])
