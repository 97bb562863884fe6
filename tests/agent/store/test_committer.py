"""The content of commits, and the notification of their parts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.agent.store.ticks import Ticks

from kaywatch_agent.aggregate.change import WriteBatch
from kaywatch_agent.errors import StoreError
from kaywatch_agent.store.committer import Committer
from kaywatch_agent.store.writer import StoreDamaged


class Part:
    """Counts changes, and records what became of them."""

    def __init__(self) -> None:
        self.pending: list[int] = []
        self.all: list[int] = []
        self.durable: list[int] = []

    def change(self, number: int) -> None:
        self.pending.append(number)
        self.all.append(number)

    def changes(self, full: bool) -> tuple[int, ...]:
        result, self.pending = (self.all if full else self.pending), []
        return tuple(result)

    def committed(self, change: tuple[int, ...]) -> None:
        self.durable += change

    def refused(self, change: tuple[int, ...]) -> None:
        self.pending = [*change, *self.pending]


class Aggregates:
    """The parts that every transaction needs."""

    def changes(self, full: bool) -> Any:
        return Ticks().change(10.0, []).aggregate

    def committed(self, change: Any) -> None: ...

    def refused(self, change: Any) -> None: ...


class SlowWriter:
    """A store whose commits end when the test releases them."""

    def __init__(self) -> None:
        self.problem = "the disk is full"
        self.batches: list[WriteBatch] = []
        self._result: asyncio.Future[None] = asyncio.Future()

    async def commit(self, batch: WriteBatch) -> None:
        self.batches.append(batch)
        self._result = asyncio.Future()
        await self._result

    async def end(self, error: Exception | None = None) -> None:
        if error is None:
            self._result.set_result(None)
        else:
            self._result.set_exception(error)
        for _ in range(5):
            await asyncio.sleep(0)


class Commits:
    """A committer with one part, and a store that is waited for."""

    def __init__(self) -> None:
        self.part = Part()
        self.committer = Committer([Aggregates(), self.part])
        self.writer = SlowWriter()
        self.committer.writer = self.writer  # type: ignore[assignment]

    async def begin(self) -> asyncio.Task[bool]:
        return await start_task(self.committer.commit())

    async def wait(self) -> asyncio.Task[str]:
        return await start_task(self.committer.wait_durable())


async def start_task(work: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


async def test_a_change_is_durable_with_the_commit_that_holds_it() -> None:
    commits = Commits()
    commits.part.change(1)
    before = await commits.wait()
    first = await commits.begin()
    commits.part.change(2)
    during = await commits.wait()
    await commits.writer.end()
    assert await first
    assert await before == ""
    assert not during.done()
    assert commits.part.durable == [1]

    second = await commits.begin()
    await commits.writer.end()
    assert await second
    assert await during == ""
    assert commits.part.durable == [1, 2]


@pytest.mark.parametrize("error", [StoreError("full"), RuntimeError("a fault")])
async def test_data_of_a_failed_commit_is_in_the_next(error: Exception) -> None:
    commits = Commits()
    commits.part.change(1)
    waiting = await commits.wait()
    first = await commits.begin()
    await commits.writer.end(error)
    assert not await first
    assert not waiting.done()

    commits.part.change(2)
    second = await commits.begin()
    await commits.writer.end()
    assert await second
    assert await waiting == ""
    assert commits.part.durable == [1, 2]


async def test_after_damage_the_next_commit_holds_everything() -> None:
    commits = Commits()
    commits.part.change(1)
    first = await commits.begin()
    await commits.writer.end()
    assert await first

    commits.part.change(2)
    second = await commits.begin()
    await commits.writer.end(StoreDamaged("set aside"))
    assert not await second
    third = await commits.begin()
    await commits.writer.end(StoreError("full"))
    assert not await third
    commits.part.durable.clear()
    fourth = await commits.begin()
    await commits.writer.end()
    assert await fourth
    assert commits.part.durable == [1, 2]


async def test_a_change_that_does_not_become_durable_in_time_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kaywatch_agent.store.committer.WAIT_SECONDS", 0.01)
    commits = Commits()
    assert await commits.committer.wait_durable() == "the disk is full"
    commits.writer.problem = ""
    assert "no commit" in await commits.committer.wait_durable()


async def test_without_a_store_a_change_is_durable_at_once() -> None:
    part = Part()
    committer = Committer([part])
    part.change(1)
    assert await committer.wait_durable() == ""
    assert await committer.commit()
    assert part.durable == [1]


class BrokenPart(Part):
    """Fails once to return its changes."""

    broken = True

    def changes(self, full: bool) -> tuple[int, ...]:
        if self.broken:
            self.broken = False
            raise RuntimeError("a fault")
        return super().changes(full)


async def test_a_part_that_fails_costs_one_commit_and_no_change() -> None:
    sound, broken = Part(), BrokenPart()
    committer = Committer([sound, broken])
    sound.change(1)
    broken.change(2)
    assert not await committer.commit()
    assert committer.problem == "RuntimeError: a fault"
    assert not sound.durable

    assert await committer.commit()
    assert committer.problem == ""
    assert (sound.durable, broken.durable) == ([1], [2])
