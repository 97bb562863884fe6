"""The outbox as HTTP and the metrics show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kaywatch_agent.model.alerts import MessageRecord, MessageStatus, ReceiverRecord
from kaywatch_agent.notify.message import OutboxMessage
from kaywatch_agent.notify.outbox import Outbox

__all__ = ["message_records", "oldest_wait", "receiver_record"]


def message_records(outbox: Outbox, now: float) -> Iterator[MessageRecord]:
    """Return an iterator over the messages, newest first, for use in any thread.

    It depends only on the outbox's state at the time of the call.
    """
    waits = {
        name: (receiver.breaker.is_open, receiver.free_at(now))
        for name, receiver in outbox.receivers.items()
        if not receiver.disabled
    }
    return _records(outbox.messages(), waits, now)


def receiver_record(outbox: Outbox, name: str, kind: str, now: float) -> ReceiverRecord:
    """Return the state of a receiver of type `kind`."""
    state = outbox.receivers[name]
    return ReceiverRecord(
        name=name,
        type=kind,
        up=state.up,
        waiting=outbox.store.depth(name),
        dead=sum(message.receiver == name for message in outbox.store.dead()),
        error=state.error,
        disabled=state.disabled,
        paused_until=state.paused_until if state.paused_until > now else None,
        sent_at=state.sent_at,
    )


def oldest_wait(outbox: Outbox, now: float) -> float:
    """Return for how many seconds the oldest pending message has been due."""
    due = [
        message.due
        for name in outbox.receivers
        for message in outbox.store.stream_heads(name)
    ]
    return max(0.0, now - min(due, default=now))


def _records(
    messages: Sequence[OutboxMessage],
    waits: Mapping[str, tuple[bool, float]],
    now: float,
) -> Iterator[MessageRecord]:
    """Yield a record of each message.

    Args:
        messages: newest first.
        waits: for each enabled receiver, whether its circuit is open, and when it is
            free.
        now: Unix seconds.
    """
    heads: dict[tuple[str, str], OutboxMessage] = {}
    pending = [m for m in messages if m.status is MessageStatus.PENDING]
    for message in sorted(pending, key=lambda message: message.position):
        heads.setdefault((message.receiver, message.stream), message)
    for message in messages:
        behind, next_attempt = "", None
        if message.status is MessageStatus.PENDING:
            head = heads[message.receiver, message.stream]
            behind = head.id if head is not message else ""
            if message.receiver in waits:
                is_open, free_at = waits[message.receiver]
                # An open circuit schedules the attempts of failed messages.
                own = now if is_open and message.attempts else message.not_before
                next_attempt = max(own, free_at)
        yield message.record(behind, next_attempt)
