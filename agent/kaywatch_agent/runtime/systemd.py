"""What systemd hands to a service, and what a service tells systemd.

Both are plain protocols that systemd keeps stable for those who don't link to its
library: sd_notify(3) and sd_listen_fds(3). Outside systemd nothing is inherited, and
what is told goes nowhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Final

from kaywatch_agent.errors import StartError

__all__ = ["Notifier", "inherited_sockets", "is_journal"]

STDERR: Final = 2
FIRST_SOCKET: Final = 3  # SD_LISTEN_FDS_START

# What a service may be asked to hold; `FileDescriptorName=` in the socket unit.
SOCKETS: Final = {
    "ingest": ((socket.AF_UNIX,), "a path"),
    "http": ((socket.AF_INET, socket.AF_INET6), "host:port"),
}


class Notifier:
    """Tells the service manager what goes on."""

    def __init__(self, address: str = "") -> None:
        """Say nothing yet.

        Args:
            address: the manager's datagram socket; `@` begins an abstract name. Empty
                when there is nobody to tell.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            # A manager that doesn't read must not hold up the loop.
            self._socket.setblocking(False)

    @classmethod
    def take(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """Return the one for this process; what it starts must not speak for it."""
        for name in ("WATCHDOG_PID", "WATCHDOG_USEC"):
            environment.pop(name, None)
        return cls(environment.pop("NOTIFY_SOCKET", ""))

    def __bool__(self) -> bool:
        return self._socket is not None

    def ready(self, status: str) -> None:
        """It serves, at the start or after a reload."""
        self._tell(READY="1", STATUS=status)

    def reloading(self) -> None:
        """It reads its configuration again; `ready` has to follow."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(RELOADING="1", MONOTONIC_USEC=str(now))

    def alive(self, status: str) -> None:
        """It does its work: what the watchdog waits for."""
        self._tell(WATCHDOG="1", STATUS=status)

    def status(self, status: str) -> None:
        """Say what it does, without a sign of life."""
        self._tell(STATUS=status)

    def stopping(self) -> None:
        """It ends."""
        self._tell(STOPPING="1", STATUS="committing what came last")

    def extend(self, seconds: float) -> None:
        """Ask for more time to start or stop, from now on."""
        self._tell(EXTEND_TIMEOUT_USEC=str(int(seconds * 1e6)))

    def close(self) -> None:
        """Let go of the socket. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, **fields: str) -> None:
        if self._socket is None:
            return
        # A line is a field: a status must not become two, nor steer a terminal.
        lines = [f"{key}={_one_line(value)}" for key, value in fields.items()]
        # A full queue or a manager that starts anew: the next tick says it again.
        with contextlib.suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(), self._address)


def inherited_sockets(
    environment: MutableMapping[str, str] = os.environ,
) -> dict[str, list[socket.socket]]:
    """Return the listening sockets that systemd holds for us, by name.

    They are not passed on to what this process starts, nor are the variables.

    Raises:
        StartError: one is nothing that we serve on; says what to change.
    """
    given = {
        name: environment.pop(name, "")
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    }
    if given["LISTEN_PID"] != str(os.getpid()) or not given["LISTEN_FDS"].isdigit():
        return {}
    count = int(given["LISTEN_FDS"])
    names = given["LISTEN_FDNAMES"].split(":") if given["LISTEN_FDNAMES"] else []
    found: dict[str, list[socket.socket]] = {}
    for number in range(count):
        descriptor = FIRST_SOCKET + number
        os.set_inheritable(descriptor, False)
        name = names[number] if number < len(names) else "unknown"
        found.setdefault(name, []).append(_listening(descriptor, name))
    if len(found.get("ingest", ())) > 1:
        raise StartError("systemd hands over several sockets as ingest: give one")
    return found


def is_journal(
    descriptor: int = STDERR, environment: Mapping[str, str] = os.environ
) -> bool:
    """Whether what is written there goes to the journal; see systemd.exec(5)."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _listening(descriptor: int, name: str) -> socket.socket:
    if name not in SOCKETS:
        raise StartError(
            f"systemd hands over a socket named {name!r}, and not"
            f" {' or '.join(SOCKETS)}: set FileDescriptorName= in its socket unit"
        )
    try:
        found = socket.socket(fileno=descriptor)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"systemd hands over no socket as {name}: {error}") from None
    families, kind = SOCKETS[name]
    if found.family not in families or found.type != socket.SOCK_STREAM or not listens:
        raise StartError(
            f"the socket that systemd hands over as {name} can't be served on: its"
            f" socket unit needs ListenStream= with {kind}, and Accept=no"
        )
    found.setblocking(False)
    return found
