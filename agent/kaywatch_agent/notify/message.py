"""A message in the outbox: its alerts, its changes, and its id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from kaywatch_agent.model.alerts import (
    SEVERITIES,
    AlertDetails,
    MessageEndReason,
    MessageRecord,
    MessageStatus,
    Notification,
    NotificationKind,
    NotificationRequest,
    StoredMessage,
    Subject,
)

__all__ = [
    "TRIGGERS",
    "EpisodeKey",
    "MessageEntry",
    "MessageIds",
    "OutboxMessage",
    "episode_key",
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

# Identifies one episode of an alert for one receiver: the receiver's name, the receiver
# that it is the fallback for, the alert's dedup key and the episode's number.
EpisodeKey = tuple[str, str, str, int]


class MessageEntry(msgspec.Struct, frozen=True):
    """One alert in a message.

    Attributes:
        kind: why the alert is in the message.
        alert: the alert as it was then.
        first: the original kind, if the message also reports the alert's end.
    """

    kind: NotificationKind
    alert: AlertDetails
    first: NotificationKind | None = None

    def is_about(self, alert: AlertDetails) -> bool:
        """Return whether it is about the same episode; a test never is."""
        mine = self.alert
        return (
            mine.dedup_key == alert.dedup_key
            and mine.episode == alert.episode
            and self.kind is not NotificationKind.TEST
        )

    def updated(self, later: MessageEntry) -> MessageEntry:
        """Return a later entry that keeps this entry's original kind."""
        first = self.first or (self.kind if self.kind is not later.kind else None)
        return MessageEntry(later.kind, later.alert, first)

    @property
    def subject(self) -> Subject:
        """The entry as HTTP shows it."""
        alert, first = self.alert, self.first or self.kind
        return Subject(
            alert.dedup_key,
            alert.episode,
            first,
            first is not self.kind and self.kind is NotificationKind.RESOLVED,
            f"{alert.rule}: {alert.summary}",
        )


class OutboxMessage(StoredMessage, frozen=True, kw_only=True):
    """One message to one receiver.

    Attributes:
        stream: messages of one stream are sent in order.
        entries: the alerts, in order of arrival.
        undelivered: whether the receiver certainly accepted none of the attempts.
        ref: the receiver's id of the message, or of the one that it continues.
        update: whether it replaces that message, rather than replying to it.
        replaces: the id of the message whose position in the stream it takes.
        account: the credential that the receiver accepted it with. It is stored, so
            that what continues it reaches the same account after the credential was
            rotated; it is never shown.
    """

    stream: str
    entries: tuple[MessageEntry, ...]
    undelivered: bool = True
    ref: str = ""
    update: bool = False
    replaces: str = ""
    account: str = ""

    @property
    def position(self) -> str:
        """The sort key of the message within its stream."""
        return self.replaces or self.id

    @property
    def kind(self) -> NotificationKind:
        """The most urgent kind of its entries."""
        return most_urgent(entry.kind for entry in self.entries)

    def find(self, alert: AlertDetails) -> MessageEntry | None:
        """Return the entry about an alert's episode, or None."""
        return next((entry for entry in self.entries if entry.is_about(alert)), None)

    def with_entry(self, later: MessageEntry) -> tuple[MessageEntry, ...]:
        """Return the entries, with the one of the same episode updated."""
        return tuple(
            entry.updated(later) if entry.is_about(later.alert) else entry
            for entry in self.entries
        )

    def ended(
        self,
        status: MessageStatus,
        reason: MessageEndReason,
        now: float,
        error: str = "",
    ) -> OutboxMessage:
        """Return the message as dead or superseded."""
        return msgspec.structs.replace(
            self, status=status, reason=reason, settled=now, error=error or self.error
        )

    def notification(self, max_alerts: int) -> Notification:
        """Return the content for the receiver: firing and severe alerts first."""
        alerts = sorted(
            (entry.alert for entry in self.entries),
            key=lambda alert: (alert.resolved, -SEVERITIES.index(alert.severity)),
        )
        return Notification(
            id=self.id,
            receiver=self.receiver,
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
        """Return the message as HTTP shows it; see `MessageRecord`."""
        stored = {name: getattr(self, name) for name in StoredMessage.__struct_fields__}
        return MessageRecord(
            **stored,
            kind=self.kind,
            next_attempt=next_attempt,
            behind=behind,
            alerts=tuple(entry.subject for entry in self.entries),
        )


class MessageIds:
    """Generates ULIDs (https://github.com/ulid/spec) in strictly increasing order."""

    PREFIX: Final = "msg_"
    # Crockford's base 32: without I, L, O and U.
    DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    LENGTH: Final = 26
    RANDOM_BITS: Final = 80
    TIME_LIMIT: Final = 1 << 48

    def __init__(self, entropy: Callable[[int], bytes], last: str = "") -> None:
        """Continue after an id.

        Args:
            entropy: returns N random bytes.
            last: the greatest id so far; empty for none.
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
        # Ids must increase within a millisecond, and after the clock was set back.
        self._last = max(stamp << self.RANDOM_BITS | random, self._last + 1)
        shifts = range(5 * (self.LENGTH - 1), -1, -5)
        return self.PREFIX + "".join(self.DIGITS[self._last >> n & 31] for n in shifts)


def episode_key(
    target: OutboxMessage | NotificationRequest, alert: AlertDetails
) -> EpisodeKey:
    """Return the key of an alert's episode for the receiver of a message or request."""
    return target.receiver, target.fallback_for, alert.dedup_key, alert.episode


def most_urgent(kinds: Iterable[NotificationKind]) -> NotificationKind:
    """Return the kind of a message whose alerts have several kinds."""
    return min(kinds, key=_URGENCY.index)
