"""The protocol with an agent: greetings, batches in order, acknowledgements.

Strategy: a session is one connection's state, without a socket, a thread or a clock.
`receive` takes in what came, `advance` the passing of time, and `next_message` returns
what to send. `BrokerSession` is all that differs where a broker is in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from kaywatch import wire
from kaywatch._send.batches import Batches
from kaywatch._send.broker import AgentStatus
from kaywatch._send.buffer import Packed

__all__ = ["MessageError", "AgentHistory", "BrokerSession", "Session"]

FLUSH_INTERVAL: Final = 1.0  # seconds between two batches of a quiet process
GREETING_TIMEOUT: Final = 5.0  # the agent acknowledges a hello at once
STALL_TIMEOUT: Final = 10.0  # no byte moved: the agent hangs, try another connection

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


@dataclass
class AgentHistory:
    """What outlives a connection.

    Attributes:
        greetings: sent so far; the number of the last one.
        reached: whether an agent has answered one: when absent, it may be restarting.
    """

    greetings: int = 0
    reached: bool = False


class MessageError(NamedTuple):
    """What the agent found wrong with a message."""

    code: str
    text: str

    @property
    def lasting(self) -> bool:
        """Whether a person has to change something first."""
        return self.code in _LASTING


class Greeting(Enum):
    """What has become of the hello."""

    DUE = auto()
    SENT = auto()
    ANSWERED = auto()


class Session:
    """The protocol on a stream, where what arrives does so once and in order.

    Attributes:
        connected: whether the agent is there, as far as known.
        interval: seconds between two batches, as the agent wants it.
        error: what is wrong though the connection stands, empty for nothing.
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
        self._flushed = -1  # the seq at which the agent was last asked for an ack
        if history.reached:
            batches.resend_topologies()

    def receive(self, data: bytes | AgentStatus, now: float) -> MessageError | None:
        """Take in a message, or news of the agent; return what it complains of.

        Raises:
            ValueError, LookupError, TypeError: this is no message of an agent.
        """
        if isinstance(data, AgentStatus):
            self._heard_of(data)
            return None
        message = wire.decode(data)
        self._progress_at = now
        kind = message.get("type")
        if kind == "ack":
            self._acknowledge(int(message["seq"]), message.get("greeting"), now)
        elif kind == "resend":
            self._doubt()
        elif kind == "slow":
            self.interval = max(FLUSH_INTERVAL, float(message["seconds"]))
        elif kind == "error":
            return self._refuse(message)
        return None

    def advance(self, now: float, backlog: int) -> None:
        """Note the time, and how many bytes the transport has not moved yet.

        Raises:
            TimeoutError: the agent hangs.
        """
        if backlog != self._backlog:
            self._backlog = backlog
            self._progress_at = now
        quiet = now - self._progress_at
        if not self._greeted and quiet > GREETING_TIMEOUT:
            raise TimeoutError("the agent did not answer the greeting")
        if backlog and quiet > STALL_TIMEOUT:
            raise TimeoutError("the agent reads nothing")

    def next_message(self, now: float, largest: int, urgent: bool) -> bytes | None:
        """Return what to send next, None for nothing at the moment.

        Args:
            now: monotonic seconds.
            largest: bytes that a message may have.
            urgent: somebody waits: ask for an early ack.
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
        """Return whether the transport is worth polling before the next flush."""
        return not self._greeted or backlog > 0

    def wants_usage(self, now: float) -> bool:  # noqa: ARG002
        """Return whether to send the usage of the process; its host's agent sees it."""
        return False

    # -- inside ----------------------------------------------------------------------

    @property
    def _greeted(self) -> bool:
        return self._greeting is Greeting.ANSWERED

    def _hello(self, now: float) -> bytes:
        """Introduce us; what was sent and not acknowledged is sent again after it."""
        self._greeting = Greeting.SENT
        self._greeted_at = self._progress_at = now
        self._history.greetings += 1
        return wire.hello(
            **self._batches.identity._asdict(),
            greeting=self._history.greetings,
            first=self._batches.buffer.lowest or self._batches.seq + 1,
        )

    def _next_batch(self, now: float, largest: int) -> Packed | None:  # noqa: ARG002
        buffer = self._batches.buffer
        while (batch := buffer.next_unsent()) is not None:
            size = len(batch.message)
            if size <= largest:
                break
            self.error = f"a batch of {size} bytes, and the broker takes {largest}"
            buffer.reject(batch.seq, wire.DropReason.UNPACKABLE)
        return batch

    def _acknowledge(self, seq: int, greeting: Any, now: float) -> None:  # noqa: ARG002
        if self._greeting is not Greeting.SENT or not self._is_answer(greeting):
            self._batches.buffer.ack(seq)
            return
        self._greeting = Greeting.ANSWERED
        self.connected = self._history.reached = True
        self._batches.buffer.settle(seq)

    def _is_answer(self, greeting: Any) -> bool:  # noqa: ARG002
        return True  # nothing else can come before it

    def _refuse(self, message: dict[str, Any]) -> MessageError:
        error = MessageError(str(message.get("code")), str(message.get("text")))
        self.error = f"{error.code}: {error.text}"
        if not error.lasting and isinstance(message.get("seq"), int):
            self._batches.buffer.reject(message["seq"])
        return error

    def _doubt(self) -> None:
        """Hear that the agent misses batches, which a stream doesn't lose."""

    def _heard_of(self, status: AgentStatus) -> None:
        """Hear of the agent from a broker."""


