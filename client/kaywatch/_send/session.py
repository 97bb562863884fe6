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
from kaywatch._send.buffer import DEFAULT_BYTES, Buffer, Packed
from kaywatch._send.packer import Packer, Sections
from kaywatch._send.transport import Again, Refused, Transport
from kaywatch._send.usage import usage
from kaywatch.recorder import Recorder

__all__ = ["Identity", "Session", "new_identity"]

log = logging.getLogger("kaywatch")

FLUSH_INTERVAL: Final = 1.0  # seconds between two batches of a quiet process
GREETING_TIMEOUT: Final = 5.0  # the agent acknowledges a hello at once
STALL_TIMEOUT: Final = 10.0  # no byte moved: the agent hangs, try another connection
RETRY_MIN: Final = 0.1
RETRY_MAX: Final = 2.0  # a look at a missing socket file costs microseconds
RETRY_LASTING: Final = 10.0  # versions, passwords and rules are changed by people
POLL: Final = 0.05  # while bytes or acks are under way
MAX_BATCHES_PER_STEP: Final = 40  # then send, also when events come faster than that

# Behind a broker, whatever was sent may be lost: without an ack for so long, the agent
# is greeted again, and after each greeting that brings none it is waited twice as long.
PATIENCE_MIN: Final = 5.0
PATIENCE_MAX: Final = 60.0
EAGER: Final = 1.0  # seconds after a greeting in which its answer is looked for at once

# What a broker holds of one client when the agent is away, or slow. At an ack a second
# it bounds a process to some 300,000 events/s.
WINDOW_BYTES: Final = 8 * 1024 * 1024
WINDOW_BATCHES: Final = 64

