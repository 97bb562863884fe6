"""KayGraph applications are recorded, shown with a stand-in for KayGraph."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

import pytest
from tests.agents import DEADLINE
from tests.client.instrument import kaygraph_standin as kaygraph
from tests.client.instrument.kaygraph_standin import (
    AsyncBatchGraph,
    AsyncBatchNode,
    AsyncGraph,
    AsyncNode,
    AsyncParallelBatchGraph,
    AsyncParallelBatchNode,
    BaseNode,
    BatchGraph,
    Graph,
    InteractiveGraph,
    MetricsNode,
    Node,
    ParallelBatchNode,
    PersistentGraph,
    SubGraphNode,
    ValidatedNode,
)

import kaywatch
from kaywatch._instrument import naming as _naming
from kaywatch._instrument.naming import node_classes
from kaywatch.testing import capture
from kaywatch.wire import Outcome

OK, ERROR, SUPPRESSED, FALLBACK = (
    Outcome.OK,
    Outcome.ERROR,
    Outcome.SUPPRESSED,
    Outcome.FALLBACK,
)


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    assert kaywatch.instrument(modules=[kaygraph]) == [kaygraph.__name__]
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


class Step(Node):
    def exec(self, prep_res: Any) -> Any:
        return 1


class Fails(Node):
    def exec(self, prep_res: Any) -> Any:
        raise ValueError("broken")


# -- names ---------------------------------------------------------------------------


def test_an_explicit_id_is_the_name_and_a_default_one_is_not() -> None:
    first, second = Step(node_id="load_2024"), Step()
    first >> second
    captured = record(lambda: Graph(first).run({}))

    assert [e.node for e in captured.executions()] == ["load_2024", "Step"]
    (run,) = captured.runs()
    assert run.graph == "Graph[load_2024]"
    assert captured.topologies()[run.graph].nodes == ("load_2024", "Step")


def test_graphs_with_default_ids_are_named_by_their_classes() -> None:
    class Checkout(Graph):
        pass

    outer = SubGraphNode(Checkout(Step()))
    captured = record(lambda: Graph(outer).run({}))

    assert [(e.graph, e.node) for e in captured.executions()] == [
        ("Checkout", "Step"),
        ("Graph[SubGraphNode]", "SubGraphNode"),
    ]
    assert [r.graph for r in captured.runs()] == ["Checkout", "Graph[SubGraphNode]"]


def test_an_id_declared_by_the_class_is_the_name() -> None:
    class Declared(Step):
        node_id = "declared"

        def __init__(self) -> None:
            super().__init__()
            del self.node_id

    class Computed(Step):
        @property
        def node_id(self) -> str:
            return "computed"

        @node_id.setter
        def node_id(self, value: str) -> None: ...

    class Hostile(Step):
        @property
        def node_id(self) -> str:
            raise RuntimeError("no id")

        @node_id.setter
        def node_id(self, value: str) -> None: ...

        def _run(self, shared: Any) -> Any:
            return "went on"

    first, second, third = Declared(), Computed(), Hostile()
    captured = record(lambda: [node._run({}) for node in (first, second, third)])

    # Executions with and without phases are recorded apart.
    names = {execution.node for execution in captured.executions()}
    assert names == {"declared", "computed", "Hostile"}


def test_ids_that_are_not_plain_strings() -> None:
    class Ids(StrEnum):
        LOAD = "load"

    nodes: list[Any] = [Step(), Step(), Step()]
    for node, node_id in zip(nodes, (Ids.LOAD, 7, ""), strict=True):
        node.node_id = node_id
    captured = record(lambda: [node.run({}) for node in nodes])

    assert [e.node for e in captured.executions()] == ["load", "Step", "Step"]


def test_the_cache_of_ids_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_naming, "_MAX_CACHED", 3)
    captured = record(lambda: [Step().run({}) for _ in range(10)])

    assert len(captured.executions("Step")) == 10
    kind = node_classes.of(Step)
    assert kind is not None
    assert len(kind.ids) <= 3


def test_kaywatch_name_overrides_the_id() -> None:
    graph = kaywatch.name(Graph(Step(node_id="load")), "checkout")
    kaywatch.name(graph.start_node, "first")
    captured = record(lambda: graph.run({}))

    assert captured.runs()[0].graph == "checkout"
    assert captured.executions()[0].node == "first"


# -- hooks ---------------------------------------------------------------------------


def test_a_suppressed_error_takes_the_default_edge() -> None:
    class Forgives(Fails):
        def on_error(self, shared: Any, error: Exception) -> bool:
            shared["error"] = str(error)
            return True

    forgives, shared = Forgives(max_retries=2), {}
    forgives >> Step()
    captured = record(lambda: Graph(forgives).run(shared))

    first, second = captured.executions()
    assert (first.outcome, first.error, first.phase) == (
        SUPPRESSED,
        "ValueError",
        "exec",
    )
    assert (first.action, first.attempts) == ("default", 2)
    assert second.node == "Step"
    (run,) = captured.runs()
    assert (run.outcome, run.visits) == (OK, 2)
    retried, failure = captured.failures()
    assert (retried.outcome, retried.attempts) == (OK, 1)
    assert (failure.outcome, failure.message) == (SUPPRESSED, "broken")
    assert shared == {"error": "broken"}


@pytest.mark.parametrize(
    ("hook", "phase"),
    [
        ("before_prep", "prep"),
        ("prep", "prep"),
        ("after_exec", "post"),
        ("post", "post"),
    ],
)
def test_a_suppressed_error_has_the_phase_that_raised_it(hook: str, phase: str) -> None:
    def fail(*_: Any) -> None:
        raise KeyError

    hooks = {hook: fail, "on_error": lambda self, shared, error: "yes"}
    forgives = type("Forgives", (Step,), hooks)
    captured = record(lambda: forgives().run({}))

    (execution,) = captured.executions()
    assert (execution.outcome, execution.phase) == (SUPPRESSED, phase)


def test_an_error_that_on_error_does_not_suppress_is_an_error() -> None:
    captured = record(lambda: Fails().run({}), ValueError)

    (execution,) = captured.executions()
    assert (execution.outcome, execution.phase) == (ERROR, "exec")


def test_the_outermost_on_error_decides() -> None:
    class Forgives(Fails):
        def on_error(self, shared: Any, error: Exception) -> bool:
            return True

    class Strict(Forgives):
        def on_error(self, shared: Any, error: Exception) -> bool:
            super().on_error(shared, error)
            return False

    captured = record(lambda: Strict().run({}), ValueError)

    assert captured.executions()[0].outcome == ERROR


def test_a_result_of_on_error_without_a_truth_fails_in_the_framework() -> None:
    class Neither:
        def __bool__(self) -> bool:
            raise TypeError("neither")

    class Unsure(Fails):
        def on_error(self, shared: Any, error: Exception) -> Any:
            return Neither()

    captured = record(lambda: Unsure().run({}), TypeError)

    (execution,) = captured.executions()
    assert (execution.outcome, execution.error) == (ERROR, "TypeError")


async def test_an_on_error_that_is_a_coroutine_function_is_not_wrapped() -> None:
    class Waits(AsyncNode):
        async def on_error(self, shared: Any, error: Exception) -> Any:
            return True

    assert not hasattr(Waits.on_error, "__wrapped__")


def test_a_fallback_whose_post_fails_is_an_error_in_post() -> None:
    class Unlucky(Fails):
        def exec_fallback(self, prep_res: Any, exc: Exception) -> Any:
            return "instead"

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            raise KeyError

    captured = record(lambda: Unlucky().run({}), KeyError)

    (execution,) = captured.executions()
    assert (execution.outcome, execution.error, execution.phase) == (
        *(ERROR, "KeyError", "post"),
    )


# -- kinds of nodes --------------------------------------------------------------------


class FlakyPool(ParallelBatchNode):
    """Each item fails once, at the same time as the others."""

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(max_workers=size, **kwargs)
        self.barrier = threading.Barrier(size)
        self.size = size

    def prep(self, shared: Any) -> Any:
        return range(self.size)

    def exec(self, item: int) -> int:
        kaywatch.observe("item", item)
        self.barrier.wait(DEADLINE)
        raise ValueError(item)

    def exec_fallback(self, item: int, exc: Exception) -> int:
        return -item

    def _exec(self, items: Any) -> Any:
        return super()._exec(items)


def test_items_in_a_pool_of_threads_belong_to_their_node() -> None:
    captured = record(lambda: Graph(FlakyPool(8)).run({}))

    (pool,) = captured.executions()
    assert (pool.outcome, pool.attempts, pool.error) == (FALLBACK, 1, "ValueError")
    points = captured.points("item")
    assert {(p.graph, p.node) for p in points} == {("Graph[FlakyPool]", "FlakyPool")}
    assert sorted(p.value for p in points) == list(range(8))


def test_attempts_in_a_pool_are_counted_without_the_shared_counter() -> None:
    """By KayGraph's own counter, items fall back after too few attempts."""
    calls = []

    class Counted(FlakyPool):
        def exec(self, item: int) -> int:
            calls.append(item)
            time.sleep(0.001)
            raise ValueError(item)

    node = Counted(8, max_retries=3)
    # The shared counter may also cause a RuntimeError.
    with capture() as captured, contextlib.suppress(RuntimeError):
        node.run({})

    (execution,) = captured.executions()
    assert execution.attempts == 1 + len(calls) - len(set(calls))


