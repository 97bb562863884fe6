"""Who is told what about an alert: pure, with the reason where it is nothing.

Silences, inhibition, cooldowns and filters hold back what begins, never what ends: who
was told that an alert fires is told that it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from kaywatch_agent import durations
from kaywatch_agent.model.alerts import SEVERITIES, NoticeKind, Severity
from kaywatch_agent.rules.instance import Held, Instance, Reason, Told
from kaywatch_agent.rules.rule import Rule
from kaywatch_agent.rules.state import State
from kaywatch_agent.units import span

__all__ = [
    "FLAPS",
    "Decision",
    "HeldBack",
    "cooldown",
    "decide",
    "held_back",
    "rank",
    "told",
]

# Four changes within an hour double the cooldown, up to an hour.
FLAPS: Final = 4
MAX_COOLDOWN: Final = 3600.0


# Why a receiver must not be told that an alert fires; None when it may.
HeldBack = Callable[[str], Held | None]


class Decision(NamedTuple):
    """What one receiver is told, or why not."""

    receiver: str
    kind: NoticeKind | None
    held: Held | None = None


def decide(
    instance: Instance, rule: Rule | None, held: HeldBack, clock: float
) -> list[Decision]:
    """Return what is to be said of an alert now.

    Args:
        instance: after the evaluation.
        rule: None when it is gone.
        held: why a receiver must not be told that it fires; None when it may.
        clock: the alerts' own, in seconds.
    """
    if not instance.life.burning:
        return [
            Decision(receiver, NoticeKind.RESOLVED)
            for receiver, told in instance.told.items()
            if told.last == "firing"
        ]
    if rule is None:
        return []
    return [
        found
        for receiver in rule.notify
        if (found := _begin(instance, rule, receiver, held, clock)) is not None
    ]


def told(instance: Instance, decision: Decision, clock: float) -> Told:
    """Return what a receiver knows once it was told."""
    known = instance.told.get(decision.receiver)
    episode = instance.life.episode
    if decision.kind is NoticeKind.RESOLVED:
        fired_at = known.fired_at if known else clock
        return Told(episode, "resolved", clock, fired_at)
    fresh = decision.kind is NoticeKind.FIRING or known is None
    return Told(episode, "firing", clock, clock if fresh else known.fired_at)  # type: ignore[union-attr]


def cooldown(instance: Instance, rule: Rule, clock: float) -> float:
    """Return the least seconds between two notifications that an alert fires."""
    doubled = rule.cooldown * 2.0 ** (instance.flaps(clock) // FLAPS)
    return max(rule.cooldown, min(doubled, MAX_COOLDOWN))


# -- inside --------------------------------------------------------------------------


def _begin(
    instance: Instance, rule: Rule, receiver: str, held: HeldBack, clock: float
) -> Decision | None:
    """Return what a receiver is told of an alert that fires; None for nothing new."""
    known = instance.told.get(receiver)
    aware = (
        known is not None
        and known.last == "firing"
        and known.episode == instance.life.episode
    )
    if instance.life.state is not State.FIRING:
        return None
    if aware and known is not None:
        interval = rule.repeat_interval
        if not interval or clock - known.at < interval:
            return None
    found = held(receiver)
    if found is not None:
        return Decision(receiver, None, found)
    if aware:
        return Decision(receiver, NoticeKind.REPEAT)
    if known is not None:
        seconds = cooldown(instance, rule, clock)
        until = known.fired_at + seconds
        if until > clock:
            text = f"told again in {span(until - clock)} at the earliest"
            if seconds > rule.cooldown:
                text += f"; it flaps, so its cooldown is {durations.text(seconds)}"
            return Decision(receiver, None, Held(Reason.COOLDOWN, text, until))
    return Decision(receiver, NoticeKind.FIRING)


def rank(severity: Severity) -> int:
    """Return how bad a severity is."""
    return SEVERITIES.index(severity)


def held_back(decisions: Iterable[Decision]) -> dict[str, Held]:
    """Return, by receiver, why it isn't told."""
    return {
        decision.receiver: decision.held
        for decision in decisions
        if decision.held is not None
    }
