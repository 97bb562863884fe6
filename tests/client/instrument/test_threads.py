"""Events of threads and executors belong to the node that uses them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
from pocketflow import AsyncFlow, AsyncNode, Flow, Node

import kaywatch
from kaywatch.testing import CapturedEvents, capture


@pytest.fixture
def instrumented() -> Iterator[None]:
    kaywatch.instrument(modules=["pocketflow"])
    yield
    kaywatch.uninstrument()


def call(*_: object) -> None:
    kaywatch.record_llm(model="m", input_tokens=1, cost_usd=1.0)


def use_map() -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(call, range(5)))


def use_submit() -> None:
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            pool.submit(call).result()


def use_threads() -> None:
    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class OwnRun(threading.Thread):
    def run(self) -> None:
        call()


def use_subclass() -> None:
    threads: list[threading.Thread] = [OwnRun() for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def use_timers() -> None:
    timers = [threading.Timer(0, call) for _ in range(5)]
    for timer in timers:
        timer.start()
    for timer in timers:
        timer.join()


def use_thread_pool() -> None:
    with ThreadPool(2) as pool:
        pool.map(call, range(2))
        list(pool.imap(call, range(2)))
        pool.apply(call)


def use_nested_pools() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(use_map).result()


SHARED = ThreadPoolExecutor(1)
SHARED.submit(call).result()


def use_shared() -> None:
    list(SHARED.map(call, range(5)))


WAYS = [
    use_map,
    use_submit,
    use_threads,
    use_subclass,
    use_timers,
    use_thread_pool,
    use_nested_pools,
    use_shared,
]


def origins(captured: CapturedEvents, name: str = "llm_calls") -> Counter[str]:
    """Return how often each node made a call."""
    counts: Counter[str] = Counter()
    for point in captured.points(name):
        counts[point.node] += int(point.value)
    return counts


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_call_in_a_thread_belongs_to_the_node(
    instrumented: None, way: Callable[[], None]
) -> None:
    class Ask(Node):  # type: ignore[misc]
        def exec(self, _: object) -> None:
            way()

    with capture() as captured:
        Flow(start=Ask()).run({})
    assert origins(captured) == {"Ask": 5}


@pytest.mark.parametrize("way", ["run_in_executor", "to_thread"])
def test_a_call_of_an_asynchronous_node_in_a_thread(
    instrumented: None, way: str
) -> None:
    async def call_in_thread() -> None:
        if way == "to_thread":
            await asyncio.to_thread(call)
        else:
            await asyncio.get_running_loop().run_in_executor(None, call)

    class Ask(AsyncNode):  # type: ignore[misc]
        async def exec_async(self, _: object) -> None:
            await asyncio.gather(*(call_in_thread() for _ in range(5)))

    with capture() as captured:
        asyncio.run(AsyncFlow(start=Ask()).run_async({}))
    assert origins(captured) == {"Ask": 5}


def test_calls_of_a_failed_attempt_are_wasted(instrumented: None) -> None:
    class Ask(Node):  # type: ignore[misc]
        def exec(self, _: object) -> None:
            use_map()
            raise ValueError("a bad answer")

        def exec_fallback(self, prep_res: object, exc: Exception) -> None:
            return None

    with capture() as captured:
        Flow(start=Ask(max_retries=2)).run({})
    assert origins(captured, "llm_wasted_cost_usd") == {"Ask": 10}


def test_a_pool_that_nodes_share_keeps_them_apart(instrumented: None) -> None:
    pool = ThreadPoolExecutor(1)

    class First(Node):  # type: ignore[misc]
        def exec(self, _: object) -> None:
            pool.submit(call).result()  # starts the worker

    class Second(First):
        pass

    with capture() as captured, pool:
        first = First()
        first >> Second()
        Flow(start=first).run({})
        pool.submit(call).result()  # outside of any node
    assert origins(captured) == {"First": 1, "Second": 1, "": 1}


def test_a_pool_of_threads_that_nodes_share_keeps_them_apart(
    instrumented: None,
) -> None:
    pools: list[Any] = []

    class First(Node):  # type: ignore[misc]
        def exec(self, _: object) -> None:
            pools.append(ThreadPool(1))
            pools[0].apply(call)

    with capture() as captured:
        Flow(start=First()).run({})
        with pools[0] as pool:
            pool.apply(call)
    assert origins(captured) == {"First": 1, "": 1}


def test_an_exception_in_a_pool_passes_through(instrumented: None) -> None:
    def fail(number: int, *, by: int) -> float:
        return number / by

    class Divide(Node):  # type: ignore[misc]
        def exec(self, _: object) -> None:
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(fail, 4, by=2).result() == 2
                pool.submit(fail, 1, by=0).result()

    with capture() as captured, pytest.raises(ZeroDivisionError):
        Flow(start=Divide()).run({})
    assert [e.error for e in captured.executions("Divide")] == ["ZeroDivisionError"]


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    submit, start = ThreadPoolExecutor.submit, threading.Thread.start
    kaywatch.instrument(modules=["pocketflow"])
    assert ThreadPoolExecutor.submit is not submit
    kaywatch.instrument(modules=["pocketflow"], threads=False)
    assert (ThreadPoolExecutor.submit, threading.Thread.start) == (submit, start)
    monkeypatch.setenv("KAYWATCH_THREADS", "off")
    kaywatch.instrument(modules=["pocketflow"])
    assert ThreadPoolExecutor.submit is submit
    monkeypatch.delenv("KAYWATCH_THREADS")
    kaywatch.instrument(modules=["pocketflow"])
    kaywatch.uninstrument()
    assert (ThreadPoolExecutor.submit, threading.Thread.start) == (submit, start)
    assert "map" not in vars(ThreadPool)
