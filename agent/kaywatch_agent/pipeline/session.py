"""One peer's side of the protocol, without I/O: bytes in, messages out.

A stream carries frames, all of them and in order. A broker carries one message at a
time, and may lose messages, deliver them twice or out of order.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.model.records import ProcessSample
from kaywatch_agent.protocol.decoder import decode
from kaywatch_agent.protocol.framing import FrameReader, OutOfStep, Oversized
from kaywatch_agent.protocol.messages import Batch, Hello, Message, Rejected
from kaywatch_agent.protocol.text import message_of_json

__all__ = [
    "BrokerSession",
    "Peer",
    "Received",
    "Reply",
    "Session",
    "StreamSession",
]

# A client behind a broker is asked no more often for what is missing: one answer makes
# up for all batches that were refused.
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
        """When it started, Unix seconds; 0 when that is unknown."""

    @property
    def trusted(self) -> bool:
        """Whether it may see what others send, and speak for them."""

    def exited(self) -> bool:
        """Whether it is gone."""

    def sample(self) -> ProcessSample | None:
        """Return its memory and CPU, None when they can't be read."""

    def close(self) -> None:
        """Release what watching it holds."""


class Received(NamedTuple):
    """A message, and the bytes that it was decoded from; empty if it has none."""

    message: Message
    frame: bytes


class Reply(NamedTuple):
    """What to send to a peer.

    Attributes:
        session: the peer's.
        payload: the message; empty for none.
        close: whether to close the connection after it.
    """

    session: Session
    payload: bytes
    close: bool = False


class Session:
    """One peer: who it is, which clients it speaks for, and what it was told.

    Attributes:
        number: of the session, for captures.
        peer: the process at the other end.
        anonymous: the name of a client that has no id.
        only: the one client that it may speak for; empty for any.
        via: the broker's name; empty for a stream.
        clients: the ids of the clients it spoke for.
        owner: the process that new series are counted for: the kernel's word where
            there is one, since a client can take as many ids as it likes.
        acked: the last acknowledged sequence number by client.
    """

    # Whether batches arrive complete and in order.
    ordered = True

    def __init__(
        self, peer: Peer, number: int, anonymous: str, only: str = "", via: str = ""
    ) -> None:
        self.number = number
        self.peer = peer
        self.anonymous = anonymous
        self.only = only
        self.via = via
        self.clients: set[str] = set()
        self.owner = _owner(peer)
        self.acked: dict[str, int] = {}
        self._asked = -math.inf  # when missing batches were last requested

    def encode(self, payload: bytes) -> bytes:
        """Return a message as the transport sends it."""
        return payload

    def refuse(self, message: Message) -> Rejected | None:
        """Return why the peer may not send a message, None if it may."""
        client = getattr(message, "client", "")
        if self.only and client not in ("", self.only):
            text = f"this topic is that of the client {self.only}"
            return Rejected(ErrorCode.FORBIDDEN, text)
        if (
            isinstance(message, Hello | Batch)
            and len(self.clients) >= MAX_CLIENTS
            and (client or self.anonymous) not in self.clients
        ):
            text = f"one connection speaks for at most {MAX_CLIENTS} clients"
            return Rejected(ErrorCode.BAD_MESSAGE, text)
        return None

    # -- replies -----------------------------------------------------------------------

    def ack(self, client: str, seq: int, greeting: int | None = None) -> list[Reply]:
        """Acknowledge a sequence number, unless that was done.

        Args:
            client: its id.
            seq: the highest committed number.
            greeting: the number of the hello that this answers; None for no hello.
        """
        if greeting is None and self.acked.get(client) == seq:
            return []
        self.acked[client] = seq
        return self.reply(wire.ack(seq, _id_bytes(client), greeting or 0))

    def resend(self, after: int, client: str, now: float) -> list[Reply]:
        """Request all batches after a number, unless that was just done."""
        if 0 <= now - self._asked < RESEND_SECONDS:
            return []
        self._asked = now
        return self.reply(wire.resend(after, _id_bytes(client)))

    def error(self, code: ErrorCode, text: str, seq: int | None = None) -> list[Reply]:
        """Report what was wrong with a message."""
        return self.reply(wire.error(code, text[:500], seq))

    def reply(self, payload: bytes) -> list[Reply]:
        """Return a reply."""
        return [Reply(self, payload)]


class StreamSession(Session):
    """A connection that carries frames, in order."""

    def __init__(self, peer: Peer, number: int) -> None:
        super().__init__(peer, number, f"anonymous-{peer.pid}")
        self._frames = FrameReader()

    @property
    def missing(self) -> int:
        """Bytes that the present frame lacks."""
        return self._frames.missing

    @property
    def held(self) -> int:
        """Bytes of a frame that is not complete."""
        return self._frames.held

    def receive(self, data: bytes | memoryview) -> list[Received]:
        """Return the messages that `data` completes, in order."""
        return [_received(frame) for frame in self._frames.receive(data)]

    def encode(self, payload: bytes) -> bytes:
        """Return a message as a frame."""
        return wire.frame(payload)


class BrokerSession(Session):
    """One client by way of a broker."""

    ordered = False

    def receive(self, data: bytes) -> list[Received]:
        """Return the message in a payload."""
        return [_received(data)]

    def receive_text(self, text: bytes) -> list[Received]:
        """Return the message in a payload of rows in JSON."""
        return [_received(message_of_json(text))]


def _received(frame: bytes | Oversized | OutOfStep | Rejected) -> Received:
    match frame:
        case Rejected():
            return Received(frame, b"")
        case Oversized(size):
            text = f"a frame of {size} bytes; at most {wire.MAX_FRAME} are taken"
            return Received(Rejected(ErrorCode.FRAME_TOO_LARGE, text), b"")
        case OutOfStep(size):
            text = f"no frame: its length would be {size} bytes; hanging up"
            rejected = Rejected(ErrorCode.FRAME_TOO_LARGE, text, fatal=True)
            return Received(rejected, b"")
    return Received(decode(frame), frame)


def _owner(peer: Peer) -> str:
    """Return a name for a process that no other gets; empty if there is none."""
    return f"process {peer.pid} of {peer.started:.2f}" if peer.pid else ""


def _id_bytes(client: str) -> bytes:
    try:
        return bytes.fromhex(client)
    except ValueError:
        return b""
