"""The protocol with an agent: greetings, batches in order, acknowledgements.

Strategy: a session is one connection's state, without a socket, a thread or a clock.
`receive` handles an incoming message, `advance` the passing of time, and
`next_message` returns what to send. `BrokeredSession` is the difference that a broker
between client and agent makes.
"""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from kaywatch import wire
from kaywatch._send.batches import Batches
from kaywatch._send.buffer import EncodedBatch
from kaywatch._send.transport import AgentStatus

__all__ = ["AgentHistory", "BrokeredSession", "ClientSession", "MessageError"]

FLUSH_INTERVAL: Final = 1.0  # seconds between two batches of a quiet process
GREETING_TIMEOUT: Final = 5.0  # the agent acknowledges a hello at once
STALL_TIMEOUT: Final = 10.0  # no byte moved: the agent hangs, try another connection

# Behind a broker, any message may be lost. Without an ack for this many seconds, the
# agent is greeted again; the wait doubles after each greeting that brings no ack.
PATIENCE_MIN: Final = 5.0
PATIENCE_MAX: Final = 60.0
COMMIT_TIMEOUT: Final = 3.0  # after which received batches count as committed
EAGER: Final = 1.0  # seconds after a greeting during which its answer is polled for

# The limit of what a broker holds for one client while the agent is away or slow. With
# one ack per second, it limits a process to some 300,000 events/s.
WINDOW_BYTES: Final = 8 * 1024 * 1024
WINDOW_BATCHES: Final = 64

USAGE_INTERVAL: Final = 10.0  # as often as the agent samples processes on its host

_LASTING: Final = (wire.ErrorCode.UNSUPPORTED_VERSION, wire.ErrorCode.FORBIDDEN)


class AgentHistory:
    """What outlives a connection.

    Attributes:
        greetings: hellos sent so far, which is the number of the last one.
        reached: whether an agent ever answered; one that is absent may be restarting.
    """

    def __init__(self, reached: bool = False) -> None:
        self.greetings = 0
        self.reached = reached


class MessageError(NamedTuple):
    """An agent's reason for rejecting a message."""

    code: str
    text: str

    @property
    def lasting(self) -> bool:
        """Whether a user must first change a version or a configuration."""
        return self.code in _LASTING


class Greeting(Enum):
    """The state of a hello, or of a flush."""

    DUE = auto()
    SENT = auto()
    ANSWERED = auto()


