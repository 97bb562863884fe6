"""Real PocketFlow applications are recorded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pocketflow import (
    AsyncBatchFlow,
    AsyncBatchNode,
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchFlow,
    AsyncParallelBatchNode,
    BatchFlow,
    BatchNode,
    Flow,
    Node,
)
from tests.agents import DEADLINE

import kaywatch
from kaywatch._process import process
from kaywatch.testing import CapturedEvents, capture
from kaywatch.wire import Outcome

OK, ERROR, FALLBACK, CANCELLED = (
    Outcome.OK,
    Outcome.ERROR,
    Outcome.FALLBACK,
    Outcome.CANCELLED,
)


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    assert kaywatch.instrument(modules=["pocketflow"]) == ["pocketflow"]
    yield
    kaywatch.uninstrument()


def record(call: Callable[[], Any], error: type[BaseException] | None = None) -> Any:
    """Return what `call` recorded; it has to raise `error`, if given."""
    with capture() as captured:
        if error is None:
            call()
        else:
            with pytest.raises(error):
                call()
    return captured


def most_visits(captured: CapturedEvents) -> dict[tuple[str, str], int]:
    """Return the most visits in one run, of each node that was visited again."""
    result: dict[tuple[str, str], int] = {}
    for message in captured.messages:
        for graph, node, visits in message.get("looped", []):
            result[graph, node] = max(result.get((graph, node), 0), visits)
    return result


class Load(Node):
    def prep(self, shared: dict[str, Any]) -> Any:
        return shared.get("items", 0)

    def exec(self, prep_res: Any) -> Any:
        return prep_res

    def post(self, shared: dict[str, Any], prep_res: Any, exec_res: Any) -> Any:
        return shared.get("action")


class Save(Load):
    def post(self, shared: dict[str, Any], prep_res: Any, exec_res: Any) -> Any:
        return None


class Flaky(Node):
    """Fails as often as configured, counted outside of the copies."""

    def __init__(self, failures: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.left = [failures]

    def exec(self, prep_res: Any) -> Any:
        if self.left[0] > 0:
            self.left[0] -= 1
            raise ValueError("not yet")
        return "done"


# -- single nodes ------------------------------------------------------------------


def test_a_node_that_runs_alone_belongs_to_no_graph() -> None:
    captured = record(lambda: Load().run({"action": "go"}))

    (load,) = captured.executions()
    assert (load.graph, load.node, load.outcome) == ("", "Load", OK)
    assert (load.attempts, load.action, load.error) == (1, "go", "")
    assert captured.runs() == []


def test_retries_are_attempts() -> None:
    captured = record(lambda: Flaky(2, max_retries=3).run({}))

    (flaky,) = captured.executions()
    assert (flaky.attempts, flaky.outcome, flaky.error) == (3, OK, "")


def test_errors_that_a_retry_answers_are_counted_and_described() -> None:
    captured = record(lambda: Flow(Flaky(2, max_retries=3)).run({}))

    run = captured.failures()[0].run
    assert run
    assert [
        (f.node, f.type, f.message, f.phase, f.attempts, f.outcome, f.run)
        for f in captured.failures()
    ] == [
        ("Flaky", "ValueError", "not yet", "exec", 1, OK, run),
        ("Flaky", "ValueError", "not yet", "exec", 2, OK, run),
    ]
    points = captured.points("retried_errors")
    assert [(p.node, p.labels, p.value) for p in points] == [
        ("Flaky", {"type": "ValueError"}, 1.0)
    ] * 2


def test_details_of_retried_errors_leave_room_for_failures() -> None:
    class Fails(Flaky):
        pass

    def run() -> None:
        for _ in range(200):
            Flaky(1, max_retries=2).run({})
        with pytest.raises(ValueError, match="not yet"):
            Fails(9).run({})

    captured = record(run)
    retried = [f for f in captured.failures() if f.outcome == OK]
    assert len(captured.points("retried_errors")) == 200
    assert len(retried) < 200
    assert [f.node for f in captured.failures() if f.outcome == ERROR] == ["Fails"]


def test_a_node_that_fails_at_every_attempt_is_an_error() -> None:
    captured = record(lambda: Flaky(9, max_retries=3).run({}), ValueError)

    (flaky,) = captured.executions()
    assert (flaky.attempts, flaky.outcome) == (3, ERROR)
    assert (flaky.error, flaky.phase, flaky.action) == ("ValueError", "exec", "")
    *retried, failure = captured.failures()
    assert [f.attempts for f in retried] == [1, 2]
    assert (failure.node, failure.message, failure.run) == ("Flaky", "not yet", "")


def test_a_fallback_is_recorded_with_the_error_that_it_answered() -> None:
    class Saved(Flaky):
        def exec_fallback(self, prep_res: Any, exc: Exception) -> Any:
            return "instead"

    captured = record(lambda: Saved(9, max_retries=2).run({}))

    (saved,) = captured.executions()
    assert (saved.attempts, saved.outcome, saved.action) == (2, FALLBACK, "default")
    assert (saved.error, saved.phase) == ("ValueError", "exec")
    _, failure = captured.failures()
    assert failure.outcome == FALLBACK


def test_a_fallback_that_calls_the_default_one_is_an_error() -> None:
    class Lost(Flaky):
        def exec_fallback(self, prep_res: Any, exc: Exception) -> Any:
            return super().exec_fallback(prep_res, exc)

    captured = record(lambda: Lost(9).run({}), ValueError)

    assert captured.executions()[0].outcome == ERROR


@pytest.mark.parametrize("phase", ["prep", "exec", "post"])
def test_an_error_is_recorded_with_its_phase(phase: str) -> None:
    def fail(*_: Any) -> None:
        raise KeyError(phase)

    broken = type("Broken", (Node,), {phase: fail})
    captured = record(lambda: broken().run({}), KeyError)

    (execution,) = captured.executions()
    assert (execution.error, execution.phase) == ("KeyError", phase)
    assert (execution.outcome, execution.attempts) == (ERROR, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_an_interruption_is_not_an_error(error: type[BaseException]) -> None:
    class Interrupted(Node):
        def exec(self, prep_res: Any) -> Any:
            raise error

    captured = record(lambda: Flow(start=Interrupted(max_retries=3)).run({}), error)

    (execution,) = captured.executions()
    assert (execution.outcome, execution.attempts) == (CANCELLED, 1)
    (run,) = captured.runs()
    assert (run.outcome, run.reason) == (CANCELLED, "cancelled")
    assert captured.failures() == []


def test_without_retries_there_is_one_attempt() -> None:
    captured = record(lambda: Load(max_retries=0).run({}))

    assert captured.executions()[0].attempts == 1


# -- batches -------------------------------------------------------------------------


class Batch(BatchNode):
    """Fails once for each item below ten."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.failed: set[int] = set()

    def prep(self, shared: Any) -> Any:
        return shared["items"]

    def exec(self, item: int) -> int:
        if item < 10 and item not in self.failed:
            self.failed.add(item)
            raise ValueError(item)
        return item