USAGE_INTERVAL: Final = 10.0  # as often as the agent looks at processes on its host


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
        self.expected = False  # an agent has been there, and may be restarting
        self._recorder = recorder
        self._packer = Packer(recorder)
        self._connect = connect
        self._transport: Transport | None = None
        self._greeted = False
        self._greetings = 0  # so far; the last one's number
        self._greeted_at = 0.0  # when that was sent
        self._doubtful = False  # the agent asks to be greeted again
        self._arrivals = 0
        self._patience = PATIENCE_MIN
        self._acked_at = 0.0  # when an ack was news, or all was acknowledged
        self._used_at = 0.0
        self._now = 0.0  # of the last step
        self._gate_dropped = 0
        self._retry = RETRY_MIN
        self._retry_at = 0.0
        self._at_once = False  # connect again without a delay
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
        if transport is None:
            return self._at_once
        if not transport.lossy:
            return not self._greeted or transport.backlog > 0
        if transport.absent:
            return False
        if not self._greeted:
            return self._now - self._greeted_at < EAGER
        return transport.backlog > 0 or (self._full and self.buffer.waiting > 0)

    def step(self, now: float, urgent: bool = False, wait: float = 0.0) -> int:
        """Pack, connect when due, send, and take in the replies.

        Args:
            now: monotonic seconds.
            urgent: somebody waits: ask for an early ack, connect without backoff.
            wait: how long to wait for the socket at most.

        Returns:
            The number of events packed.
        """
        self._now = now
        packed = self._pack(now)
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

    @property
    def _full(self) -> bool:
        """Whether as much is under way as a broker should have to hold."""
        sent = self.buffer
        return sent.sent >= WINDOW_BATCHES or sent.sent_bytes >= WINDOW_BYTES

    def _pack(self, now: float) -> int:
        total = 0
        self._recorder.lower_gate()
        transport = self._transport
        most = _events_within(transport.largest if transport else wire.MAX_FRAME)
        for _ in range(MAX_BATCHES_PER_STEP):
            taken = self._packer.take(most)
            self._count_gate_drops()
            if taken is None:
                break
            self.recorded += taken.events + taken.unpackable
            self.buffer.count_drop(str(wire.DropReason.UNPACKABLE), taken.unpackable)
            total += taken.events
            self._append(taken)
        if transport is not None and transport.lossy and self._greeted:
            self._tell_usage(now)
        return total

    def _tell_usage(self, now: float) -> None:
        """Say what this process uses, now and then: from afar nobody sees it."""
        if now - self._used_at >= USAGE_INTERVAL:
            self._used_at = now
            self._append(Sections({"process": usage()}, 0, 0))

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
            early = RETRY_MAX if urgent else 0.0
            if now < self._retry_at - early and not self._at_once:
                return
            self._transport = self._open(now)
        transport = self._transport
        if transport.lossy:
            # Maybe it has said that it is away: then all stays here.
            self._move(transport, 0.0, now)
            self._watch_broker(transport, now)
        self._send(transport, now)
        if urgent and self._greeted and self._flushed != self.seq:
            self._flushed = self.seq
            transport.send(wire.flush(self.identity.client))
        self._move(transport, wait, now)
        self._send(transport, now)
        if not transport.lossy:
            self._watch(transport, now)

    def _move(self, transport: Transport, wait: float, now: float) -> None:
        for message in transport.pump(wait):
            self._receive(wire.decode(message), now)

    def _open(self, now: float) -> Transport:
        self._at_once = False
        transport = self._connect()
        self._arrivals = transport.arrivals
        self._patience = PATIENCE_MIN
        self._backlog = 0
        self._greet(transport, now)
        self._tell_topologies()
        return transport

    def _tell_topologies(self) -> None:
        """Send them again: the agent may be a new one."""
        if self.expected:
            self._packer.resend_topologies()

    def _greet(self, transport: Transport, now: float) -> None:
        """Introduce us; what was sent and not acknowledged is sent again after it."""
        who = self.identity
        self._greeted = self._doubtful = False
        self._greetings += 1
        self._greeted_at = self._progress_at = now
        self._flushed = -1
        transport.send(
            wire.hello(
                client=who.client,
                service=who.service,
                host=who.host,
                pid=who.pid,
                start=who.start,
                sdk=who.sdk,
                tags=who.tags,
                greeting=self._greetings,
                first=self.buffer.lowest or self.seq + 1,
            )
        )

    def _send(self, transport: Transport, now: float) -> None:
        # One batch at a time into the transport: what waits stays in the buffer,
        # where its bytes are bounded.
        while self._greeted and not transport.backlog:
            if transport.lossy and self._full:
                return
            if not self.buffer.sent:
                self._acked_at = now
            batch = self.buffer.next_unsent()
            if batch is None:
                return
            if len(batch.message) > transport.largest:
                self._too_large(batch, transport.largest)
                continue
            transport.send(batch.message)
            self._move(transport, 0.0, self._progress_at)

    def _too_large(self, batch: Packed, largest: int) -> None:
        size = len(batch.message)
        self.error = f"a batch of {size} bytes, and the broker takes {largest}"
        self.buffer.reject(batch.seq, str(wire.DropReason.UNPACKABLE))

    def _receive(self, message: dict[str, Any], now: float) -> None:
        self._progress_at = now
        kind = message.get("type")
        if kind == "ack":
            self._acknowledged(int(message["seq"]), message.get("greeting"), now)
        elif kind == "resend":
            # One that comes before the answer to a greeting was asked before it.
            self._doubtful = self._greeted
        elif kind == "error":
            self._refused(message)
        elif kind == "slow":
            self.interval = max(FLUSH_INTERVAL, float(message["seconds"]))

    def _acknowledged(self, seq: int, greeting: Any, now: float) -> None:
        transport = self._transport
        lossy = transport is not None and transport.lossy
        if lossy and seq >= self.buffer.lowest > 0:
            self._acked_at = now
            self._patience = PATIENCE_MIN
        # On a stream nothing else can come before the answer to the greeting.
        if self._greeted or (lossy and greeting != self._greetings):
            self.buffer.ack(seq)
            return
        self._greeted = self.connected = self.expected = True
        self.error = ""
        self._retry = RETRY_MIN
        self.buffer.settle(seq)

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

    def _watch_broker(self, transport: Transport, now: float) -> None:
        """Greet again whenever there is doubt; that costs the agent one message."""
        came, self._arrivals = transport.arrivals != self._arrivals, transport.arrivals
        if transport.absent:
            # It says when it is back. Till then all stays here.
            self._greeted = self.connected = False
            return
        since = self._acked_at if self._greeted else self._greeted_at
        waiting = not self._greeted or self.buffer.sent > 0
        if waiting and now - max(since, self._greeted_at) > self._patience:
            self.connected = self._greeted
            self._patience = min(self._patience * 2, PATIENCE_MAX)
            self._greet(transport, now)
        elif came or self._doubtful:
            self._greet(transport, now)
            if came:
                self._tell_topologies()

    def _disconnect(self, now: float, error: Exception) -> None:
        if self._transport is not None:
            self._transport.close()
        self._transport = None
        self.connected = self._greeted = False
        self.error = f"{type(error).__name__}: {error}"
        self._at_once = isinstance(error, Again)
        if isinstance(error, Refused):
            self._retry = RETRY_LASTING
            if self.error not in self._told:
                self._told.add(self.error)
                log.warning("kaywatch sends nothing for now: %s", error)
        # Jitter, so that a restarted agent isn't met by all its clients at once.
        self._retry_at = now + self._retry * random.uniform(0.5, 1.0)
        self._retry = max(self._retry, min(self._retry * 2, RETRY_MAX))

    def _goodbye(self) -> bytes:
        return wire.bye(self.identity.client, self.seq, self.buffer.take_drops())


def _events_within(size: int) -> int:
    """Return how many events a batch of so many bytes may have.

    A row has 44 bytes at most, and of what a small broker takes, the table of names may
    have half.
    """
    return min(wire.MAX_BATCH_EVENTS, max(1, size // 2 // 44))


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
