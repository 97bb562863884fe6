"""Whether a receiver may be sent to now: its rate, its pause, its circuit."""

from __future__ import annotations

from typing import Final

from kaywatch_agent.notify.policy import Rate
from kaywatch_agent.notify.verdict import MAX_RETRY_AFTER, Outcome, Verdict

__all__ = ["Lane"]

# After so many failures in a row a receiver is down: it gets one message a minute, to
# see whether it is back, rather than one per waiting message and backoff.
FAILURES: Final = 10
PROBE_SECONDS: Final = 60.0


class Lane:
    """One receiver's state, as its answers made it; not kept over a restart."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.in_flight = ""  # the id of the row that is being sent
        self.disabled = ""  # why it gets nothing until a reload
        self.paused_until = 0.0
        self.failures = 0  # in a row
        self.probe_at: float | None = None  # set while the circuit is open
        self.error = ""  # the last one; empty once something was sent
        self.error_at: float | None = None
        self.sent_at: float | None = None
        self._tokens = rate.messages
        self._filled = 0.0

    @property
    def down(self) -> bool:
        """Whether it is of no use to wait for it."""
        return self.open or bool(self.disabled)

    @property
    def open(self) -> bool:
        """Whether the circuit is open: it failed so often that it seems to be down."""
        return self.probe_at is not None

    def free_at(self, now: float) -> float:
        """Return when the next message may go, `now` at the earliest."""
        self._fill(now)
        # A clock that was put back must not make a short pause a long one.
        if self.paused_until - now > MAX_RETRY_AFTER:
            self.paused_until = now
        if self.probe_at is not None:
            self.probe_at = min(self.probe_at, now + PROBE_SECONDS)
        missing = max(0.0, 1.0 - self._tokens)
        token = now + missing * self.rate.seconds / self.rate.messages
        return max(now, token, self.paused_until, self.probe_at or 0.0)

    def renew(self, rate: Rate) -> None:
        """Give the receiver another try, as the configuration has it now."""
        self.rate, self.disabled = rate, ""
        self.failures, self.probe_at, self.paused_until = 0, None, 0.0

    def take(self, row_id: str, now: float) -> None:
        """Count a message that goes now."""
        self._fill(now)
        self._tokens -= 1.0
        self.in_flight = row_id

    def settle(self, verdict: Verdict, now: float, delay: float) -> None:
        """Learn from an answer; `delay` is how long the message itself will wait."""
        self.in_flight = ""
        if verdict.outcome is Outcome.SENT:
            self.failures, self.probe_at, self.error = 0, None, ""
            self.sent_at = now
            return
        self.error, self.error_at = verdict.error, now
        if verdict.outcome is Outcome.GONE:
            self.disabled = verdict.error or "gone"
        if verdict.pause:
            self.paused_until = max(self.paused_until, now + delay)
        if verdict.outcome is Outcome.RETRY:
            self.failures += 1
        elif verdict.outcome is Outcome.DEAD and not verdict.unwell:
            # It answered: it is this message that it does not want.
            self.failures, self.probe_at = 0, None
        if self.failures >= FAILURES:
            self.probe_at = now + PROBE_SECONDS

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._filled) if self._filled else 0.0
        gained = passed * self.rate.messages / self.rate.seconds
        self._tokens = min(self.rate.messages, self._tokens + gained)
        self._filled = now