def test_a_batch_is_one_execution_with_the_retries_of_its_items() -> None:
    captured = record(lambda: Batch(max_retries=2).run({"items": [1, 2, 30, 40]}))

    (batch,) = captured.executions()
    assert (batch.attempts, batch.outcome) == (3, OK)


def test_an_empty_batch_is_an_execution() -> None:
    captured = record(lambda: Batch().run({"items": []}))

    (batch,) = captured.executions()
    assert (batch.attempts, batch.outcome) == (1, OK)


def test_the_fallback_of_one_item_is_the_outcome_of_the_batch() -> None:
    class Lenient(Batch):
        def exec_fallback(self, item: int, exc: Exception) -> int:
            return -item

    captured = record(lambda: Lenient().run({"items": [30, 1, 40]}))

    (batch,) = captured.executions()
    assert (batch.attempts, batch.outcome) == (1, FALLBACK)
    assert batch.error == "ValueError"


class AsyncItems(AsyncNode):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.failed: set[int] = set()

    async def prep_async(self, shared: Any) -> Any:
        return shared["items"]

    async def exec_async(self, item: Any) -> Any:
        await asyncio.sleep(0.001)
        kaywatch.observe("size", item)
        if item < 10 and item not in self.failed:
            self.failed.add(item)
            raise ValueError(item)
        return item


class OneByOne(AsyncItems, AsyncBatchNode):
    pass


class AllAtOnce(AsyncItems, AsyncParallelBatchNode):
    pass


@pytest.mark.parametrize("batch", [OneByOne, AllAtOnce])
def test_items_of_an_async_batch_count_their_own_attempts(batch: Any) -> None:
    items = [1, 2, 3, 30, 40]
    node = batch(max_retries=2)
    captured = record(lambda: asyncio.run(node.run_async({"items": items})))

    (execution,) = captured.executions()
    assert (execution.node, execution.outcome) == (batch.__name__, OK)
    assert execution.attempts == 4
    assert {point.node for point in captured.points("size")} == {batch.__name__}


# -- flows ---------------------------------------------------------------------------


