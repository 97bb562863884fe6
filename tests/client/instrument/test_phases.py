"""The time of a node is split into phases, and the items of batches are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pocketflow
import pytest
from pocketflow import (
    AsyncBatchNode,
    AsyncNode,
    AsyncParallelBatchNode,
    BatchFlow,
    BatchNode,
    Flow,
    Node,
)
from tests.client.instrument import kaygraph_standin as kaygraph

import kaywatch
from kaywatch._instrument import attempts as _attempts
from kaywatch._send import packer as _packer
from kaywatch._spans import spans as _spans
from kaywatch._spans.details import ItemTiming, SpanDetails
from kaywatch.testing import Execution, capture
from kaywatch.wire import Outcome


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    kaywatch.instrument(modules=[pocketflow, kaygraph])
    yield
    kaywatch.uninstrument()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that only moves in nodes, and where PocketFlow waits."""
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.passes(seconds)

    monkeypatch.setattr(_spans, "_clock", clock)
    monkeypatch.setattr(_attempts, "_clock", clock)
    monkeypatch.setattr(pocketflow, "time", SimpleNamespace(sleep=clock.passes))
    waiting = SimpleNamespace(sleep=sleep, gather=asyncio.gather)
    monkeypatch.setattr(pocketflow, "asyncio", waiting)
    return clock


def record(call: Callable[[], Any], error: type[BaseException] | None = None) -> Any:
    """Return the executions of `call`; it has to raise `error`, if given."""
    with capture() as captured:
        if error is None:
            call()
        else:
            with pytest.raises(error):
                call()
    return captured.executions()


def record_single(
    call: Callable[[], Any], error: type[BaseException] | None = None
) -> Any:
    (executed,) = record(call, error)
    return executed


def split(executed: Execution) -> tuple[Any, ...]:
    """Return prep, exec, wait and post."""
    return executed.prep, executed.exec, executed.wait, executed.post


class Work:
    """The work of a node: time passes in each phase, and `exec` may fail."""

    def __init__(self, clock: Clock, failures: int = 0, at: str = "") -> None:
        self.clock = clock
        self.failures = failures
        self.at = at

    def does(self, phase: str, seconds: float) -> None:
        self.clock.passes(seconds)
        if phase == self.at:
            raise ValueError(phase)
        if phase == "exec" and self.failures:
            self.failures -= 1
            raise ValueError("not yet")


