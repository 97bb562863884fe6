"""The conversation of one process with its agent: pack, send, keep until acknowledged.

A plain object without a thread or a clock of its own, driven by `step`; the sender's
thread does that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack  # noqa: F401 - wire imports it lazily; here no fork can interrupt that

from kaywatch import wire
from kaywatch._buffer import DEFAULT_BYTES, Buffer, Packed
from kaywatch._packer import Packer, Sections
from kaywatch._transport import (
    Transport,
    UnixTransport,
    candidates,
    check_endpoint,
)
from kaywatch.errors import ConfigurationError
from kaywatch.recorder import Recorder

__all__ = ["Identity", "Session", "new_identity", "unix_connector"]

log = logging.getLogger("kaywatch")

FLUSH_INTERVAL: Final = 1.0  # seconds between two batches of a quiet process
GREETING_TIMEOUT: Final = 5.0  # the agent acknowledges a hello at once
STALL_TIMEOUT: Final = 10.0  # no byte moved: the agent hangs, try another connection
RETRY_MIN: Final = 0.1
RETRY_MAX: Final = 2.0  # a look at a missing socket file costs microseconds
RETRY_LASTING: Final = 10.0  # an agent's version, or its rules, change seldom
POLL: Final = 0.05  # while bytes or acks are under way
MAX_BATCHES_PER_STEP: Final = 40  # then send, also when events come faster than that


_LASTING: Final = (wire.ErrorCode.UNSUPPORTED_VERSION, wire.ErrorCode.FORBIDDEN)


@dataclass(frozen=True)
class Identity:
    """Who this process says it is."""

    client: bytes
    service: str
    host: str
    pid: int
    start: float
    sdk: str
    tags: Mapping[str, str]


class Session:
    """The conversation of one process with its agent; used by one thread."""

    def __init__(
        self,
        identity: Identity,
        recorder: Recorder,
        connect: Callable[[], Transport],
        buffer_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self.identity = identity
        self.buffer = Buffer(buffer_bytes)
        self.seq = 0
        self.recorded = 0
        self.interval = FLUSH_INTERVAL
        self.connected = False
        self.error = ""  # the last thing that went wrong, for client_stats
        self.attempted = False  # whether a connect has been tried at all
        self.expected = False  # an agent has been there, and may be restarting
        self._recorder = recorder
        self._packer = Packer(recorder)
        self._connect = connect
        self._transport: Transport | None = None
        self._greeted = False
        self._gate_dropped = 0
        self._retry = RETRY_MIN
        self._retry_at = 0.0
        self._progress_at = 0.0
        self._backlog = 0
        self._flushed = -1  # the seq at which the agent was last asked for an ack
        self._told: set[str] = set()

    @property
    def settled(self) -> bool:
        """Whether all that was recorded is committed by the agent."""
        recorder = self._recorder
        waiting = any(recorder.pending()) or recorder.failures
        return not waiting and not len(self.buffer)

    @property
    def busy(self) -> bool:
        """Whether the transport is worth polling before the next flush."""
        transport = self._transport
        return transport is not None and (not self._greeted or transport.backlog > 0)

    def step(self, now: float, urgent: bool = False, wait: float = 0.0) -> int:
        """Pack, connect when due, send, and take in the replies.

        Args:
            now: monotonic seconds.
            urgent: somebody waits: ask for an early ack, connect without backoff.
            wait: how long to wait for the socket at most.

        Returns:
            The number of events packed.
        """
        packed = self._pack()
        try:
            self._exchange(now, urgent, wait)
        except (OSError, ValueError, LookupError, TypeError) as error:
            # All but OSError: what came back is none of our messages.
            self._disconnect(now, error)
        return packed

    def close(self) -> None:
        """Say goodbye if there is a connection, and close it."""
        transport = self._transport
        if transport is not None:
            with contextlib.suppress(OSError, ValueError):
                transport.send(self._goodbye())
                transport.pump(0.0)
            transport.close()
        self._transport = None
        self.connected = self._greeted = False

    def abandon(self) -> None:
        """Close this process's copy of the descriptor, without a word: after a fork."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    # -- inside ----------------------------------------------------------------------

    def _pack(self) -> int:
        total = 0
        self._recorder.lower_gate()
        for _ in range(MAX_BATCHES_PER_STEP):
            taken = self._packer.take()
            self._count_gate_drops()
            if taken is None:
                break
            self.recorded += taken.events + taken.unpackable
            self.buffer.count_drop(str(wire.DropReason.UNPACKABLE), taken.unpackable)
            total += taken.events
            self._append(taken)
        return total

    def _append(self, taken: Sections) -> None:
        self.seq += 1
        drops = self.buffer.take_drops()
        message = wire.batch(
            client=self.identity.client,
            seq=self.seq,
            sent=time.time(),
            service=self.identity.service,
            recorded=self.recorded,
            sections=taken.sections,
            drops=drops,
        )
        if len(message) > wire.MAX_FRAME:
            # Thousands of long names at once. No agent would take it.
            self.seq -= 1
            self.buffer.count_drop(str(wire.DropReason.UNPACKABLE), taken.events)
            self.buffer.report_again(drops)
            return
        self.buffer.append(Packed(self.seq, message, taken.events, drops))

    def _count_gate_drops(self) -> None:
        dropped = self._recorder.pending_dropped
        new = dropped - self._gate_dropped
        self._gate_dropped = dropped
        self.recorded += new
        self.buffer.count_drop(str(wire.DropReason.PENDING_FULL), new)

    def _exchange(self, now: float, urgent: bool, wait: float) -> None:
        if self._transport is None:
            if now < self._retry_at - (RETRY_MAX if urgent else 0.0):
                return
            self._transport = self._open(now)
        transport = self._transport
        self._send(transport)
        if urgent and self._greeted and self._flushed != self.seq:
            self._flushed = self.seq
            transport.send(wire.flush(self.identity.client))
        self._move(transport, wait, now)
        self._send(transport)
        self._watch(transport, now)

    def _move(self, transport: Transport, wait: float, now: float) -> None:
        for message in transport.pump(wait):
            self._receive(wire.decode(message), now)

    def _open(self, now: float) -> Transport:
        self.attempted = True
        who = self.identity
        transport = self._connect()
        transport.send(
            wire.hello(
                client=who.client,
                service=who.service,
                host=who.host,
                pid=who.pid,
                start=who.start,
                sdk=who.sdk,
                tags=who.tags,
            )
        )
        self._greeted = False
        self._progress_at = now
        self._backlog = 0
        self._flushed = -1
        if self.expected:
            self._packer.resend_topologies()
        return transport

    def _send(self, transport: Transport) -> None:
        # One batch at a time into the transport: what waits stays in the buffer,
        # where its bytes are bounded.
        while self._greeted and not transport.backlog:
            batch = self.buffer.next_unsent()
            if batch is None:
                return
            transport.send(batch.message)
            self._move(transport, 0.0, self._progress_at)

    def _receive(self, message: dict[str, Any], now: float) -> None:
        self._progress_at = now
        kind = message.get("type")
        if kind == "ack":
            seq = int(message["seq"])
            if self._greeted:
                self.buffer.ack(seq)
            else:
                self._greeted = self.connected = self.expected = True
                self.error = ""
                self._retry = RETRY_MIN
                self.buffer.settle(seq)
        elif kind == "error":
            self._refused(message)
        elif kind == "slow":
            self.interval = max(FLUSH_INTERVAL, float(message["seconds"]))

    def _refused(self, message: dict[str, Any]) -> None:
        code, text = str(message.get("code")), str(message.get("text"))
        self.error = f"{code}: {text}"
        if code not in self._told:
            self._told.add(code)
            log.warning("the agent refused a message: %s (%s)", text, code)
        if code in _LASTING:
            self._retry = RETRY_LASTING
            raise ConnectionError(text)
        if isinstance(message.get("seq"), int):
            self.buffer.reject(message["seq"])

    def _watch(self, transport: Transport, now: float) -> None:
        if transport.backlog != self._backlog:
            self._backlog = transport.backlog
            self._progress_at = now
        quiet = now - self._progress_at
        if not self._greeted and quiet > GREETING_TIMEOUT:
            raise TimeoutError("the agent did not answer the greeting")
        if transport.backlog and quiet > STALL_TIMEOUT:
            raise TimeoutError("the agent reads nothing")

    def _disconnect(self, now: float, error: Exception) -> None:
        if self._transport is not None:
            self._transport.close()
        self._transport = None
        self.connected = self._greeted = False
        self.error = f"{type(error).__name__}: {error}"
        # Jitter, so that a restarted agent isn't met by all its clients at once.
        self._retry_at = now + self._retry * random.uniform(0.5, 1.0)
        self._retry = max(self._retry, min(self._retry * 2, RETRY_MAX))

    def _goodbye(self) -> bytes:
        return wire.bye(self.identity.client, self.seq, self.buffer.take_drops())


def unix_connector(endpoint: str | None) -> Callable[[], Transport]:
    """Return a function that connects to the first agent's socket there is."""
    wrong = ""
    if endpoint is not None:
        try:
            check_endpoint(endpoint)
        except ConfigurationError as error:
            # From the environment: the application has to run all the same.
            wrong = str(error)
            log.warning("kaywatch sends nothing: %s", wrong)

    def connect() -> Transport:
        if wrong:
            raise ConnectionError(wrong)
        last: OSError = FileNotFoundError("no agent's socket is there")
        for path in candidates(endpoint):
            try:
                return UnixTransport(path)
            except OSError as error:
                last = error
        raise last

    return connect


def new_identity(service: str, host: str, tags: Mapping[str, str]) -> Identity:
    """Return an identity for this process, with a fresh client id."""
    from kaywatch import __version__

    return Identity(
        client=os.urandom(16),
        service=service,
        host=host,
        pid=os.getpid(),
        start=time.time(),
        sdk=f"kaywatch-python/{__version__}",
        tags=tags,
    )
