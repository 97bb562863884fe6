"""Threads that build responses, with a bounded number of waiting requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from kaywatch_agent.web.problems import Problem

__all__ = ["WorkerThreads"]

T = TypeVar("T")

# The event loop may have to wait for each of them to release the interpreter, and for
# all 32 of asyncio's default pool.
THREADS: Final = 2

# Requests in the threads or waiting for one; more are refused with 503.
MAX_WAITING: Final = 64


class WorkerThreads:
    """A small thread pool."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._waiting = 0

    def start(self) -> None:
        """Accept work from now on."""
        self._pool = ThreadPoolExecutor(THREADS, "kaywatch-http")

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in a thread, and return its result.

        Raises:
            Problem: 503 when too many requests wait, or after `stop`.
        """
        if self._waiting >= MAX_WAITING or self._pool is None:
            raise Problem(
                503,
                "busy",
                f"{self._waiting} requests are waiting",
                "try again; request less, or less often",
                {"Retry-After": "1"},
            )
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, function)
        finally:
            self._waiting -= 1

    async def stop(self) -> None:
        """Finish the work in the threads. Idempotent."""
        pool, self._pool = self._pool, None
        if pool is not None:
            # In another thread, because it blocks until the work is done.
            await asyncio.to_thread(pool.shutdown)
