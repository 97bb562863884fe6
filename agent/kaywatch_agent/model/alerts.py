"""Alerts, and the messages that notify receivers of them.

An alert's details are frozen when a notification is planned. A receiver formats them
at each attempt, so that a message sent late can state its delay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from kaywatch_agent.model.bounds import Count, Moment

__all__ = [
    "SEVERITIES",
    "AlertDetails",
    "Evidence",
    "MessageEndReason",
    "MessageRecord",
    "MessageStatus",
    "NotificationKind",
    "Notification",
    "NotificationRequest",
    "ReceiverRecord",
    "Severity",
    "StoredMessage",
    "Subject",
    "dedup_key",
    "fingerprint",
]

Severity = Literal["info", "warning", "error", "critical"]

SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "error", "critical")

# FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/
_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3
_SEPARATOR: Final = b"\xff"


class NotificationKind(StrEnum):
    """Why a notification is sent."""

    FIRING = "firing"
    REPEAT = "repeat"  # still firing
    RESOLVED = "resolved"
    TEST = "test"
    SUMMARY = "summary"  # what happened while the agent was down


class MessageStatus(StrEnum):
    """The delivery status of a message."""

    PENDING = "pending"
    SENT = "sent"
    DEAD = "dead"  # given up
    SUPERSEDED = "superseded"  # obsolete, or another message has its content


class MessageEndReason(StrEnum):
    """Why a message was not delivered."""

    REFUSED = "refused"  # the receiver rejected it permanently
    EXPIRED = "expired"  # older than the receiver's max_age
    GONE = "gone"  # the receiver accepts no messages any more
    REMOVED = "removed"  # the receiver is not in the configuration any more
    OVERFLOW = "overflow"  # too many messages were pending
    RESOLVED = "resolved"  # the alert ended before its first notification was sent
    REPLACED = "replaced"  # a later message includes its content


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One of the last failing executions when an episode began."""

    time: Moment
    node: str
    type: str
    message: str
    phase: str
    outcome: str
    run: str
    attempts: Count


