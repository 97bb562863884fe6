"""Whose turn it is: what all connections sent is taken in by slices, in rounds.

Strategy: a connection queues what the kernel hands over, up to eight megabytes at once,
and stops reading when it has queued enough. The loop takes a slice of one process's
bytes, then one of the next process's, for a few milliseconds; then others in the loop
get their turn, and new arrivals join the round. So who sends little waits for one slice
of each of those who flood, whatever they have queued, and however many connections they
have opened.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, Protocol

__all__ = ["SLICE", "Taker", "Turns"]

# Of the smallest messages a slice has 500, which take 5 ms. A full batch has 130 kB,
# and is taken in two: what is known to be the rest of one message may be longer.
SLICE: Final = 16 * 1024
ALONE: Final = 4 * SLICE

# How long bytes are taken in before the loop looks at everything else.
TURN_SECONDS: Final = 0.005


class Taker(Protocol):
    """A connection with bytes that wait."""

    @property
    def process(self) -> int:
        """The pid of its process: those of one process share its turns."""

    @property
    def waiting(self) -> int:
        """How many bytes wait."""

    def take(self, most: int) -> float:
        """Take in so many bytes; return how long to take no more, in seconds."""


class Turns:
    """The round of all who have sent something."""

    def __init__(self, turn: float = TURN_SECONDS) -> None:
        self._turn = turn
        self._round: deque[int] = deque()  # pids
        self._takers: dict[int, deque[Taker]] = {}
        self._held_back: dict[int, asyncio.TimerHandle] = {}
        self._due = False
        self._now = 0.0
        self._left = 0.0  # seconds for what is taken at once, in this turn of the loop
        self._over = asyncio.Event()

    def add(self, taker: Taker) -> None:
        """Let a connection take part that has bytes now, and had none before."""
        pid = taker.process
        if self._at_once(pid, taker):
            return
        takers = self._takers.get(pid)
        if takers is not None:
            takers.append(taker)
            return
        self._takers[pid] = deque((taker,))
        if pid not in self._held_back:
            self._join(pid)

    async def over(self) -> None:
        """Wait until nobody has bytes that wait; nobody is held back any more."""
        for pid, timer in list(self._held_back.items()):
            timer.cancel()
            self._release(pid)
        while self._round:
            self._over.clear()
            await self._over.wait()

    # -- inside ----------------------------------------------------------------------

    def _at_once(self, pid: int, taker: Taker) -> bool:
        """Take in a little now, while nobody waits: a turn of the loop costs 20 us."""
        if self._round or self._held_back or taker.waiting > SLICE:
            return False
        now = asyncio.get_running_loop().time()
        if now != self._now:  # uvloop's clock stands still within a turn of the loop
            self._now, self._left = now, self._turn
        if self._left <= 0:
            return False
        started = time.monotonic()
        pause = taker.take(SLICE)
        self._left -= time.monotonic() - started
        if pause > 0:
            loop = asyncio.get_running_loop()
            self._held_back[pid] = loop.call_later(pause, self._release, pid)
        return True

    def _join(self, pid: int) -> None:
        self._round.append(pid)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._due = False
        # Not the loop's clock: uvloop's stands still while a callback runs.
        end = time.monotonic() + self._turn
        while self._round:
            self._take(self._round.popleft())
            if time.monotonic() >= end:
                break
        if self._round:
            self._due = True
            asyncio.get_running_loop().call_soon(self._run)
        else:
            self._over.set()

    def _take(self, pid: int) -> None:
        takers = self._takers[pid]
        taker = takers.popleft()
        # With nobody behind it, more at once: who comes meanwhile waits for that once.
        pause = taker.take(SLICE if self._round else ALONE)
        if taker.waiting:
            takers.append(taker)
        if not takers:
            del self._takers[pid]
        if pause > 0:
            loop = asyncio.get_running_loop()
            self._held_back[pid] = loop.call_later(pause, self._release, pid)
        elif takers:
            self._round.append(pid)

    def _release(self, pid: int) -> None:
        del self._held_back[pid]
        if pid in self._takers:
            self._join(pid)
