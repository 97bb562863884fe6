"""Decides when the sender's thread flushes next.

A process that records all the time sends one batch per interval. The first event after
a pause is sent at once, because the agent has got nothing from this process lately. A
failure is sent early, so that an alert need not wait for the interval; a loop that
fails all the time has used up its early flushes after three.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FlushSchedule"]

FIRST_FLUSH: Final = 0.1  # soon, so that short-lived processes are seen at all
GATHER: Final = 0.02  # what belongs to an event, such as the end of its run, joins it
SPACING: Final = 0.1  # between two flushes of which one is early

# Early flushes that may follow each other; one more is allowed per interval.
BURST: Final = 3


class FlushSchedule:
    """The time of the next flush.

    Any thread may call `request` and `is_quiet`, only the sender's the others.

    Args:
        now: monotonic seconds.

    Attributes:
        due: when to flush, in monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self.due = now + FIRST_FLUSH
        self._sent_at = now  # the last flush that sent an event
        self._is_requested = False  # an earlier flush, since the last one began
        self._is_answered = False  # the request has changed `due`, as far as it may
        self._is_early = False  # the next flush comes before its time
        # When the early flushes are replenished: a leaky bucket, ITU-T I.371.
        self._replenished_at = now

    def request(self) -> bool:
        """Request an earlier flush; return whether to wake the sender for it."""
        is_new = not self._is_requested
        self._is_requested = True
        return is_new

    def is_quiet(self, now: float, interval: float) -> bool:
        """Return whether nothing was sent for an interval."""
        return now - self._sent_at >= interval

    def is_due(self, now: float, interval: float) -> bool:
        """Return whether to flush now; a request may bring the flush forward."""
        if self._is_requested and not self._is_answered:
            self._is_answered = True
            self._hasten(now, interval)
        return now >= self.due

    def begin(self) -> None:
        """Begin a flush: what is recorded from now on may request another."""
        self._is_requested = self._is_answered = False

    def end(self, now: float, packed: int, delay: float, interval: float) -> None:
        """End a flush of `packed` events, and schedule the next one."""
        self.due = now + delay
        if packed:
            self._sent_at = now
        if self._is_early:
            self._is_early = False
            self._replenished_at = max(now, self._replenished_at) + interval

    def _hasten(self, now: float, interval: float) -> None:
        at = now + GATHER
        if not self.is_quiet(now, interval):
            allowed_at = self._replenished_at - (BURST - 1) * interval
            at = max(at, self._sent_at + SPACING, allowed_at)
            self._is_early = self._is_early or at < self.due
        self.due = min(self.due, at)
