"""`kaywatch.execution` around generators, awaitables and shared blocks."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from tests.agents import DEADLINE

import kaywatch
from kaywatch._process import process
from kaywatch._spans.spans import current_span
from kaywatch.testing import capture
from kaywatch.wire import Outcome


def in_flight() -> int:
    return len(process.recorder.in_flight)


def test_a_generator_is_in_progress_until_it_is_exhausted() -> None:
    @kaywatch.execution("shop", "stream")
    def numbers() -> Iterator[int]:
        assert current_span.get() is not None
        yield 1
        yield 2

    before = in_flight()
    with capture() as captured:
        stream = numbers()
        assert next(stream) == 1
        assert in_flight() == before + 1
        assert current_span.get() is None  # nothing of the consumer belongs to it
        assert list(stream) == [2]
    (execution,) = captured.executions("stream")
    assert execution.outcome is Outcome.OK
    assert inspect.isgeneratorfunction(numbers)


def test_a_generator_receives_values_and_errors_and_returns() -> None:
    @kaywatch.execution("shop", "stream")
    def echo() -> Any:
        received = yield "ready"
        try:
            yield received
        except KeyError as error:
            yield error
        return "end"

    with capture() as captured:
        stream = echo()
        assert next(stream) == "ready"
        assert stream.send(5) == 5
        error = KeyError("x")
        assert stream.throw(error) is error
        with pytest.raises(StopIteration) as stop:
            next(stream)
    assert stop.value.value == "end"
    assert [e.outcome for e in captured.executions()] == [Outcome.OK]


@pytest.mark.parametrize("end", ["close", "drop"])
def test_a_generator_that_is_left_early_is_cancelled(end: str) -> None:
    closed = []

    @kaywatch.execution("shop", "stream")
    def numbers() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    with capture() as captured:
        stream: Any = numbers()
        next(stream)
        if end == "close":
            stream.close()
        del stream
        gc.collect()
    assert closed == [True]
    assert [e.outcome for e in captured.executions()] == [Outcome.CANCELLED]


def test_an_asynchronous_generator_that_raises_is_an_error() -> None:
    @kaywatch.execution("shop", "stream")
    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise ValueError("midway")

    async def consume() -> None:
        stream = numbers()
        assert await anext(stream) == 1
        assert current_span.get() is None
        with pytest.raises(ValueError, match="midway"):
            await anext(stream)

    with capture() as captured:
        asyncio.run(consume())
    (execution,) = captured.executions()
    assert (execution.outcome, execution.error) == (Outcome.ERROR, "ValueError")
    assert inspect.isasyncgenfunction(numbers)


class Later:
    """An awaitable of the application's."""

    label = "its own"

    def __await__(self) -> Any:
        return work().__await__()


async def work() -> str:
    await asyncio.sleep(0.001)
    raise KeyError("x")


@pytest.mark.parametrize(
    "call",
    [work, Later, lambda: asyncio.ensure_future(work())],
    ids=["coroutine", "awaitable", "task"],
)
def test_an_awaitable_is_recorded_with_its_error(call: Callable[[], Any]) -> None:
    def start() -> Any:
        return call()

    ordinary = kaywatch.execution("shop", "wait")(start)

    async def run() -> None:
        result = ordinary()
        assert getattr(result, "label", "its own") == "its own"
        with pytest.raises(KeyError):
            await result

    with capture() as captured:
        asyncio.run(run())
    (execution,) = captured.executions()
    assert (execution.outcome, execution.error) == (Outcome.ERROR, "KeyError")
    assert execution.seconds >= 0.001


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_coroutine_behind_an_ordinary_decorator_stays_a_coroutine() -> None:
    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inner(*args: Any) -> Any:
            return function(*args)

        return inner

    @kaywatch.execution("shop", "wait")
    @timed
    async def answer() -> int:
        return 42

    with capture() as captured:
        assert asyncio.run(answer()) == 42
        answer()
        gc.collect()
    outcomes = [e.outcome for e in captured.executions()]
    assert outcomes == [Outcome.OK, Outcome.CANCELLED]


def test_a_future_of_a_thread_is_recorded_when_it_is_done() -> None:
    future: Future[int] = Future()
    submit = kaywatch.execution("shop", "wait")(lambda: future)
    with capture() as captured:
        assert submit() is future
        assert not captured.executions()
        thread = threading.Thread(target=future.set_exception, args=(OSError("gone"),))
        thread.start()
        thread.join()
    assert [e.error for e in captured.executions()] == ["OSError"]


def test_one_block_counts_every_thread() -> None:
    block = kaywatch.execution("shop", "shared")
    together = threading.Barrier(5)

    def use(number: int) -> None:
        with block:
            block.action = str(number)
            together.wait(DEADLINE)
            assert block.action == str(number)

    with capture() as captured:
        threads = [threading.Thread(target=use, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(e.action for e in captured.executions()) == list("01234")


def test_one_block_counts_every_level() -> None:
    block = kaywatch.execution("shop", "nested")

    def enter(levels: int) -> None:
        with block:
            if levels:
                enter(levels - 1)

    with capture() as captured:
        enter(4)
    assert len(captured.executions()) == 5
    assert current_span.get() is None


def test_one_block_counts_every_task() -> None:
    block = kaywatch.execution("shop", "shared")

    async def use() -> None:
        with block:
            await asyncio.sleep(0)

    async def run() -> None:
        await asyncio.gather(*(use() for _ in range(5)))

    with capture() as captured:
        asyncio.run(run())
    assert len(captured.executions()) == 5


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_is_timed_to_its_end(is_async: bool) -> None:
    async def events() -> AsyncIterator[int]:
        yield 1

    async def consume(stream: Any) -> list[int]:
        return [item async for item in stream]

    with capture() as captured:
        block = kaywatch.execution("chat", "answer")
        if is_async:
            stream: Any = block.stream(events())
            assert not captured.executions()
            assert asyncio.run(consume(stream)) == [1]
        else:
            items = block.stream(iter([1, 2]))
            assert not captured.executions()
            assert list(items) == [1, 2]
    assert [e.node for e in captured.executions()] == ["answer"]


def test_a_block_is_pickled_by_its_names() -> None:
    block = kaywatch.execution("shop", "pay")
    with block:
        copy = pickle.loads(pickle.dumps(block))
    assert (copy.graph, copy.node) == ("shop", "pay")