class AlertDetails(msgspec.Struct, frozen=True, kw_only=True):
    """One alert, as it was when something was decided about it.

    Attributes:
        id: what `kaywatch why` and the HTTP interface call it.
        rule: the rule's name.
        severity: of the rule, or of the tier that fires.
        labels: what tells it from the rule's other alerts, and the labels that the rule
            and the configuration add; without `alertname` and `severity`.
        dedup_key: the same over restarts, episodes and replicas; see `dedup_key`.
        episode: counts from 1 the times that this alert fired.
        resolved: whether the episode is over.
        reason: why it is over: cleared, no_data, rule_removed, rule_changed, forgotten.
        condition: such as `success_rate < 0.95`.
        value: the metric's last value; None when there is none.
        threshold: what it is compared with.
        clear: where it counts as well again.
        unit: of both: ratio, seconds, bytes, usd, tokens, per_second or empty.
        window_seconds: what the value is of.
        worst, worst_at: the worst value of the episode, and when it was found; None
            when there is none.
        executions: how many there were in the window.
        errors: how many of them failed.
        completeness: which share of the window's events has arrived, 0 to 1.
        started: when the condition was met first, Unix seconds.
        fired: when the alert fired.
        ended: when it ended; None while it fires.
        summary: one sentence, filled in.
        error_classes: the most frequent ones with their counts, at most 3.
        transition: the one that is taken most beyond its usual share, such as
            `pay -> retry: 41%, usually 3%`.
        history: the values of the last windows, oldest first, at most 30.
        evidence: the last failing executions when it fired.
        host: where the agent runs.
        runbook_url, dashboard_url, silence_url: links, empty for none.
        flapping: whether it fires and ends again and again.
        note: what else is to be said, such as that it began while the agent was down.
    """

    id: str = ""
    rule: str
    severity: Severity
    labels: dict[str, str]
    dedup_key: str
    episode: int
    resolved: bool = False
    reason: str = ""
    condition: str = ""
    value: float | None = None
    threshold: float | None = None
    clear: float | None = None
    unit: str = ""
    worst: float | None = None
    worst_at: float | None = None
    window_seconds: float = 0.0
    executions: int = 0
    errors: int = 0
    completeness: float | None = None
    started: float = 0.0
    fired: float = 0.0
    ended: float | None = None
    summary: str = ""
    error_classes: tuple[tuple[str, int], ...] = ()
    transition: str = ""
    history: tuple[float | None, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    host: str = ""
    runbook_url: str = ""
    dashboard_url: str = ""
    silence_url: str = ""
    flapping: bool = False
    note: str = ""

    @property
    def all_labels(self) -> dict[str, str]:
        """The labels that identify it in an Alertmanager."""
        return {**self.labels, "alertname": self.rule, "severity": self.severity}

    @property
    def fingerprint(self) -> str:
        """The fingerprint that an Alertmanager gives it."""
        return fingerprint(self.all_labels)


class NotificationRequest(NamedTuple):
    """A request to notify a receiver of an alert.

    Attributes:
        receiver: the receiver's name.
        kind: why.
        alert: the alert.
        text: a text to show above the alert.
        fallback_for: the receiver that cannot be reached, if this is its fallback.
    """

    receiver: str
    kind: NotificationKind
    alert: AlertDetails
    text: str = ""
    fallback_for: str = ""


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """One message as its receiver formats it.

    Attributes:
        id: the same at each attempt: `msg_` and a ULID.
        receiver: the receiver's name.
        kind: why it is sent.
        alerts: the alerts that it shows.
        group: the labels that the alerts share, for receivers that group.
        left_out: how many more alerts it is about.
        created: when it was planned, Unix seconds.
        due: when it was first due: after `created` by the group's wait.
        text: a text to show above the alerts.
        ref: the receiver's id of the message that this one updates or replies to.
        update: whether it updates that message, rather than replying to it.
    """

    id: str
    receiver: str
    kind: NotificationKind
    alerts: tuple[AlertDetails, ...]
    group: dict[str, str] = {}
    left_out: int = 0
    created: float = 0.0
    due: float = 0.0
    text: str = ""
    ref: str = ""
    update: bool = False


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What the outbox stores of a message, and HTTP shows of it.

    `due` is when it was first due, after its group's wait; `not_before` is when it may
    be sent next. `settled` is when it was sent or given up; `code` is the last HTTP
    status, 0 for no response. `thread_root` is the id of the message that it updates
    or replies to. `failed_over` says that the receiver's fallback was notified, too.
    """

    id: str
    receiver: str
    status: MessageStatus = MessageStatus.PENDING
    created: Moment
    due: Moment
    not_before: Moment
    expires: Moment
    settled: Moment | None = None
    attempts: Annotated[
        int, msgspec.Meta(ge=0, description="the number of failed attempts")
    ] = 0
    code: Count = 0
    error: str = ""
    reason: MessageEndReason | None = None
    group: dict[str, str] = {}
    text: str = ""
    thread_root: str = ""
    fallback_for: str = ""
    failed_over: bool = False


class Subject(msgspec.Struct, frozen=True, gc=False):
    """One alert of a message.

    `kind` is why the message was planned; with `resolved` it also reports the end.
    """

    dedup_key: str
    episode: Count
    kind: NotificationKind
    resolved: bool
    summary: str


class MessageRecord(StoredMessage, frozen=True, kw_only=True):
    """A message to a receiver, and its delivery status.

    `next_attempt` allows for a receiver that is paused or down, and is null if no
    attempt will be made. The message is sent after the message `behind`.
    """

    kind: NotificationKind
    next_attempt: Moment | None
    behind: str
    alerts: tuple[Subject, ...]


class ReceiverRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One receiver: whether the last attempt succeeded, and what is pending.

    `error` is empty after a success. `disabled` says why no messages are sent until the
    configuration is reloaded; `paused_until` is when sending resumes.
    """

    name: str
    type: str
    up: bool
    waiting: Count = 0
    dead: Count = 0
    error: str = ""
    disabled: str = ""
    paused_until: Moment | None = None
    sent_at: Moment | None = None


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return a label set's fingerprint, as 16 hexadecimal digits.

    FNV-1a over sorted names and values, each followed by 0xff: `LabelSet.Fingerprint`
    of github.com/prometheus/common/model.
    """
    digest = _FNV_OFFSET
    for name, value in sorted(labels.items()):
        for byte in name.encode() + _SEPARATOR + value.encode() + _SEPARATOR:
            digest = (digest ^ byte) * _FNV_PRIME % 2**64
    return f"{digest:016x}"


def dedup_key(namespace: str, rule: str, labels: Mapping[str, str]) -> str:
    """Return the key by which a receiver recognizes an alert, as 64 hexadecimal digits.

    It depends on neither severity nor value nor episode, so that a resolve closes the
    incident that its trigger opened, and replicas of one namespace share an incident.
    """
    parts = ["kaywatch1", namespace, rule]
    parts += [text for pair in sorted(labels.items()) for text in pair]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