def test_calls_of_exec_in_a_pool_belong_to_their_node() -> None:
    class Direct(FlakyPool):
        def exec(self, item: int) -> int:
            kaywatch.observe("item", item)
            return item

        def _exec(self, items: Any) -> Any:
            with ThreadPoolExecutor(4) as pool:
                return list(pool.map(self.exec, items))

    captured = record(lambda: Direct(4).run({}))

    assert {p.node for p in captured.points()} == {"Direct"}
    assert captured.executions()[0].attempts == 1


def test_the_context_of_a_pool_s_thread_is_restored() -> None:
    with ThreadPoolExecutor(1) as pool:

        class Borrows(ParallelBatchNode):
            def prep(self, shared: Any) -> Any:
                return [1]

            def exec(self, item: int) -> Any:
                return item

            def _exec(self, items: Any) -> Any:
                return [pool.submit(Node._exec, self, item).result() for item in items]

        with capture() as captured:
            Borrows().run({})
            pool.submit(kaywatch.observe, "later", 1).result()

    (point,) = captured.points("later")
    assert point.node == ""


def test_a_validated_node_is_one_execution() -> None:
    class Checked(ValidatedNode):
        failures = 2

        def validate_output(self, exec_res: Any) -> Any:
            if exec_res is None:
                raise TypeError("nothing")
            return exec_res

        def exec(self, prep_res: Any) -> Any:
            Checked.failures -= 1
            if Checked.failures:
                raise ValueError
            return prep_res

    captured = record(lambda: Checked(max_retries=3).run({}), TypeError)

    (checked,) = captured.executions()
    assert (checked.attempts, checked.error, checked.phase) == (2, "TypeError", "exec")


