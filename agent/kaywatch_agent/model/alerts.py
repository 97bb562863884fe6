"""What rules decide and receivers tell: alerts as facts, and the messages about them.

Facts are frozen when a notification is decided. How a receiver puts them is decided at
each attempt, so that a late one can say that it is late.
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
    "MessageRecord",
    "MessageStatus",
    "NotificationKind",
    "Notification",
    "NotificationRequest",
    "ReceiverRecord",
    "Severity",
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


MessageStatus = Literal["pending", "sent", "dead", "superseded"]


class NotificationKind(StrEnum):
    """Why a notification is sent."""

    FIRING = "firing"
    REPEAT = "repeat"  # still firing, said again
    RESOLVED = "resolved"
    TEST = "test"
    SUMMARY = "summary"  # what happened while the agent was down


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
    """That a receiver is to be notified of an alert.

    Attributes:
        receiver: its name.
        kind: why.
        alert: the facts.
        text: what stands above them.
        fallback_for: the receiver that can't be reached, if this one stands in for it.
    """

    receiver: str
    kind: NotificationKind
    alert: AlertDetails
    text: str = ""
    fallback_for: str = ""


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one receiver.

    Attributes:
        id: the same at each attempt: `msg_` and a ULID.
        receiver: its name.
        stream: what has to arrive in order: the alert's dedup key, or the group's.
        kind: why it is sent.
        alerts: what it is about.
        group: the labels that the alerts share, for receivers that group.
        left_out: how many more alerts it would be about.
        created: when it was decided, Unix seconds.
        due: when it was to be sent: later than `created` by the time in which a group
            gathers.
        text: what else is to be said, above the alerts.
        ref: what the receiver called the message that this one goes on from.
        update: whether it takes that message's place, rather than following it.
    """

    id: str
    receiver: str
    stream: str
    kind: NotificationKind
    alerts: tuple[AlertDetails, ...]
    group: dict[str, str] = {}
    left_out: int = 0
    created: float = 0.0
    due: float = 0.0
    text: str = ""
    ref: str = ""
    update: bool = False


class Subject(msgspec.Struct, frozen=True, gc=False):
    """One alert of a message.

    `kind` is why it was decided; with `over` the message also reports its end.
    """

    dedup_key: str
    episode: Count
    kind: str
    over: bool
    summary: str


class MessageRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message to a receiver, and what became of it.

    `due` is when it was to be sent at first, after its group had gathered; `not_before`
    when the message itself may be sent next. `next_attempt` respects that its receiver
    may be paused or down, and is null where nothing will be tried. It is sent after the
    message `behind`; `follows` is the message that it changes or answers. `settled` is
    when it was sent or given up, `code` the last HTTP status and 0 for no answer.
    `fell_back` says that the receiver's fallback was notified, too.
    """

    id: str
    receiver: str
    kind: str
    status: MessageStatus
    created: Moment
    due: Moment
    not_before: Moment
    next_attempt: Moment | None
    behind: str
    expires: Moment
    settled: Moment | None
    attempts: Annotated[int, msgspec.Meta(ge=0, description="how many failed")]
    code: Count
    error: str
    reason: str
    alerts: tuple[Subject, ...]
    group: dict[str, str]
    text: str = ""
    follows: str = ""
    fallback_for: str = ""
    fell_back: bool = False


class ReceiverRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One receiver: whether the last attempt succeeded, and what waits.

    `error` is empty since the last success, `disabled` says why it gets no messages
    until a reload, `paused_until` is when it accepts messages again.
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
    """Return what identifies an alert to a receiver, as 64 hexadecimal digits.

    Neither severity nor value nor episode is part of it, so that a resolve closes what
    its trigger opened, and replicas of one namespace open one incident.
    """
    parts = ["kaywatch1", namespace, rule]
    parts += [text for pair in sorted(labels.items()) for text in pair]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
