"""When a receiver may be sent a message: its rate, pause and circuit breaker."""

from __future__ import annotations

from typing import Final

from kaywatch_agent.notify.policy import Policy, SendRate
from kaywatch_agent.notify.result import (
    MAX_RETRY_AFTER,
    DeliveryOutcome,
    DeliveryResult,
)

__all__ = ["CircuitBreaker", "RateLimiter", "ReceiverState"]

# After this many consecutive failures a receiver is considered down. It is sent one
# message a minute as a probe, rather than each pending message after its backoff.
FAILURES: Final = 10
PROBE_SECONDS: Final = 60.0


class RateLimiter:
    """A token bucket; all messages of one period may be sent in a burst."""

    def __init__(self, rate: SendRate) -> None:
        self.rate = rate
        self._tokens = rate.messages
        self._filled = 0.0

    def free_at(self, now: float) -> float:
        """Return when a message may be sent, `now` at the earliest."""
        self._fill(now)
        missing = max(0.0, 1.0 - self._tokens)
        return now + missing * self.rate.seconds / self.rate.messages

    def take(self, now: float) -> None:
        """Count one message."""
        self._fill(now)
        self._tokens -= 1.0

    def _fill(self, now: float) -> None:
        elapsed = max(0.0, now - self._filled) if self._filled else 0.0
        gained = elapsed * self.rate.messages / self.rate.seconds
        self._tokens = min(self.rate.messages, self._tokens + gained)
        self._filled = now


class CircuitBreaker:
    """Opens after FAILURES consecutive failures; then allows one probe a minute."""

    def __init__(self) -> None:
        self._failures = 0
        self._probe_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether only probes are allowed."""
        return self._probe_at is not None

    def free_at(self, now: float) -> float:
        """Return when the next attempt is allowed; 0 while the circuit is closed."""
        if self._probe_at is None:
            return 0.0
        # If the clock was set back, the next probe must still be due within a minute.
        self._probe_at = min(self._probe_at, now + PROBE_SECONDS)
        return self._probe_at

    def fail(self, now: float) -> None:
        """Count a failure."""
        self._failures += 1
        self.postpone(now)

    def postpone(self, now: float) -> None:
        """Schedule the next probe, if the circuit is open or opens now."""
        if self._failures >= FAILURES:
            self._probe_at = now + PROBE_SECONDS

    def trip(self, now: float) -> None:
        """Open the circuit at once: the receiver rejects messages."""
        self._failures = max(self._failures, FAILURES)
        self.postpone(now)

    def close(self) -> None:
        """Close the circuit: the receiver responded."""
        self._failures, self._probe_at = 0, None


class ReceiverState:
    """The state of one receiver, which does not survive a restart.

    Attributes:
        policy: from the configuration.
        breaker: open while the receiver is down.
        in_flight: the id of the message that is being sent; empty for none.
        disabled: why no messages are sent until a reload; empty if enabled.
        paused_until: when the receiver accepts messages again, Unix seconds.
        error: the last error; empty after a success.
        sent_at: when a message was last delivered; None for never.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.breaker = CircuitBreaker()
        self.in_flight = ""
        self.disabled = ""
        self.paused_until = 0.0
        self.error = ""
        self.sent_at: float | None = None
        self._limiter = RateLimiter(policy.rate)

    @property
    def down(self) -> bool:
        """Whether messages should go to the fallback."""
        return self.breaker.is_open or bool(self.disabled)

    @property
    def up(self) -> bool | None:
        """Whether the last attempt succeeded; None if there was none."""
        if self.error or self.disabled:
            return False
        return None if self.sent_at is None else True

    @property
    def available(self) -> bool:
        """Whether a message may be claimed: none is in flight, and it is enabled."""
        return not (self.in_flight or self.disabled)

    def accepted_since(self, time: float) -> bool:
        """Return whether a message was accepted at a time or later."""
        return self.sent_at is not None and self.sent_at >= time

    def free_at(self, now: float, *, is_test: bool = False) -> float:
        """Return when the next message may be sent, `now` at the earliest.

        A test is also sent while the receiver is down: someone has just repaired it.
        """
        # If the clock was set back, a short pause must not become a long one.
        if self.paused_until - now > MAX_RETRY_AFTER:
            self.paused_until = now
        return max(
            self._limiter.free_at(now),
            self.paused_until,
            0.0 if is_test else self.breaker.free_at(now),
        )

    def begin(self, message_id: str, now: float) -> None:
        """Count a message that is being sent."""
        self._limiter.take(now)
        self.in_flight = message_id

    def finish(
        self, result: DeliveryResult, now: float, delay: float, *, alone: bool = False
    ) -> None:
        """Apply a result.

        Args:
            result: of the attempt.
            now: Unix seconds.
            delay: how long the message itself will wait.
            alone: whether a rejection does not affect other messages.
        """
        self.in_flight = ""
        if result.outcome is DeliveryOutcome.SENT:
            self.breaker.close()
            self.error, self.sent_at = "", now
            return
        self.error = result.error
        if result.outcome is DeliveryOutcome.GONE:
            self.disabled = result.error or "gone"
        if result.pause:
            self.paused_until = max(self.paused_until, now + delay)
        if result.outcome is DeliveryOutcome.RETRY:
            self.breaker.fail(now)
        elif result.outcome is DeliveryOutcome.REFUSED:
            if not alone:
                self.breaker.trip(now)
        elif result.outcome is DeliveryOutcome.DEAD:
            self.breaker.close()  # it responded: only this message was rejected
        else:
            self.breaker.postpone(now)

    def reset(self, policy: Policy) -> None:
        """Apply a policy after a reload, and enable the receiver again."""
        self.policy, self._limiter.rate = policy, policy.rate
        self.disabled, self.paused_until = "", 0.0
        self.breaker.close()
