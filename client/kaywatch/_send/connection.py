"""The connection to the agent, opened again whenever it is lost.

A plain object without a thread or a clock of its own: the sender's thread drives it
with `step`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Final

import msgpack  # noqa: F401 - here, where no fork can interrupt the import

from kaywatch import wire
from kaywatch._send.batches import Batches
from kaywatch._send.identity import resource_usage
from kaywatch._send.packer import BatchContent
from kaywatch._send.problems import Problems, describe
from kaywatch._send.session import (
    FLUSH_INTERVAL,
    AgentHistory,
    BrokeredSession,
    ClientSession,
    MessageError,
)
from kaywatch._send.transport import Refused, RetryAtOnce, Transport

__all__ = ["AgentConnection"]

log = logging.getLogger("kaywatch")

RETRY_MIN: Final = 0.1
RETRY_MAX: Final = 2.0  # checking for a missing socket file costs microseconds
# The agent is there, but has no time to answer: EAGAIN for a full queue of connections.
BUSY: Final = (BlockingIOError, TimeoutError, ConnectionResetError, BrokenPipeError)
RETRY_LASTING: Final = 10.0  # somebody has to change a version, password or rule

NO_AGENT: Final = (
    "no agent has answered through the broker; start one with [[ingest.mqtt]], and"
    " compare the topic prefixes"
)


class Backoff:
    """Decides when to connect again.

    Attributes:
        delay: seconds to wait after the next failure.
        at_once: whether to skip the wait this time.
    """

    def __init__(self) -> None:
        self.delay = RETRY_MIN
        self.at_once = False
        self._due_at = 0.0

    def is_due(self, now: float, urgent: bool) -> bool:
        """Return whether to connect now; `urgent` means that a caller waits."""
        return self.at_once or now >= self._due_at - (RETRY_MAX if urgent else 0.0)

    def fail(self, now: float, error: Exception) -> None:
        """Schedule the next attempt after a failed or lost connection."""
        self.at_once = isinstance(error, RetryAtOnce)
        if isinstance(error, Refused):
            self.delay = RETRY_LASTING
        # Jitter, so that not all clients connect to a restarted agent at once.
        self._due_at = now + self.delay * (0.5 + _random() / 2)
        self.delay = max(self.delay, min(self.delay * 2, RETRY_MAX))


def _random() -> float:
    """Return a number from 0 to 1, which is not of the application's generator.

    The application may have seeded that one, and would get other numbers.
    """
    return int.from_bytes(os.urandom(4), "big") / 2**32


class AgentConnection:
    """The connection of one process to its agent; used by one thread.

    Attributes:
        is_agent_busy: whether the last attempt failed at an agent that is there.
    """

    def __init__(
        self,
        batches: Batches,
        connect: Callable[[], Transport],
        history: AgentHistory | None = None,
    ) -> None:
        self.batches = batches
        self.history = history or AgentHistory()
        self._connect = connect
        self._link: tuple[Transport, ClientSession] | None = None
        self._backoff = Backoff()
        self._problems = Problems()
        self.is_agent_busy = False
        self._opened_at = 0.0
        self._logged: set[str] = set()

    @property
    def connected(self) -> bool:
        """Whether the agent is there, as far as known."""
        return self._link is not None and self._link[1].connected

    @property
    def error(self) -> str:
        """The current problem; empty for none."""
        in_session = self._link[1].error if self._link is not None else ""
        return in_session or self._problems.text

    @property
    def interval(self) -> float:
        """Seconds between two batches of a quiet process."""
        return self._link[1].interval if self._link is not None else FLUSH_INTERVAL

    def is_busy(self, now: float) -> bool:
        """Return whether to step again before the next flush."""
        if self._link is None:
            return self._backoff.at_once
        transport, session = self._link
        return session.is_busy(now, transport.backlog)

    def expects_answer(self, now: float) -> bool:
        """Return whether a flush is worth its time: the agent is there, or was."""
        if self.history.reached:
            return True
        if self._link is None:
            return self.is_agent_busy
        transport, session = self._link
        return session.expects_answer(now, transport.backlog)

    def step(self, now: float, urgent: bool = False, wait: float = 0.0) -> int:
        """Pack, connect when due, send, and handle the replies.

        Args:
            now: monotonic seconds.
            urgent: a caller waits: ask for an early ack, connect without backoff.
            wait: maximum time in seconds to wait for the socket.

        Returns:
            The number of events packed.
        """
        packed = self._pack(now)
        try:
            if self._link is None and self._backoff.is_due(now, urgent):
                self._link = self._open(now)
            if self._link is not None:
                self._exchange(*self._link, now, urgent, wait)
                self._report_absence(*self._link, now)
        except (OSError, ValueError, LookupError, TypeError) as error:
            # All but OSError are raised for a reply that is not a valid message.
            self._disconnect(now, error, urgent)
        self._problems.report_drops(now, self.batches.buffer.dropped)
        return packed

    def close(self) -> None:
        """Send a goodbye if connected, and close the connection."""
        self._problems.report_undelivered(self.batches.buffer.events)
        if self._link is not None:
            transport = self._link[0]
            with contextlib.suppress(OSError, ValueError):
                transport.send(self.batches.goodbye())
                transport.receive(0.0)
        self.abandon()

    def abandon(self) -> None:
        """Close the connection without a goodbye, as in the child of a fork."""
        if self._link is not None:
            self._link[0].close()
            self._link = None

    # -- inside ----------------------------------------------------------------------

    def _pack(self, now: float) -> int:
        if self._link is None:
            return self.batches.pack(wire.MAX_FRAME)
        transport, session = self._link
        packed = self.batches.pack(transport.largest)
        if session.wants_usage(now):
            self.batches.append(BatchContent({"process": resource_usage()}))
        return packed

    def _open(self, now: float) -> tuple[Transport, ClientSession]:
        transport = self._connect()
        self._opened_at = now
        kind = BrokeredSession if transport.lossy else ClientSession
        return transport, kind(self.batches, self.history, now)

    def _exchange(
        self,
        transport: Transport,
        session: ClientSession,
        now: float,
        urgent: bool,
        wait: float,
    ) -> None:
        # Receive first: the broker may report that the agent is away.
        self._receive(transport, session, now, 0.0)
        session.advance(now, transport.backlog)
        self._send(transport, session, now, urgent)
        self._receive(transport, session, now, wait)
        self._send(transport, session, now, urgent)

    def _send(
        self, transport: Transport, session: ClientSession, now: float, urgent: bool
    ) -> None:
        # The transport gets one message at a time; the others stay in the buffer, which
        # bounds their bytes.
        while not transport.backlog:
            message = session.next_message(now, transport.largest, urgent)
            if message is None:
                return
            transport.send(message)
            self._receive(transport, session, now, 0.0)

    def _receive(
        self, transport: Transport, session: ClientSession, now: float, wait: float
    ) -> None:
        for data in transport.receive(wait):
            error = session.receive(data, now)
            if error is not None:
                self._handle_error(error)
        if session.connected:
            self._problems.resolve(now)
            # Not at once: a broker may accept us and close the connection soon after.
            if now - self._opened_at > RETRY_MAX:
                self._backoff.delay = RETRY_MIN

    def _report_absence(
        self, transport: Transport, session: ClientSession, now: float
    ) -> None:
        # On a socket, a missing answer ends the connection.
        if transport.lossy and not session.connected:
            self._problems.report(now, NO_AGENT, at_once=False)

    def _handle_error(self, error: MessageError) -> None:
        text = f"the agent rejected a message: {error.text} ({error.code})"
        if error.lasting:
            raise Refused(text)
        if error.code == wire.ErrorCode.OVER_QUOTA:
            raise ConnectionError(text)  # the reason for the close that follows
        if error.code not in self._logged:
            self._logged.add(error.code)
            log.warning("%s", text)

    def _disconnect(self, now: float, error: Exception, urgent: bool) -> None:
        self.abandon()
        self._backoff.fail(now, error)
        self.is_agent_busy = isinstance(error, (*BUSY, RetryAtOnce))
        may_pass = isinstance(error, RetryAtOnce) or (
            self.history.reached and not urgent and not isinstance(error, Refused)
        )
        self._problems.report(now, describe(error), at_once=not may_pass)