class Plain(Node):
    def __init__(self, work: Work, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work

    def prep(self, shared: Any) -> None:
        self.work.does("prep", 1.0)

    def exec(self, prep_res: Any) -> None:
        self.work.does("exec", 2.0)

    def post(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        self.work.does("post", 4.0)


class Awaited(AsyncNode):
    def __init__(self, work: Work, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = work

    async def prep_async(self, shared: Any) -> None:
        self.work.does("prep", 1.0)

    async def exec_async(self, prep_res: Any) -> None:
        self.work.does("exec", 2.0)

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        self.work.does("post", 4.0)


def run(node: Any) -> Callable[[], Any]:
    if isinstance(node, AsyncNode):
        return lambda: asyncio.run(node.run_async({}))
    return lambda: node.run({})


both = pytest.mark.parametrize("kind", [Plain, Awaited])


@both
def test_time_is_split_into_phases(clock: Clock, kind: Any) -> None:
    executed = record_single(run(kind(Work(clock))))

    assert split(executed) == (1.0, 2.0, 0.0, 4.0)
    assert (executed.seconds, executed.items) == (7.0, 0)


@both
def test_waiting_between_attempts_is_not_part_of_exec(clock: Clock, kind: Any) -> None:
    executed = record_single(
        run(kind(Work(clock, failures=2), max_retries=3, wait=0.25))
    )

    assert split(executed) == (1.0, 6.0, 0.5, 4.0)
    assert (executed.attempts, executed.outcome) == (3, Outcome.OK)


@both
@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("prep", (1.0, 0.0, 0.0, 0.0)),
        ("exec", (1.0, 4.0, 0.25, 0.0)),
        ("post", (1.0, 2.0, 0.0, 4.0)),
    ],
)
def test_the_rest_of_the_time_belongs_to_the_phase_of_the_error(
    clock: Clock, kind: Any, at: str, expected: Any
) -> None:
    node = kind(Work(clock, at=at), max_retries=2, wait=0.25)
    executed = record_single(run(node), ValueError)

    assert split(executed) == expected
    assert (executed.phase, executed.seconds) == (at, sum(expected))


def test_a_fallback_is_part_of_exec_and_its_error_is_recorded(clock: Clock) -> None:
    class Saved(Plain):
        def exec_fallback(self, prep_res: Any, exc: Exception) -> None:
            clock.passes(8.0)

    executed = record_single(
        run(Saved(Work(clock, failures=9), max_retries=2, wait=0.25))
    )

    assert split(executed) == (1.0, 12.0, 0.25, 4.0)
    assert (executed.outcome, executed.error, executed.phase) == (
        Outcome.FALLBACK,
        "ValueError",
        "exec",
    )


def test_after_an_error_suppressed_in_prep_all_time_is_prep(clock: Clock) -> None:
    class Calm(kaygraph.Node):
        def prep(self, shared: Any) -> None:
            clock.passes(1.0)
            raise ValueError("no")

        def on_error(self, shared: Any, error: Exception) -> bool:
            clock.passes(0.5)
            return True

    executed = record_single(run(Calm()))

    assert executed.outcome == Outcome.SUPPRESSED
    assert split(executed) == (1.5, 0.0, 0.0, 0.0)


def test_exec_that_is_entered_twice_ends_with_the_second(
    clock: Clock,
) -> None:
    class Twice(Plain):
        def _run(self, shared: Any) -> None:
            for _ in range(2):
                self.prep(shared)
                self._exec(None)
            self.post(shared, None, None)

    executed = record_single(run(Twice(Work(clock))))

    assert split(executed) == (1.0, 5.0, 0.0, 4.0)


def test_without_an_exec_the_phases_are_unknown(clock: Clock) -> None:
    class Own(Plain):
        def _run(self, shared: Any) -> None:
            clock.passes(1.0)

    executed = record_single(run(Own(Work(clock))))

    assert split(executed) == (None, None, None, None)
    assert executed.items is None


@pytest.mark.parametrize("error", [None, ValueError])
def test_the_phases_of_a_block_are_unknown(error: type[Exception] | None) -> None:
    def block() -> None:
        with kaywatch.execution("g", "n"):
            if error is not None:
                raise error

    executed = record_single(block, error)

    assert split(executed) == (None, None, None, None)
    assert executed.phase == ("exec" if error else "")


def test_end_times_follow_the_wall_clock(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Clock()
    clocks = SimpleNamespace(time=wall, perf_counter=clock)
    monkeypatch.setattr(_packer, "time", clocks)

    def end_after(seconds: float) -> float:
        clock.passes(seconds)
        wall.passes(seconds)
        end: float = record_single(run(Node())).end
        return end

    assert end_after(0.0) == 1_000.0
    assert end_after(0.5) == 1_000.5
    wall.passes(3_600.0)  # somebody sets it
    assert end_after(0.25) == 4_600.75


# -- batches ---------------------------------------------------------------------------


class Items(BatchNode):
    """Works on each item for a second; the first attempt at the first one fails."""

    def __init__(self, clock: Clock, items: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = Work(clock, failures=1)
        self.items = items

    def prep(self, shared: Any) -> Any:
        return iter(range(self.items))

    def exec(self, prep_res: Any) -> None:
        self.work.does("exec", 1.0)


class AwaitedItems(AsyncBatchNode):
    def __init__(self, clock: Clock, items: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work = Work(clock, failures=1)
        self.items = items

    async def prep_async(self, shared: Any) -> Any:
        return iter(range(self.items))

    async def exec_async(self, prep_res: Any) -> None:
        self.work.does("exec", 1.0)


@pytest.mark.parametrize("kind", [Items, AwaitedItems])
@pytest.mark.parametrize("items", [0, 1, 3])
def test_items_are_counted_and_their_waiting_is_added(
    clock: Clock, kind: Any, items: int
) -> None:
    executed = record_single(run(kind(clock, items, max_retries=2, wait=0.5)))

    assert executed.items == items
    failed = min(items, 1)
    assert split(executed) == (0.0, items + failed, 0.5 * failed, 0.0)
    assert executed.attempts == 1 + failed


def test_items_before_the_one_that_fails_are_counted(clock: Clock) -> None:
    class Second(Items):
        def exec(self, prep_res: Any) -> None:
            clock.passes(1.0)
            if prep_res == 1:
                raise ValueError("no")

    executed = record_single(run(Second(clock, 5)), ValueError)

    assert (executed.items, executed.phase) == (2, "exec")
    assert split(executed) == (0.0, 2.0, 0.0, 0.0)


def test_a_node_that_overrides_exec_is_not_a_batch(clock: Clock) -> None:
    class Checked(kaygraph.ValidatedNode):
        def exec(self, prep_res: Any) -> None:
            clock.passes(2.0)

    class Loops(Plain):
        def _exec(self, prep_res: Any) -> None:
            for _ in range(3):
                super()._exec(prep_res)

    checked = record_single(run(Checked()))
    assert (checked.items, checked.exec, checked.attempts) == (0, 2.0, 1)
    assert record_single(run(Loops(Work(clock)))).items == 3


def test_concurrent_items_wait_concurrently() -> None:
    details = SpanDetails()
    details.item_timings += [ItemTiming(1, 1.0, 2.0)] * 10
    details.add_items(exec_seconds=4.0)

    # They waited for half of their time, so the node did as well.
    assert (details.wait_seconds, details.attempts) == (2.0, 11)


def test_the_waiting_of_sequential_items_adds_up() -> None:
    details = SpanDetails()
    details.item_timings += [ItemTiming(1, 1.0, 2.0)] * 2
    details.add_items(exec_seconds=4.5)

    assert details.wait_seconds == 2.0


class Slow(kaygraph.ParallelBatchNode):
    """Each item of a pool of threads fails once."""

    def prep(self, shared: Any) -> Any:
        return [{"left": 1} for _ in range(8)]

    def _exec(self, items: Any) -> Any:
        return super()._exec(items)

    def exec(self, prep_res: Any) -> None:
        if prep_res["left"]:
            prep_res["left"] -= 1
            raise ValueError("not yet")


class AwaitedSlow(AsyncParallelBatchNode):
    async def prep_async(self, shared: Any) -> Any:
        return [{"left": 1} for _ in range(8)]

    async def exec_async(self, prep_res: Any) -> None:
        if prep_res["left"]:
            prep_res["left"] -= 1
            raise ValueError("not yet")


def test_items_in_threads_are_counted_and_the_phases_add_up() -> None:
    # The counter of attempts is shared by all items: with many, none falls back.
    executed = record_single(run(Slow(max_retries=99, wait=0.01, max_workers=4)))

    assert (executed.items, executed.attempts) == (8, 9)
    assert executed.wait > 0.0
    assert adds_up(executed)


def test_items_in_tasks_are_counted_and_the_phases_add_up() -> None:
    executed = record_single(run(AwaitedSlow(max_retries=2, wait=0.01)))

    assert (executed.items, executed.attempts) == (8, 9)
    # They wait at the same time, so the node does not wait 8 times as long.
    assert 0.0 < executed.wait <= executed.seconds
    assert adds_up(executed)


def adds_up(executed: Execution) -> bool:
    """Return whether the phases add up to the duration, within a float's 24 bits."""
    parts = [part for part in split(executed) if part is not None]
    return len(parts) == 4 and sum(parts) == pytest.approx(executed.seconds, rel=1e-6)


# -- graphs that are nodes -------------------------------------------------------------


class Inner(Flow):
    clock: Clock

    def prep(self, shared: Any) -> None:
        self.clock.passes(1.0)

    def post(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        self.clock.passes(0.5)


class InnerBatch(BatchFlow):
    clock: Clock

    def prep(self, shared: Any) -> Any:
        self.clock.passes(1.0)
        return [{"n": 1}, {"n": 2}]


def test_the_exec_of_a_nested_graph_is_its_loop(clock: Clock) -> None:
    inner = Inner(start=Plain(Work(clock)))
    inner.clock = clock
    executed = record(run(Flow(start=inner)))

    nodes = {execution.node: execution for execution in executed}
    assert split(nodes["Inner"]) == (1.0, 7.0, 0.0, 0.5)
    assert nodes["Inner"].items == 0


def test_the_items_of_a_nested_batch_graph_are_its_loops(clock: Clock) -> None:
    inner = InnerBatch(start=Plain(Work(clock)))
    inner.clock = clock
    executed = record(run(Flow(start=inner)))

    nodes = {execution.node: execution for execution in executed}
    assert split(nodes["InnerBatch"]) == (1.0, 14.0, 0.0, 0.0)
    assert nodes["InnerBatch"].items == 2
