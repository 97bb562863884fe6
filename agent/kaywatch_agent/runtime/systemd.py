"""The protocols between systemd and a service: sd_notify(3) and sd_listen_fds(3).

Both are stable, so systemd's library is not needed. Outside systemd, nothing is
inherited and notifications are dropped.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import Final

from kaywatch_agent.errors import StartError

__all__ = ["Notifier", "inherited_sockets", "is_journal"]

STDERR: Final = 2
FIRST_SOCKET: Final = 3  # SD_LISTEN_FDS_START

# The sockets that the agent accepts, by `FileDescriptorName=` in the socket unit.
SOCKETS: Final = {
    "ingest": ((socket.AF_UNIX,), "a path"),
    "http": ((socket.AF_INET, socket.AF_INET6), "host:port"),
}


class Notifier:
    """Sends notifications to the service manager; see sd_notify(3)."""

    def __init__(self, address: str = "") -> None:
        """Open a socket; send nothing yet.

        Args:
            address: the manager's datagram socket, `@` begins an abstract name; empty
                if there is no manager.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            # A manager that does not read must not block the event loop.
            self._socket.setblocking(False)

    @classmethod
    def take(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """Return the notifier of this process; child processes inherit none."""
        for name in ("WATCHDOG_PID", "WATCHDOG_USEC"):
            environment.pop(name, None)
        return cls(environment.pop("NOTIFY_SOCKET", ""))

    def __bool__(self) -> bool:
        return self._socket is not None

    def send(self, **fields: str) -> None:
        """Send fields such as READY, STATUS or WATCHDOG, if there is a manager."""
        if self._socket is None:
            return
        # A line is a field: a text must not become two, nor control a terminal.
        lines = [f"{key}={_to_one_line(value)}" for key, value in fields.items()]
        # The queue is full or the manager restarts: the next tick sends again.
        with contextlib.suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(), self._address)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def inherited_sockets(
    environment: MutableMapping[str, str] = os.environ,
) -> dict[str, list[socket.socket]]:
    """Return the listening sockets inherited from systemd, by name.

    Child processes inherit neither them nor the variables.

    Raises:
        StartError: the agent cannot use one of them; the message names the fix.
    """
    pid, count, fd_names = (
        environment.pop(name, "")
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    names = fd_names.split(":") if fd_names else []
    sockets: dict[str, list[socket.socket]] = {}
    for number in range(int(count)):
        descriptor = FIRST_SOCKET + number
        os.set_inheritable(descriptor, False)
        name = names[number] if number < len(names) else "unknown"
        sockets.setdefault(name, []).append(_listening(descriptor, name))
    if len(sockets.get("ingest", ())) > 1:
        raise StartError("systemd passes several sockets named ingest: pass one")
    return sockets


def is_journal(
    descriptor: int = STDERR, environment: Mapping[str, str] = os.environ
) -> bool:
    """Return whether a descriptor is connected to the journal; see systemd.exec(5)."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def _to_one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _listening(descriptor: int, name: str) -> socket.socket:
    if name not in SOCKETS:
        raise StartError(
            f"systemd passes a socket named {name!r}, expected {' or '.join(SOCKETS)}:"
            " set FileDescriptorName= in its socket unit"
        )
    try:
        listener = socket.socket(fileno=descriptor)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"systemd passes no socket as {name}: {error}") from None
    families, kind = SOCKETS[name]
    usable = listener.family in families and listener.type == socket.SOCK_STREAM
    if not usable or not listens:
        raise StartError(
            f"the agent cannot serve on the socket that systemd passes as {name}: its"
            f" socket unit needs ListenStream= with {kind}, and Accept=no"
        )
    listener.setblocking(False)
    return listener
