"""`instrument(data_sizes=True, memory=True)` records payload sizes and memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pocketflow
import pytest
from pocketflow import (
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchNode,
    BatchNode,
    Flow,
    Node,
)
from tests.client.instrument import kaygraph_standin

import kaywatch
from kaywatch.testing import CapturedEvents, capture


@pytest.fixture(autouse=True)
def _uninstrumented() -> Iterator[None]:
    yield
    kaywatch.uninstrument()


def record(call: Callable[[], Any]) -> CapturedEvents:
    with capture() as captured:
        call()
    return captured


def names(captured: CapturedEvents) -> list[str]:
    return [point.name for point in captured.points()]


class Load(Node):
    def prep(self, shared: Any) -> Any:
        return shared["given"]

    def exec(self, prep_res: Any) -> Any:
        return prep_res


class LoadAsync(AsyncNode):
    async def prep_async(self, shared: Any) -> Any:
        return shared["given"]

    async def exec_async(self, prep_res: Any) -> Any:
        return prep_res


def test_nothing_is_measured_by_default() -> None:
    kaywatch.instrument(modules=[pocketflow])

    assert names(record(lambda: Load().run({"given": "abc"}))) == []


@pytest.mark.parametrize("payload", ["abc", [1, 2, 3], {"a": None}, None])
def test_the_size_of_a_payload_is_the_length_of_its_text(payload: Any) -> None:
    kaywatch.instrument(modules=[pocketflow], data_sizes=True)
    captured = record(lambda: Flow(Load()).run({"given": payload}))

    size, rate = captured.points()
    assert (size.kind, size.name, size.graph, size.node) == (
        "observe",
        "data_size",
        "Flow[Load]",
        "Load",
    )
    assert size.value == len(str(payload))
    (load,) = captured.executions()
    assert rate.name == "processing_rate"
    # The rate's seconds end before `post`, the node's after it.
    assert rate.value >= size.value / load.seconds


def test_memory_is_that_of_the_process() -> None:
    kaywatch.instrument(modules=[pocketflow], memory=True)
    buffer = bytearray(64 * 1024 * 1024)
    buffer[:] = b"x" * len(buffer)
    (memory,) = record(lambda: Load().run({"given": 1})).points()

    assert memory.name == "memory_mb"
    assert 64 < memory.value < 10_000


def test_async_nodes_are_measured() -> None:
    kaywatch.instrument(modules=[pocketflow], data_sizes=True, memory=True)
    flow = AsyncFlow(LoadAsync())
    captured = record(lambda: asyncio.run(flow.run_async({"given": "abcd"})))

    assert names(captured) == ["data_size", "processing_rate", "memory_mb"]
    assert captured.points("data_size")[0].value == 4


def test_a_batch_is_measured_once() -> None:
    class Batch(Load, BatchNode):
        pass

    class AsyncBatch(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return shared["given"]

        async def exec_async(self, prep_res: Any) -> Any:
            return prep_res

    class Pool(kaygraph_standin.ParallelBatchNode):
        def prep(self, shared: Any) -> Any:
            return shared["given"]

        def exec(self, prep_res: Any) -> Any:
            return prep_res

    kaywatch.instrument(modules=[pocketflow, kaygraph_standin], data_sizes=True)
    shared = {"given": [1, 2, 3]}
    for call in (
        lambda: Batch(max_retries=2).run(shared),
        lambda: asyncio.run(AsyncBatch().run_async(shared)),
        lambda: Pool().run(shared),
    ):
        captured = record(call)
        assert names(captured) == ["data_size", "processing_rate"]
        assert captured.points("data_size")[0].value == len("[1, 2, 3]")


def test_an_iterator_is_not_measured() -> None:
    kaywatch.instrument(modules=[pocketflow], data_sizes=True)
    seen: list[int] = []

    class Read(Load):
        def exec(self, prep_res: Any) -> Any:
            seen.extend(prep_res)

    captured = record(lambda: Read().run({"given": iter([1, 2, 3])}))

    assert seen == [1, 2, 3]
    assert names(captured) == []


def test_an_execution_that_fails_has_no_size() -> None:
    class Wrong(Load):
        def exec(self, prep_res: Any) -> Any:
            raise LookupError

    kaywatch.instrument(modules=[pocketflow], data_sizes=True, memory=True)

    def fail() -> None:
        with pytest.raises(LookupError):
            Wrong().run({"given": 1})

    assert names(record(fail)) == []


def test_a_payload_that_can_not_be_measured_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Silent:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Quiet(Load):
        pass

    kaywatch.instrument(modules=[pocketflow], data_sizes=True)
    with caplog.at_level(logging.WARNING):
        captured = record(lambda: [Quiet().run({"given": Silent()}) for _ in range(3)])

    assert len(captured.executions("Quiet")) == 3
    assert caplog.messages == ["the payload of Quiet cannot be recorded"]


def test_measurements_can_be_enabled_and_disabled() -> None:
    original = vars(Node)["_exec"]
    kaywatch.instrument(modules=[pocketflow])
    kaywatch.instrument(modules=[pocketflow], data_sizes=True)
    kaywatch.instrument(modules=[pocketflow])  # keeps the setting
    assert "data_size" in names(record(lambda: Load().run({"given": 1})))

    kaywatch.instrument(modules=[pocketflow], memory=True, data_sizes=False)
    assert names(record(lambda: Load().run({"given": 1}))) == ["memory_mb"]

    kaywatch.uninstrument()
    assert vars(Node)["_exec"] is original
    kaywatch.instrument(modules=[pocketflow])
    assert names(record(lambda: Load().run({"given": 1}))) == []
