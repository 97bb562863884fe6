"""One alert's story: how it came to fire, and what became of its messages.

Two records are joined here: the alert's own, of what was found and decided, and the
outbox's, of what was sent. They share the alert's dedup key and the episode's number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, Literal

from kaywatch_agent.model.alerts import (
    AlertDetails,
    Evidence,
    MessageRecord,
    Subject,
)
from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.rules.alert import Alert, Suppression, TimelineEntry, WorstValue
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.web.api.alert_shapes import AlertRow, AlertTold
from kaywatch_agent.web.api.alerts import find, row
from kaywatch_agent.web.api.parameters import AlertQuery
from kaywatch_agent.web.api.schema import Body
from kaywatch_agent.web.reading import Reading

__all__ = ["AlertStory", "alert_story"]

# Of one receiver, the newest. An outbox keeps some 500 messages that are done.
MAX_MESSAGES: Final = 50


class AlertClass(Body):
    """How often one class of error came when an episode began."""

    type: str
    count: Count


class AlertHeld(Body):
    """Why a receiver isn't told that an alert fires.

    `until` is when that is over, where it is known; `by` the id of the silence, or of
    the alert that inhibits.
    """

    reason: Literal["silenced", "inhibited", "cooldown", "severity"]
    text: str
    until: Moment | None
    by: str


class AlertMessage(Body):
    """One message about an alert: which of its alerts it is, and all of the message."""

    subject: Subject
    message: MessageRecord


class AlertReceiver(Body):
    """What one receiver was told, why it isn't, and its messages, the oldest first.

    `type` is empty for one that isn't configured any more. An `alertmanager` is told
    what fires again and again, and has no messages. `told` says what was decided.
    """

    receiver: str
    type: str
    told: AlertTold | None
    held_back: AlertHeld | None
    messages: list[AlertMessage]


class AlertStory(Body):
    """One alert with its story, what was seen when it fired last, and who knows.

    `left_out` counts the lines of the story that are no longer kept. `history` has the
    values of the last windows before it fired, the oldest first.
    """

    timestamp: Moment
    alert: AlertRow
    story: list[TimelineEntry]
    left_out: Count
    worst: WorstValue | None
    error_classes: list[AlertClass]
    transition: str
    history: list[float | None]
    evidence: list[Evidence]
    receivers: list[AlertReceiver]


def alert_story(reading: Reading, query: AlertQuery) -> AlertStory:
    """Return one alert with its story.

    Raises:
        Problem: 404.
    """
    picture = reading.picture()
    instance = find(picture, query.id)
    context = instance.context
    return AlertStory(
        timestamp=picture.now,
        alert=row(picture, instance),
        story=instance.timeline,
        left_out=instance.dropped_entries,
        worst=instance.worst,
        error_classes=[
            AlertClass(type=name, count=count) for name, count in context.error_classes
        ],
        transition=context.transition,
        history=list(context.history),
        evidence=list(context.evidence),
        receivers=_receivers(reading, picture, instance),
    )


# -- inside --------------------------------------------------------------------------


def _receivers(
    reading: Reading, picture: AlertsSnapshot, instance: Alert
) -> list[AlertReceiver]:
    """Return all who are concerned: those of the rule, those told, and fallbacks."""
    rule = picture.rule(instance)
    types = {known.name: known.type for known in reading.letters.receivers}
    messages = _messages(reading.letters.messages, picture.describe(instance))
    names = dict.fromkeys(
        [*(rule.notify if rule else ()), *instance.notified, *messages]
    )
    held = instance.suppressions if instance.lifecycle.is_firing else {}
    return [
        AlertReceiver(
            receiver=name,
            type=types.get(name, ""),
            told=None
            if (told := instance.notified.get(name)) is None
            else AlertTold(
                last=told.last, episode=told.episode, at=picture.wall(told.at)
            ),
            held_back=_held(picture, held.get(name)),
            messages=messages.get(name, [])[-MAX_MESSAGES:],
        )
        for name in names
    ]


def _held(picture: AlertsSnapshot, held: Suppression | None) -> AlertHeld | None:
    if held is None:
        return None
    return AlertHeld(
        reason=held.reason.value,
        text=held.text,
        until=None if held.until is None else picture.wall(held.until),
        by=held.by,
    )


def _messages(
    records: Iterable[MessageRecord], alert: AlertDetails
) -> dict[str, list[AlertMessage]]:
    """Return, by receiver, what is kept about an alert, the oldest first."""
    found: dict[str, list[AlertMessage]] = defaultdict(list)
    for record in records:
        for subject in record.alerts:
            if subject.dedup_key == alert.dedup_key and record.kind != "test":
                about = AlertMessage(subject=subject, message=record)
                found[record.receiver].append(about)
    return {name: messages[::-1] for name, messages in found.items()}