def test_a_flow_is_a_run_of_its_nodes() -> None:
    load, save = Load(), Save()
    load - "go" >> save
    captured = record(lambda: Flow(start=load).run({"action": "go"}))

    assert [(e.graph, e.node, e.action) for e in captured.executions()] == [
        ("Flow[Load]", "Load", "go"),
        ("Flow[Load]", "Save", "default"),
    ]
    (run,) = captured.runs()
    assert (run.graph, run.node, run.action, run.visits) == (
        "Flow[Load]",
        "Save",
        "default",
        2,
    )
    assert (run.outcome, run.reason) == (OK, "no_successors")
    topology = captured.topologies()["Flow[Load]"]
    assert topology.start == "Load"
    assert topology.nodes == ("Load", "Save")
    assert topology.edges == (("Load", "go", "Save"),)


def test_an_unmatched_action_ends_a_run() -> None:
    load = Load()
    load - "go" >> Save()
    flow = Flow(start=load)
    with pytest.warns(UserWarning, match="Flow ends: 'stop' not found"):
        captured = record(lambda: flow.run({"action": "stop"}))

    (run,) = captured.runs()
    assert (run.reason, run.node, run.action) == ("unmatched_action", "Load", "stop")


def test_a_loop_counts_every_visit() -> None:
    class Again(Node):
        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["n"] += 1
            return "again" if shared["n"] < 4 else "done"

    again = Again()
    again - "again" >> again
    again - "done" >> Save()
    captured = record(lambda: Flow(start=again).run({"n": 0}))

    assert [e.action for e in captured.executions("Again")] == [
        *("again", "again", "again", "done")
    ]
    (run,) = captured.runs()
    assert run.visits == 5
    assert most_visits(captured) == {("Flow[Again]", "Again"): 4}
    assert ("Again", "again", "Again") in captured.topologies()["Flow[Again]"].edges


def test_a_loop_belongs_to_the_graph_that_contains_it() -> None:
    class Counts(Node):
        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["n"] += 1
            return "again" if shared["n"] % 3 else "done"

    class Ends(Node):
        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            return "again" if shared["n"] < 6 else "done"

    counts, ends = Counts(), Ends()
    counts - "again" >> counts
    counts - "done" >> Node()
    inner = Flow(start=counts)
    inner >> ends
    ends - "again" >> inner
    ends - "done" >> Save()
    captured = record(lambda: Flow(start=inner).run({"n": 0}))

    # The inner graph is a node of the outer one.
    assert most_visits(captured) == {
        ("Flow[Counts]", "Counts"): 3,
        ("Flow[Flow[Counts]]", "Flow[Counts]"): 2,
        ("Flow[Flow[Counts]]", "Ends"): 2,
    }
    assert not process.recorder.runs


def test_runs_without_revisits_have_no_loop() -> None:
    load = Load()
    load >> Save()
    captured = record(lambda: [Flow(start=load).run({}) for _ in range(3)])

    assert len(captured.runs()) == 3
    assert most_visits(captured) == {}


def test_a_node_that_fails_ends_its_run() -> None:
    load = Load()
    load >> Flaky(9)
    captured = record(lambda: Flow(start=load).run({}), ValueError)

    (run,) = captured.runs()
    assert (run.outcome, run.reason) == (ERROR, "error")
    assert (run.node, run.action, run.visits) == ("Flaky", "", 2)
    (failure,) = captured.failures()
    assert failure.graph == "Flow[Load]"
    assert failure.run


@pytest.mark.parametrize("phase", ["prep", "post"])
def test_a_flow_that_fails_outside_of_its_loop_is_a_failed_run(phase: str) -> None:
    def fail(*_: Any) -> None:
        raise KeyError(phase)

    broken = type("Broken", (Flow,), {phase: fail})
    captured = record(lambda: broken(start=Load()).run({}), KeyError)

    (run,) = captured.runs()
    assert (run.graph, run.outcome, run.reason) == ("Broken", ERROR, "error")
    assert run.visits == (1 if phase == "post" else 0)


def test_a_flow_without_a_start_is_an_empty_run() -> None:
    captured = record(lambda: Flow().run({}))

    (run,) = captured.runs()
    assert (run.graph, run.visits, run.reason) == ("Flow", 0, "unknown")


def test_falsy_nodes_end_a_flow_for_an_unknown_reason() -> None:
    class Falsy(Load):
        def __len__(self) -> int:
            return 0

    load = Load()
    load >> Falsy()
    with pytest.warns(UserWarning, match="Flow ends"):
        captured = record(lambda: Flow(start=load).run({}))

    (run,) = captured.runs()
    assert (run.visits, run.reason) == (1, "unknown")