class BrokerSession(Session):
    """The protocol by way of a broker, where messages get lost, repeated and delayed.

    So the agent is greeted again whenever there is doubt, which costs it one message,
    and the broker holds a bounded number of batches.
    """

    def __init__(self, batches: Batches, history: AgentHistory, now: float) -> None:
        super().__init__(batches, history, now)
        self._absent = False  # the agent is known to be away
        self._doubtful = False  # the agent is to be greeted again
        self._patience = PATIENCE_MIN
        self._acked_at = now  # when an ack was news, or all was acknowledged
        self._used_at = -USAGE_INTERVAL

    def advance(self, now: float, backlog: int) -> None:  # noqa: ARG002
        """Greet the agent again when there is doubt."""
        if self._absent:
            return  # it says when it is back; till then all stays here
        since = self._acked_at if self._greeted else self._greeted_at
        waiting = not self._greeted or self._batches.buffer.sent > 0
        if waiting and now - max(since, self._greeted_at) > self._patience:
            self.connected = self._greeted
            self._patience = min(self._patience * 2, PATIENCE_MAX)
        elif not self._doubtful:
            return
        self._greeting = Greeting.DUE
        self._doubtful = False
        self._flushed = -1

    def is_busy(self, now: float, backlog: int) -> bool:
        """Return whether the transport is worth polling before the next flush."""
        if self._absent:
            return False
        if not self._greeted:
            return now - self._greeted_at < EAGER
        return backlog > 0 or (self._is_full() and self._batches.buffer.waiting > 0)

    def wants_usage(self, now: float) -> bool:
        """Return whether to send the process's usage, which nobody sees from afar."""
        due = self._greeted and now - self._used_at >= USAGE_INTERVAL
        if due:
            self._used_at = now
        return due

    def _is_full(self) -> bool:
        """Return whether the broker holds as much as it should have to."""
        buffer = self._batches.buffer
        return buffer.sent >= WINDOW_BATCHES or buffer.sent_bytes >= WINDOW_BYTES

    def _next_batch(self, now: float, largest: int) -> Packed | None:
        if self._is_full():
            return None
        if not self._batches.buffer.sent:
            self._acked_at = now
        return super()._next_batch(now, largest)

    def _acknowledge(self, seq: int, greeting: Any, now: float) -> None:
        if seq >= self._batches.buffer.lowest > 0:
            self._acked_at = now
            self._patience = PATIENCE_MIN
        super()._acknowledge(seq, greeting, now)

    def _is_answer(self, greeting: Any) -> bool:
        return bool(greeting == self._history.greetings)

    def _doubt(self) -> None:
        # A request that comes before the answer to a greeting was made before it.
        self._doubtful = self._doubtful or self._greeted

    def _heard_of(self, status: AgentStatus) -> None:
        self._absent = status is AgentStatus.AWAY
        if self._absent:
            self.connected = False
            self._greeting = Greeting.SENT  # to be answered by none
        elif status is AgentStatus.ARRIVED:
            self._doubtful = True
            if self._history.reached:
                self._batches.resend_topologies()