def test_a_metrics_node_is_one_execution_and_keeps_its_own_statistics() -> None:
    class Measured(MetricsNode):
        def exec(self, prep_res: Any) -> Any:
            return 1

    node = Measured(node_id="measured")
    captured = record(lambda: [node.run({}) for _ in range(3)])

    assert [e.node for e in captured.executions()] == ["measured"] * 3
    assert node.get_stats()["total_executions"] == 3
    assert node.get_stats()["success_rate"] == 1.0


async def test_async_nodes_and_batches() -> None:
    class Fetch(AsyncNode):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.failed: set[Any] = set()

        async def prep_async(self, shared: Any) -> Any:
            return [1, 2, 3]

        async def exec_async(self, item: Any) -> Any:
            await asyncio.sleep(0)
            if str(item) not in self.failed:
                self.failed.add(str(item))
                raise ValueError

    class OneByOne(Fetch, AsyncBatchNode):
        pass

    class AllAtOnce(Fetch, AsyncParallelBatchNode):
        pass

    first, second = Fetch(max_retries=2), OneByOne(max_retries=2)
    first >> second
    with capture() as captured:
        await AsyncGraph(first).run_async({})
        # The counter is shared: two attempts would not be enough for all items.
        await AllAtOnce(max_retries=9).run_async({})

    assert [(e.node, e.attempts) for e in captured.executions()] == [
        ("Fetch", 2),
        ("OneByOne", 4),
        ("AllAtOnce", 4),
    ]


