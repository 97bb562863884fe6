"""The order in which processes are read: start-time fair queueing.

Each byte advances the virtual time of its process. The process with the earliest
virtual time is read next, no matter how many connections it has. A process that sends
little is therefore ahead of all processes that flood the agent.

Source of the algorithm: Goyal, Vin, Cheng, "Start-time Fair Queueing", 1996.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

__all__ = ["FairQueue"]


class Owned(Protocol):
    """A connection."""

    @property
    def process(self) -> int:
        """The pid at the other end: the connections of a process share its turns."""


T = TypeVar("T", bound=Owned)


class FairQueue(Generic[T]):
    """The connections that have bytes to read; falsy if there are none."""

    def __init__(self) -> None:
        self._turns: list[tuple[int, int]] = []  # a heap of (virtual time, pid)
        self._waiting: dict[int, deque[T]] = {}  # by each pid in `_turns`
        self._queued: set[T] = set()  # those in `_waiting` that are still open
        self._read_until: dict[int, int] = {}  # virtual time by pid, in bytes
        self._virtual_time = 0  # of the turn in progress

    def __bool__(self) -> bool:
        return bool(self._turns)

    def __contains__(self, connection: object) -> bool:
        return connection in self._queued

    def add(self, connection: T) -> None:
        """Queue a connection, behind the others of its process."""
        if connection in self._queued:
            return
        self._queued.add(connection)
        waiting = self._waiting.get(connection.process)
        if waiting is None:
            self._wait_turn(connection.process, deque([connection]))
        else:
            waiting.append(connection)

    def discard(self, connections: Iterable[T]) -> None:
        """Remove those connections that are queued; their turns are skipped."""
        self._queued.difference_update(connections)

    def forget(self, pid: int) -> None:
        """Forget a process after its last connection is closed."""
        self._read_until.pop(pid, None)

    def begin_turn(self) -> tuple[int, deque[T]]:
        """Remove and return the next process and its connections, in queue order."""
        self._virtual_time, pid = heapq.heappop(self._turns)
        return pid, self._waiting.pop(pid)

    def end_turn(self, pid: int, connections: deque[T], size: int) -> None:
        """Charge a process for `size` bytes, and queue its connections that remain."""
        self._read_until[pid] = self._virtual_time + size
        if connections:
            self._wait_turn(pid, connections)

    def _wait_turn(self, pid: int, connections: deque[T]) -> None:
        """Queue a process. It earns no credit for the time that it was idle."""
        self._waiting[pid] = connections
        start = max(self._virtual_time, self._read_until.get(pid, 0))
        heapq.heappush(self._turns, (start, pid))
