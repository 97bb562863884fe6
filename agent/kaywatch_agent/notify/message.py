"""One message to one receiver, from the decision to send it to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final

import msgspec

from kaywatch_agent.model.alerts import (
    SEVERITIES,
    AlertDetails,
    MessageRecord,
    Notification,
    NotificationKind,
    NotificationRequest,
    Subject,
)

__all__ = [
    "TRIGGERS",
    "EndReason",
    "Episode",
    "MessageEntry",
    "MessageIds",
    "OutboxMessage",
    "Status",
    "episode_of",
    "most_urgent",
]

TRIGGERS: Final = (NotificationKind.FIRING, NotificationKind.REPEAT)

_URGENCY: Final = (
    NotificationKind.TEST,
    NotificationKind.SUMMARY,
    NotificationKind.FIRING,
    NotificationKind.REPEAT,
    NotificationKind.RESOLVED,
)

# One episode of an alert, for one receiver: its name, the receiver that it stands in
# for, the alert's dedup key and the episode's number.
Episode = tuple[str, str, str, int]


class Status(StrEnum):
    """Where a message is."""

    PENDING = "pending"
    SENT = "sent"
    DEAD = "dead"
    SUPERSEDED = "superseded"  # another message has its content, or it is obsolete


class EndReason(StrEnum):
    """Why a message was not delivered."""

    REFUSED = "refused"  # the receiver rejected it for good
    EXPIRED = "expired"  # too old
    GONE = "gone"  # the receiver accepts no messages any more
    REMOVED = "removed"  # the receiver is not in the configuration any more
    OVERFLOW = "overflow"  # too many were waiting
    RESOLVED = "resolved"  # the alert ended before anybody was notified of it
    REPLACED = "replaced"  # a later message has its content, and more


class MessageEntry(msgspec.Struct, frozen=True):
    """One alert in a message.

    Attributes:
        kind: why it is there.
        alert: the facts, as they were then.
        first: the first reason, where the message also reports the alert's end.
    """

    kind: NotificationKind
    alert: AlertDetails
    first: NotificationKind | None = None

    def is_of(self, alert: AlertDetails) -> bool:
        """Return whether it is about the same episode."""
        mine = self.alert
        return (
            mine.dedup_key == alert.dedup_key
            and mine.episode == alert.episode
            and self.kind is not NotificationKind.TEST
        )

    def then(self, later: MessageEntry) -> MessageEntry:
        """Return a later entry that remembers this one's reason."""
        first = self.first or (self.kind if self.kind is not later.kind else None)
        return MessageEntry(later.kind, later.alert, first)


class OutboxMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one receiver.

    Attributes:
        id: `msg_` and a ULID: the same at each attempt.
        receiver: its name.
        stream: messages of one stream are sent in order.
        entries: the alerts, in the order in which they came.
        group: the labels that they share.
        created: when it was decided, Unix seconds.
        due: when it was to be sent at first.
        not_before: when it may be sent next.
        expires: when it is given up.
        attempts: how many failed.
        undelivered: whether the receiver certainly took none of the attempts.
        status: where it is.
        settled: when it got there.
        code: the last HTTP status; 0 for no answer.
        error: the last error.
        reason: why it is dead or superseded.
        ref: the receiver's id of the message, or of the one that it continues.
        update: whether it replaces that message, rather than following it.
        replaces: the id of the message whose place in the stream it takes.
        thread_root: the id of the message that it continues.
        fallback_for: the receiver that could not be reached.
        failed_over: whether the receiver's fallback was notified, too.
        text: what stands above the alerts.
    """

    id: str
    receiver: str
    stream: str
    entries: tuple[MessageEntry, ...]
    group: dict[str, str] = {}
    created: float
    due: float
    not_before: float
    expires: float
    attempts: int = 0
    undelivered: bool = True
    status: Status = Status.PENDING
    settled: float | None = None
    code: int = 0
    error: str = ""
    reason: EndReason | None = None
    ref: str = ""
    update: bool = False
    replaces: str = ""
    thread_root: str = ""
    fallback_for: str = ""
    failed_over: bool = False
    text: str = ""

    @property
    def place(self) -> str:
        """Its sort key within the stream."""
        return self.replaces or self.id

    @property
    def kind(self) -> NotificationKind:
        """Why it is sent: the most urgent of its alerts' reasons."""
        return most_urgent(entry.kind for entry in self.entries)

    def find(self, alert: AlertDetails) -> MessageEntry | None:
        """Return the entry about an alert's episode, if there is one."""
        return next((entry for entry in self.entries if entry.is_of(alert)), None)

    def amended(self, later: MessageEntry) -> tuple[MessageEntry, ...]:
        """Return its entries with a later one in place of that of the same episode."""
        return tuple(
            old.then(later) if old.is_of(later.alert) else old for old in self.entries
        )

    def ended(
        self, status: Status, reason: EndReason, now: float, error: str = ""
    ) -> OutboxMessage:
        """Return it as dead or superseded."""
        return msgspec.structs.replace(
            self, status=status, reason=reason, settled=now, error=error or self.error
        )

    def notification(self, max_alerts: int) -> Notification:
        """Return what the receiver gets: the most severe alerts first."""
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

    def record(self, behind: str, next_attempt: float | None) -> MessageRecord:
        """Return it for people; the arguments are the record's attributes."""
        return MessageRecord(
            id=self.id,
            receiver=self.receiver,
            kind=str(self.kind),
            status=self.status.value,
            created=self.created,
            due=self.due,
            not_before=self.not_before,
            next_attempt=next_attempt,
            behind=behind,
            expires=self.expires,
            settled=self.settled,
            attempts=self.attempts,
            code=self.code,
            error=self.error,
            reason=str(self.reason or ""),
            alerts=tuple(map(_subject, self.entries)),
            group=self.group,
            text=self.text,
            follows=self.thread_root,
            fallback_for=self.fallback_for,
            fell_back=self.failed_over,
        )


class MessageIds:
    """Makes ULIDs (https://github.com/ulid/spec), each greater than all before it."""

    PREFIX: Final = "msg_"
    # Crockford's base 32: neither I, L, O nor U.
    DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    LENGTH: Final = 26
    RANDOM_BITS: Final = 80
    TIME_LIMIT: Final = 1 << 48

    def __init__(self, entropy: Callable[[int], bytes], last: str = "") -> None:
        """Begin after an id.

        Args:
            entropy: returns N random bytes.
            last: the greatest id so far.
        """
        self._entropy = entropy
        self._last = 0
        digits = last.removeprefix(self.PREFIX)
        if len(digits) == self.LENGTH and set(digits) <= set(self.DIGITS):
            for digit in digits:
                self._last = self._last * 32 + self.DIGITS.index(digit)

    def make(self, now: float) -> str:
        """Return the next id: `msg_` and 26 digits."""
        stamp = min(max(0, int(now * 1000)), self.TIME_LIMIT - 1)
        random = int.from_bytes(self._entropy(self.RANDOM_BITS // 8), "big")
        # Within a millisecond, or after the clock was put back: one more than the last.
        self._last = max(stamp << self.RANDOM_BITS | random, self._last + 1)
        shifts = range(5 * (self.LENGTH - 1), -1, -5)
        return self.PREFIX + "".join(self.DIGITS[self._last >> n & 31] for n in shifts)


def episode_of(to: OutboxMessage | NotificationRequest, alert: AlertDetails) -> Episode:
    """Return the episode of an alert that a message or a request is about."""
    return to.receiver, to.fallback_for, alert.dedup_key, alert.episode


def most_urgent(kinds: Iterable[NotificationKind]) -> NotificationKind:
    """Return the kind of a message whose alerts have several."""
    return min(kinds, key=_URGENCY.index)


# -- inside --------------------------------------------------------------------------


def _subject(entry: MessageEntry) -> Subject:
    alert, first = entry.alert, entry.first or entry.kind
    return Subject(
        alert.dedup_key,
        alert.episode,
        str(first),
        first is not entry.kind and entry.kind is NotificationKind.RESOLVED,
        f"{alert.rule}: {alert.summary}",
    )
