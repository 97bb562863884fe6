"""The UNIX socket that clients of this host push to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import structlog

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.ingest.access import Access, Refusal
from kaywatch_agent.ingest.config import IngestConfig
from kaywatch_agent.ingest.peers import Peer
from kaywatch_agent.ingest.quotas import Quotas, Shares
from kaywatch_agent.ingest.turns import SLICE, Turns
from kaywatch_agent.runtime.sockets import SocketFile
from kaywatch_agent.runtime.telemetry import Telemetry

__all__ = ["Conversation", "Link", "UnixListener"]

BACKLOG: Final = 1_024

# A connection that has so many bytes waiting for their turn reads no more until they
# are taken.
HIGH_WATER: Final = 4 * SLICE

log = structlog.get_logger("kaywatch.agent")

TEXTS: Final = {
    Refusal.USER: "user {uid} may not push: see allow_uids and allow_gids of [ingest]",
    Refusal.PROCESS_CONNECTIONS: "process {pid} has connections_per_process already",
    Refusal.USER_CONNECTIONS: "user {uid} has connections_per_user already",
    Refusal.DESCRIPTORS: "the agent can't open more files: raise its LimitNOFILE",
    Refusal.MEMORY: "too much of what is sent is in frames that are not complete",
}


class Conversation(Protocol):
    """What this transport needs from the pipeline, for one connection."""

    @property
    def held(self) -> int:
        """Bytes of a frame that is not complete."""

    @property
    def missing(self) -> int:
        """Bytes that it lacks."""

    def receive(self, data: bytes | memoryview) -> None:
        """Take in bytes."""

    def resume(self) -> None:
        """The peer has read what was queued."""

    def close(self) -> None:
        """The connection is gone."""


class Link(asyncio.Protocol):
    """One connection; the pipeline's handle on it."""

    def __init__(self, listener: UnixListener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._conversation: Conversation | None = None
        self._chunks: deque[memoryview] = deque()
        self._held = 0  # bytes that are counted as kept for it
        self._reading = True
        self._told = False  # that it is too fast
        self.waiting = 0  # bytes, for their turn
        self.peer = Peer(0, -1, -1)
        self.congested = False  # more is queued than the peer has read

    @property
    def process(self) -> int:
        """The pid at the other end."""
        return self.peer.pid

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the conversation, or say why there is none."""
        self._transport = cast(asyncio.Transport, transport)
        connection = transport.get_extra_info("socket")
        self.peer = Peer.of(connection)
        refusal = self._listener.enter(self)
        if refusal is not None:
            self._refuse(refusal)
            self.peer.close()
            return
        self._conversation = self._listener.open(self)

    def data_received(self, data: bytes) -> None:
        """Queue what came, for its turn."""
        if self._conversation is None:
            return
        self._chunks.append(memoryview(data))
        waited = self.waiting
        self.waiting += len(data)
        if not waited:
            self._listener.turns.add(self)
        if self.waiting > HIGH_WATER and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def take(self, most: int) -> float:
        """Hand on so many bytes; return how long to take no more, in seconds."""
        conversation = self._conversation
        if conversation is None or not self._chunks:
            return 0.0
        # The rest of one frame is one message, however long.
        data = self._next(max(most, conversation.missing))
        try:
            conversation.receive(data)
        except Exception:
            # A fault of ours: the others' turns must come all the same.
            log.exception("a message could not be taken in", pid=self.peer.pid)
            self._end()
            return 0.0
        pause = self._listener.spend(self, len(data))
        self._account(conversation)
        if not self.waiting:
            self._rest(conversation)
        return pause

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def pause_writing(self) -> None:
        """The transport's buffer is over its mark."""
        self.congested = True

    def resume_writing(self) -> None:
        """It is below it again."""
        self.congested = False
        if self._conversation is not None:
            self._conversation.resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """End the conversation, once all that came has had its turn."""
        self._transport = None
        if self._conversation is not None and not self.waiting:
            self._leave(self._conversation)

    @property
    def backlog(self) -> int:
        """Bytes that the client has not read yet, beyond the kernel's buffer."""
        transport = self._transport
        return transport.get_write_buffer_size() if transport is not None else 0

    def send(self, data: bytes) -> None:
        """Queue bytes for the client."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def slow_down(self, rate: float) -> None:
        """Say, once, that it sends more than it may."""
        if not self._told:
            self._told = True
            text = f"more than {rate / 1e6:g} MB a second: rate_per_process of [ingest]"
            self.send(wire.frame(wire.error(ErrorCode.OVER_QUOTA, text)))

    def close(self) -> None:
        """Hang up, once what is queued has been sent."""
        if self._transport is not None:
            self._transport.close()

    # -- inside ----------------------------------------------------------------------

    def _next(self, most: int) -> memoryview:
        """Return the first of what waits."""
        first = self._chunks[0]
        data = first[:most]
        self.waiting -= len(data)
        if len(first) > most:
            self._chunks[0] = first[most:]
        else:
            self._chunks.popleft()
        return data

    def _account(self, conversation: Conversation) -> None:
        held = conversation.held + self.waiting
        refusal = self._listener.hold(self, held - self._held)
        self._held = held
        if refusal is not None:
            self._refuse(refusal)
            self._end()

    def _rest(self, conversation: Conversation) -> None:
        """All that came has been taken."""
        if self._transport is None:
            self._leave(conversation)
        elif not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _end(self) -> None:
        """Take no more of it, and hang up."""
        self._chunks.clear()
        self.waiting = 0
        # At once, so that it is not held against the next one.
        self._listener.hold(self, -self._held)
        self._held = 0
        if self._transport is None and self._conversation is not None:
            self._leave(self._conversation)
        self.close()

    def _leave(self, conversation: Conversation) -> None:
        self._conversation = None
        self._listener.leave(self, self._held)
        conversation.close()

    def _refuse(self, refusal: Refusal) -> None:
        text = TEXTS[refusal].format(pid=self.peer.pid, uid=self.peer.uid)
        code = ErrorCode.FORBIDDEN if refusal is Refusal.USER else ErrorCode.OVER_QUOTA
        self._listener.count(refusal)
        self.send(wire.frame(wire.error(code, text)))
        self.close()


class UnixListener:
    """Accepts connections on a path and gives each a conversation."""

    def __init__(
        self, open_conversation: Callable[[Link], Conversation], telemetry: Telemetry
    ) -> None:
        self.links: set[Link] = set()
        self.path = ""
        self.turns = Turns()
        self._open = open_conversation
        self._telemetry = telemetry
        self._access = Access()
        self._shares = Shares(Quotas())
        self._server: asyncio.Server | None = None
        self._file: SocketFile | None = None

    # -- what a connection asks ------------------------------------------------------

    def enter(self, link: Link) -> Refusal | None:
        """Count a connection in, or say why it isn't taken."""
        if not self._access.admits(link.peer):
            return Refusal.USER
        return self._shares.enter(link.peer.pid, link.peer.uid)

    def open(self, link: Link) -> Conversation:
        """Start the conversation of a new connection."""
        self.links.add(link)
        return self._open(link)

    def leave(self, link: Link, held: int) -> None:
        """Count a connection out, and what was kept for it."""
        self._shares.hold(link.peer.pid, link.peer.uid, -held)
        self._shares.leave(link.peer.pid, link.peer.uid)
        self.links.discard(link)

    def hold(self, link: Link, size: int) -> Refusal | None:
        """Count bytes that are kept for a connection; say so if they are too many."""
        return self._shares.hold(link.peer.pid, link.peer.uid, size)

    def spend(self, link: Link, size: int) -> float:
        """Count bytes that were taken; return how long to take no more."""
        now = asyncio.get_running_loop().time()
        pause = self._shares.spend(link.peer.pid, link.peer.uid, size, now)
        if pause > 0:
            self._telemetry.add("kaywatch_ingest_throttled_seconds_total", pause)
            link.slow_down(self._shares.quotas.rate)
        return pause

    def count(self, refusal: Refusal) -> None:
        """Count a connection that was refused, or ended."""
        self._telemetry.add("kaywatch_ingest_refused_total", 1, str(refusal))

    # -- life ------------------------------------------------------------------------

    async def start(self, config: IngestConfig) -> None:
        """Listen on the configured path.

        Raises:
            StartError: if the path can't be used, or another agent listens there.
        """
        self.use(config)
        self._file = SocketFile("ingest.socket", config.path)
        await self._listen(self._file.bind(config.mode, config.group))
        self.path = config.path

    async def adopt(self, listening: socket.socket, config: IngestConfig) -> None:
        """Accept on a socket that somebody holds for us, also while we are gone."""
        self.use(config)
        await self._listen(listening)
        self.path = str(listening.getsockname())

    def use(self, config: IngestConfig) -> None:
        """Let in whom a configuration names; who is connected stays so."""
        self._access = config.access
        self._shares.quotas = config.quotas

    async def take_all(self) -> None:
        """Wait until all that has arrived was taken in, for a second at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                # One turn of the loop reads what the kernel has.
                await asyncio.sleep(0)
                await self.turns.over()

    async def _listen(self, listening: socket.socket) -> None:
        # From Python 3.13 on, a server would unlink its path by itself.
        kept: Any = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Link(self), sock=listening, backlog=BACKLOG, **kept
        )

    def stop_accepting(self) -> None:
        """Take no new connections; those that are open go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._file is not None:
            self._file.remove()

    async def stop(self) -> None:
        """Hang up on everybody."""
        self.stop_accepting()
        for link in list(self.links):
            link.close()
        # A transport reports its loss on a later turn of the loop.
        for _ in range(100):
            if not self.links:
                break
            await asyncio.sleep(0.01)