class ClientSession:
    """The protocol on a stream, where every message arrives once and in order.

    Attributes:
        connected: whether the agent is there, as far as known.
        interval: seconds between two batches, as the agent asks for.
        error: the current problem on this connection; empty for none.
    """

    def __init__(self, batches: Batches, history: AgentHistory, now: float) -> None:
        self.connected = False
        self.interval = FLUSH_INTERVAL
        self.error = ""
        self._batches = batches
        self._history = history
        self._greeting = Greeting.DUE
        self._greeted_at = now
        self._progress_at = now
        self._backlog = 0
        self._flushed = -1  # the seq of the last request for an early ack
        if history.reached:
            batches.resend_state()

    def receive(self, data: bytes | AgentStatus, now: float) -> MessageError | None:
        """Handle a message or the agent's status; return the error it reports.

        Raises:
            ValueError, LookupError, TypeError: this is not an agent's message.
        """
        if isinstance(data, AgentStatus):
            self._handle_status(data)
            return None
        message = wire.decode(data)
        self._progress_at = now
        kind = message.get("type")
        if kind == "ack" and message.get("client") == b"":
            self._handle_commit()
        elif kind == "ack":
            self._handle_ack(int(message["seq"]), message.get("greeting"), now)
        elif kind == "resend":
            self._handle_resend()
        elif kind == "slow":
            self.interval = max(FLUSH_INTERVAL, float(message["seconds"]))
        elif kind == "error":
            return self._handle_error(message)
        return None

    def advance(self, now: float, backlog: int) -> None:
        """Check for timeouts; `backlog` is the bytes that the transport still holds.

        Raises:
            TimeoutError: the agent hangs.
        """
        if backlog != self._backlog:
            self._backlog = backlog
            self._progress_at = now
        quiet = now - self._progress_at
        if not self._greeted and quiet > GREETING_TIMEOUT:
            raise TimeoutError("the agent did not answer `hello`")
        if backlog and quiet > STALL_TIMEOUT:
            raise TimeoutError("the agent does not read its socket")

    def next_message(self, now: float, largest: int, urgent: bool) -> bytes | None:
        """Return the next message to send, None for none at the moment.

        Args:
            now: monotonic seconds.
            largest: the maximum size of a message in bytes.
            urgent: a caller waits: ask for an early ack.
        """
        if self._greeting is Greeting.DUE:
            return self._hello(now)
        if not self._greeted:
            return None
        batch = self._next_batch(now, largest)
        if batch is not None:
            return batch.message
        if urgent and self._flushed != self._batches.seq:
            self._flushed = self._batches.seq
            return wire.flush(self._batches.identity.client)
        return None

    def is_busy(self, now: float, backlog: int) -> bool:  # noqa: ARG002
        """Return whether to poll the transport before the next flush."""
        return not self._greeted or backlog > 0

    def expects_answer(self, now: float, backlog: int) -> bool:  # noqa: ARG002
        """Return whether the agent is likely to answer the hello."""
        return True  # it accepted the connection

    def wants_usage(self, now: float) -> bool:  # noqa: ARG002
        """Return whether to send resource usage, which an agent on the host samples."""
        return False

    # -- inside ----------------------------------------------------------------------

    @property
    def _greeted(self) -> bool:
        return self._greeting is Greeting.ANSWERED

    def _hello(self, now: float) -> bytes:
        """Return a hello; unacknowledged batches are sent again after its answer."""
        self._greeting = Greeting.SENT
        self._greeted_at = self._progress_at = now
        self._history.greetings += 1
        return wire.hello(
            **self._batches.identity._asdict(),
            greeting=self._history.greetings,
            first=self._batches.buffer.first_seq or self._batches.seq + 1,
        )

    def _next_batch(self, now: float, largest: int) -> EncodedBatch | None:  # noqa: ARG002
        return self._batches.buffer.next_unsent()

    def _handle_ack(self, seq: int, greeting: Any, now: float) -> None:  # noqa: ARG002
        if self._greeting is not Greeting.SENT or not self._is_answer(greeting):
            self._batches.buffer.ack(seq)
            return
        self._greeting = Greeting.ANSWERED
        self.connected = self._history.reached = True
        self._batches.buffer.restart(seq)

    def _is_answer(self, greeting: Any) -> bool:  # noqa: ARG002
        return True  # on a stream, the first ack is the answer

    def _handle_error(self, message: dict[str, Any]) -> MessageError:
        error = MessageError(str(message.get("code")), str(message.get("text")))
        self.error = f"{error.code}: {error.text}"
        if not error.lasting and isinstance(message.get("seq"), int):
            self._batches.buffer.reject(message["seq"])
        return error

    def _handle_commit(self) -> None:
        """Do nothing: a stream asks for no such answer."""

    def _handle_resend(self) -> None:
        """Do nothing: a stream loses no batch."""

    def _handle_status(self, status: AgentStatus) -> None:
        """Do nothing: only a broker reports the agent's status."""