def test_each_item_of_a_batch_flow_is_a_run() -> None:
    class PerFile(BatchFlow):
        def prep(self, shared: Any) -> Any:
            return [{"file": name} for name in "abc"]

    class Read(Node):
        def prep(self, shared: Any) -> Any:
            return self.params["file"]

        def exec(self, file: str) -> None:
            if file == "c":
                raise OSError(file)

    captured = record(lambda: PerFile(start=Read()).run({}), OSError)

    assert len(captured.executions("Read")) == 3
    assert [(r.graph, r.outcome, r.visits) for r in captured.runs()] == [
        ("PerFile", OK, 1),
        ("PerFile", OK, 1),
        ("PerFile", ERROR, 1),
    ]


def test_a_batch_flow_that_fails_before_its_items_is_a_failed_run() -> None:
    class PerFile(BatchFlow):
        def prep(self, shared: Any) -> Any:
            raise OSError

    captured = record(lambda: PerFile(start=Load()).run({}), OSError)

    (run,) = captured.runs()
    assert (run.graph, run.outcome, run.visits) == ("PerFile", ERROR, 0)


def test_a_batch_flow_that_fails_after_its_items_is_one_more_failed_run() -> None:
    class PerFile(BatchFlow):
        def prep(self, shared: Any) -> Any:
            return [{}, {}]

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            raise OSError

    captured = record(lambda: PerFile(start=Load()).run({}), OSError)

    outcomes = [(r.outcome, r.visits) for r in captured.runs()]
    assert outcomes == [(OK, 1), (OK, 1), (ERROR, 0)]


def test_a_batch_flow_without_items_has_no_run() -> None:
    captured = record(lambda: BatchFlow(start=Load()).run({}))

    assert captured.runs() == []


def test_a_nested_flow_is_a_node_and_a_run() -> None:
    class Payment(Flow):
        pass

    load, save, payment = Load(), Save(), Payment(start=Flaky(1, max_retries=2))
    load >> payment >> save
    captured = record(lambda: kaywatch.name(Flow(start=load), "checkout").run({}))

    assert [(e.graph, e.node) for e in captured.executions()] == [
        ("checkout", "Load"),
        ("Payment", "Flaky"),
        ("checkout", "Payment"),
        ("checkout", "Save"),
    ]
    inner, outer = captured.runs()
    assert (inner.graph, inner.visits) == ("Payment", 1)
    assert (outer.graph, outer.visits) == ("checkout", 3)
    assert captured.topologies()["checkout"].nodes == ("Load", "Payment", "Save")
    assert captured.topologies()["Payment"].nodes == ("Flaky",)


def test_an_error_in_a_nested_flow_is_recorded_at_every_level() -> None:
    load, inner = Load(), Flow(start=Flaky(9))
    load >> inner
    captured = record(lambda: Flow(start=load).run({}), ValueError)

    assert [(e.node, e.outcome, e.phase) for e in captured.executions()] == [
        ("Load", OK, ""),
        ("Flaky", ERROR, "exec"),
        ("Flow[Flaky]", ERROR, "exec"),
    ]
    assert [(r.graph, r.outcome) for r in captured.runs()] == [
        ("Flow[Flaky]", ERROR),
        ("Flow[Load]", ERROR),
    ]


def test_a_flow_that_a_node_runs_is_not_a_node_of_the_graph() -> None:
    class Calls(Node):
        def exec(self, prep_res: Any) -> Any:
            Flow(start=Save()).run({})
            Load().run({})

    captured = record(lambda: Flow(start=Calls()).run({}))

    assert [(e.graph, e.node) for e in captured.executions()] == [
        ("Flow[Save]", "Save"),
        ("Flow[Calls]", "Load"),  # helps within that graph,
        ("Flow[Calls]", "Calls"),
    ]
    inner, outer = captured.runs()
    assert (inner.graph, inner.visits) == ("Flow[Save]", 1)
    assert (outer.visits, outer.node) == (1, "Calls")  # but isn't visited by it


def test_a_flow_that_runs_itself_within_a_node_has_two_runs() -> None:
    class Recursive(Node):
        def exec(self, prep_res: Any) -> Any:
            if depth.pop() > 0:
                flow.run({})

    depth = [0, 1]
    flow = Flow(start=Recursive())
    captured = record(lambda: flow.run({}))

    assert [r.visits for r in captured.runs()] == [1, 1]
    assert len(captured.executions("Recursive")) == 2


# -- async flows -----------------------------------------------------------------------


class Fetch(AsyncNode):
    async def exec_async(self, prep_res: Any) -> Any:
        await asyncio.sleep(0)
        return prep_res

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        return shared.get("action")


