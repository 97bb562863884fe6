"""One connection's side of the protocol: what comes over it, and what is replied.

A stream carries frames, and all of them in order. A broker carries messages, and may
lose them, bring them twice, or late.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import ProcessSample
from kaywatch_agent.pipeline.mirror import Observers
from kaywatch_agent.protocol.decoder import Decoder
from kaywatch_agent.protocol.framing import FrameReader, OutOfStep, Oversized
from kaywatch_agent.protocol.messages import (
    Batch,
    Capture,
    Flush,
    Hello,
    Message,
    Rejected,
)
from kaywatch_agent.protocol.text import message_of_json
from kaywatch_agent.runtime.telemetry import Telemetry

__all__ = ["Conversation", "Link", "Peer", "StreamConversation", "Taker"]

# A client that reads nothing gets no more replies than this many bytes.
MAX_BACKLOG: Final = 65_536

# A client behind a broker is asked no more often for what is missing: the answer to one
# question makes up for all that was refused.
RESEND_SECONDS: Final = 1.0

# Clients that one connection may speak for: a relay, at most.
MAX_CLIENTS: Final = 1_000


class Peer(Protocol):
    """What is known of the process at the other end."""

    @property
    def pid(self) -> int:
        """Its process id; 0 when the transport can't tell."""

    @property
    def uid(self) -> int:
        """Its user; -1 when the transport can't tell."""

    @property
    def started(self) -> float:
        """When it started, Unix seconds; 0 when nobody can tell."""

    @property
    def trusted(self) -> bool:
        """Whether it may see what others send, and speak for them."""

    def exited(self) -> bool:
        """Whether it is gone."""

    def sample(self) -> ProcessSample | None:
        """What it uses, or None when that can't be read."""

    def close(self) -> None:
        """Release what watching it holds."""


class Link(Protocol):
    """What the pipeline needs of a connection."""

    @property
    def peer(self) -> Peer:
        """The process at the other end."""

    @property
    def backlog(self) -> int:
        """Bytes that it has not read yet."""

    @property
    def congested(self) -> bool:
        """Whether it should be sent no more until it has read some."""

    def send(self, data: bytes) -> None:
        """Queue bytes for it."""

    def close(self) -> None:
        """Hang up."""


class Taker(Protocol):
    """What takes the messages: the pipeline."""

    telemetry: Telemetry
    observers: Observers
    decoder: Decoder
    clock: Callable[[], float]

    def take(self, message: Message, conversation: Conversation) -> None:
        """Act on one message."""

    def gone(self, conversation: Conversation) -> None:
        """The connection is lost."""


