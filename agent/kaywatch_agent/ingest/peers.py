"""The process behind a connection: who it is, whether it lives, what it uses."""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

import psutil

from kaywatch_agent.model.records import ProcessSample

__all__ = ["Peer", "RemotePeer", "credentials"]

# The kernel counts a start from the boot, in hundredths of a second.
CLOCK_SLACK: Final = 2.0

_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid

# The option, since Linux 4.13, that names the supplementary groups; Python has no name
# for it. 59 in asm-generic/socket.h, on all but SPARC and PA-RISC.
SO_PEERGROUPS: Final = 59
MAX_ANSWER: Final = 1_024  # bytes, which is what socket.getsockopt takes at most


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return the pid, uid and gid of who is at the other end (SO_PEERCRED, unix(7))."""
    raw = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


class Peer:
    """The process at the other end, as the kernel names it.

    Holds a pidfd, so that an exit is noticed also while the process is a zombie and
    when its number has been given to another.
    """

    def __init__(
        self, pid: int, uid: int, gid: int, gids: tuple[int, ...] = ()
    ) -> None:
        self.pid = pid
        self.uid = uid
        self.gids = frozenset((gid, *gids))
        self._pidfd: int | None = None
        self._process: psutil.Process | None = None
        if pid > 0:
            # Absent on old kernels, and for a process that has gone already.
            with contextlib.suppress(OSError, AttributeError):
                self._pidfd = os.pidfd_open(pid)
            with contextlib.suppress(psutil.Error):
                self._process = psutil.Process(pid)

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        """Return the process that connected."""
        return cls(*credentials(connection), _groups(connection))

    @classmethod
    def find(cls, pid: int, since: float) -> Peer | None:
        """Return the process with a pid that ran at a time, None if it is gone.

        Args:
            pid: its number.
            since: Unix seconds; a process that started later is another one.
        """
        try:
            if pid <= 0 or psutil.Process(pid).create_time() > since + CLOCK_SLACK:
                return None
        except psutil.Error:
            return None
        found = cls(pid, -1, -1)
        if found.exited():
            found.close()
            return None
        return found

    @property
    def started(self) -> float:
        """When it started by the kernel's word, Unix seconds; 0 if that is unknown."""
        try:
            return self._process.create_time() if self._process is not None else 0.0
        except psutil.Error:
            return 0.0

    @property
    def trusted(self) -> bool:
        """Whether it may see what others send: it runs as root, or as this agent."""
        return self.uid in (0, os.geteuid())

    def exited(self) -> bool:
        """Whether the process is gone."""
        if self._pidfd is not None:
            # Not select(2), which can't look at descriptors over 1023.
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return bool(poll.poll(0))
        process = self._process
        if process is None:
            return True
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return True

    def sample(self) -> ProcessSample | None:
        """Return the process's memory and CPU, or None when it can't be read."""
        process = self._process
        if process is None:
            return None
        try:
            with process.oneshot():
                cpu = process.cpu_times()
                return ProcessSample(
                    rss_bytes=process.memory_info().rss,
                    cpu_seconds=cpu.user + cpu.system,
                )
        except psutil.Error:
            return None

    def close(self) -> None:
        """Release the pidfd. Idempotent."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class RemotePeer:
    """A process somewhere behind a broker: what is known of it is what it sends.

    It may have hung up, or its network may be down. After a while in which we could
    have heard of it, it is taken for dead.
    """

    pid = 0
    uid = -1
    started = 0.0
    trusted = False

    def __init__(
        self, listening_since: Callable[[], float | None], grace: float
    ) -> None:
        """Begin to wait for it.

        Args:
            listening_since: returns since when its broker is heard, by the monotonic
                clock; None when it isn't.
            grace: seconds that it may be silent.
        """
        self._listening_since = listening_since
        self._grace = grace
        self._lost = time.monotonic()

    def hung_up(self) -> None:
        """Begin to wait for it anew: it is gone now."""
        self._lost = time.monotonic()

    def exited(self) -> bool:
        """Whether it has been silent for too long."""
        since = self._listening_since()
        if since is None:
            return False
        return time.monotonic() - max(since, self._lost) > self._grace

    def sample(self) -> ProcessSample | None:
        """Return None: it tells itself what it uses."""
        return None

    def close(self) -> None:
        """Nothing is held."""


def _groups(connection: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of who connected; none where nobody says."""
    found = array.array("I")
    # An old kernel, or one in more groups than Python makes room for.
    with contextlib.suppress(OSError):
        found.frombytes(
            connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_ANSWER)
        )
    return tuple(found)
