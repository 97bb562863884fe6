"""Blocks of the history that readers missed are merged between requests."""

from __future__ import annotations

import asyncio

import numpy as np
from tests.agent.aggregate.test_history import events

from kaywatch_agent.aggregate.history import BLOCK_BUCKETS, History
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.web.block_merger import BlockMerger
from kaywatch_agent.web.workers import WorkerThreads

NUMBERS = range(17 * BLOCK_BUCKETS, 19 * BLOCK_BUCKETS)
SOME_ROWS = np.array([3, 7])


def two_blocks() -> History:
    buckets = {number: reduce(events(10 + number % 3)) for number in NUMBERS}
    return History({}).advance(buckets, NUMBERS[-1] + 5, 360)


def parts_read(history: History) -> int:
    return len(list(history.merged(NUMBERS, SOME_ROWS)))


async def merging_ends(merger: BlockMerger) -> None:
    task = merger._task
    assert task is not None
    await asyncio.wait_for(task, 20)


async def test_each_call_merges_one_block_that_a_reader_missed() -> None:
    workers, history = WorkerThreads(), two_blocks()
    merger = BlockMerger(workers)
    workers.start()
    try:
        merger.advance(history)
        assert merger._task is None  # nobody has read

        for parts in (120, 61, 2):
            assert parts_read(history) == parts
            if parts > 2:
                merger.advance(history)
                await merging_ends(merger)
        assert not history.is_block_missing
    finally:
        await workers.stop()


async def test_blocks_wait_while_the_threads_are_stopped() -> None:
    workers, history = WorkerThreads(), two_blocks()
    merger = BlockMerger(workers)
    parts_read(history)
    merger.advance(history)
    await merging_ends(merger)
    assert history.is_block_missing
