"""Merges blocks of the history that readers missed, so that later readers have them."""

from __future__ import annotations

import asyncio
import contextlib

from kaywatch_agent.aggregate.history import History
from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.workers import WorkerThreads

__all__ = ["BlockMerger"]


class BlockMerger:
    """Merges at most one block at a time, in a thread."""

    def __init__(self, workers: WorkerThreads) -> None:
        self._workers = workers
        self._task: asyncio.Task[None] | None = None

    def advance(self, history: History) -> None:
        """Begin to merge a block that a reader missed, if there is one."""
        if history.is_block_missing and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._merge(history), name="http-blocks")

    async def _merge(self, history: History) -> None:
        # Requests come first: too many of them wait, or the server stops.
        with contextlib.suppress(Problem):
            await self._workers.run(history.merge_missing)