class AsyncFlaky(Fetch):
    def __init__(self, failures: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.left = [failures]

    async def exec_async(self, prep_res: Any) -> Any:
        if self.left[0] > 0:
            self.left[0] -= 1
            raise ValueError("not yet")


async def test_an_async_flow_runs_async_and_plain_nodes() -> None:
    fetch, save = Fetch(), Save()
    fetch - "go" >> save >> AsyncFlaky(1, max_retries=2)
    with capture() as captured:
        await AsyncFlow(start=fetch).run_async({"action": "go"})

    assert [(e.node, e.action, e.attempts) for e in captured.executions()] == [
        ("Fetch", "go", 1),
        ("Save", "default", 1),
        ("AsyncFlaky", "go", 2),
    ]
    (run,) = captured.runs()
    assert (run.graph, run.visits) == ("AsyncFlow[Fetch]", 3)
    assert run.reason == "no_successors"


async def test_an_async_fallback_is_recorded() -> None:
    class Saved(AsyncFlaky):
        async def exec_fallback_async(self, prep_res: Any, exc: Exception) -> Any:
            return "instead"

    with capture() as captured:
        await Saved(9, max_retries=2).run_async({})

    (saved,) = captured.executions()
    assert (saved.attempts, saved.outcome, saved.phase) == (2, FALLBACK, "exec")


async def test_an_async_flow_run_synchronously_fails_at_its_first_async_node() -> None:
    with capture() as captured, pytest.raises(RuntimeError, match="run_async"):
        AsyncFlow(start=Fetch()).run({})

    (fetch,) = captured.executions()
    assert (fetch.error, fetch.phase) == ("RuntimeError", "prep")
    assert [r.outcome for r in captured.runs()] == [ERROR]


async def test_a_cancelled_task_is_a_cancelled_run() -> None:
    started = asyncio.Event()

    class Waits(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            started.set()
            await asyncio.sleep(60)

    with capture() as captured:
        task = asyncio.create_task(AsyncFlow(start=Waits()).run_async({}))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    (waits,) = captured.executions()
    assert (waits.outcome, waits.error) == (CANCELLED, "CancelledError")
    assert [r.reason for r in captured.runs()] == ["cancelled"]


async def test_a_nested_async_flow_is_a_node_and_a_run() -> None:
    fetch, inner = Fetch(), AsyncFlow(start=AsyncFlaky(0))
    fetch >> inner
    with capture() as captured:
        await AsyncFlow(start=fetch).run_async({})

    assert [(e.graph, e.node) for e in captured.executions()] == [
        ("AsyncFlow[Fetch]", "Fetch"),
        ("AsyncFlow[AsyncFlaky]", "AsyncFlaky"),
        ("AsyncFlow[Fetch]", "AsyncFlow[AsyncFlaky]"),
    ]
    assert [r.visits for r in captured.runs()] == [1, 2]


@pytest.mark.parametrize("flow", [AsyncBatchFlow, AsyncParallelBatchFlow])
async def test_each_item_of_an_async_batch_flow_is_a_run(flow: Any) -> None:
    class PerFile(flow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"file": name} for name in "abc"]

    fetch = Fetch()
    fetch >> Save()
    with capture() as captured:
        await PerFile(start=fetch).run_async({})

    assert [(r.graph, r.visits) for r in captured.runs()] == [("PerFile", 2)] * 3
    assert len(captured.executions()) == 6


# -- concurrency -----------------------------------------------------------------------


def test_concurrent_runs_of_a_flow_in_threads_are_separate() -> None:
    barrier = threading.Barrier(4)

    class Meets(Flaky):
        def exec(self, prep_res: Any) -> Any:
            barrier.wait(DEADLINE)
            kaywatch.observe("seen", 1)
            return super().exec(prep_res)

    first, second = Meets(0), Save()
    first >> second
    flow = Flow(start=first)

    def run_four() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(flow.run, [{} for _ in range(4)]))

    captured = record(run_four)
    assert [(r.visits, r.reason) for r in captured.runs()] == [(2, "no_successors")] * 4
    assert [e.attempts for e in captured.executions("Meets")] == [1] * 4
    assert {(p.graph, p.node) for p in captured.points()} == {("Flow[Meets]", "Meets")}


async def test_concurrent_runs_of_a_flow_in_tasks_are_separate() -> None:
    fetch = Fetch()
    fetch >> AsyncFlaky(0)
    flow = AsyncFlow(start=fetch)
    with capture() as captured:
        await asyncio.gather(*(flow.run_async({}) for _ in range(20)))

    assert [r.visits for r in captured.runs()] == [2] * 20
    assert len(captured.executions()) == 40


