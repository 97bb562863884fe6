"""Reads all sockets that are ready in rounds, fairly among processes.

Strategy: the event loop watches one epoll instance that contains all connections. A
lone batch is read at once. While more arrive, one round every few milliseconds reads
all ready sockets, because a wake-up of the loop costs as much as ten batches.

Within a round, processes take turns by start-time fair queueing: each byte advances the
virtual time of its process, and the process with the earliest virtual time is next,
however many connections it has. A process that sends little is therefore ahead of all
those that flood. What is not read stays in the kernel, which holds back the sender.

Source of the algorithm: Goyal, Vin, Cheng, "Start-time Fair Queueing", 1996.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import select
import time
from collections import defaultdict, deque
from typing import Final, Protocol

__all__ = ["SLICE", "FairReader", "Source"]

# Of the smallest messages a slice has 500, which take 2 ms.
SLICE: Final = 16 * 1024
ALONE: Final = 4 * SLICE  # for a process that is the only one with bytes to read

# How long a round may take before the loop looks at everything else.
TURN_SECONDS: Final = 0.005

# Between the starts of two rounds, while batches arrive that fast.
GATHER_SECONDS: Final = 0.04

# A connection that has so many bytes at once is about to fill the kernel's buffer (208
# KiB, of which small messages use most for overhead). Its sender would wait for each
# round, so rounds follow each other at once for a while.
BULK: Final = 24 * 1024
BULK_SECONDS: Final = 0.1


class Source(Protocol):
    """A connection."""

    @property
    def process(self) -> int:
        """The pid at the other end: the connections of a process share its turns."""

    @property
    def reading(self) -> bool:
        """Whether more is to be read."""

    @property
    def writing(self) -> bool:
        """Whether bytes wait until they can be written."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def read(self, most: int) -> tuple[int, float]:
        """Read and act on some bytes, or more to complete a frame.

        Returns:
            How many bytes there were, and for how many seconds to read no more from
            its process.
        """

    def flush(self) -> None:
        """Write what waits."""