class Conversation:
    """One client's side of the protocol by way of a broker: messages in, replies out.

    Attributes:
        lossy: messages may get lost on the way, come twice, or in another order.
        clients: whom it spoke for.
        owner: what series are counted for: the kernel's word where there is one, since
            a client can call itself by as many ids as it likes.
    """

    lossy = True

    def __init__(
        self,
        pipeline: Taker,
        link: Link,
        number: int,
        anonymous: str,
        only: str = "",
        via: str = "",
    ) -> None:
        """Begin it.

        Args:
            pipeline: takes the messages.
            link: where replies go.
            number: of the conversation, for those who observe.
            anonymous: what a client without a name is called.
            only: the one client that it may speak for; empty for any.
            via: the broker's name; empty for none.
        """
        self.link = link
        self.number = number
        self.clients: set[str] = set()
        self.anonymous = anonymous
        self.only = only
        self.via = via
        self.owner = _process(link.peer)
        self._pipeline = pipeline
        self._acked: dict[str, int] = {}
        self._asked = -math.inf  # when, for what is missing

    def take(self, message: bytes) -> bool:
        """Act on a message; return whether anything could be used of it."""
        self._pipeline.telemetry.add("kaywatch_received_bytes_total", len(message))
        return self._take(message)

    def take_text(self, text: bytes) -> bool:
        """Act on rows in JSON; return whether anything could be used of them."""
        self._pipeline.telemetry.add("kaywatch_received_bytes_total", len(text))
        return self._take(message_of_json(text))

    def close(self) -> None:
        """The client is gone, or nothing can be heard of it."""
        self._pipeline.gone(self)

    def refused(self, message: Message) -> Rejected | None:
        """Refuse what it may not say here."""
        speaker = getattr(message, "client", "")
        if self.only and speaker not in ("", self.only):
            text = f"this topic is that of the client {self.only}"
            return Rejected(ErrorCode.FORBIDDEN, text)
        if (
            isinstance(message, Hello | Batch)
            and len(self.clients) >= MAX_CLIENTS
            and (speaker or self.anonymous) not in self.clients
        ):
            text = f"one connection speaks for at most {MAX_CLIENTS} clients"
            return Rejected(ErrorCode.BAD_MESSAGE, text)
        return None

    def ack(self, client: Client, seq: int, always: bool = False) -> None:
        """Acknowledge, unless that is known already.

        Args:
            client: whose batches.
            seq: the highest committed number.
            always: it answers a greeting.
        """
        if not always and self._acked.get(client.id) == seq:
            return
        greeting = client.greeting if always else 0
        if self._send(wire.ack(seq, _id_bytes(client.id), greeting)):
            self._acked[client.id] = seq

    def answer(self) -> None:
        """Say that what came before a flush that is nobody's is committed."""
        self._send(wire.ack(0, b""))

    def ask_again(self, after: int, client: str, now: float) -> bool:
        """Ask for all batches after a number, unless that was done just now."""
        if not 0 <= now - self._asked < RESEND_SECONDS and self._send(
            wire.resend(after, _id_bytes(client))
        ):
            self._asked = now
            return True
        return False

    def slow(self, seconds: float) -> None:
        """Ask for a batch every so many seconds at most."""
        self._send(wire.slow(seconds))

    def refuse(self, code: ErrorCode, text: str, seq: int | None) -> None:
        """Say what was wrong with a message."""
        self._send(wire.error(code, text[:500], seq))

    def _take(self, frame: bytes | Oversized | OutOfStep | Rejected) -> bool:
        pipeline = self._pipeline
        message = _message(frame, pipeline.decoder)
        if pipeline.observers:
            self._copy(frame, message)
        pipeline.take(message, self)
        return not isinstance(message, Rejected)

    def _copy(self, frame: object, message: Message) -> None:
        """Show the observers a message that can be used, but no probe of an agent."""
        probe = message == Flush("") and not self.clients
        if isinstance(frame, bytes) and not (
            probe or isinstance(message, Rejected | Capture)
        ):
            pipeline = self._pipeline
            pipeline.observers.copy(frame, self.number, pipeline.clock())

    def _send(self, message: bytes) -> bool:
        if self.link.backlog > MAX_BACKLOG:
            self._pipeline.telemetry.add("kaywatch_replies_withheld_total")
            return False
        self.link.send(self._framed(message))
        return True

    def _framed(self, message: bytes) -> bytes:
        return message


class StreamConversation(Conversation):
    """One connection's side of the protocol: frames in, replies out."""

    lossy = False

    def __init__(
        self, pipeline: Taker, link: Link, number: int, anonymous: str
    ) -> None:
        super().__init__(pipeline, link, number, anonymous)
        self._frames = FrameReader()

    @property
    def missing(self) -> int:
        """Bytes that the present frame lacks."""
        return self._frames.missing

    def receive(self, data: bytes | memoryview) -> None:
        """Take in bytes, and act on every message that they complete."""
        self._pipeline.telemetry.add("kaywatch_received_bytes_total", len(data))
        for frame in self._frames.receive(data):
            self._take(frame)

    @property
    def held(self) -> int:
        """Bytes of a frame that is not complete."""
        return self._frames.held

    def resume(self) -> None:
        """The peer has read what was queued."""
        self._pipeline.observers.resume(self.link)

    def _framed(self, message: bytes) -> bytes:
        return wire.frame(message)


def _message(
    frame: bytes | Oversized | OutOfStep | Rejected, decoder: Decoder
) -> Message:
    match frame:
        case Rejected():
            return frame
        case Oversized(size):
            return Rejected(
                ErrorCode.FRAME_TOO_LARGE,
                f"a frame of {size} bytes; at most {wire.MAX_FRAME} are taken",
            )
        case OutOfStep(size):
            return Rejected(
                ErrorCode.FRAME_TOO_LARGE,
                f"no frame: its length would be {size} bytes; hanging up",
                fatal=True,
            )
    return decoder.decode(frame)


def _process(peer: Peer) -> str:
    """Return a name for a process that no other gets; empty if there is none."""
    return f"process {peer.pid} of {peer.started:.2f}" if peer.pid else ""


def _id_bytes(client: str) -> bytes:
    try:
        return bytes.fromhex(client)
    except ValueError:
        return b""
