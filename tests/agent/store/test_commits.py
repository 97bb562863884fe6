"""Who waits for which commit."""

from __future__ import annotations

import asyncio

from kaywatch_agent.store.commits import Commits

LONG = 30.0


async def waiting(commits: Commits) -> asyncio.Task[bool]:
    task = asyncio.create_task(commits.durable(LONG))
    await asyncio.sleep(0)  # it waits
    return task


async def settled(task: asyncio.Task[bool]) -> bool:
    """Whether it got its answer, once everybody had a turn."""
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


async def test_a_change_is_durable_with_the_commit_that_holds_it() -> None:
    commits = Commits()
    before = await waiting(commits)
    commits.began()
    during = await waiting(commits)
    commits.ended(durable=True)
    assert await before
    assert not await settled(during)
    commits.began()
    commits.ended(durable=True)
    assert await during


async def test_what_a_commit_that_failed_held_is_in_the_next() -> None:
    commits = Commits()
    first = await waiting(commits)
    commits.began()
    commits.ended(durable=False)
    assert not await settled(first)
    commits.began()
    commits.ended(durable=True)
    assert await first


async def test_who_waited_too_long_is_told_so_and_forgotten() -> None:
    commits = Commits()
    assert not await commits.durable(0.001)
    commits.began()
    commits.ended(durable=False)
    commits.began()
    commits.ended(durable=True)
