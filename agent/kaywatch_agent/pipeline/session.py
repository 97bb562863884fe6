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

# The time between two requests to a client for missing batches. The client answers one
# request with all of them, so a request for each rejected batch would only add traffic.
RESEND_SECONDS: Final = 1.0

# Clients per connection. Only a relay has more than one.
MAX_CLIENTS: Final = 1_000


class Peer(Protocol):
    """The process at the other end of a connection."""

    @property
    def pid(self) -> int:
        """The peer's process id; 0 if the transport does not provide it."""

    @property
    def uid(self) -> int:
        """The peer's user id; -1 if the transport does not provide it."""

    @property
    def started(self) -> float:
        """When the peer's process started, Unix seconds; 0 if unknown."""

    @property
    def trusted(self) -> bool:
        """Whether the peer may capture, and send messages of other users' clients."""

    def has_exited(self) -> bool:
        """Whether the process has exited."""

    def sample(self) -> ProcessSample | None:
        """Return the memory and CPU usage of the process; None if unreadable."""

    def close(self) -> None:
        """Release the resources that are needed to watch the process."""


class Received(NamedTuple):
    """A message, and the bytes that it was decoded from; empty for a rejected frame."""

    message: Message
    frame: bytes


class Reply(NamedTuple):
    """A message to send to a peer.

    Attributes:
        session: the session of the peer.
        payload: the message; empty to send nothing.
        close: whether to close the connection afterwards.
    """

    session: Session
    payload: bytes
    close: bool = False


class Session:
    """The protocol state of one peer: its clients, and their acknowledgements.

    Attributes:
        number: identifies the session in captures.
        peer: the process at the other end.
        anonymous: the id that is used for a client that sends none.
        only_client: the id of the only client that the peer may use; empty for any.
        via: the broker's name; empty for a stream.
        clients: the ids of the clients that have sent messages.
        owner: the process that new series are counted for. The kernel identifies it
            where possible, because a process can use any number of client ids.
        acked: the last acknowledged sequence number by client.
        accepted: the last sequence number accepted in this session, by client.
        greeted: the ids of the clients that have sent a hello.
    """

    # Whether batches arrive complete and in order.
    ordered = True

    def __init__(
        self,
        peer: Peer,
        number: int,
        anonymous: str,
        only_client: str = "",
        via: str = "",
    ) -> None:
        self.number = number
        self.peer = peer
        self.anonymous = anonymous
        self.only_client = only_client
        self.via = via
        self.clients: set[str] = set()
        self.owner = _owner(peer)
        self.acked: dict[str, int] = {}
        self.accepted: dict[str, int] = {}
        self.greeted: set[str] = set()
        self._resend_at = -math.inf  # when missing batches were last requested

    def encode(self, payload: bytes) -> bytes:
        """Encode a message for the transport."""
        return payload

    def refuse(self, message: Message) -> Rejected | None:
        """Return a rejection if the peer may not send the message, else None."""
        client = getattr(message, "client", "")
        if self.only_client and client not in ("", self.only_client):
            text = f"this topic belongs to the client {self.only_client}"
            return Rejected(ErrorCode.FORBIDDEN, text)
        if (
            isinstance(message, Hello | Batch)
            and len(self.clients) >= MAX_CLIENTS
            and (client or self.anonymous) not in self.clients
        ):
            text = f"too many clients on one connection: at most {MAX_CLIENTS}"
            return Rejected(ErrorCode.BAD_MESSAGE, text)
        return None

    # -- replies -----------------------------------------------------------------------

    def ack(self, client: str, seq: int, greeting: int | None = None) -> list[Reply]:
        """Acknowledge a sequence number, unless it was acknowledged before.

        Args:
            client: the client's id.
            seq: the highest committed sequence number.
            greeting: the number of the hello to answer; None if there is none.
        """
        if greeting is None and self.acked.get(client) == seq:
            return []
        self.acked[client] = seq
        return self.reply(wire.ack(seq, _id_bytes(client), greeting or 0))

    def resend(self, after: int, client: str, now: float) -> list[Reply]:
        """Request all batches after a number, at most once in `RESEND_SECONDS`."""
        if 0 <= now - self._resend_at < RESEND_SECONDS:
            return []
        self._resend_at = now
        return self.reply(wire.resend(after, _id_bytes(client)))

    def error(self, code: ErrorCode, text: str, seq: int | None = None) -> list[Reply]:
        """Report an error in a message."""
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
        """The number of bytes that complete the current frame."""
        return self._frames.missing

    @property
    def buffered(self) -> int:
        """The number of bytes buffered for an incomplete frame."""
        return self._frames.buffered

    def receive(self, data: bytes | memoryview) -> list[Received]:
        """Return the messages that `data` completes, in order."""
        return [_received(frame) for frame in self._frames.receive(data)]

    def encode(self, payload: bytes) -> bytes:
        """Return a message as a frame."""
        return wire.frame(payload)


class BrokerSession(Session):
    """One client behind a broker."""

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
            text = f"frame of {size} bytes: at most {wire.MAX_FRAME} are accepted"
            return Received(Rejected(ErrorCode.FRAME_TOO_LARGE, text), b"")
        case OutOfStep(size):
            text = f"not a frame: its length would be {size} bytes; closing"
            rejected = Rejected(ErrorCode.FRAME_TOO_LARGE, text, fatal=True)
            return Received(rejected, b"")
    return Received(decode(frame), frame)


def _owner(peer: Peer) -> str:
    """Return a unique name for a process; empty if its pid is unknown."""
    return f"process {peer.pid} of {peer.started:.2f}" if peer.pid else ""


def _id_bytes(client: str) -> bytes:
    try:
        return bytes.fromhex(client)
    except ValueError:
        return b""
