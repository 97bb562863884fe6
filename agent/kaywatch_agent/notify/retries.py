"""Decides after a failed attempt when to retry, and when to give up."""

from __future__ import annotations

from typing import Final

from kaywatch_agent.model.alerts import MessageEndReason, NotificationKind
from kaywatch_agent.notify.limits import ReceiverState
from kaywatch_agent.notify.message import OutboxMessage
from kaywatch_agent.notify.result import (
    MAX_RETRY_AFTER,
    DeliveryOutcome,
    DeliveryResult,
)

__all__ = ["end_reason", "retry_delay"]

MAX_BACKOFF: Final = 300.0  # seconds

# A receiver that rejects messages is probed this often: it is repaired by hand, and
# whoever repaired it waits for the messages.
REFUSED_BACKOFF: Final = 60.0

# A message that a receiver rejects, while it accepts others, is tried this often: some
# proxies answer 404 for a moment.
REFUSED_ATTEMPTS: Final = 5
MIN_PAUSE: Final = 1.0  # seconds, after a 429 without Retry-After


def retry_delay(message: OutboxMessage, result: DeliveryResult, jitter: float) -> float:
    """Return the seconds until a message is retried: exponential, full jitter.

    Args:
        message: before this attempt.
        result: of the attempt.
        jitter: random, from 0 to 1.
    """
    refused = result.outcome is DeliveryOutcome.REFUSED
    longest = REFUSED_BACKOFF if refused else MAX_BACKOFF
    limit = min(longest, 2.0 ** min(message.attempts + 1, 16))
    least = MIN_PAUSE if result.pause else 0.0
    delay = max(jitter * limit, least, result.after or 0.0)
    return min(delay, MAX_RETRY_AFTER)


def end_reason(
    message: OutboxMessage, result: DeliveryResult, receiver: ReceiverState | None
) -> MessageEndReason | None:
    """Return why a message is given up after a failure; None to retry it."""
    if result.outcome is DeliveryOutcome.GONE:
        return MessageEndReason.GONE
    if result.outcome is DeliveryOutcome.DEAD:
        return MessageEndReason.REFUSED
    if result.outcome is DeliveryOutcome.REFUSED:
        # A person who sends a test waits for its result.
        is_test = message.kind is NotificationKind.TEST
        alone = receiver is not None and receiver.accepted_since(message.created)
        if is_test or (alone and message.attempts >= REFUSED_ATTEMPTS):
            return MessageEndReason.REFUSED
    if receiver and message.attempts >= receiver.policy.max_attempts:
        return MessageEndReason.ATTEMPTS
    return None