# -- kinds of graphs -------------------------------------------------------------------


def test_each_item_of_a_batch_graph_is_a_run() -> None:
    class PerFile(BatchGraph):
        def prep(self, shared: Any) -> Any:
            return [{"file": "a"}, {"file": "b"}]

    captured = record(lambda: PerFile(Step()).run({}))

    assert [(r.graph, r.visits) for r in captured.runs()] == [("PerFile", 1)] * 2


@pytest.mark.parametrize("graph", [AsyncBatchGraph, AsyncParallelBatchGraph])
async def test_each_item_of_an_async_batch_graph_is_a_run(graph: Any) -> None:
    class PerFile(graph):
        async def prep_async(self, shared: Any) -> Any:
            return [{"file": "a"}, {"file": "b"}]

    with capture() as captured:
        await PerFile(Step()).run_async({})

    assert [(r.graph, r.visits) for r in captured.runs()] == [("PerFile", 1)] * 2


def test_a_failure_of_a_subgraph_is_a_failure_of_its_node() -> None:
    node = SubGraphNode(Graph(Fails()), node_id="payment")
    captured = record(lambda: Graph(node).run({}), ValueError)

    assert [(e.graph, e.node, e.phase) for e in captured.executions()] == [
        ("Graph[Fails]", "Fails", "exec"),
        ("Graph[payment]", "payment", "exec"),
    ]
    assert [r.outcome for r in captured.runs()] == [ERROR, ERROR]


def test_each_iteration_of_an_interactive_graph_is_a_run() -> None:
    captured = record(lambda: InteractiveGraph(Step()).run_interactive({}, 3))

    assert [r.visits for r in captured.runs()] == [1, 1, 1]


def test_a_persistent_graph_is_one_run_of_its_nodes() -> None:
    class Durable(PersistentGraph):
        pass

    first = Step(node_id="first")
    first >> Step(node_id="second")
    graph, shared = Durable(first), {"n": 1}
    captured = record(lambda: graph.run(shared))

    assert [(e.graph, e.node) for e in captured.executions()] == [
        ("Durable", "first"),
        ("Durable", "second"),
    ]
    (run,) = captured.runs()
    assert (run.graph, run.visits, run.node) == ("Durable", 2, "second")
    assert run.reason == "unknown"
    assert [json.loads(text) for text in graph.checkpoints] == [{"n": 1}] * 2


# -- examples of the monitoring page -------------------------------------------
#
# Reimplementations of the page's classes of these names: the same hooks, calls and
# state.


