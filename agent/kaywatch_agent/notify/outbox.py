"""All messages to all receivers: enqueued, claimed, finished, retried, given up.

Strategy: an outbox is a value with rules and no I/O. A message goes to one receiver;
the messages of a stream go in order, so that a resolve never overtakes its trigger.
Each message ends as sent, dead or superseded, and is counted as such once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from kaywatch_agent.model.alerts import (
    MessageRecord,
    Notification,
    NotificationKind,
    NotificationRequest,
    ReceiverRecord,
)
from kaywatch_agent.notify.enqueue import (
    MAX_ENTRIES,
    EnqueueResult,
    diverted,
    enqueue,
)
from kaywatch_agent.notify.limits import ReceiverState
from kaywatch_agent.notify.message import (
    TRIGGERS,
    EndReason,
    MessageIds,
    OutboxMessage,
    Status,
    episode_of,
)
from kaywatch_agent.notify.policy import Policy
from kaywatch_agent.notify.result import MAX_RETRY_AFTER, DeliveryResult, Outcome
from kaywatch_agent.notify.store import OutboxStore
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = ["MAX_PENDING", "Outbox", "OutboxMetrics"]

MAX_BACKOFF: Final = 300.0  # seconds
LEAST_PAUSE: Final = 1.0  # after a 429 that doesn't say how long

MAX_PENDING: Final = 2_000  # messages of one receiver

# The kinds of messages to drop when too many wait: the first of these, the oldest.
_EXPENDABLE: Final = (
    NotificationKind.TEST,
    NotificationKind.REPEAT,
    NotificationKind.SUMMARY,
    NotificationKind.FIRING,
    NotificationKind.RESOLVED,
)


class OutboxMetrics(Metrics):
    """What is counted of messages and receivers."""

    requests = Counter(
        "kaywatch_notification_requests_total",
        "What rules had to tell a receiver, by what became of it in the outbox.",
        labels=("receiver", "kind", "result"),
    )
    ended = Counter(
        "kaywatch_notifications_total",
        "Messages that are done with: sent, dead or superseded.",
        labels=("receiver", "kind", "result"),
    )
    attempts = Counter(
        "kaywatch_notify_attempts_total",
        "Attempts to send, by the HTTP status; none for no answer.",
        labels=("receiver", "code"),
    )
    dead = Counter(
        "kaywatch_outbox_dead_total",
        "Messages that were given up.",
        labels=("receiver", "reason"),
    )
    depth = Gauge("kaywatch_outbox_depth", "Messages that wait.", labels=("receiver",))
    oldest = Gauge(
        "kaywatch_outbox_oldest_seconds",
        "How long the oldest message waits that was due.",
    )
    up = Gauge(
        "kaywatch_receiver_up",
        "Whether the last attempt to tell a receiver got through.",
        labels=("receiver",),
    )


class Outbox:
    """All messages, and the receivers that they go to.

    Attributes:
        store: the messages.
        receivers: how each receiver does, by name.
        metrics: counts what happens.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        *,
        random: Callable[[], float],
        entropy: Callable[[int], bytes],
    ) -> None:
        """Begin without messages.

        Args:
            policies: by receiver.
            random: returns 0 to 1, for the jitter.
            entropy: returns N random bytes, for ids.
        """
        self.store = OutboxStore()
        self.receivers = {name: ReceiverState(p) for name, p in policies.items()}
        self.metrics = OutboxMetrics()
        self._random = random
        self._entropy = entropy
        self._ids = MessageIds(entropy)

    def restore(self, documents: Mapping[str, bytes], now: float) -> None:
        """Continue with the documents that a commit wrote, by id."""
        self.store.restore(documents, now)
        self._ids = MessageIds(self._entropy, max(self.store.rows, default=""))
        for name in {row.receiver for row in self.store.rows.values()}:
            if name not in self.receivers:
                self._abandon(name, now)

    def use(self, policies: Mapping[str, Policy], now: float) -> None:
        """Take another configuration; disabled receivers get another try."""
        for name in set(self.receivers) - set(policies):
            self._abandon(name, now)
            del self.receivers[name]
        for name, policy in policies.items():
            self.receivers.setdefault(name, ReceiverState(policy)).renew(policy)

    # -- enqueueing --------------------------------------------------------------------

    def enqueue(self, request: NotificationRequest, now: float) -> EnqueueResult:
        """Take a request; return what became of it."""
        result = self._enqueue(request, now)
        self.metrics.requests.labels(request.receiver, request.kind, result).add()
        return result

    def _enqueue(self, request: NotificationRequest, now: float) -> EnqueueResult:
        receiver = self.receivers.get(request.receiver)
        if receiver is None:
            return EnqueueResult.UNKNOWN
        found = enqueue(self.store, receiver, request, now, self._ids.make(now))
        for row in found.messages:
            self._put(row)
        if found.fallback is not None:
            self._enqueue(found.fallback, now)
        self._shed(request.receiver, now)
        return found.result

    def _shed(self, name: str, now: float) -> None:
        """End the least important messages while too many wait."""
        while self.store.depth(name) > MAX_PENDING:
            flying = self.receivers[name].in_flight
            waiting = [row for row in self.store.pending(name) if row.id != flying]
            row = min(waiting, key=lambda row: (_EXPENDABLE.index(row.kind), row.id))
            if row.kind in (NotificationKind.FIRING, NotificationKind.RESOLVED):
                self._kill(row, EndReason.OVERFLOW, now, "too many messages wait")
            else:
                self._put(row.ended(Status.SUPERSEDED, EndReason.OVERFLOW, now))

    # -- sending -----------------------------------------------------------------------

    def claim(self, name: str, now: float) -> OutboxMessage | None:
        """Return the message to send now, if any; it is in flight until `finish`."""
        receiver = self.receivers.get(name)
        if receiver is None or receiver.in_flight or receiver.disabled:
            return None
        self._expire(name, now)
        if receiver.free_at(now) > now:
            return None
        due = [r for r in self._claimable(name) if self._when(r, receiver, now) <= now]
        if not due:
            return None
        row = min(due, key=lambda row: (row.not_before, row.id))
        receiver.begin(row.id, now)
        return self._continuing(row)

    def next_due(self, name: str, now: float) -> float | None:
        """Return when `claim` may return a message; None until a commit, if ever."""
        receiver = self.receivers.get(name)
        if receiver is None or receiver.in_flight or receiver.disabled:
            return None
        times = [self._when(row, receiver, now) for row in self._claimable(name)]
        return max(min(times), receiver.free_at(now)) if times else None

    def finish(self, message_id: str, result: DeliveryResult, now: float) -> None:
        """Take the result of an attempt."""
        row = self.store.rows[message_id]
        receiver = self.receivers.get(row.receiver)
        code = str(result.code) if result.code else "none"
        self.metrics.attempts.labels(row.receiver, code).add()
        delay = self._delay(row, result)
        was_open = receiver is not None and receiver.breaker.open
        if receiver is not None:
            receiver.finish(result, now, delay)
        if row.status is Status.PENDING:
            self._settle(row, result, now, delay)
        if receiver is not None:
            self._after(row.receiver, receiver, was_open, now)

    def notification(self, row: OutboxMessage) -> Notification:
        """Return what a message's receiver gets."""
        receiver = self.receivers.get(row.receiver)
        return row.notification(receiver.policy.max_alerts if receiver else MAX_ENTRIES)

    def _claimable(self, name: str) -> Iterable[OutboxMessage]:
        return filter(self.store.sealed, self.store.heads(name))

    def _when(self, row: OutboxMessage, receiver: ReceiverState, now: float) -> float:
        """Return when a message may be sent, as far as its receiver allows it."""
        if receiver.breaker.open and row.attempts:
            return now  # the circuit decides when it is probed
        policy = receiver.policy
        longest = MAX_RETRY_AFTER + policy.group_wait + policy.group_interval
        # It waits longer than was ever intended only if the clock was put back.
        return now if row.not_before - now > longest else row.not_before

    def _settle(
        self, row: OutboxMessage, result: DeliveryResult, now: float, delay: float
    ) -> None:
        """Take what an attempt means for its message."""
        row = replace(
            row,
            code=result.code,
            error=result.error,
            undelivered=row.undelivered and result.undelivered,
        )
        if result.outcome is Outcome.SENT:
            self._sent(row, result, now)
            return
        row = replace(row, attempts=row.attempts + 1)
        if result.outcome is not Outcome.RETRY:
            gone = result.outcome is Outcome.GONE
            reason = EndReason.GONE if gone else EndReason.REFUSED
            self._kill(row, reason, now, result.error)
            return
        self._put(replace(row, not_before=now + delay))
        if row.receiver not in self.receivers:
            self._abandon(row.receiver, now)

    def _sent(self, row: OutboxMessage, result: DeliveryResult, now: float) -> None:
        sent = self._continuing(row)
        ref = result.ref or sent.ref
        self._put(replace(row, status=Status.SENT, settled=now, ref=ref))
        if sent.update:
            root = self.store.rows[row.thread_root]
            # A message that could not be changed was posted anew, under another id.
            self._put(replace(root, entries=sent.entries, ref=ref))

    def _after(
        self, name: str, receiver: ReceiverState, was_open: bool, now: float
    ) -> None:
        """Act on what a receiver's answer says about the receiver."""
        pending = self.store.pending(name)
        if receiver.disabled:
            for row in pending:
                self._kill(row, EndReason.GONE, now, receiver.disabled)
        elif receiver.breaker.open and not was_open:
            for row in pending:
                self._fail_over(row, now)
        elif was_open and not receiver.breaker.open:
            # It is back: what failed meanwhile need not wait for its own next try.
            for row in pending:
                if row.attempts and row.not_before > now:
                    self._put(replace(row, not_before=now))

    def _continuing(self, row: OutboxMessage) -> OutboxMessage:
        """Return a message with the one that it continues, if there is one."""
        root = self.store.rows.get(row.thread_root)
        if root is None or root.status is not Status.SENT or not root.ref:
            return row
        receiver = self.receivers.get(row.receiver)
        update = receiver is not None and receiver.policy.follow_up == "update"
        if not update or row.kind is not NotificationKind.RESOLVED:
            return replace(row, ref=root.ref)
        # Each alert of the message as it is now.
        entries = tuple(
            entry if (newer := row.find(entry.alert)) is None else entry.then(newer)
            for entry in root.entries
        )
        return replace(row, ref=root.ref, update=True, entries=entries)

    def _delay(self, row: OutboxMessage, result: DeliveryResult) -> float:
        """Return the seconds until a message is tried again: full jitter."""
        jitter = self._random() * min(MAX_BACKOFF, 2.0 ** min(row.attempts + 1, 16))
        least = LEAST_PAUSE if result.pause else 0.0
        return min(max(jitter, least, result.after or 0.0), MAX_RETRY_AFTER)

    # -- the end of a message ----------------------------------------------------------

    def _expire(self, name: str, now: float) -> None:
        # Behind a head that is too old there may be another one.
        while old := [row for row in self.store.heads(name) if row.expires <= now]:
            for row in old:
                self._kill(row, EndReason.EXPIRED, now)

    def _abandon(self, name: str, now: float) -> None:
        """Give up the messages of a receiver that is gone, but for one in flight."""
        receiver = self.receivers.get(name)
        for row in self.store.pending(name):
            if receiver is None or receiver.in_flight != row.id:
                error = "the receiver is not configured any more"
                self._kill(row, EndReason.REMOVED, now, error)

    def _kill(
        self, row: OutboxMessage, reason: EndReason, now: float, error: str = ""
    ) -> None:
        """Give a message up; its receiver's fallback is notified."""
        self._fail_over(row.ended(Status.DEAD, reason, now, error), now)

    def _fail_over(self, row: OutboxMessage, now: float) -> None:
        """Put a message, and notify its receiver's fallback if that wasn't done yet."""
        receiver = self.receivers.get(row.receiver)
        requests: list[NotificationRequest] = []
        if receiver is not None and not row.failed_over:
            for entry in row.entries:
                request = NotificationRequest(
                    row.receiver, entry.kind, entry.alert, "", row.fallback_for
                )
                requests += filter(None, [diverted(request, receiver)])
        self._put(replace(row, failed_over=row.failed_over or bool(requests)))
        for request in requests:
            self._enqueue(request, now)

    def _put(self, row: OutboxMessage) -> None:
        """Put a message, and count it if this is its end."""
        before = self.store.rows.get(row.id)
        if before is row:
            return
        self.store.put(row)
        if row.status is Status.PENDING or (before and before.status is row.status):
            return
        self.metrics.ended.labels(row.receiver, row.kind, row.status).add()
        if row.status is Status.DEAD:
            self.metrics.dead.labels(row.receiver, str(row.reason)).add()

    # -- for people --------------------------------------------------------------------

    def rows(
        self, receiver: str | None = None, statuses: Collection[Status] = tuple(Status)
    ) -> list[OutboxMessage]:
        """Return the messages that are kept, the newest first."""
        return [
            row
            for _, row in sorted(self.store.rows.items(), reverse=True)
            if row.status in statuses and receiver in (None, row.receiver)
        ]

    def records(self, now: float) -> Iterator[MessageRecord]:
        """Return an iterator over what became of each message, the newest first.

        It depends on nothing that changes, and may be read in another thread.
        """
        rows = self.rows()
        waits = {
            name: (receiver.breaker.open, receiver.free_at(now))
            for name, receiver in self.receivers.items()
            if not receiver.disabled
        }
        return _records(rows, waits, now)

    def receiver(self, name: str, kind: str, now: float) -> ReceiverRecord:
        """Return how a receiver does, for people."""
        state = self.receivers[name]
        return ReceiverRecord(
            name=name,
            type=kind,
            up=state.up,
            waiting=self.store.depth(name),
            dead=sum(row.receiver == name for row in self.store.dead()),
            error=state.error,
            disabled=state.disabled,
            paused_until=state.paused_until if state.paused_until > now else None,
            sent_at=state.sent_at,
        )

    def retry(self, row_id: str | None, now: float) -> int:
        """Send a dead message again, or all of them; return how many.

        A message about an alert that fires stays dead if its end was sent since: it
        would open an incident for ever.
        """
        renewed = 0
        for row in self._dead(row_id):
            receiver = self.receivers.get(row.receiver)
            obsolete = any(
                self.store.episode(episode_of(row, entry.alert)).resolved
                for entry in row.entries
                if entry.kind in TRIGGERS
            )
            if receiver is None or obsolete:
                continue
            self._put(
                replace(
                    row,
                    status=Status.PENDING,
                    not_before=now,
                    expires=now + receiver.policy.max_age,
                    settled=None,
                    reason=None,
                    undelivered=False,
                )
            )
            renewed += 1
        return renewed

    def purge(self, row_id: str | None = None) -> int:
        """Forget a dead message, or all of them; return how many."""
        dead = self._dead(row_id)
        for row in dead:
            self.store.delete(row.id)
        return len(dead)

    def measure(self, now: float) -> None:
        """Bring the gauges up to date."""
        oldest = 0.0
        for name, receiver in self.receivers.items():
            due = min((row.due for row in self.store.heads(name)), default=now)
            oldest = max(oldest, now - due)
            self.metrics.depth.labels(name).set(self.store.depth(name))
            self.metrics.up.labels(name).set(receiver.up)
        self.metrics.oldest.set(oldest)

    def _dead(self, row_id: str | None) -> list[OutboxMessage]:
        return [row for row in self.store.dead() if row_id in (None, row.id)]


def _records(
    rows: Sequence[OutboxMessage],
    waits: Mapping[str, tuple[bool, float]],
    now: float,
) -> Iterator[MessageRecord]:
    """Yield a record of each message.

    Args:
        rows: the newest first.
        waits: by receiver, whether its circuit is open, and when it accepts a message.
        now: Unix seconds.
    """
    heads: dict[tuple[str, str], OutboxMessage] = {}
    pending = [row for row in rows if row.status is Status.PENDING]
    for row in sorted(pending, key=lambda row: row.place):
        heads.setdefault((row.receiver, row.stream), row)
    for row in rows:
        behind, next_attempt = "", None
        if row.status is Status.PENDING:
            head = heads[row.receiver, row.stream]
            behind = head.id if head is not row else ""
            if row.receiver in waits:
                is_open, free_at = waits[row.receiver]
                # An open circuit decides when failed messages are tried again.
                own = now if is_open and row.attempts else row.not_before
                next_attempt = max(own, free_at)
        yield row.record(behind, next_attempt)
