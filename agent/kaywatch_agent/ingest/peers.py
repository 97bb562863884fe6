"""The process behind a connection: its identity, state and resource usage."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import struct
import time
import weakref
from collections.abc import Callable
from typing import ClassVar, Final
from weakref import WeakValueDictionary

import psutil

from kaywatch_agent.model.records import ProcessSample

__all__ = ["LocalPeer", "RemotePeer", "credentials"]

# The kernel measures the start of a process from boot, in hundredths of a second, and
# the time of the boot changes with the clock.
CLOCK_SLACK: Final = 2.0

_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid

# The socket option for supplementary groups, since Linux 4.13. Python has no constant
# for it. It is 59 in asm-generic/socket.h, except on SPARC and PA-RISC.
SO_PEERGROUPS: Final = 59
MAX_ANSWER: Final = 1_024  # bytes; the limit of socket.getsockopt

# psutil raises OSError if the agent has no file descriptor left.
_UNREADABLE: Final = (psutil.Error, OSError)


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return the peer's pid, uid and gid (SO_PEERCRED, see unix(7))."""
    raw = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


class WatchedProcess:
    """A local process; all its connections and clients share one pidfd.

    The pidfd detects an exit while the process is a zombie, and after its pid has been
    reused. It is closed with the last reference. Without one, for example because the
    agent has no file descriptor left, the process is looked up by its pid.
    """

    _known: ClassVar[WeakValueDictionary[int, WatchedProcess]] = WeakValueDictionary()

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pidfd: int | None = None
        self._process: psutil.Process | None = None
        # Fails on old kernels, without descriptors, and if the process has exited.
        with contextlib.suppress(OSError, AttributeError):
            self._pidfd = os.pidfd_open(pid)
            weakref.finalize(self, os.close, self._pidfd).atexit = False

    @classmethod
    def of(cls, pid: int) -> WatchedProcess:
        """Return the running process with a pid."""
        process = cls._known.get(pid)
        if process is None or process.has_exited():
            process = cls._known[pid] = cls(pid)
        return process

    @property
    def started(self) -> float:
        """When the process started, Unix seconds; 0 if unknown."""
        try:
            return self._lookup().create_time()
        except _UNREADABLE:
            return 0.0

    def has_exited(self) -> bool:
        """Return whether it has exited; False if that is unknown."""
        if self._pidfd is not None:
            # select(2) does not support descriptors above 1023.
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return bool(poll.poll(0))
        try:
            process = self._lookup()
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except _UNREADABLE:
            return False

    def sample(self) -> ProcessSample | None:
        """Return the memory and CPU usage; None if it cannot be read."""
        try:
            process = self._lookup()
            with process.oneshot():
                cpu, memory = process.cpu_times(), process.memory_info().rss
                # A zombie (exited, and not yet waited for) has no memory, so its last
                # sample is more useful.
                if not memory:
                    return None
                return ProcessSample(
                    rss_bytes=memory, cpu_seconds=cpu.user + cpu.system
                )
        except _UNREADABLE:
            return None

    def _lookup(self) -> psutil.Process:
        if self._process is None:
            self._process = psutil.Process(self._pid)
        return self._process


class LocalPeer:
    """A local process behind a connection, identified by the kernel."""

    def __init__(
        self, pid: int, uid: int, gid: int, gids: tuple[int, ...] = ()
    ) -> None:
        self.pid = pid
        self.uid = uid
        self.gids = frozenset((gid, *gids))
        self._process = WatchedProcess.of(pid) if pid > 0 else None
        self.started = self._process.started if self._process is not None else 0.0

    @classmethod
    def of(cls, connection: socket.socket) -> LocalPeer:
        """Return the process that connected."""
        return cls(*credentials(connection), _groups(connection))

    @classmethod
    def find(cls, pid: int, since: float) -> LocalPeer | None:
        """Return the running process with a pid; None if it has exited.

        Args:
            pid: the process id.
            since: Unix seconds; a process that started later has reused the pid.
        """
        if not _is_used(pid):
            return None
        peer = cls(pid, -1, -1)
        if peer.started > since + CLOCK_SLACK or peer.has_exited():
            return None
        return peer

    @property
    def trusted(self) -> bool:
        """Whether it runs as root or as the agent's own user."""
        return self.uid in (0, os.geteuid())

    def has_exited(self) -> bool:
        """Return whether the process has exited."""
        return self._process is None or self._process.has_exited()

    def sample(self) -> ProcessSample | None:
        """Return the memory and CPU usage; None if it cannot be read."""
        return self._process.sample() if self._process is not None else None

    def close(self) -> None:
        """Stop watching the process. Idempotent."""
        self._process = None


class RemotePeer:
    """A process behind a broker, known only by its messages.

    A silent process may have exited, or its network may be down. It is considered dead
    after a grace period, during which the broker must be connected.
    """

    pid = 0
    uid = -1
    started = 0.0
    trusted = False

    def __init__(
        self, listening_since: Callable[[], float | None], grace: float
    ) -> None:
        """Start the grace period.

        Args:
            listening_since: returns when the broker was connected, by the monotonic
                clock; None while it is not connected.
            grace: the length of the grace period in seconds.
        """
        self._listening_since = listening_since
        self._grace = grace
        self._lost_at = time.monotonic()

    def mark_disconnected(self) -> None:
        """Restart the grace period: the process has disconnected."""
        self._lost_at = time.monotonic()

    def has_exited(self) -> bool:
        """Return whether the grace period has passed."""
        since = self._listening_since()
        if since is None:
            return False
        return time.monotonic() - max(since, self._lost_at) > self._grace

    def sample(self) -> ProcessSample | None:
        """Return None: the process sends its own resource usage."""
        return None

    def close(self) -> None:
        """Do nothing: there is no resource to release."""


def _is_used(pid: int) -> bool:
    """Return whether a process has the pid. Opens no file."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM  # it is another user's
    return True


def _groups(connection: socket.socket) -> tuple[int, ...]:
    """Return the peer's supplementary groups; none if they cannot be read."""
    groups = array.array("I")
    # Fails on an old kernel, and for more groups than fit into the answer.
    with contextlib.suppress(OSError):
        groups.frombytes(
            connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_ANSWER)
        )
    return tuple(groups)
