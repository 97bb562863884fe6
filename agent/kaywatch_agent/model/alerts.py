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

from kaywatch_agent.model.bounds import Count, Moment, Rate, Seconds

__all__ = [
    "NO_DATA",
    "SEVERITIES",
    "AlertDetails",
    "AlertSummary",
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

# The reason of an alert that ended because its data stopped.
NO_DATA: Final = "no_data"


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
    ATTEMPTS = "attempts"  # the receiver's max_attempts have failed
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


class AlertSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about an alert that lists show as well.

    Attributes:
        id: its id over HTTP and on the command line.
        rule: the name of its rule.
        severity: of the rule, or of the tier that fires.
        labels: the labels that distinguish it from the rule's other alerts, with the
            labels of the rule and of the configuration, but without `alertname` and
            `severity`.
        dedup_key: the same over restarts, episodes and replicas; see `dedup_key`.
        episode: how often the alert has fired, from 1.
        reason: why it ended: cleared, no_data, rule_removed, rule_changed, forgotten.
        condition: such as `success_rate < 0.95`.
        value: the metric's last value; None if unknown.
        threshold: what the value is compared with.
        clear: the value at which the condition is no longer met.
        unit: ratio, seconds, bytes, percent, usd, tokens, runs, per_second or empty.
        window_seconds: the length of the window of the value.
        executions: executions in the window.
        errors: how many of them failed.
        completeness: the share of the window's events that arrived, 0 to 1.
        started: when the condition was first met, Unix seconds; 0 if it never was.
        fired: when the alert fired; 0 if it never did.
        ended: when it ended; None while it lasts.
        summary: one sentence, filled in.
        runbook_url, dashboard_url, silence_url: links, empty for none.
        flapping: whether it fires and ends again and again.
        note: further text, such as that it began while the agent was down.
        next_step: what to look at, while it fires; empty for the links alone.
        cost: what the failure had cost when it fired; empty if that is unknown, or part
            of the summary.
    """

    id: str = ""
    rule: str
    severity: Severity
    labels: dict[str, str]
    dedup_key: str
    episode: Count
    reason: str = ""
    condition: str = ""
    value: float | None = None
    threshold: float | None = None
    clear: float | None = None
    unit: str = ""
    window_seconds: Seconds = 0.0
    executions: Count = 0
    errors: Count = 0
    completeness: Rate | None = None
    started: Moment = 0.0
    fired: Moment = 0.0
    ended: Moment | None = None
    summary: str = ""
    runbook_url: str = ""
    dashboard_url: str = ""
    silence_url: str = ""
    flapping: bool = False
    note: str = ""
    next_step: str = ""
    cost: str = ""

    @property
    def ended_without_data(self) -> bool:
        """Whether it ended because its data stopped, and not because it recovered."""
        return self.ended is not None and self.reason == NO_DATA

    @property
    def all_labels(self) -> dict[str, str]:
        """The labels that identify it in an Alertmanager."""
        return {**self.labels, "alertname": self.rule, "severity": self.severity}

    @property
    def fingerprint(self) -> str:
        """The fingerprint that an Alertmanager gives it."""
        return fingerprint(self.all_labels)


class AlertDetails(AlertSummary, frozen=True, kw_only=True):
    """All facts about an alert, as they were when a notification was decided.

    Attributes:
        resolved: whether the episode is over.
        worst, worst_at: the worst value of the episode and its time; None if unknown.
        error_classes: the most frequent exception types with their counts, at most 3.
        transition: the one that exceeds its usual share most, such as
            `pay -> retry: 41.0 %, usually 3.0 %`.
        history: the values of the last windows, oldest first, at most 30.
        evidence: the last failed executions when it fired.
        host: where the agent runs.
        in_words: whether the summary states the value in words, so that the figure adds
            nothing, such as the number of deaths.
    """

    resolved: bool = False
    worst: float | None = None
    worst_at: float | None = None
    error_classes: tuple[tuple[str, int], ...] = ()
    transition: str = ""
    history: tuple[float | None, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    host: str = ""
    in_words: bool = False


class NotificationRequest(NamedTuple):
    """A request to notify a receiver of an alert.

    Attributes:
        receiver: the receiver's name.
        kind: why.
        alert: the alert.
        text: a text to show above the alert.
        fallback_for: the receiver that cannot be reached, if this is its fallback.
        is_alone: whether no other alert of the group can follow within `group_wait`.
    """

    receiver: str
    kind: NotificationKind
    alert: AlertDetails
    text: str = ""
    fallback_for: str = ""
    is_alone: bool = False


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
        account: the credential that its trigger was accepted with, if it is a resolve,
            an update or a reply; empty for the current one.
        also: the other receivers that were notified of the alerts.
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
    account: str = ""
    also: tuple[str, ...] = ()


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as the outbox stores it and HTTP shows it.

    `due` is when it was first due, after its group's wait; `not_before` is when it may
    be sent next. `settled` is when it was sent or given up; `code` is the last HTTP
    status, or code of an SMTP server, and 0 for no response. `thread_root` is the id of
    the message that it updates or replies to. `failed_over` is set if the receiver's
    fallback was notified, too.
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
    """One receiver: whether the last attempt succeeded, and its pending messages.

    `up` is null before the first attempt since the start. `error` is empty after a
    success. `disabled` is the reason why no messages are sent until the configuration
    is reloaded; `paused_until` is when sending resumes.
    """

    name: str
    type: str
    up: bool | None
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
