"""Whether a receiver may be sent to now: its rate, its pause, its circuit."""

from __future__ import annotations

from typing import Final

from kaywatch_agent.notify.policy import Policy, Rate
from kaywatch_agent.notify.result import (
    MAX_RETRY_AFTER,
    DeliveryResult,
    Outcome,
)

__all__ = ["CircuitBreaker", "RateLimiter", "ReceiverState"]

# After this many failures in a row a receiver is considered down: it gets one message
# a minute as a probe, rather than one per waiting message and backoff.
FAILURES: Final = 10
PROBE_SECONDS: Final = 60.0


class RateLimiter:
    """A token bucket: as many messages at once as the rate allows in its period."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._tokens = rate.messages
        self._filled = 0.0

    def free_at(self, now: float) -> float:
        """Return when there is a token, `now` at the earliest."""
        self._fill(now)
        missing = max(0.0, 1.0 - self._tokens)
        return now + missing * self.rate.seconds / self.rate.messages

    def take(self, now: float) -> None:
        """Use up one token."""
        self._fill(now)
        self._tokens -= 1.0

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._filled) if self._filled else 0.0
        gained = passed * self.rate.messages / self.rate.seconds
        self._tokens = min(self.rate.messages, self._tokens + gained)
        self._filled = now


class CircuitBreaker:
    """Opens after FAILURES failures in a row, and lets one probe a minute through."""

    def __init__(self) -> None:
        self._failures = 0
        self._probe_at: float | None = None

    @property
    def open(self) -> bool:
        """Whether only probes are let through."""
        return self._probe_at is not None

    def free_at(self, now: float) -> float:
        """Return when the next attempt may be made; 0 while it is closed."""
        if self._probe_at is None:
            return 0.0
        # After the clock was put back, a probe must not wait for longer than a minute.
        self._probe_at = min(self._probe_at, now + PROBE_SECONDS)
        return self._probe_at

    def fail(self, now: float) -> None:
        """Count a failure."""
        self._failures += 1
        self.postpone(now)

    def postpone(self, now: float) -> None:
        """Put off the next probe, if it is open, after one that did not close it."""
        if self._failures >= FAILURES:
            self._probe_at = now + PROBE_SECONDS

    def close(self) -> None:
        """Begin anew: the receiver answered."""
        self._failures, self._probe_at = 0, None


class ReceiverState:
    """One receiver: how to send to it, and what its answers imply.

    It is not kept over a restart.

    Attributes:
        policy: from the configuration.
        breaker: open while the receiver is down.
        in_flight: the id of the message that is being sent; empty for none.
        disabled: why it gets no messages until a reload; empty if it does.
        paused_until: when it accepts messages again, Unix seconds.
        error: the last error; empty since the last success.
        sent_at: when a message was delivered last; None for never.
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
        """Whether messages should go to its fallback."""
        return self.breaker.open or bool(self.disabled)

    @property
    def up(self) -> bool:
        """Whether the last attempt, if there was one, succeeded."""
        return not (self.error or self.disabled)

    def free_at(self, now: float) -> float:
        """Return when the next message may be sent, `now` at the earliest."""
        # After the clock was put back, a short pause must not become a long one.
        if self.paused_until - now > MAX_RETRY_AFTER:
            self.paused_until = now
        return max(
            self._limiter.free_at(now), self.paused_until, self.breaker.free_at(now)
        )

    def begin(self, message_id: str, now: float) -> None:
        """Count a message that is sent now."""
        self._limiter.take(now)
        self.in_flight = message_id

    def finish(self, result: DeliveryResult, now: float, delay: float) -> None:
        """Take an answer; `delay` is how long the message itself will wait."""
        self.in_flight = ""
        if result.outcome is Outcome.SENT:
            self.breaker.close()
            self.error, self.sent_at = "", now
            return
        self.error = result.error
        if result.outcome is Outcome.GONE:
            self.disabled = result.error or "gone"
        if result.pause:
            self.paused_until = max(self.paused_until, now + delay)
        if result.outcome is Outcome.RETRY:
            self.breaker.fail(now)
        elif result.outcome is Outcome.DEAD and not result.misconfigured:
            self.breaker.close()  # it answered: only this message was rejected
        else:
            self.breaker.postpone(now)

    def renew(self, policy: Policy) -> None:
        """Give the receiver another try, with the policy as it is now."""
        self.policy, self._limiter.rate = policy, policy.rate
        self.disabled, self.paused_until = "", 0.0
        self.breaker.close()
