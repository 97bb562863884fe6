"""One message in the outbox, from when it was decided to what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from kaywatch_agent.model.alerts import SEVERITIES, Alert, NoticeKind, Notification

__all__ = ["Entry", "Reason", "Row", "Status", "most_urgent"]

_RANK = {
    NoticeKind.TEST: 0,
    NoticeKind.SUMMARY: 1,
    NoticeKind.FIRING: 2,
    NoticeKind.REPEAT: 3,
    NoticeKind.RESOLVED: 4,
}


def most_urgent(kinds: Iterable[NoticeKind]) -> NoticeKind:
    """Return the reason that a message has whose alerts have several."""
    return min(kinds, key=_RANK.__getitem__)


class Status(StrEnum):
    """Where a message is."""

    PENDING = "pending"
    SENT = "sent"
    DEAD = "dead"
    SUPERSEDED = "superseded"  # another one says it, or nobody has to know any more


class Reason(StrEnum):
    """Why a message was not delivered."""

    REFUSED = "refused"  # the receiver said that it will never take it
    EXPIRED = "expired"  # too old
    GONE = "gone"  # the receiver wants no messages any more
    REMOVED = "removed"  # the receiver is not in the configuration any more
    OVERFLOW = "overflow"  # too many were waiting
    RESOLVED = "resolved"  # it was over before anybody had been told
    REPLACED = "replaced"  # a later message says the same, and more


class Entry(msgspec.Struct, frozen=True):
    """One alert in a message, and why it is there.

    Attributes:
        kind: why.
        alert: as it is told.
        first: why it came at first, where the message says that it is over as well.
    """

    kind: NoticeKind
    alert: Alert
    first: NoticeKind | None = None

    def is_of(self, alert: Alert) -> bool:
        """Whether it is about the same episode."""
        mine = self.alert
        return (
            mine.dedup_key == alert.dedup_key
            and mine.episode == alert.episode
            and self.kind is not NoticeKind.TEST
        )

    def then(self, later: Entry) -> Entry:
        """Return what says the same as a later one, and that this one came first."""
        first = self.first or (self.kind if self.kind is not later.kind else None)
        return Entry(later.kind, later.alert, first)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one receiver.

    Attributes:
        id: `msg_` and a ULID: the same at each attempt.
        receiver: its name.
        stream: what has to arrive in order.
        entries: the alerts, in the order in which they came.
        group: the labels that they share.
        created: when it was decided, Unix seconds.
        due: when it was to be sent at first.
        not_before: when it may be sent next.
        expires: when it is given up.
        attempts: how many failed.
        unread: whether the receiver surely took none of them.
        status: where it is.
        settled: when it got there.
        code: the last HTTP status; 0 for no answer.
        error: what was wrong last.
        reason: why it is dead or superseded.
        ref: what the receiver calls it, or the message that it goes on from.
        update: whether it takes that message's place.
        heir_of: the row whose place in the stream it has; empty for its own.
        root: the row whose message it goes on from.
        fallback_for: the receiver that could not be told.
        fell_back: whether the fallback was told, too.
        text: what is said above the alerts.
    """

    id: str
    receiver: str
    stream: str
    entries: tuple[Entry, ...]
    group: dict[str, str] = {}
    created: float
    due: float
    not_before: float
    expires: float
    attempts: int = 0
    unread: bool = True
    status: Status = Status.PENDING
    settled: float | None = None
    code: int = 0
    error: str = ""
    reason: Reason | None = None
    ref: str = ""
    update: bool = False
    heir_of: str = ""
    root: str = ""
    fallback_for: str = ""
    fell_back: bool = False
    text: str = ""

    @property
    def place(self) -> str:
        """What its stream is sorted by."""
        return self.heir_of or self.id

    @property
    def kind(self) -> NoticeKind:
        """Why it is sent: the most urgent of its alerts' reasons."""
        return most_urgent(entry.kind for entry in self.entries)

    def find(self, alert: Alert) -> Entry | None:
        """Return what it says of an alert's episode, if anything."""
        return next((entry for entry in self.entries if entry.is_of(alert)), None)

    def notification(self, max_alerts: int) -> Notification:
        """Return it as the receiver is to see it: the most severe alerts first."""
        alerts = sorted(
            (entry.alert for entry in self.entries),
            key=lambda alert: (alert.resolved, -SEVERITIES.index(alert.severity)),
        )
        return Notification(
            id=self.id,
            receiver=self.receiver,
            stream=self.stream,
            kind=self.kind,
            alerts=tuple(alerts[:max_alerts]),
            group=self.group,
            left_out=max(0, len(alerts) - max_alerts),
            created=self.created,
            due=self.due,
            text=self.text,
            ref=self.ref,
            update=self.update,
        )
