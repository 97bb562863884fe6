"""Lets those who changed something wait for the commit that holds it.

One commit is under way at a time. What was changed before its change was put together
is in it; what comes later, and what a commit that failed held, is in the next one.
"""

from __future__ import annotations

import asyncio

__all__ = ["Commits"]


class Commits:
    """Who waits for which commit."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._under_way: list[asyncio.Future[None]] = []

    async def durable(self, seconds: float) -> bool:
        """Wait for a commit of all that has been changed; return whether it came."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        return True

    def began(self) -> None:
        """Learn that all that was changed so far is in the commit that begins."""
        self._under_way += self._waiting
        self._waiting = []

    def ended(self, *, durable: bool) -> None:
        """Learn what came of the commit that was under way."""
        ended = [future for future in self._under_way if not future.done()]
        self._under_way = []
        if not durable:
            self._waiting[:0] = ended
            return
        for future in ended:
            future.set_result(None)