async def test_a_task_that_outlives_its_node_runs_flows_of_its_own() -> None:
    tasks = []

    class Spawns(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            flow = Flow(start=Save())
            tasks.append(asyncio.create_task(late(flow)))

    async def late(flow: Flow) -> None:
        await asyncio.sleep(0.01)
        flow.run({})

    with capture() as captured:
        await AsyncFlow(start=Spawns()).run_async({})
        await asyncio.gather(*tasks)

    assert [(r.graph, r.visits) for r in captured.runs()] == [
        ("AsyncFlow[Spawns]", 1),
        ("Flow[Save]", 1),
    ]


# -- overriding ------------------------------------------------------------------------


class Traced(Load):
    def _run(self, shared: Any) -> Any:
        shared["traced"] = True
        return super()._run(shared)


class TracedTwice(Traced):
    def _run(self, shared: Any) -> Any:
        return super()._run(shared) or "twice"


class Replaced(Load):
    def _run(self, shared: Any) -> Any:
        return "replaced"


class OwnLoop(Load):
    def _exec(self, prep_res: Any) -> Any:
        return self.exec(prep_res)


class CallsParent(Flaky):
    def exec(self, prep_res: Any) -> Any:
        return super().exec(prep_res)


class Mixin:
    def exec(self, prep_res: Any) -> Any:
        return super().exec(prep_res)


class Mixed(Mixin, Flaky):
    pass


class Instead:
    def exec(self, prep_res: Any) -> Any:
        if not self.params.setdefault("failed", []):
            self.params["failed"].append(1)
            raise ValueError


class MixedInstead(Instead, Node):
    pass


@pytest.mark.parametrize(
    ("node", "attempts", "action"),
    [
        (Traced(), 1, "default"),
        (TracedTwice(), 1, "twice"),
        (Replaced(), 1, "replaced"),
        (OwnLoop(), 1, "default"),
        (CallsParent(2, max_retries=3), 3, "default"),
        (Mixed(2, max_retries=3), 3, "default"),
        (MixedInstead(max_retries=3), 2, "default"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_override_is_counted_once(node: Any, attempts: int, action: str) -> None:
    captured = record(lambda: Flow(start=node).run({}))

    (execution,) = captured.executions()
    assert execution.node == type(node).__name__
    assert (execution.attempts, execution.action) == (attempts, action)
    assert [r.visits for r in captured.runs()] == [1]


class TracedFlow(Flow):
    def _orch(self, shared: Any, params: Any = None) -> Any:
        return super()._orch(shared, params)


class TracedRun(Flow):
    def _run(self, shared: Any) -> Any:
        return super()._run(shared)


class OwnOrch(Flow):
    def _orch(self, shared: Any, params: Any = None) -> Any:
        node = self.start_node
        while node is not None:
            node = self.get_next_node(node, node._run(shared))


class NeverOrch(Flow):
    def _run(self, shared: Any) -> Any:
        self.start_node._run(shared)
        return self.start_node.successors["default"]._run(shared)


@pytest.mark.parametrize(
    ("flow", "reason"),
    [
        (TracedFlow, "no_successors"),
        (TracedRun, "no_successors"),
        (OwnOrch, "no_successors"),
        (NeverOrch, "unknown"),
    ],
)
def test_an_override_of_a_flow_is_one_run(flow: Any, reason: str) -> None:
    load = Load()
    load >> Save()
    captured = record(lambda: flow(start=load).run({}))

    (run,) = captured.runs()
    assert (run.graph, run.visits, run.reason) == (flow.__name__, 2, reason)
    assert [e.graph for e in captured.executions()] == [flow.__name__] * 2


def test_a_flow_that_restarts_after_its_end_has_no_stale_reason() -> None:
    class Twice(Flow):
        def _orch(self, shared: Any, params: Any = None) -> Any:
            action = self.start_node._run(shared)
            assert self.get_next_node(self.start_node, action) is None
            return self.start_node._run(shared)

    (run,) = record(lambda: Twice(start=Load()).run({})).runs()

    assert (run.visits, run.reason) == (2, "unknown")


def test_a_flow_that_retries_has_a_run_for_each_attempt() -> None:
    class Stubborn(Flow):
        def _run(self, shared: Any) -> Any:
            try:
                return self._orch(shared)
            except ValueError:
                return self._orch(shared)

    captured = record(lambda: Stubborn(start=Flaky(1)).run({}))

    assert [(r.outcome, r.visits) for r in captured.runs()] == [(ERROR, 1), (OK, 1)]


class AsyncTraced(AsyncFlaky):
    async def _run_async(self, shared: Any) -> Any:
        return await super()._run_async(shared)

    async def _exec(self, prep_res: Any) -> Any:
        return await super()._exec(prep_res)

    async def exec_async(self, prep_res: Any) -> Any:
        return await super().exec_async(prep_res)


class AsyncTracedFlow(AsyncFlow):
    async def _run_async(self, shared: Any) -> Any:
        return await super()._run_async(shared)

    async def _orch_async(self, shared: Any, params: Any = None) -> Any:
        return await super()._orch_async(shared, params)


class AsyncOdd(AsyncFlaky):
    async def _run_async(self, *args: Any) -> Any:
        return await super()._run_async(*args)

    async def exec_async(self, *args: Any) -> Any:
        return await super().exec_async(*args)

    async def exec_fallback_async(self, *args: Any, **kwargs: Any) -> Any:
        return "instead"


class AsyncOddFlow(AsyncFlow):
    async def _orch_async(self, *args: Any, **kwargs: Any) -> Any:
        return await super()._orch_async(*args, **kwargs)


@pytest.mark.parametrize("flow", [AsyncTracedFlow, AsyncOddFlow])
async def test_an_async_override_is_counted_once(flow: Any) -> None:
    traced = AsyncTraced(2, max_retries=3)
    traced >> AsyncOdd(9, max_retries=2)
    with capture() as captured:
        await flow(start=traced).run_async({})

    assert [(e.node, e.attempts, e.outcome) for e in captured.executions()] == [
        ("AsyncTraced", 3, OK),
        ("AsyncOdd", 2, FALLBACK),
    ]
    assert [(r.graph, r.visits) for r in captured.runs()] == [(flow.__name__, 2)]


async def test_functions_called_outside_of_an_execution_are_not_recorded() -> None:
    with capture() as captured:
        assert Load()._exec(1) == Load().exec(1) == 1
        assert Batch()._exec([30]) == [30]
        assert await Fetch()._exec(1) == await Fetch().exec_async(1) == 1
        assert await OneByOne()._exec([30]) == [30]
        with pytest.raises(ValueError, match="given"):
            Load().exec_fallback(1, ValueError("given"))

    assert captured.executions() == []


def test_a_loop_that_is_called_directly_is_a_run() -> None:
    captured = record(lambda: Flow(start=Load())._orch({}))

    assert [(r.graph, r.visits) for r in captured.runs()] == [("Flow[Load]", 1)]


async def test_plain_functions_that_return_coroutines_are_recorded() -> None:
    class Plain(AsyncFlaky):
        def _run_async(self, shared: Any) -> Any:
            return super()._run_async(shared)

        def _exec(self, prep_res: Any) -> Any:
            return super()._exec(prep_res)

        def exec_async(self, prep_res: Any) -> Any:
            return super().exec_async(prep_res)

    class Instead(AsyncNode):
        def _run_async(self, shared: Any) -> Any:
            return self.other(shared)

        async def other(self, shared: Any) -> str:
            return "instead"

    class FromLoop(AsyncNode):
        def exec_async(self, prep_res: Any) -> Any:
            return asyncio.get_running_loop().create_task(asyncio.sleep(0, "task"))

    with capture() as captured:
        await Plain(2, max_retries=3).run_async({})
        assert await Instead().run_async({}) == "instead"
        await FromLoop().run_async({})

    assert [(e.node, e.attempts, e.action) for e in captured.executions()] == [
        ("Plain", 3, "default"),
        ("Instead", 1, "instead"),
        ("FromLoop", 1, "default"),
    ]


async def test_a_plain_fallback_of_an_async_node_is_recorded() -> None:
    class Saved(AsyncFlaky):
        def exec_fallback_async(self, prep_res: Any, exc: Exception) -> Any:
            return asyncio.sleep(0, "instead")

    with capture() as captured:
        await Saved(9).run_async({})

    (saved,) = captured.executions()
    assert (saved.outcome, saved.error) == (FALLBACK, "ValueError")


def test_overrides_with_other_parameters_receive_their_arguments() -> None:
    seen: list[Any] = []

    class Odd(Node):
        def _run(self, shared: Any, *, verbose: bool = False) -> Any:
            seen.append(verbose)
            return super()._run(shared)

        def exec(self, *args: Any) -> Any:
            seen.append(args)
            raise ValueError

        def exec_fallback(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(type(args[1]))

    class OddFlow(Flow):
        def _orch(self, *args: Any) -> Any:
            return super()._orch(*args)

        def get_next_node(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_next_node(*args, **kwargs)

    captured = record(lambda: OddFlow(start=Odd(max_retries=2)).run({}))

    assert seen == [False, (None,), (None,), ValueError]
    (odd,) = captured.executions()
    assert (odd.attempts, odd.outcome, odd.error) == (2, FALLBACK, "ValueError")
    assert [(r.visits, r.reason) for r in captured.runs()] == [(1, "no_successors")]


def test_parameters_keep_their_names_and_defaults() -> None:
    class Named(Node):
        def exec(self, question: str = "why?") -> str:
            return question

        def _run(self, state: Any) -> Any:
            return self.exec(question="what?"), self.exec()

    assert Named().exec() == "why?"
    assert Named()._run(state={}) == ("what?", "why?")
    with pytest.raises(TypeError, match=r"_run\(\) missing 1 required .*: 'state'"):
        Named()._run()


def test_parameters_may_have_the_names_that_wrappers_use() -> None:
    class Same(Node):
        def _run(self, outer: Any) -> Any:
            return super()._run(outer)

        def exec(self, original: Any) -> Any:
            return original

        def exec_fallback(self, result: Any, original: Any) -> Any:
            return result

    class Fails(Same):
        def exec(self, span: Any) -> Any:
            raise ValueError(span)

    captured = record(lambda: [Same()._run(outer={}), Fails().run({})])

    assert [e.outcome for e in captured.executions()] == [OK, FALLBACK]


# -- names and actions -----------------------------------------------------------------


def test_copies_keep_an_explicit_name() -> None:
    flow = Flow(start=kaywatch.name(Load(), "first"))
    captured = record(lambda: flow.run({}))

    assert captured.executions()[0].node == "first"
    assert captured.runs()[0].graph == "Flow[first]"
    assert list(captured.topologies()["Flow[first]"].nodes) == ["first"]


def test_a_start_node_that_is_named_later_renames_its_flow() -> None:
    flow = Flow(start=Load())

    def run_twice() -> None:
        flow.run({})
        kaywatch.name(flow.start_node, "first")
        flow.run({})

    assert [r.graph for r in record(run_twice).runs()] == ["Flow[Load]", "Flow[first]"]


@pytest.mark.parametrize("text", ["", None, 3])
def test_an_invalid_name_is_rejected(text: Any) -> None:
    with pytest.raises(kaywatch.ConfigurationError, match="name"):
        kaywatch.name(Load(), text)


def test_an_object_that_can_not_be_named_is_rejected() -> None:
    with pytest.raises(
        kaywatch.ConfigurationError,
        match="a list cannot be named; name a node or a graph",
    ):
        kaywatch.name([], "list")


def test_long_names_are_truncated() -> None:
    node = kaywatch.name(Load(), "n" * 500)
    captured = record(lambda: Flow(start=node).run({"action": "a" * 500}))

    (load,) = captured.executions()
    assert load.node == "n" * 200
    assert load.action == "a" * 100
    assert len(captured.runs()[0].graph) == 200


def test_actions_that_are_not_strings_are_named_by_their_type() -> None:
    class Loaded:
        def __repr__(self) -> str:
            raise AssertionError("looked into")

        __str__ = __len__ = __iter__ = __hash__ = __bool__ = __eq__ = __repr__

    class Word(str):
        __slots__ = ()

        def __getitem__(self, key: Any) -> str:
            raise AssertionError("looked into")

    actions = [None, "", "go", Word("word"), Loaded(), {"action": "go"}]
    captured = record(lambda: [Load().run({"action": a}) for a in actions])

    assert [e.action for e in captured.executions()] == [
        *("default", "default", "go", "word", "<Loaded>", "<dict>")
    ]


def test_payloads_are_not_inspected() -> None:
    class Streams(Node):
        def prep(self, shared: Any) -> Any:
            return (chunk for chunk in "abc")

        def exec(self, stream: Any) -> Any:
            shared["first"] = next(stream)
            return stream

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["rest"] = list(exec_res)

    shared: dict[str, Any] = {}
    captured = record(lambda: Flow(start=Streams()).run(shared))

    assert shared == {"first": "a", "rest": ["b", "c"]}
    assert captured.executions()[0].outcome == OK


def test_values_observed_in_a_node_are_attributed_to_it() -> None:
    class Counts(Node):
        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            kaywatch.count("rows", 3)

    captured: CapturedEvents = record(lambda: Flow(start=Counts()).run({}))

    (point,) = captured.points("rows")
    assert (point.graph, point.node, point.value) == ("Flow[Counts]", "Counts", 3)
