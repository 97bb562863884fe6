"""In which order connections are read: real sockets, and processes by made-up pids."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
from tests.agents import DEADLINE

from kaywatch_agent.ingest.reader import ALONE, MANY, SLICE, FairReader


class Sender:
    """A connection of which the other end wrote something; notes when it is read."""

    def __init__(self, process: int, size: int, order: list[int]) -> None:
        self.process = process
        self.pause = 0.0
        self.unread = size
        self.sizes: list[int] = []
        self._order = order
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        self._far.sendall(bytes(size))

    @property
    def reading(self) -> bool:
        return True

    @property
    def writing(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._near.fileno()

    def read(self, most: int) -> tuple[int, float]:
        try:
            size = len(self._near.recv(most))
        except BlockingIOError:
            return 0, 0.0
        self.unread -= size
        self.sizes.append(size)
        self._order.append(self.process)
        return size, self.pause

    def flush(self) -> None: ...

    def close(self) -> None:
        self._near.close()
        self._far.close()


class Round:
    """A reader, and the connections that it reads."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.reader = FairReader()
        self.senders: list[Sender] = []

    def add(self, process: int, size: int) -> Sender:
        sender = Sender(process, size, self.order)
        self.senders.append(sender)
        self.reader.add(sender)
        return sender

    async def over(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while any(sender.unread for sender in self.senders):
                await asyncio.sleep(0)


@pytest.fixture
async def round_() -> Iterator[Round]:  # type: ignore[misc]
    result = Round()
    yield result
    result.reader.close()
    for sender in result.senders:
        sender.close()


async def test_processes_take_turns_however_many_connections_they_have(
    round_: Round,
) -> None:
    for _ in range(3):
        round_.add(1, 4 * SLICE)
    round_.add(2, 1)
    round_.add(3, 2 * SLICE)
    await round_.over()

    # One slice of each process, until the others have no more.
    assert round_.order[:3] == [1, 2, 3]
    assert round_.order[3:6] == [1, 3, 1]
    assert 2 not in round_.order[3:]


async def test_a_process_that_is_alone_is_read_in_larger_slices(round_: Round) -> None:
    alone = round_.add(1, 2 * ALONE)
    await round_.over()
    assert max(alone.sizes) == ALONE


async def test_a_late_connection_waits_for_one_slice_of_each_process(
    round_: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.ingest.reader.TURN_SECONDS", 0.0)
    round_.add(1, 12 * SLICE)
    round_.add(2, 12 * SLICE)
    async with asyncio.timeout(DEADLINE):
        while len(round_.order) < 4:
            await asyncio.sleep(0)
    before = len(round_.order)
    round_.add(3, 1)
    await round_.over()
    assert round_.order.index(3) - before <= 2


async def test_new_connections_do_not_add_rounds_to_a_cycle_of_the_loop(
    round_: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the loop polls, and accepts, the more rarely the more have connected."""
    monkeypatch.setattr("kaywatch_agent.ingest.reader.TURN_SECONDS", 0.0)
    round_.add(1, 30 * SLICE)
    read = 0
    for late in range(20):
        await asyncio.sleep(0)
        assert len(round_.order) - read <= 1
        read = len(round_.order)
        round_.add(2 + late, 1)
    await round_.over()
    assert set(round_.order) == set(range(1, 22))


async def test_an_idle_process_is_read_first_and_accumulates_no_credit(
    round_: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.ingest.reader.TURN_SECONDS", 0.0)
    round_.add(1, 20 * SLICE)
    round_.add(2, 20 * SLICE)
    async with asyncio.timeout(DEADLINE):
        while len(round_.order) < 8:
            await asyncio.sleep(0)
    before = len(round_.order)
    round_.add(3, 8 * SLICE)
    await round_.over()
    after = round_.order[before:]
    assert 3 in after[:2]
    assert sorted(after[:9]) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


async def test_a_process_that_is_held_back_is_read_later_and_others_meanwhile(
    round_: Round,
) -> None:
    fast = round_.add(1, 2 * SLICE)
    fast.pause = 0.05
    sibling = round_.add(1, 1)
    async with asyncio.timeout(DEADLINE):
        while not round_.order:
            await asyncio.sleep(0)
    round_.add(2, 1)
    async with asyncio.timeout(DEADLINE):
        while 2 not in round_.order:
            await asyncio.sleep(0)
    assert round_.order[:2] == [1, 2]
    assert sibling.unread or fast.unread
    fast.pause = 0.0
    await round_.over()


async def test_after_all_data_is_read_no_process_is_throttled(round_: Round) -> None:
    fast = round_.add(1, 8 * SLICE)
    fast.pause = 60.0
    async with asyncio.timeout(DEADLINE):
        while not round_.order:
            await asyncio.sleep(0)
    fast.pause = 0.0
    await round_.reader.read_all()
    assert fast.unread == 0


async def test_a_few_messages_are_read_at_once_and_many_share_a_round(
    round_: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.ingest.reader.GATHER_SECONDS", 60.0)
    async with asyncio.timeout(DEADLINE):
        for process in range(MANY):
            lone = round_.add(1 + process, 1)
            while lone.unread:
                await asyncio.sleep(0)
    late = [round_.add(100 + process, 1) for process in range(2)]
    await asyncio.sleep(0.05)
    assert all(sender.unread for sender in late)  # until the next round is due
    await round_.reader.read_all()
    assert not any(sender.unread for sender in late)
