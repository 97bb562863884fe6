"""Reads all sockets that are ready in rounds, fairly among processes.

Strategy: the event loop watches one epoll instance that contains all connections. A
few messages are read at once. While many arrive, one round every 40 ms reads all ready
sockets, because a wake-up of the loop costs as much as ten batches.

Within a round, processes take turns (`fair_queue`), a slice of bytes each. What is not
read stays in the kernel, which holds back the sender.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections import defaultdict
from typing import Final, Protocol

from kaywatch_agent.ingest.fair_queue import FairQueue

__all__ = ["SLICE", "FairReader", "Source"]

# A slice holds at most about 500 messages, which take 4 to 7 ms.
SLICE: Final = 16 * 1024
ALONE: Final = 4 * SLICE  # when only one process has bytes to read

# After this time, a round lets the loop do everything else.
TURN_SECONDS: Final = 0.005

# Between the starts of two rounds, while many batches arrive.
GATHER_SECONDS: Final = 0.04

# Fewer than this many wake-ups, or reads of a round, in that time are not many: the
# messages of a process that starts or exits are read at once.
MANY: Final = 4

# A connection with this many bytes is about to fill the kernel's buffer (208 KiB, most
# of it overhead when messages are small). Its sender would wait for each round, so for
# a while rounds follow each other immediately.
BULK: Final = 24 * 1024
BULK_SECONDS: Final = 0.1


class Source(Protocol):
    """A connection."""

    @property
    def process(self) -> int:
        """The pid at the other end: the connections of a process share its turns."""

    @property
    def reading(self) -> bool:
        """Whether the connection is still read from."""

    @property
    def writing(self) -> bool:
        """Whether bytes wait to be written."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def read(self, most: int) -> tuple[int, float]:
        """Read and process about `most` bytes, or more to complete a frame.

        Returns:
            The number of bytes, and for how many seconds to pause its process.
        """

    def flush(self) -> None:
        """Write the bytes that wait."""


class FairReader:
    """Reads all connections of one listener."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sources: dict[int, Source] = {}  # by descriptor
        self._of_process: dict[int, set[Source]] = defaultdict(set)
        self._paused: dict[int, asyncio.TimerHandle] = {}  # by pid
        self._queue: FairQueue[Source] = FairQueue()
        self._bulk_until = 0.0
        self._last = 0.0  # when the last round began
        self._reads = 0  # in the last round
        self._wake_ups = 0  # that started a round, or found one to be too early
        self._counted_since = 0.0
        # The loop either watches the epoll instance, or has the next round scheduled:
        # with both, each new connection would start another series of rounds.
        self._watching = False
        self._scheduled = False

    def add(self, source: Source) -> None:
        """Read from a connection from now on."""
        self._sources[source.fileno()] = source
        self._of_process[source.process].add(source)
        if source.process not in self._paused:
            self._epoll.register(source.fileno(), _events(source))
        self._watch()

    def remove(self, source: Source) -> None:
        """Stop reading from a connection. Call it before the descriptor is closed."""
        if self._sources.pop(source.fileno(), None) is None:
            return
        with contextlib.suppress(OSError):  # paused, hence not registered
            self._epoll.unregister(source.fileno())
        siblings = self._of_process[source.process]
        siblings.discard(source)
        self._queue.discard([source])
        if not siblings:
            del self._of_process[source.process]
            self._queue.forget(source.process)

    def update(self, source: Source) -> None:
        """Update which events of a connection are watched."""
        if source.fileno() in self._sources:
            with contextlib.suppress(OSError):  # paused, hence not registered
                self._epoll.modify(source.fileno(), _events(source))

    async def read_all(self) -> None:
        """Read until nothing is left. Pauses are over."""
        for pid in list(self._paused):
            self._resume(pid)
        more = True
        while more:
            more = self._read_round() or bool(self._epoll.poll(0, 1))
            await asyncio.sleep(0)

    def close(self) -> None:
        """Stop. Idempotent."""
        if self._watching:
            self._watching = False
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        for timer in self._paused.values():
            timer.cancel()
        self._paused.clear()
        self._epoll.close()

    # -- inside ------------------------------------------------------------------------

    def _watch(self) -> None:
        if not (self._watching or self._scheduled or self._epoll.closed):
            self._watching = True
            loop = asyncio.get_running_loop()
            loop.add_reader(self._epoll.fileno(), self._ready)

    def _ready(self) -> None:
        """Start a round now, or later if there were many just now."""
        now = time.monotonic()
        if now - self._counted_since >= GATHER_SECONDS:
            self._counted_since, self._wake_ups = now, 0
        self._wake_ups += 1
        wait = 0.0
        if self._wake_ups > MANY and now > self._bulk_until:
            wait = self._counted_since + GATHER_SECONDS - now
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
        elif self._reads >= MANY and self._last > self._bulk_until:
            # A timer alone costs half as much as a timer and a wake-up.
            loop.call_later(GATHER_SECONDS, self._go_on)
        else:
            self._scheduled = False
            self._watch()

    def _read_round(self) -> bool:
        """Read slices in turn; return whether bytes are left."""
        # Not the loop's clock: uvloop's stands still while a callback runs.
        self._last = time.monotonic()
        end = self._last + TURN_SECONDS
        self._reads = 0
        self._queue_ready()
        while self._queue:
            self._take_turn()
            if time.monotonic() >= end:
                return bool(self._queue)
        return False

    def _take_turn(self) -> None:
        """Read one slice of the process that is next."""
        self._reads += 1
        pid, sources = self._queue.begin_turn()
        source = sources.popleft()
        most = SLICE if self._queue else ALONE
        size, pause = 0, 0.0
        if source in self._queue:  # otherwise it was closed in the meantime
            size, pause = source.read(most)
        if size >= BULK:
            self._bulk_until = self._last + BULK_SECONDS
        if size >= most and source in self._queue:
            sources.append(source)
        else:
            self._queue.discard([source])
        if pause > 0:
            self._queue.discard(sources)
            sources.clear()
            self._pause(pid, pause)
        if pid in self._of_process:  # otherwise the read has closed its last one
            self._queue.end_turn(pid, sources, size)

    def _queue_ready(self) -> None:
        """Queue the connections that have become readable."""
        for fd, event in self._epoll.poll(0):
            source = self._sources.get(fd)
            if source is None:
                continue
            if event & select.EPOLLOUT:
                source.flush()
            if event & ~select.EPOLLOUT:
                self._queue.add(source)

    def _pause(self, pid: int, seconds: float) -> None:
        for source in self._of_process.get(pid, ()):
            with contextlib.suppress(OSError):
                self._epoll.unregister(source.fileno())
        loop = asyncio.get_running_loop()
        self._paused[pid] = loop.call_later(seconds, self._resume, pid)

    def _resume(self, pid: int) -> None:
        self._paused.pop(pid).cancel()
        for source in self._of_process.get(pid, ()):
            self._epoll.register(source.fileno(), _events(source))


def _events(source: Source) -> int:
    reading = select.EPOLLIN if source.reading else 0
    return reading | (select.EPOLLOUT if source.writing else 0)