class AdvancedMetricsNode(MetricsNode):
    """Keeps its own statistics in `before_prep`, `after_exec` and `on_error`."""

    def __init__(self) -> None:
        super().__init__(collect_metrics=True, node_id="advanced_metrics")
        self.sizes: list[int] = []
        self.rates: list[float] = []
        self.errors: Counter[str] = Counter()

    def before_prep(self, shared: Any) -> None:
        self.set_context("begun", time.perf_counter())

    def after_exec(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        length = len(str(prep_res))
        self.sizes.append(length)
        self.rates.append(length / (time.perf_counter() - self.get_context("begun")))

    def on_error(self, shared: Any, error: Exception) -> bool:
        self.errors[type(error).__name__] += 1
        return False

    def exec(self, prep_res: Any) -> Any:
        if self.params.get("fail"):
            raise ValueError
        return prep_res


class MonitoredGraph(Graph):
    """Overrides the loop, without calling its parent's."""

    def __init__(self, start: Any = None) -> None:
        super().__init__(start)
        self.runs = 0
        self.times: dict[str, list[float]] = {}
        self.moves: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def _orch(self, shared: Any, params: Any = None) -> Any:
        self.runs += 1
        action, at = None, self.start_node
        while at is not None:
            node = copy.copy(at)
            name = node.node_id or type(node).__name__
            node.set_params(params or dict(self.params))
            begun = time.perf_counter()
            try:
                action = node._run(shared)
            except Exception:
                self.failed[name] += 1
                raise
            self.times.setdefault(name, []).append(time.perf_counter() - begun)
            self.moves[f"{name}->{action}"] += 1
            at = self.get_next_node(node, action)
        return action


class AlertingNode(MetricsNode):
    """Checks its own success rate after each execution."""

    def __init__(self, least: float = 0.8) -> None:
        super().__init__(collect_metrics=True, node_id="alerting_processor")
        self.least = least

    def after_exec(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        rate = self.get_stats().get("success_rate", 1.0)
        if rate < self.least:
            self.logger.error("ALERT: success rate %s", rate)


class StructuredLoggingNode(Node):
    """Logs before and after `_run`."""

    def __init__(self) -> None:
        super().__init__(node_id="structured_logger")

    def _run(self, shared: Any) -> Any:
        self.logger.info("node_execution_start %s", [*shared])
        try:
            action = super()._run(shared)
        except Exception as error:
            self.logger.error("node_execution_error %s", type(error).__name__)
            raise
        self.logger.info("node_execution_success %s", action)
        return action


def test_the_page_s_examples_run_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    advanced, alerting = AdvancedMetricsNode(), AlertingNode()
    logs = StructuredLoggingNode()
    advanced >> alerting >> logs
    graph = MonitoredGraph(advanced)
    captured = record(lambda: graph.run({"x": 1}))

    names = ["advanced_metrics", "alerting_processor", "structured_logger"]
    assert [e.node for e in captured.executions()] == names
    assert {e.graph for e in captured.executions()} == {"MonitoredGraph"}
    (run,) = captured.runs()
    assert (run.visits, run.node, run.reason) == (3, names[2], "no_successors")
    assert (graph.runs, list(graph.times)) == (1, names)
    assert graph.moves == dict.fromkeys([f"{name}->None" for name in names], 1)
    assert advanced.sizes == [4]
    assert advanced.get_stats()["total_executions"] == 1
    assert "node_execution_success None" in caplog.messages


def test_the_page_s_examples_fail_unchanged() -> None:
    advanced = AdvancedMetricsNode()
    graph = MonitoredGraph(advanced)
    graph.set_params({"fail": True})
    captured = record(lambda: graph.run({}), ValueError)

    assert captured.executions()[0].outcome == ERROR
    assert captured.runs()[0].outcome == ERROR
    assert advanced.errors == {"ValueError": 1}
    assert graph.failed == {"advanced_metrics": 1}


def test_a_node_of_the_base_class_has_no_retries() -> None:
    class Plain(BaseNode):
        def exec(self, prep_res: Any) -> Any:
            return 1

    captured = record(lambda: Plain().run({}))

    assert [(e.node, e.attempts) for e in captured.executions()] == [("Plain", 1)]
