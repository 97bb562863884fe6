"""The outbox: messages are enqueued, claimed, finished, retried, and given up.

Strategy: the outbox performs no I/O. A message goes to one receiver. The messages of a
stream are sent in order, so that a resolve never overtakes its trigger. Each message
ends as sent, dead or superseded, and is counted as such once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from kaywatch_agent.model.alerts import (
    MessageEndReason,
    MessageStatus,
    Notification,
    NotificationKind,
    NotificationRequest,
)
from kaywatch_agent.notify.enqueue import (
    MAX_ENTRIES,
    EnqueueResult,
    enqueue,
    failover,
)
from kaywatch_agent.notify.formatting import without_error_texts
from kaywatch_agent.notify.limits import ReceiverState
from kaywatch_agent.notify.message import (
    TRIGGERS,
    MessageIds,
    OutboxMessage,
    episode_key,
)
from kaywatch_agent.notify.metrics import OutboxMetrics
from kaywatch_agent.notify.policy import Policy
from kaywatch_agent.notify.related import other_receivers, trigger_account
from kaywatch_agent.notify.result import (
    MAX_RETRY_AFTER,
    DeliveryOutcome,
    DeliveryResult,
)
from kaywatch_agent.notify.retries import end_reason, retry_delay
from kaywatch_agent.notify.store import OutboxStore

__all__ = ["MAX_PENDING", "Outbox"]

MAX_PENDING: Final = 2_000  # messages per receiver

# Which messages to drop first when too many are pending; of one kind, the oldest.
_DROP_ORDER: Final = (
    NotificationKind.TEST,
    NotificationKind.REPEAT,
    NotificationKind.SUMMARY,
    NotificationKind.FIRING,
    NotificationKind.RESOLVED,
)


class Outbox:
    """All messages, and the receivers that they go to.

    Attributes:
        store: the messages.
        receivers: the state of each receiver, by name.
        metrics: counts messages and attempts.
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        *,
        random: Callable[[], float],
        entropy: Callable[[int], bytes],
    ) -> None:
        """Start without messages.

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
        """Load committed documents, by id."""
        self.store.restore(documents, now)
        messages = self.store.messages
        self._ids = MessageIds(self._entropy, max(messages, default=""))
        for name in {message.receiver for message in messages.values()}:
            if name not in self.receivers:
                self._remove_receiver(name, now)

    def use(self, policies: Mapping[str, Policy], now: float) -> None:
        """Apply a new configuration, and enable disabled receivers again."""
        for name in set(self.receivers) - set(policies):
            self._remove_receiver(name, now)
            del self.receivers[name]
        for name, policy in policies.items():
            self.receivers.setdefault(name, ReceiverState(policy)).reset(policy)

    # -- enqueueing --------------------------------------------------------------------

    def enqueue(self, request: NotificationRequest, now: float) -> EnqueueResult:
        """Store the messages of a request, and return the result."""
        result = self._enqueue(request, now)
        self.metrics.requests.labels(request.receiver, request.kind, result).add()
        return result

    def _enqueue(self, request: NotificationRequest, now: float) -> EnqueueResult:
        receiver = self.receivers.get(request.receiver)
        if receiver is None:
            return EnqueueResult.UNKNOWN
        plan = enqueue(self.store, receiver, request, now, self._ids.make(now))
        for message in plan.messages:
            self._put(message)
        if plan.fallback is not None:
            self._enqueue(plan.fallback, now)
        self._drop_excess(request.receiver, now)
        return plan.result

    def _drop_excess(self, name: str, now: float) -> None:
        """Drop the least important messages while too many are pending."""
        while self.store.depth(name) > MAX_PENDING:
            in_flight = self.receivers[name].in_flight
            message = min(
                (m for m in self.store.pending(name) if m.id != in_flight),
                key=lambda message: (_DROP_ORDER.index(message.kind), message.id),
            )
            reason = MessageEndReason.OVERFLOW
            if message.kind in (NotificationKind.FIRING, NotificationKind.RESOLVED):
                self._give_up(message, reason, now, "too many messages are pending")
            else:
                self._put(message.ended(MessageStatus.SUPERSEDED, reason, now))

    # -- sending -----------------------------------------------------------------------

    def claim(self, name: str, now: float) -> OutboxMessage | None:
        """Return the message to send now, if any; it is in flight until `finish`."""
        receiver = self.receivers.get(name)
        if receiver is None or not receiver.available:
            return None
        self._expire(name, now)
        due = [m for m in self._heads(name) if self._free_at(m, receiver, now) <= now]
        if not due:
            return None
        message = min(due, key=lambda message: (message.not_before, message.id))
        receiver.begin(message.id, now)
        return self._continued(message)

    def next_due(self, name: str, now: float) -> float | None:
        """Return when `claim` may return a message; None if not before a commit."""
        receiver = self.receivers.get(name)
        if receiver is None or not receiver.available:
            return None
        times = [self._free_at(m, receiver, now) for m in self._heads(name)]
        return min(times, default=None)

    def finish(self, message_id: str, result: DeliveryResult, now: float) -> None:
        """Apply the result of an attempt."""
        message = self.store.messages[message_id]
        receiver = self.receivers.get(message.receiver)
        code = str(result.code) if result.code else "none"
        self.metrics.attempts.labels(message.receiver, code).add()
        delay = retry_delay(message, result, self._random())
        was_open = receiver is not None and receiver.breaker.is_open
        if receiver is not None:
            is_test = message.kind is NotificationKind.TEST
            alone = is_test or receiver.accepted_since(message.created)
            receiver.finish(result, now, delay, alone=alone)
        if message.status is MessageStatus.PENDING:
            self._settle(message, result, now, delay)
        if receiver is not None:
            self._react(message.receiver, receiver, was_open, now)

    def notification(self, message: OutboxMessage) -> Notification:
        """Return a message in the form that receivers format."""
        receiver = self.receivers.get(message.receiver)
        limit = receiver.policy.max_alerts if receiver else MAX_ENTRIES
        notification = message.notification(limit)
        if receiver and not receiver.policy.error_text:
            alerts = tuple(map(without_error_texts, notification.alerts))
            notification = replace(notification, alerts=alerts)
        return replace(
            notification,
            account=trigger_account(self.store, message),
            also=other_receivers(self.store, message, self.receivers),
        )

    def _heads(self, name: str) -> Iterable[OutboxMessage]:
        return filter(self.store.is_durable, self.store.stream_heads(name))

    def _free_at(
        self, message: OutboxMessage, receiver: ReceiverState, now: float
    ) -> float:
        """Return when a message is due and its receiver is free."""
        is_test = message.kind is NotificationKind.TEST
        return max(
            self._due_at(message, receiver, now),
            receiver.free_at(now, is_test=is_test),
        )

    def _due_at(
        self, message: OutboxMessage, receiver: ReceiverState, now: float
    ) -> float:
        """Return when a message is due, if its receiver is free then."""
        if receiver.breaker.is_open and message.attempts:
            return now  # the circuit breaker schedules the probes
        policy = receiver.policy
        longest = MAX_RETRY_AFTER + policy.group_wait + policy.group_interval
        # A longer wait is only possible after the clock was set back.
        return now if message.not_before - now > longest else message.not_before

    def _settle(
        self, message: OutboxMessage, result: DeliveryResult, now: float, delay: float
    ) -> None:
        """Apply a result to its message."""
        message = replace(
            message,
            code=result.code,
            error=result.error,
            undelivered=message.undelivered and result.undelivered,
        )
        if result.outcome is DeliveryOutcome.SENT:
            self._sent(message, result, now)
            return
        message = replace(message, attempts=message.attempts + 1)
        receiver = self.receivers.get(message.receiver)
        reason = end_reason(message, result, receiver)
        if reason is not None:
            self._give_up(message, reason, now, result.error)
            return
        self._put(replace(message, not_before=now + delay))
        if message.receiver not in self.receivers:
            self._remove_receiver(message.receiver, now)

    def _sent(self, message: OutboxMessage, result: DeliveryResult, now: float) -> None:
        continued = self._continued(message)
        ref = result.ref or continued.ref
        self._put(
            replace(
                message,
                status=MessageStatus.SENT,
                settled=now,
                ref=ref,
                account=result.account,
            )
        )
        if continued.update:
            root = self.store.messages[message.thread_root]
            # A message that could not be updated was posted again, with another id.
            account = result.account or root.account
            entries = continued.entries
            self._put(replace(root, entries=entries, ref=ref, account=account))

    def _react(
        self, name: str, receiver: ReceiverState, was_open: bool, now: float
    ) -> None:
        """Update the state of the receiver after a result."""
        pending = self.store.pending(name)
        if receiver.disabled:
            for message in pending:
                self._give_up(message, MessageEndReason.GONE, now, receiver.disabled)
        elif receiver.breaker.is_open and not was_open:
            for message in pending:
                self._fail_over(message, now)
        elif was_open and not receiver.breaker.is_open:
            # The receiver recovered: failed messages need not wait for their backoff.
            for message in pending:
                if message.attempts and message.not_before > now:
                    self._put(replace(message, not_before=now))

    def _continued(self, message: OutboxMessage) -> OutboxMessage:
        """Return a message with the reference to the one that it continues, if any."""
        root = self.store.messages.get(message.thread_root)
        if root is None or root.status is not MessageStatus.SENT or not root.ref:
            return message
        receiver = self.receivers.get(message.receiver)
        update = receiver is not None and receiver.policy.follow_up == "update"
        if not update or message.kind is not NotificationKind.RESOLVED:
            return replace(message, ref=root.ref)
        # An update shows the current state of all alerts of the message.
        entries = tuple(
            entry
            if (later := message.find(entry.alert)) is None
            else entry.updated(later)
            for entry in root.entries
        )
        return replace(message, ref=root.ref, update=True, entries=entries)

    # -- the end of a message ----------------------------------------------------------

    def _expire(self, name: str, now: float) -> None:
        # Behind an expired message there may be another one in the same stream.
        while old := [m for m in self.store.stream_heads(name) if m.expires <= now]:
            for message in old:
                self._give_up(message, MessageEndReason.EXPIRED, now)

    def _remove_receiver(self, name: str, now: float) -> None:
        """Give up the messages of a removed receiver, except the one in flight."""
        receiver = self.receivers.get(name)
        for message in self.store.pending(name):
            if receiver is None or receiver.in_flight != message.id:
                error = "the receiver is not configured any more"
                self._give_up(message, MessageEndReason.REMOVED, now, error)

    def _give_up(
        self,
        message: OutboxMessage,
        reason: MessageEndReason,
        now: float,
        error: str = "",
    ) -> None:
        """Mark a message as dead, and notify the receiver's fallback."""
        self._fail_over(message.ended(MessageStatus.DEAD, reason, now, error), now)

    def _fail_over(self, message: OutboxMessage, now: float) -> None:
        """Store a message, and notify its receiver's fallback once."""
        receiver = self.receivers.get(message.receiver)
        requests: list[NotificationRequest] = []
        if receiver is not None and not message.failed_over:
            for entry in message.entries:
                request = NotificationRequest(
                    message.receiver, entry.kind, entry.alert, "", message.fallback_for
                )
                requests += filter(None, [failover(request, receiver)])
        failed_over = message.failed_over or bool(requests)
        self._put(replace(message, failed_over=failed_over))
        for request in requests:
            self._enqueue(request, now)

    def _put(self, message: OutboxMessage) -> None:
        """Store a message, and count it if it ended."""
        before = self.store.messages.get(message.id)
        if before is message:
            return
        self.store.put(message)
        status = message.status
        if status is MessageStatus.PENDING or (before and before.status is status):
            return
        self.metrics.ended.labels(message.receiver, message.kind, status).add()
        if status is MessageStatus.DEAD:
            reason = str(message.reason)
            self.metrics.dead.labels(message.receiver, reason).add()

    # -- administration ----------------------------------------------------------------

    def messages(
        self,
        receiver: str | None = None,
        statuses: Collection[MessageStatus] = tuple(MessageStatus),
    ) -> list[OutboxMessage]:
        """Return the stored messages, newest first."""
        return [
            message
            for _, message in sorted(self.store.messages.items(), reverse=True)
            if message.status in statuses and receiver in (None, message.receiver)
        ]

    def retry(self, message_id: str | None, now: float) -> int:
        """Send a dead message again, or all of them; return how many.

        A trigger stays dead if a resolve was enqueued since: it would open an incident
        that nothing closes.
        """
        renewed = 0
        for message in self._dead(message_id):
            receiver = self.receivers.get(message.receiver)
            obsolete = any(
                self.store.episode(episode_key(message, entry.alert)).resolved
                for entry in message.entries
                if entry.kind in TRIGGERS
            )
            if receiver is None or obsolete:
                continue
            renewed += 1
            self._put(
                replace(
                    message,
                    status=MessageStatus.PENDING,
                    not_before=now,
                    expires=now + receiver.policy.max_age,
                    settled=None,
                    reason=None,
                    undelivered=False,
                )
            )
        return renewed

    def purge(self, message_id: str | None = None) -> int:
        """Delete a dead message, or all of them; return how many."""
        dead = self._dead(message_id)
        for message in dead:
            self.store.delete(message.id)
        return len(dead)

    def _dead(self, message_id: str | None) -> list[OutboxMessage]:
        return [m for m in self.store.dead() if message_id in (None, m.id)]
