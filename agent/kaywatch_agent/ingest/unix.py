"""The UNIX socket that clients of this host push to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from kaywatch_agent.errors import StartError
from kaywatch_agent.ingest.peers import Peer

__all__ = ["Conversation", "Link", "UnixListener"]

# sockaddr_un.sun_path holds 108 bytes with its final NUL (unix(7)).
MAX_PATH: Final = 107
BACKLOG: Final = 1_024


class Conversation(Protocol):
    """What this transport needs from the pipeline, for one connection."""

    def receive(self, data: bytes) -> None:
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
        self.peer = Peer(0, -1, -1)
        self.congested = False  # more is queued than the peer has read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the conversation."""
        self._transport = cast(asyncio.Transport, transport)
        connection = transport.get_extra_info("socket")
        self.peer = Peer.of(connection)
        self._conversation = self._listener.open(self)

    def data_received(self, data: bytes) -> None:
        """Hand on what came."""
        if self._conversation is not None:
            self._conversation.receive(data)

    def pause_writing(self) -> None:
        """The transport's buffer is over its mark."""
        self.congested = True

    def resume_writing(self) -> None:
        """It is below it again."""
        self.congested = False
        if self._conversation is not None:
            self._conversation.resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """End the conversation, whichever side hung up."""
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.close()
        self._listener.links.discard(self)

    @property
    def backlog(self) -> int:
        """Bytes that the client has not read yet, beyond the kernel's buffer."""
        transport = self._transport
        return transport.get_write_buffer_size() if transport is not None else 0

    def send(self, data: bytes) -> None:
        """Queue bytes for the client."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Hang up, once what is queued has been sent."""
        if self._transport is not None:
            self._transport.close()


class UnixListener:
    """Accepts connections on a path and gives each a conversation."""

    def __init__(self, open_conversation: Callable[[Link], Conversation]) -> None:
        self.links: set[Link] = set()
        self.path = ""
        self._open = open_conversation
        self._server: asyncio.Server | None = None
        self._ours = True  # whether the path goes with us

    def open(self, link: Link) -> Conversation:
        """Start the conversation of a new connection."""
        self.links.add(link)
        return self._open(link)

    async def start(self, path: str, mode: int) -> None:
        """Listen on `path`.

        Raises:
            StartError: if the path can't be used, or another agent listens there.
        """
        _prepare(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(path)
            os.chmod(path, mode)
            await self._listen(listening)
        except OSError as error:
            listening.close()
            raise StartError(
                f"ingest.socket: can't listen on {path}: {error}"
            ) from None
        self.path = path

    async def adopt(self, listening: socket.socket) -> None:
        """Accept on a socket that somebody holds for us, also while we are gone."""
        self._ours = False
        await self._listen(listening)
        self.path = str(listening.getsockname())

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
            if self._ours:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path)

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


def _prepare(path: str) -> None:
    """Make the folder, and remove a socket that nobody listens on any more."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise StartError(
            f"ingest.socket: {path} has {len(os.fsencode(path))} bytes, and a"
            f" socket's path at most {MAX_PATH}: choose a shorter one"
        )
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise StartError(f"ingest.socket: {path} exists and is no socket")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(
            f"ingest.socket: can't use {path}: {error};"
            " choose another path with --socket"
        ) from None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
            return
    raise StartError(
        f"ingest.socket: another agent listens on {path};"
        " stop it, or choose another path with --socket"
    )