class BrokeredSession(ClientSession):
    """The protocol over a broker, where messages are lost, repeated and delayed.

    So the agent is greeted again whenever batches may be missing, which costs it one
    message, and the broker holds a bounded number of batches.
    """

    def __init__(self, batches: Batches, history: AgentHistory, now: float) -> None:
        super().__init__(batches, history, now)
        self._status: AgentStatus | None = None  # None: the broker has sent none
        self._regreet = False  # the agent misses batches, or is a new one
        self._patience = PATIENCE_MIN
        self._acked_at = now  # the last ack of a batch, or when none was due
        self._usage_sent_at = -USAGE_INTERVAL
        self._first_answer_at = math.inf  # to a hello of this connection
        self._commit_state: Greeting | None = None  # of a flush
        self._decisive = math.inf  # the greeting whose answer shows what is missing

    def advance(self, now: float, backlog: int) -> None:
        """Greet the agent again when an ack is overdue or it asked for batches."""
        if self._is_away:
            return  # it announces its return; until then the buffer keeps everything
        if backlog and self._greeting is Greeting.SENT:
            self._greeted_at = now  # the broker is slow: the hello has not left yet
        since = self._acked_at if self._greeted else self._greeted_at
        waiting = not self._greeted or self._batches.buffer.sent > 0
        if waiting and now - max(since, self._greeted_at) > self._patience:
            self.connected = self._greeted
            self._patience = min(self._patience * 2, PATIENCE_MAX)
        elif not self._regreet:
            return
        self._greeting = Greeting.DUE
        self._regreet = False
        self._flushed = -1

    def next_message(self, now: float, largest: int, urgent: bool) -> bytes | None:
        """Return the next message to send, None for none at the moment."""
        message = super().next_message(now, largest, urgent)
        if message is None and self._greeted and self._commit_state is Greeting.DUE:
            self._commit_state = Greeting.SENT
            message = wire.flush()
        return message

    def is_busy(self, now: float, backlog: int) -> bool:
        """Return whether to poll the transport before the next flush."""
        if self._is_away:
            return False
        if not self._greeted:
            return now - self._greeted_at < EAGER
        return backlog > 0 or (self._is_full() and self._batches.buffer.unsent > 0)

    def expects_answer(self, now: float, backlog: int) -> bool:
        """Return whether the agent is likely to answer the hello.

        A busy broker or agent may need seconds. If the broker has not reported that
        there is an agent, its answer gets the usual time.
        """
        is_there = self._status is not None and not self._is_away
        return is_there or backlog > 0 or self.is_busy(now, backlog)

    def wants_usage(self, now: float) -> bool:
        """Return whether to send resource usage: the agent may be on another host."""
        due = self._greeted and now - self._usage_sent_at >= USAGE_INTERVAL
        if due:
            self._usage_sent_at = now
        return due

    @property
    def _is_away(self) -> bool:
        """Whether the broker reports that the agent is offline."""
        return self._status is AgentStatus.AWAY

    def _is_full(self) -> bool:
        """Return whether the broker holds the allowed number of batches or bytes."""
        buffer = self._batches.buffer
        return buffer.sent >= WINDOW_BATCHES or buffer.sent_bytes >= WINDOW_BYTES

    def _next_batch(self, now: float, largest: int) -> EncodedBatch | None:
        buffer = self._batches.buffer
        if self._is_full():
            return None
        if not buffer.sent:
            self._acked_at = now
        first = buffer.first_unsent
        if first is not None and len(first.message) > largest:
            if not self._is_missing(first, now):
                return None
            self._batches.split_unsent(largest)
        return super()._next_batch(now, largest)

    def _is_missing(self, batch: EncodedBatch, now: float) -> bool:
        """Return whether the agent cannot have a batch; if unknown, ask it.

        The broker delivers messages in order: what it accepted before this connection
        reached the agent before our first hello. The agent answers a flush without a
        client once all of that is committed. The answer to the next hello then shows
        what it has. If the answer to the flush is lost, the commit gets some seconds.
        """
        if batch.seq > self._batches.buffer.last_sent:
            return True
        if self._history.greetings >= self._decisive:
            return True
        if self._commit_state is None:
            self._commit_state = Greeting.DUE
        if now >= self._first_answer_at + COMMIT_TIMEOUT:
            self._handle_commit()
        return False

    def _handle_commit(self) -> None:
        if self._decisive == math.inf:
            self._decisive = self._history.greetings + 1
            self._regreet = True

    def _handle_ack(self, seq: int, greeting: Any, now: float) -> None:
        if self._first_answer_at == math.inf and self._is_answer(greeting):
            self._first_answer_at = now
        if seq >= self._batches.buffer.first_seq > 0:
            self._acked_at = now
            self._patience = PATIENCE_MIN
        super()._handle_ack(seq, greeting, now)

    def _is_answer(self, greeting: Any) -> bool:
        return bool(greeting == self._history.greetings)

    def _handle_resend(self) -> None:
        # A request that arrives before the answer to a hello was sent before it.
        self._regreet = self._regreet or self._greeted

    def _handle_status(self, status: AgentStatus) -> None:
        self._status = status
        if self._is_away:
            self.connected = False
            self._greeting = Greeting.SENT  # no answer will come
        elif status is AgentStatus.ARRIVED:
            self._regreet = True
            if self._history.reached:
                self._batches.resend_state()
