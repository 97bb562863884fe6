"""Reads all sockets that are ready in rounds, fairly among processes.

Strategy: the event loop watches one epoll instance that contains all connections. A
lone batch is read at once. While more arrive, one round every few milliseconds reads
all sockets that are ready: a wake-up of the loop costs as much as ten batches. In a
round each process gets a slice of its bytes in turn, however many connections it has
and however much it has sent, so a client that sends little waits for one slice of each
process that floods. What is not read stays in the kernel, which holds back the sender.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections import OrderedDict, defaultdict, deque
from typing import Final, Protocol

__all__ = ["SLICE", "FairReader", "Source"]

# Of the smallest messages a slice has 500, which take 2 ms.
SLICE: Final = 16 * 1024
ALONE: Final = 4 * SLICE  # for a process that is the only one with bytes to read

# How long a round may take before the loop looks at everything else.
TURN_SECONDS: Final = 0.005

# Between the starts of two rounds.
GATHER_SECONDS: Final = 0.02

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
        self._turns: OrderedDict[int, deque[Source]] = OrderedDict()  # by pid
        self._queued: set[Source] = set()  # those in `_turns`
        self._bulk_until = 0.0
        self._last = 0.0  # when the last round began
        self._watching = False

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
        if not self._watching and not self._epoll.closed:
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
        if wait > 0:
            loop.call_later(wait, self._go_on)
        else:
            loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._epoll.closed:
            return
        if self._read_round():
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._watch()

    def _read_round(self) -> bool:
        """Read slices, the processes in turn; return whether more may be left."""
        # Not the loop's clock: uvloop's stands still while a callback runs.
        self._last = time.monotonic()
        end = self._last + TURN_SECONDS
        self._queue_ready()
        while self._turns:
            pid, sources = self._turns.popitem(last=False)
            source = sources.popleft()
            # With nobody behind it, more at once.
            most = SLICE if self._turns else ALONE
            size, pause = 0, 0.0
            if source in self._queued:  # else it was closed meanwhile
                size, pause = source.read(most)
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
                self._turns[pid] = sources  # behind all others
            if time.monotonic() >= end:
                return bool(self._turns)
        return False

    def _queue_ready(self) -> None:
        """Let the connections that can be read take part, behind those that wait."""
        for fd, event in self._epoll.poll(0):
            source = self._sources.get(fd)
            if source is None:
                continue
            if event & select.EPOLLOUT:
                source.flush()
            if event & ~select.EPOLLOUT and source not in self._queued:
                self._queued.add(source)
                self._turns.setdefault(source.process, deque()).append(source)

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
