"""The non-blocking UNIX socket to the agent, and where to find it."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Any, Final, Protocol

from kaywatch.errors import ConfigurationError
from kaywatch.wire import MAX_FRAME

__all__ = [
    "AgentStatus",
    "Refused",
    "RetryAtOnce",
    "Transport",
    "UnixTransport",
    "candidates",
    "check_unix",
    "poll",
    "scheme_of",
    "user_sockets",
]

SYSTEM_SOCKET: Final = "/run/kaywatch/ingest.sock"

# sockaddr_un.sun_path holds 108 bytes with its final NUL (unix(7)).
MAX_SOCKET_PATH: Final = 107


class RetryAtOnce(ConnectionError):
    """The connection failed, but another attempt is likely to succeed at once."""


class Refused(ConnectionError):
    """The broker or agent denies access until a configuration is changed."""


class AgentStatus(Enum):
    """What a broker reports about the agent."""

    AWAY = auto()
    HERE = auto()  # retained by the broker from before we connected
    ARRIVED = auto()  # just now


class Transport(Protocol):
    """A connection: open once constructed, unusable after `close` or an OSError.

    Attributes:
        lossy: whether messages may get lost, repeated or reordered while the
            connection is open.
        largest: the maximum size of a message in bytes.
    """

    lossy: bool
    largest: int

    def send(self, message: bytes) -> None:
        """Queue one message; `receive` transmits it."""

    def receive(self, timeout: float) -> Sequence[bytes | AgentStatus]:
        """Transmit for at most `timeout` seconds; return what arrived, in order.

        Raises:
            OSError: the connection is lost.
        """

    @property
    def backlog(self) -> int:
        """Bytes queued and not transmitted yet."""

    def close(self) -> None:
        """Close the connection. Idempotent."""


def scheme_of(endpoint: str) -> str:
    """Return the scheme of a URL, such as `unix`; empty without one.

    The module `urllib.parse` would take longer to import than the whole client.
    """
    scheme, colon, _ = endpoint.strip().partition(":")
    return scheme.lower() if colon else ""


def _split_unix(endpoint: str) -> tuple[str, str]:
    """Return the host, which has to be empty, and the path."""
    rest = endpoint.strip().partition(":")[2]
    if not rest.startswith("//"):
        return "", rest
    host, slash, path = rest[2:].partition("/")
    return host, slash + path


def check_unix(endpoint: str) -> str:
    """Return a UNIX socket's endpoint once it is validated.

    Raises:
        ConfigurationError: the endpoint is invalid.
    """
    scheme = scheme_of(endpoint)
    if scheme != "unix":
        raise ConfigurationError(
            f"endpoint {endpoint!r}: unknown scheme {scheme!r};"
            " expected unix:///run/kaywatch/ingest.sock"
        )
    host, path = _split_unix(endpoint)
    if host or not path.startswith("/"):
        raise ConfigurationError(
            f"endpoint {endpoint!r}: the path must be absolute,"
            " as in unix:///run/kaywatch/ingest.sock (three slashes)"
        )
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigurationError(
            f"endpoint {endpoint!r}: a socket's path may have at most"
            f" {MAX_SOCKET_PATH} bytes, not {len(os.fsencode(path))}"
        )
    return endpoint


def candidates(endpoint: str | None) -> Iterator[str]:
    """Yield the socket paths to try, in order of preference."""
    if endpoint is not None:
        yield _split_unix(endpoint)[1]
        return
    yield SYSTEM_SOCKET
    yield from user_sockets()


def user_sockets() -> tuple[str, str]:
    """Return where a user's own agent listens: with a runtime folder, and without one.

    pam_systemd(8) creates the runtime folder, also for shells and cron jobs without the
    variable. In containers and after `su`, there is none.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    home = os.path.expanduser("~")
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(home, ".local", "state")
    return (
        os.path.join(runtime, "kaywatch", "ingest.sock"),
        os.path.join(state, "kaywatch", "ingest.sock"),
    )


def poll(connection: Any, writing: bool, timeout: float) -> int:
    """Wait for a socket; return its events. `select` fails beyond 1,024 files."""
    # eventlet removes it, and its own `select` has no limit.
    if not hasattr(select, "poll"):
        outputs = [connection] if writing else []
        readable, writable, _ = select.select([connection], outputs, [], timeout)
        return (select.POLLIN if readable else 0) | (select.POLLOUT if writable else 0)
    poller = select.poll()
    poller.register(connection, select.POLLIN | (select.POLLOUT if writing else 0))
    ready = poller.poll(timeout * 1000)
    return ready[0][1] if ready else 0


class UnixTransport:
    """A stream connection that carries length-prefixed messages."""

    lossy = False
    largest = MAX_FRAME

    def __init__(self, path: str) -> None:
        """Connect.

        Raises:
            OSError: no agent listens there.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Non-blocking, so that a listener whose queue is full raises EAGAIN.
            self._socket.setblocking(False)
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise
        self._outgoing: deque[memoryview] = deque()
        self._incoming = bytearray()
        self.backlog = 0

    def send(self, message: bytes) -> None:
        """Queue one message; `receive` transmits it."""
        for part in (struct.pack(">I", len(message)), message):
            self._outgoing.append(memoryview(part))
            self.backlog += len(part)

    def receive(self, timeout: float) -> list[bytes]:
        """Transmit for at most `timeout` seconds; return the messages received."""
        events = poll(self._socket, bool(self._outgoing), timeout)
        if events & ~select.POLLOUT:
            self._read()
        messages = self._messages()
        # Read before writing: an agent that closes the connection first sends why.
        if events & select.POLLOUT and not messages:
            self._write()
        return messages

    def close(self) -> None:
        """Close the socket; the kernel still delivers the bytes that it has taken."""
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
