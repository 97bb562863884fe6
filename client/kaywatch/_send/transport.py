"""The UNIX socket to the agent, without ever blocking; and where to find it."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from kaywatch._send.broker import AgentStatus
from kaywatch.errors import ConfigurationError
from kaywatch.wire import MAX_FRAME

__all__ = [
    "Again",
    "Refused",
    "Transport",
    "UnixTransport",
    "candidates",
    "check_unix",
    "poll",
]

SYSTEM_SOCKET: Final = "/run/kaywatch/ingest.sock"

# sockaddr_un.sun_path holds 108 bytes with its final NUL (unix(7)).
MAX_SOCKET_PATH: Final = 107


class Again(ConnectionError):
    """Somebody is there, and another attempt at once is likely to succeed."""


class Refused(ConnectionError):
    """Somebody is there and doesn't let us; a person has to change something."""


class Transport(Protocol):
    """A connection: made when constructed, gone after `close` or an OSError.

    Attributes:
        lossy: whether what is sent may get lost, come twice or out of order though
            the connection stands.
        largest: bytes that a message may have.
    """

    lossy: bool
    largest: int

    def send(self, message: bytes) -> None:
        """Queue one message; `receive` moves it."""

    def receive(self, timeout: float) -> Sequence[bytes | AgentStatus]:
        """Move bytes for at most `timeout` seconds; return what came, in order.

        Raises:
            OSError: the connection is gone.
        """

    @property
    def backlog(self) -> int:
        """Bytes queued and not moved yet."""

    def close(self) -> None:
        """Release what the connection holds. Idempotent."""


def check_unix(endpoint: str) -> str:
    """Return the endpoint, checked to be the path of a socket.

    Raises:
        ConfigurationError: it is none.
    """
    parts = urlsplit(endpoint)
    if parts.scheme != "unix":
        raise ConfigurationError(
            f"endpoint {endpoint!r}: unknown scheme {parts.scheme!r};"
            " write unix:///run/kaywatch/ingest.sock"
        )
    path = parts.path
    if parts.netloc or not path.startswith("/"):
        raise ConfigurationError(
            f"endpoint {endpoint!r}: the path has to be absolute,"
            " as in unix:///run/kaywatch/ingest.sock (three slashes)"
        )
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigurationError(
            f"endpoint {endpoint!r}: a socket's path has at most"
            f" {MAX_SOCKET_PATH} bytes, this one {len(os.fsencode(path))}"
        )
    return endpoint


def candidates(endpoint: str | None) -> Iterator[str]:
    """Yield the socket paths to try, best first; looked for anew at each connect."""
    if endpoint is not None:
        yield urlsplit(endpoint).path
        return
    yield SYSTEM_SOCKET
    # As the agent does it: pam_systemd(8) makes this folder also for those shells and
    # cron jobs that don't have the variable.
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    yield os.path.join(runtime, "kaywatch", "ingest.sock")


def poll(connection: Any, writing: bool, timeout: float) -> int:
    """Wait until something can be done; not by `select`, which knows 1,024 files."""
    waiting = select.poll()
    waiting.register(connection, select.POLLIN | (select.POLLOUT if writing else 0))
    found = waiting.poll(timeout * 1000)
    return found[0][1] if found else 0


class UnixTransport:
    """A stream connection that carries length-prefixed messages."""

    lossy = False
    largest = MAX_FRAME

    def __init__(self, path: str) -> None:
        """Connect.

        Raises:
            OSError: nobody listens there.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A listener whose queue is full gives EAGAIN rather than a wait.
            self._socket.setblocking(False)
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        self._outgoing: deque[memoryview] = deque()
        self._incoming = bytearray()
        self.backlog = 0

    def send(self, message: bytes) -> None:
        """Queue one message; `receive` moves it."""
        for part in (struct.pack(">I", len(message)), message):
            self._outgoing.append(memoryview(part))
            self.backlog += len(part)

    def receive(self, timeout: float) -> list[bytes]:
        """Move bytes for at most `timeout` seconds; return the messages received."""
        events = poll(self._socket, bool(self._outgoing), timeout)
        if events & ~select.POLLOUT:
            self._read()
        messages = self._messages()
        # First what came: an agent that hung up has said why.
        if events & select.POLLOUT and not messages:
            self._write()
        return messages

    def close(self) -> None:
        """Close the descriptor; what the kernel has taken is still delivered."""
        self._socket.close()

    def _write(self) -> None:
        while self._outgoing:
            part = self._outgoing[0]
            try:
                moved = self._socket.send(part, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            self.backlog -= moved
            if moved < len(part):
                self._outgoing[0] = part[moved:]
            else:
                self._outgoing.popleft()

    def _read(self) -> None:
        try:
            received = self._socket.recv(65_536)
        except BlockingIOError:
            return
        if not received:
            raise ConnectionResetError("the agent closed the connection")
        self._incoming += received

    def _messages(self) -> list[bytes]:
        messages = []
        while len(self._incoming) >= 4:
            (size,) = struct.unpack_from(">I", self._incoming)
            if size > MAX_FRAME:
                raise ConnectionError(f"the agent sent a frame of {size} bytes")
            if len(self._incoming) < 4 + size:
                break
            messages.append(bytes(self._incoming[4 : 4 + size]))
            del self._incoming[: 4 + size]
        return messages
