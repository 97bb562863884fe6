"""Logs why events are not delivered: each reason once, and the end of the problem.

Strategy: a restart of the agent takes a moment, and needs no message. A problem is
therefore logged once it lasts, or at once if the agent was never reached or a caller
waits for the delivery. After that, a change of the reason is logged, too.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from typing import Final

from kaywatch.wire import DropReason

__all__ = ["Problems", "describe", "unreachable"]

log = logging.getLogger("kaywatch")

GRACE: Final = 5.0  # seconds; an agent restarts within them
QUIET: Final = 60.0  # seconds without drops, after which new ones are logged

_SOCKET_FIXES: Final = {
    errno.ENOENT: (
        "start an agent with `kaywatch serve`, or set KAYWATCH_ENDPOINT to its socket"
    ),
    errno.ECONNREFUSED: "no agent listens there; start it",
    errno.EACCES: (
        "add this process's user to the socket's group, and restart the process"
    ),
    errno.EAGAIN: "the agent accepts no connections; see its log and /health",
    errno.EMFILE: "this process has too many open files; raise `ulimit -n`",
    errno.ENFILE: "this host has too many open files; raise the sysctl fs.file-max",
}
_DROPS: Final[Mapping[str, str]] = {
    DropReason.BUFFER_FULL: (
        "the agent does not accept them fast enough, and the buffer is full; see"
        " kaywatch.client_stats(), or raise buffer_bytes of kaywatch.configure"
    ),
    DropReason.PENDING_FULL: (
        "they are recorded faster than the sender's thread can pack them: a thread"
        " holds the interpreter's lock for seconds, or too many events are recorded"
    ),
    DropReason.REJECTED: "the agent rejects them; see its log",
    DropReason.UNPACKABLE: "a name or value is too large to be sent",
}


def unreachable(errors: Mapping[str, OSError]) -> ConnectionError:
    """Return one error for all sockets that were tried.

    Args:
        errors: by the path of the socket.
    """
    # An existing socket explains the problem better than missing ones.
    existing = {p: e for p, e in errors.items() if e.errno != errno.ENOENT}
    paths = existing or errors
    reasons = [f"{p}: {e.strerror or e}" for p, e in paths.items()]
    number = next((e.errno for e in paths.values()), None)
    fix = _SOCKET_FIXES.get(number or 0)
    return ConnectionError("; ".join([", ".join(reasons), *([fix] if fix else [])]))


class Problems:
    """The problems that keep the events of this process from the agent.

    Attributes:
        text: the current problem with the connection; empty for none.
    """

    def __init__(self) -> None:
        self.text = ""
        self._since = 0.0
        self._logged = ""
        self._dropped: dict[str, tuple[int, float]] = {}  # events, and until when

    def report(self, now: float, text: str, *, at_once: bool) -> None:
        """Note the current problem, and log it unless it may pass by itself.

        Args:
            now: monotonic seconds.
            text: the problem and the fix.
            at_once: whether to log it before it has lasted for a while.
        """
        if not self.text:
            self._since = now
        self.text = text
        is_due = at_once or bool(self._logged) or now - self._since >= GRACE
        if is_due and text != self._logged:
            self._logged = text
            log.warning("kaywatch cannot send: %s", text)

    def resolve(self, now: float) -> None:
        """Note that the agent answers, and log it if the problem was logged."""
        if self._logged:
            seconds = round(now - self._since)
            log.warning("kaywatch sends again, after %d s", seconds)
        self.text = self._logged = ""

    def report_undelivered(self, events: int) -> None:
        """Log that the process ends without an ack of its last events."""
        if events and not self._logged:
            reason = self.text or "the agent did not acknowledge them in time"
            log.warning("kaywatch ends with undelivered events: %d; %s", events, reason)

    def report_drops(self, now: float, dropped: Mapping[str, int]) -> None:
        """Log drops when they begin, and after a pause.

        Args:
            now: monotonic seconds.
            dropped: events dropped so far, by reason.
        """
        for reason, events in dropped.items():
            before, until = self._dropped.get(reason, (0, -QUIET))
            if events == before:
                continue
            self._dropped[reason] = events, now
            if now - until >= QUIET:
                log.warning(
                    "kaywatch drops events (%s, %d so far): %s",
                    reason,
                    events,
                    _DROPS.get(reason, "unknown reason"),
                )


def describe(error: Exception) -> str:
    """Return the text of an error that ended a connection."""
    if not isinstance(error, OSError):
        # Of a reply that is not a valid message.
        return f"this is not an agent's reply: {type(error).__name__}: {error}"
    return os.strerror(error.errno) if error.errno else str(error)