class FairReader:
    """All connections of one listener."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sources: dict[int, Source] = {}  # by descriptor
        self._of_process: dict[int, set[Source]] = defaultdict(set)
        self._held_back: dict[int, asyncio.TimerHandle] = {}  # by pid
        self._turns: list[tuple[int, int]] = []  # a heap of (virtual time, pid)
        self._waiting: dict[int, deque[Source]] = {}  # by each pid in `_turns`
        self._queued: set[Source] = set()  # those in `_waiting`
        self._virtual_time = 0  # of the turn in progress, in bytes
        self._read_until: dict[int, int] = {}  # virtual time by pid
        self._bulk_until = 0.0
        self._last = 0.0  # when the last round began
        self._reads = 0  # in the last round
        # The loop either watches the epoll instance, or has the next round scheduled:
        # with both, each new connection would start another series of rounds.
        self._watching = False
        self._scheduled = False

    def add(self, source: Source) -> None:
        """Read from a connection from now on."""
        self._sources[source.fileno()] = source
        self._of_process[source.process].add(source)
        if source.process not in self._held_back:
            self._epoll.register(source.fileno(), _events(source))
        self._watch()

    def remove(self, source: Source) -> None:
        """Read no more from a connection; before its descriptor is closed."""
        if self._sources.pop(source.fileno(), None) is None:
            return
        with contextlib.suppress(OSError):  # it is held back
            self._epoll.unregister(source.fileno())
        siblings = self._of_process[source.process]
        siblings.discard(source)
        self._queued.discard(source)
        if not siblings:
            del self._of_process[source.process]
            self._read_until.pop(source.process, None)

    def update(self, source: Source) -> None:
        """Take note that a connection begins or ends to wait for writing."""
        if source.fileno() in self._sources:
            with contextlib.suppress(OSError):  # it is held back
                self._epoll.modify(source.fileno(), _events(source))

    async def read_all(self) -> None:
        """Read until nothing is left; no process is held back any more."""
        for pid in list(self._held_back):
            self._release(pid)
        more = True
        while more:
            more = self._read_round() or bool(self._epoll.poll(0, 1))
            await asyncio.sleep(0)

    def close(self) -> None:
        """Stop. Idempotent."""
        if self._watching:
            self._watching = False
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        for timer in self._held_back.values():
            timer.cancel()
        self._held_back.clear()
        self._epoll.close()

    # -- inside ------------------------------------------------------------------------

    def _watch(self) -> None:
        if not (self._watching or self._scheduled or self._epoll.closed):
            self._watching = True
            loop = asyncio.get_running_loop()
            loop.add_reader(self._epoll.fileno(), self._ready)

    def _ready(self) -> None:
        """Begin a round, or wait for others to share it."""
        now = time.monotonic()
        wait = self._last + GATHER_SECONDS - now if now > self._bulk_until else 0.0
        if wait <= 0 and not self._read_round():
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._epoll.fileno())
        self._watching = False
        self._scheduled = True
        if wait > 0:
            loop.call_later(wait, self._go_on)
        else:
            loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Read the scheduled round, then schedule another one or watch again."""
        if self._epoll.closed:
            return
        loop = asyncio.get_running_loop()
        if self._read_round():
            loop.call_soon(self._go_on)
        elif self._reads > 1 and self._last > self._bulk_until:
            # More arrive than one for each round: a timer alone costs half as much as
            # a timer and a wake-up for the first of them.
            loop.call_later(GATHER_SECONDS, self._go_on)
        else:
            self._scheduled = False
            self._watch()

    def _read_round(self) -> bool:
        """Read slices, the processes in turn; return whether more may be left."""
        # Not the loop's clock: uvloop's stands still while a callback runs.
        self._last = time.monotonic()
        end = self._last + TURN_SECONDS
        self._reads = 0
        self._queue_ready()
        while self._turns:
            self._virtual_time, pid = heapq.heappop(self._turns)
            self._take_turn(pid)
            if time.monotonic() >= end:
                return bool(self._turns)
        return False

    def _take_turn(self, pid: int) -> None:
        """Read one slice of a process."""
        self._reads += 1
        sources = self._waiting.pop(pid)
        source = sources.popleft()
        most = SLICE if self._turns else ALONE
        size, pause = 0, 0.0
        if source in self._queued:  # otherwise it was closed in the meantime
            size, pause = source.read(most)
        if pid in self._of_process:  # otherwise the read has closed its last one
            self._read_until[pid] = self._virtual_time + size
        if size >= BULK:
            self._bulk_until = self._last + BULK_SECONDS
        if size >= most and source in self._queued:
            sources.append(source)
        else:
            self._queued.discard(source)
        if pause > 0:
            self._queued.difference_update(sources)
            self._hold_back(pid, pause)
        elif sources:
            self._queue(pid, sources)

    def _queue_ready(self) -> None:
        """Queue the connections that have become readable."""
        for fd, event in self._epoll.poll(0):
            source = self._sources.get(fd)
            if source is None:
                continue
            if event & select.EPOLLOUT:
                source.flush()
            if event & ~select.EPOLLOUT and source not in self._queued:
                self._queued.add(source)
                sources = self._waiting.get(source.process)
                if sources is None:
                    self._queue(source.process, deque([source]))
                else:
                    sources.append(source)

    def _queue(self, pid: int, sources: deque[Source]) -> None:
        """Give a process a turn; one that was idle has saved up nothing."""
        self._waiting[pid] = sources
        start = max(self._virtual_time, self._read_until.get(pid, 0))
        heapq.heappush(self._turns, (start, pid))

    def _hold_back(self, pid: int, seconds: float) -> None:
        for source in self._of_process.get(pid, ()):
            with contextlib.suppress(OSError):
                self._epoll.unregister(source.fileno())
        loop = asyncio.get_running_loop()
        self._held_back[pid] = loop.call_later(seconds, self._release, pid)

    def _release(self, pid: int) -> None:
        self._held_back.pop(pid).cancel()
        for source in self._of_process.get(pid, ()):
            self._epoll.register(source.fileno(), _events(source))


def _events(source: Source) -> int:
    reading = select.EPOLLIN if source.reading else 0
    return reading | (select.EPOLLOUT if source.writing else 0)
