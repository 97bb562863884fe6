"""Instrumentation changes nothing for the application, and can be undone."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import gc
import importlib
import inspect
import logging
import pickle
import re
import sys
import threading
import traceback
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pocketflow
import pytest
from pocketflow import AsyncFlow, AsyncNode, BatchFlow, BatchNode, Flow, Node
from tests.agents import DEADLINE
from tests.client.instrument import kaygraph_standin as kaygraph

import kaywatch
from kaywatch._instrument import attempts as _attempts
from kaywatch._instrument import patching as _patching
from kaywatch._instrument import runs as _runs
from kaywatch._instrument import topology as _topology
from kaywatch._instrument.naming import node_classes
from kaywatch._process import process
from kaywatch._spans import spans as _spans
from kaywatch._spans.runs import current_run
from kaywatch.testing import capture

MODULES = [pocketflow, kaygraph]


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    settings = process.settings
    yield
    kaywatch.uninstrument()
    process.settings = settings


class Mixin:
    def exec(self, prep_res: Any) -> Any:
        return super().exec(prep_res)


class Step(Node):
    def exec(self, prep_res: Any) -> Any:
        return self.params.get("result")

    def post(self, shared: dict[str, Any], prep_res: Any, exec_res: Any) -> Any:
        shared.setdefault("visited", []).append(type(self).__name__)
        return shared.get("action")


class Mixed(Mixin, Step):
    pass


class Fails(Step):
    def exec(self, prep_res: Any) -> Any:
        warnings.warn("about to fail", RuntimeWarning, stacklevel=1)
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer", 1) from error


class FailsIn(Step):
    def __init__(self, phase: str, error: BaseException, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.phase = phase
        self.error = error

    def prep(self, shared: Any) -> Any:
        self.fail("prep")

    def exec(self, prep_res: Any) -> Any:
        self.fail("exec")

    def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        self.fail("post")

    def fail(self, phase: str) -> None:
        if self.phase == phase:
            raise self.error


class Fetch(AsyncNode):
    async def exec_async(self, prep_res: Any) -> Any:
        await asyncio.sleep(0)
        return prep_res

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        return shared.get("action")


# -- with and without ----------------------------------------------------------------


def chain(flow: Any, *nodes: Any) -> Any:
    for one, other in pairwise(nodes):
        one >> other
    return flow(nodes[0])


def a_flow(shared: Any) -> Any:
    return chain(Flow, Step(), Mixed(), Step()).run(shared)


def an_unmatched_action(shared: Any) -> Any:
    shared["action"] = "nowhere"
    return chain(Flow, Step(), Step()).run(shared)


def a_node_with_successors(shared: Any) -> Any:
    node = Step()
    node >> Step()
    return node.run(shared)


def a_failure(shared: Any) -> Any:
    return chain(Flow, Step(), Fails(max_retries=2)).run(shared)


def a_fallback(shared: Any) -> Any:
    class Saved(Fails):
        def exec_fallback(self, prep_res: Any, exc: Exception) -> Any:
            shared["exc"] = (type(exc), exc.args)

    return chain(Flow, Saved(max_retries=2), Step()).run(shared)


def a_system_exit(shared: Any) -> Any:
    return Flow(start=FailsIn("exec", SystemExit(3), max_retries=3)).run(shared)


def a_stop_iteration(shared: Any) -> Any:
    return Flow(start=FailsIn("prep", StopIteration("x"))).run(shared)


def a_failing_post(shared: Any) -> Any:
    return Flow(start=FailsIn("post", OSError(2, "gone"))).run(shared)


def no_retries(shared: Any) -> Any:
    return Step(max_retries=0).run(shared)


def a_batch(shared: Any) -> Any:
    class Batch(BatchNode):
        def prep(self, shared: Any) -> Any:
            return iter([1, 2, 3])

        def exec(self, item: int) -> int:
            return item * 2

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["doubled"] = exec_res

    return Flow(start=Batch()).run(shared)


def a_batch_flow(shared: Any) -> Any:
    class PerFile(BatchFlow):
        def prep(self, shared: Any) -> Any:
            return [{"result": 1}, {"result": 2}]

    return PerFile(start=Step()).run(shared)


def an_async_flow(shared: Any) -> Any:
    return asyncio.run(chain(AsyncFlow, Fetch(), Step(), Fetch()).run_async(shared))


def an_async_flow_run_the_plain_way(shared: Any) -> Any:
    return AsyncFlow(start=Fetch()).run(shared)


def an_async_failure(shared: Any) -> Any:
    class Broken(Fetch):
        async def exec_async(self, prep_res: Any) -> Any:
            raise asyncio.CancelledError("stop")

    return asyncio.run(AsyncFlow(start=Broken(max_retries=2)).run_async(shared))


def a_loop_that_is_wired_wrongly(shared: Any) -> Any:
    return Flow(start="no node").run(shared)


def a_flow_without_a_start(shared: Any) -> Any:
    return Flow().run(shared)


def a_call_that_lacks_an_argument(shared: Any) -> Any:
    return Step()._run()


def a_call_with_too_many_arguments(shared: Any) -> Any:
    return Step().exec(1, 2)


def a_graph_with_hooks(shared: Any) -> Any:
    class Forgives(kaygraph.Node):
        def exec(self, prep_res: Any) -> Any:
            raise ValueError("forgiven")

        def on_error(self, shared: Any, error: Exception) -> bool:
            shared["forgiven"] = error.args
            return True

    first = Forgives(node_id="first", max_retries=2)
    first >> kaygraph.MetricsNode(node_id="second")
    return kaygraph.Graph(first).run(shared)


def an_unmatched_action_of_a_graph(shared: Any) -> Any:
    class Ends(kaygraph.Node):
        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            return "end"

    first = Ends(node_id="first")
    first >> kaygraph.Node(node_id="second")
    return kaygraph.Graph(first).run(shared)


def a_graph_with_wrong_params(shared: Any) -> Any:
    graph = kaygraph.Graph(kaygraph.Node())
    return graph._orch(shared, [1])


def a_deep_copy_of_a_lock(shared: Any) -> Any:
    shared["lock"] = threading.Lock()
    return kaygraph.SubGraphNode(kaygraph.Graph(kaygraph.Node())).run(shared)


def a_persistent_graph(shared: Any) -> Any:
    first = kaygraph.Node(node_id="first")
    first >> kaygraph.Node(node_id="second")
    return kaygraph.PersistentGraph(first).run(shared)


def warnings_about_the_callers(shared: Any) -> Any:
    class Warns(Step):
        def exec(self, prep_res: Any) -> Any:
            for level in range(1, 9):
                warnings.warn(f"level {level}", stacklevel=level)

    return Flow(start=Flow(start=Warns())).run(shared)


def an_async_warning_about_the_callers(shared: Any) -> Any:
    class Warns(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            await asyncio.sleep(0)
            for level in range(1, 7):
                warnings.warn(f"level {level}", stacklevel=level)

    return asyncio.run(AsyncFlow(start=Warns()).run_async(shared))


def local_variables(shared: Any) -> Any:
    class Prompts(Step):
        def exec(self, prep_res: Any) -> Any:
            return "{prep_res}".format(**locals()), sorted(locals())

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["text"] = exec_res

    return Flow(start=Prompts()).run(shared)


def an_exception_with_a_hostile_text(shared: Any) -> Any:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    return Flow(start=FailsIn("exec", Unspeakable(1))).run(shared)


def a_class_that_watches_its_attributes(shared: Any) -> Any:
    class Watches(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            raise AttributeError(name)

    class Watched(Step, metaclass=Watches):
        def exec(self, prep_res: Any) -> Any:
            return 1

    return Flow(start=Watched()).run(shared)


def a_class_with_arguments(shared: Any) -> Any:
    class Registered(Step):
        def __init_subclass__(cls, label: str, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            cls.label = label

    class Labelled(Registered, label="x"):
        pass

    Flow(start=Labelled()).run(shared)
    return Labelled.label


def a_class_with_wrong_arguments(shared: Any) -> Any:
    class Wrong(Step, label="x"):
        pass


SCENARIOS: list[Callable[[Any], Any]] = [
    a_flow,
    an_unmatched_action,
    a_node_with_successors,
    a_failure,
    a_fallback,
    a_system_exit,
    a_stop_iteration,
    a_failing_post,
    no_retries,
    a_batch,
    a_batch_flow,
    an_async_flow,
    an_async_flow_run_the_plain_way,
    an_async_failure,
    a_loop_that_is_wired_wrongly,
    a_flow_without_a_start,
    a_call_that_lacks_an_argument,
    a_call_with_too_many_arguments,
    a_graph_with_hooks,
    an_unmatched_action_of_a_graph,
    a_graph_with_wrong_params,
    a_deep_copy_of_a_lock,
    a_persistent_graph,
    warnings_about_the_callers,
    an_async_warning_about_the_callers,
    local_variables,
    an_exception_with_a_hostile_text,
    a_class_that_watches_its_attributes,
    a_class_with_arguments,
    a_class_with_wrong_arguments,
]


def describe_chain(error: BaseException | None) -> list[Any]:
    """Describe an exception with its traceback, causes and contexts."""
    if error is None:
        return []
    described = [type(error).__name__, _plain(error.args), error.__suppress_context__]
    steps = traceback.format_tb(error.__traceback__)
    # The one frame of ours: of a class definition that fails.
    described += [step for step in steps if _patching.__file__ not in step]
    return [
        *described,
        describe_chain(error.__cause__),
        describe_chain(error.__context__),
    ]


def _plain(value: Any) -> str:
    return re.sub(r"0x[0-9a-f]+|\d{9,}", "#", repr(value))


def observe(scenario: Callable[[Any], Any], caplog: pytest.LogCaptureFixture) -> Any:
    """Return everything that an application observes of a scenario."""
    shared: dict[str, Any] = {}
    result, error = None, None
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            result = scenario(shared)
        except BaseException as raised:
            error = raised
    return {
        "result": _plain(result),
        "error": describe_chain(error),
        "warnings": [
            (w.category, str(w.message), w.filename, w.lineno) for w in warned
        ],
        "logs": [(r.name, r.levelname, _plain(r.getMessage())) for r in caplog.records],
        "shared": _plain(shared),
    }


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_an_application_sees_no_difference(
    scenario: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    before = observe(scenario, caplog)
    kaywatch.instrument(modules=MODULES)
    with capture():
        during = observe(scenario, caplog)
    kaywatch.uninstrument()
    after = observe(scenario, caplog)

    assert during == before
    assert after == before
    assert _spans.current_span.get() is None
    assert current_run.get() is None
    assert process.recorder.in_flight == set()
    assert _attempts._batches == {}


def nested(graph_class: type, node: Any, levels: int) -> Any:
    for _ in range(levels):
        node = graph_class(node)
    return node


class BatchOfOne(BatchFlow):
    def prep(self, shared: Any) -> Any:
        return [{}]


class GraphOfOne(kaygraph.BatchGraph):
    def prep(self, shared: Any) -> Any:
        return [{}]


def run(graph: Any) -> None:
    graph.run({})


def run_async(graph: Any) -> None:
    asyncio.run(graph.run_async({}))


@pytest.mark.parametrize(
    ("graph", "node", "run"),
    [
        (Flow, Step, run),
        (BatchOfOne, Step, run),
        (AsyncFlow, Fetch, run_async),
        (kaygraph.Graph, kaygraph.Node, run),
        (GraphOfOne, kaygraph.Node, run),
        (kaygraph.AsyncGraph, kaygraph.AsyncNode, run_async),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_graphs_can_be_nested_as_deeply(
    graph: type, node: type, run: Callable[[Any], None]
) -> None:
    """Two frames a level, and a few in the innermost node for the hooks."""
    depth = len(inspect.stack())
    levels = (sys.getrecursionlimit() - depth) // 2 - 40
    kaywatch.instrument(modules=MODULES)
    with capture() as recorded:
        run(nested(graph, node(), levels))
    assert len(recorded.runs()) == levels


# -- uninstrument ----------------------------------------------------------------------


def classes() -> list[type]:
    family = {Mixin}
    for root in (pocketflow.BaseNode, kaygraph.BaseNode):
        family.update(_patching._with_subclasses(root))
    return sorted(family, key=lambda cls: (cls.__module__, cls.__qualname__))


def snapshot() -> list[Any]:
    # `copy.copy` leaves `__slotnames__` on a class.
    return [
        (cls, [item for item in vars(cls).items() if item[0] != "__slotnames__"])
        for cls in classes()
    ]


def test_uninstrument_restores_every_attribute() -> None:
    gc.collect()
    before = snapshot()
    kaywatch.instrument(modules=MODULES)
    assert snapshot() != before
    kaywatch.uninstrument()

    assert snapshot() == before


def test_instrumenting_twice_is_instrumenting_once() -> None:
    gc.collect()
    before = snapshot()
    for _ in range(2):
        assert kaywatch.instrument(modules=[pocketflow]) == ["pocketflow"]
    with capture() as captured:
        Flow(start=Step()).run({})
    kaywatch.uninstrument()
    kaywatch.uninstrument()

    assert len(captured.executions()) == 1
    assert snapshot() == before


def test_an_init_subclass_of_the_framework_is_restored() -> None:
    seen: list[type] = []

    class Root:
        prep = exec = post = _run = lambda self, given: None

        def __init_subclass__(cls) -> None:
            seen.append(cls)

    module = types.ModuleType("own")
    module.Root = Root
    original = vars(Root)["__init_subclass__"]
    kaywatch.instrument(modules=[module])
    one = type("One", (Root,), {})
    assert vars(Root)["__init_subclass__"] is not original
    kaywatch.uninstrument()

    assert vars(Root)["__init_subclass__"] is original
    assert seen == [one]


def test_the_application_s_own_wrappers_stay() -> None:
    class Wrapped(Node):
        def exec(self, prep_res: Any) -> Any:
            return 1

    kaywatch.instrument(modules=[pocketflow])
    ours = Wrapped.exec

    @functools.wraps(ours)
    def original(self: Any, prep_res: Any) -> Any:
        return ours(self, prep_res) + 1

    Wrapped.exec = original
    with capture() as captured:
        Wrapped().run({})
    kaywatch.uninstrument()

    assert Wrapped.exec is original
    assert Wrapped().exec(None) == 2
    assert len(captured.executions()) == 1


def test_a_leftover_wrapper_records_nothing() -> None:
    kaywatch.instrument(modules=[pocketflow])
    run = Step()._run
    kaywatch.uninstrument()
    with capture() as captured:
        run({})

    assert captured.executions() == []


def test_executions_in_progress_at_uninstrument_are_recorded() -> None:
    class Undoes(Step):
        def exec(self, prep_res: Any) -> Any:
            kaywatch.uninstrument()

    kaywatch.instrument(modules=[pocketflow])
    with capture() as captured:
        chain(Flow, Step(), Undoes(), Step()).run({})

    assert [e.node for e in captured.executions()] == ["Step", "Undoes"]
    assert [r.visits for r in captured.runs()] == [2]


# -- settings --------------------------------------------------------------------------


def test_nothing_is_patched_when_metrics_are_off() -> None:
    before = snapshot()
    kaywatch.configure(enabled=False)

    assert kaywatch.instrument(modules=MODULES) == []
    assert snapshot() == before


def disable_metrics() -> None:
    process.settings = process.settings._replace(enabled=False)


def test_a_run_during_which_metrics_are_disabled_is_recorded_with_inner_graphs() -> (
    None
):
    class Disables(Node):  # type: ignore[misc]
        def exec(self, prepared: Any) -> None:
            disable_metrics()

    kaywatch.instrument(modules=[pocketflow])
    settings = process.settings
    with capture() as captured:
        inner = kaywatch.name(Flow(start=Step()), "inner")
        kaywatch.name(chain(Flow, Disables(), inner), "outer").run({})
        process.settings = process.settings._replace(enabled=settings.enabled)

    graphs = [(e.graph, e.node) for e in captured.executions()]
    assert graphs == [("outer", "Disables"), ("inner", "Step"), ("outer", "inner")]
    assert [(r.graph, r.visits) for r in captured.runs()] == [
        ("inner", 1),
        ("outer", 2),
    ]


def test_a_task_that_outlives_its_run_records_nothing_while_metrics_are_disabled() -> (
    None
):
    tasks = []

    async def work() -> None:
        Flow(start=Step()).run({})
        Step().run({})

    class Spawns(AsyncNode):  # type: ignore[misc]
        async def exec_async(self, prepared: Any) -> None:
            tasks.append(asyncio.create_task(work()))

    async def main() -> None:
        await AsyncFlow(start=Spawns()).run_async({})
        disable_metrics()
        await tasks[0]

    kaywatch.instrument(modules=[pocketflow])
    settings = process.settings
    with capture() as captured:
        asyncio.run(main())
        process.settings = process.settings._replace(enabled=settings.enabled)

    assert [e.node for e in captured.executions()] == ["Spawns"]


def test_metrics_can_be_disabled_and_enabled_again() -> None:
    kaywatch.instrument(modules=[pocketflow])
    with capture() as captured:
        flow = Flow(start=Step())
        flow.run({})
        process.settings = process.settings._replace(enabled=False)
        flow.run({})
        process.settings = process.settings._replace(enabled=True)
        flow.run({})

    assert len(captured.executions()) == len(captured.runs()) == 2


def test_settings_are_passed_on() -> None:
    kaywatch.instrument(
        service="shop",
        endpoint="unix:///nowhere/ingest.sock",
        tags={"zone": "b"},
        modules=[pocketflow],
    )

    assert process.settings.service == "shop"
    assert process.settings.endpoint == "unix:///nowhere/ingest.sock"
    assert process.settings.tags == {"zone": "b"}


def test_an_invalid_endpoint_changes_nothing() -> None:
    before = snapshot()
    with pytest.raises(kaywatch.ConfigurationError):
        kaywatch.instrument(endpoint="carrier-pigeon://loft", modules=[pocketflow])

    assert snapshot() == before


def test_a_missing_framework_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert kaywatch.instrument(modules=["no_such_framework", empty_module()]) == []

    (record,) = caplog.records
    assert record.name == "kaywatch"
    assert "no_such_framework, empty" in record.getMessage()


def test_a_framework_is_imported_by_the_application_only(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_framework.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)

    instrumented = kaywatch.instrument(modules=["broken_framework", "pocketflow"])
    assert instrumented == ["pocketflow"]
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("broken_framework")


def empty_module() -> types.ModuleType:
    return types.ModuleType("empty")


def test_both_frameworks_are_instrumented_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "kaygraph", kaygraph)

    assert kaywatch.instrument() == [kaygraph.__name__, "pocketflow"]


# -- signatures ------------------------------------------------------------------------


def test_functions_look_as_before() -> None:
    before = {name: getattr(Fetch, name) for name in ("exec_async", "_exec", "exec")}
    signatures = {name: inspect.signature(f) for name, f in before.items()}
    kaywatch.instrument(modules=[pocketflow])

    for name, function in before.items():
        now = getattr(Fetch, name)
        assert now is not function
        assert inspect.signature(now) == signatures[name]
        assert inspect.iscoroutinefunction(now) == inspect.iscoroutinefunction(function)
        assert now.__qualname__ == function.__qualname__
        assert now.__code__.co_varnames[:2] == function.__code__.co_varnames[:2]
    assert pickle.loads(pickle.dumps(Fetch.exec_async)) is Fetch.exec_async


def test_nodes_can_be_copied_and_pickled() -> None:
    kaywatch.instrument(modules=[pocketflow])
    flow = kaywatch.name(chain(Flow, Step(), Step()), "copied")
    with capture() as captured:
        for same in (copy.copy(flow), copy.deepcopy(flow)):
            same.run({})
        pickle.loads(pickle.dumps(flow)).run({})

    assert [r.graph for r in captured.runs()] == ["copied"] * 3


# -- memory ----------------------------------------------------------------------------


def test_objects_are_released_as_early_as_before() -> None:
    kaywatch.instrument(modules=[pocketflow])

    class Payload:
        pass

    died: list[Any] = []

    class Holds(Node):
        def fail(self) -> None:
            payload = Payload()
            died.append(weakref.ref(payload))
            raise ValueError(payload)

        def prep(self, shared: Any) -> Any:
            self.fail()

    class Answers(Holds):
        def prep(self, shared: Any) -> Any: ...

        def exec(self, prep_res: Any) -> Any:
            self.fail()

        def exec_fallback(self, prep_res: Any, exc: Exception) -> Any: ...

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            assert died[-1]() is None

    def run_both() -> None:
        failing = Flow(start=Holds())
        died.append(weakref.ref(failing.start_node))
        with contextlib.suppress(ValueError):
            failing.run({})
        Flow(start=Answers()).run({})

    gc.disable()
    try:
        with capture():
            run_both()
        assert [reference() for reference in died] == [None] * 3
    finally:
        gc.enable()


def test_classes_and_graphs_of_one_request_are_not_kept() -> None:
    kaywatch.instrument(modules=[pocketflow])

    def request() -> Any:
        class Local(Step):
            def exec(self, prep_res: Any) -> Any:
                return super().exec(prep_res)

        class LocalFlow(Flow):
            pass

        LocalFlow(start=Local()).run({})
        return weakref.ref(Local), weakref.ref(LocalFlow)

    tables = (
        node_classes.nodes,
        node_classes.graphs,
        _runs.topology_reporter._start_nodes,
    )
    sizes = [len(table) for table in tables]
    with capture() as captured:
        references = [reference for _ in range(5) for reference in request()]
    gc.collect()

    assert len(captured.executions("Local")) == 5
    assert [reference() for reference in references] == [None] * 10
    assert [len(table) for table in tables] == sizes


def test_an_abandoned_coroutine_closes_its_execution() -> None:
    kaywatch.instrument(modules=[pocketflow])

    class Waits(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            await asyncio.sleep(60)

    async def abandon() -> None:
        running = AsyncFlow(start=Waits()).run_async({})
        context = asyncio.get_running_loop()
        task = context.create_task(_steps(running))
        await task

    with capture() as captured:
        asyncio.run(abandon())

    assert [e.outcome.name for e in captured.executions()] == ["CANCELLED"]
    assert process.recorder.in_flight == set()
    assert process.recorder.runs == set()


async def _steps(coroutine: Any) -> None:
    """Run a coroutine to its first wait, and drop it in another context."""
    coroutine.send(None)
    await asyncio.to_thread(coroutine.close)


def test_nodes_in_progress_are_known() -> None:
    kaywatch.instrument(modules=[pocketflow])
    seen: list[Any] = []

    class Looks(Step):
        def exec(self, prep_res: Any) -> Any:
            seen.extend(f.in_flight() for f in process.recorder.in_flight)

    with capture():
        Flow(start=Looks()).run({})

    (execution,) = seen
    assert (execution.graph, execution.node) == ("Flow[Looks]", "Looks")
    assert execution.started >= execution.run_started > 1e9
    assert execution.failed_attempts == 0
    assert execution.run > 0
    assert execution.visits == 0
    assert execution.cost_usd == execution.tokens == 0


def test_two_failures_in_a_row_are_known_until_one_success() -> None:
    kaywatch.instrument(modules=[pocketflow])
    seen: list[int] = []
    # Whether each call fails: within an execution, and from one to the next.
    plan = [True, True, False, True, True, True, True, False, False]

    class Calls(Node):
        def exec(self, prep_res: Any) -> None:
            seen.extend(f.failed_attempts() for f in process.recorder.in_flight)
            if plan.pop(0):
                raise ValueError

        def exec_fallback(self, prep_res: Any, exc: Exception) -> None:
            pass

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> str:
            seen.extend(f.failed_attempts() for f in process.recorder.in_flight)
            return "again" if plan else "done"

    calls, other = Calls(max_retries=3), Step()
    calls - "again" >> calls
    calls - "done" >> other
    with capture():
        Flow(start=calls).run({})

    # A success in the third call; a fallback after three; a success in the second; one.
    assert seen == [0, 1, 2, 0, *(0, 1, 2, 3), *(3, 4, 0), *(0, 0)]


def test_a_loop_is_known_while_it_runs() -> None:
    kaywatch.instrument(modules=[pocketflow])
    seen: list[Any] = []

    class Decides(Step):
        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> str:
            shared["n"] += 1
            seen.extend(run.revisits() for run in process.recorder.runs)
            return "search" if shared["n"] < 3 else "done"

    class Searches(Step):
        pass

    decides, searches = Decides(), Searches()
    decides - "search" >> searches
    searches >> decides
    decides - "done" >> Step()
    with capture():
        Flow(start=decides).run({"n": 0})

    first, second, third = seen
    assert first is second is None  # the second visit hasn't ended yet
    assert third.visits == 4
    assert process.recorder.runs == set()


# -- classes that are hard to find -----------------------------------------------------


def test_classes_behind_an_init_subclass_that_ends_the_chain_are_found() -> None:
    kaywatch.instrument(modules=[pocketflow])

    class Ends(Node):
        def __init_subclass__(cls) -> None:
            pass

    class Behind(Ends):
        failed: bool = False

        def exec(self, prep_res: Any) -> Any:
            if not Behind.failed:
                Behind.failed = True
                raise ValueError

    with capture() as captured:
        Flow(start=Behind(max_retries=2)).run({})

    assert [(e.node, e.attempts) for e in captured.executions()] == [("Behind", 2)]


def test_a_node_that_can_not_be_recorded_still_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kaywatch.instrument(modules=[pocketflow])

    class Hostile(Step):
        hidden = False

        @property
        def __dict__(self) -> Any:
            if self.hidden:
                raise RuntimeError("private")
            return super().__dict__

    class HostileFlow(Flow):
        @property
        def __dict__(self) -> Any:
            raise RuntimeError("private")

    node, shared = Hostile(), {}
    Hostile.hidden = True
    with capture() as captured:
        node._run(shared)
        node._run(shared)
        HostileFlow(start=Step()).run({})

    assert shared == {"visited": ["Hostile", "Hostile"]}
    assert [e.node for e in captured.executions()] == ["Step"]
    messages = [r.getMessage() for r in caplog.records]
    assert messages == [
        "node Hostile cannot be recorded",
        "graph HostileFlow cannot be recorded",
    ]


def test_callables_that_are_not_functions_are_not_wrapped() -> None:
    class Static(Node):
        @staticmethod
        def exec(prep_res: Any) -> Any:
            return 1

    class Call:
        def __call__(self, prep_res: Any) -> Any:
            return 2

    class Called(Node):
        exec = Call()

    before = [vars(Static)["exec"], vars(Called)["exec"]]
    kaywatch.instrument(modules=[pocketflow])
    assert [vars(Static)["exec"], vars(Called)["exec"]] == before
    with capture() as captured:
        Static().run({})
        Called().run({})

    assert [e.node for e in captured.executions()] == ["Static", "Called"]


# -- topologies ------------------------------------------------------------------------


def test_a_graph_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kaywatch.instrument(modules=[pocketflow])
    walked: list[str] = []
    walk = _topology.walk

    def counting(graph: str, start: Any) -> Any:
        walked.append(graph)
        return walk(graph, start)

    monkeypatch.setattr(_topology, "walk", counting)
    outer = chain(Flow, Step(), Flow(start=Mixed()), Step())
    with capture():
        for _ in range(5):
            outer.run({})

    assert walked == ["Flow[Step]", "Flow[Mixed]"]


def test_graphs_built_per_request_are_walked_occasionally(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kaywatch.instrument(modules=[pocketflow])
    walked: list[str] = []
    monkeypatch.setattr(_topology, "walk", lambda graph, start: walked.append(graph))
    monkeypatch.setattr(process.recorder, "add_topology", lambda topology: None)
    now = [1000.0]
    monkeypatch.setattr(_topology.time, "monotonic", lambda: now[0])
    with capture():
        for _ in range(150):
            Flow(start=Step()).run({})
        assert len(walked) == _topology.FREE_WALKS
        now[0] += 1.5
        for _ in range(10):
            Flow(start=Step()).run({})

    assert len(walked) == _topology.FREE_WALKS + 1


def test_a_walk_is_bounded_and_reads_only_dicts() -> None:
    kaywatch.instrument(modules=[pocketflow])
    nodes = [kaywatch.name(Step(), f"n{i}") for i in range(1_500)]
    for one, other in pairwise(nodes):
        one >> other
    odd: Any = Step()
    odd.successors = [Step()]

    topology = _topology.walk("long", nodes[0])
    assert len(topology.nodes) == 1_000
    assert len(topology.edges) == 999
    assert _topology.walk("odd", odd).edges == ()


def test_edges_may_have_any_action_and_lead_anywhere() -> None:
    kaywatch.instrument(modules=[pocketflow])
    node: Any = Step()
    node.successors = {None: Mixed(), "x" * 300: node, "gone": None, "text": "no node"}

    topology = _topology.walk("odd", node)
    assert topology.nodes == ("Step", "Mixed", "str")
    assert topology.edges == (
        ("Step", "<NoneType>", "Mixed"),
        ("Step", "x" * 100, "Step"),
        ("Step", "text", "str"),
    )


def test_a_flow_that_starts_with_itself_has_a_name() -> None:
    kaywatch.instrument(modules=[pocketflow])
    flow = Flow()
    flow.start(flow)

    topology = _topology.walk("round", flow)
    assert topology.start == "Flow[Flow[Flow[Flow]]]"


# -- threads that outlive or share an execution ----------------------------------------


def run_in_context(function: Callable[..., Any], *args: Any) -> threading.Thread:
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(function, *args))
    thread.start()
    return thread


def test_a_batch_that_outlives_its_execution_leaves_nothing_behind() -> None:
    go, threads = threading.Event(), []

    class Abandons(BatchNode):  # type: ignore[misc]
        def _run(self, shared: Any) -> None:
            threads.append(run_in_context(self._exec, [1]))

        def exec(self, item: int) -> None:
            go.wait(DEADLINE)

    kaywatch.instrument(modules=[pocketflow])
    with capture():
        Abandons().run({})
        go.set()
        threads[0].join()

    assert not _attempts._batches


def test_threads_that_retry_at_once_do_not_end_their_execution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = threading.Barrier(2)

    class Shares(Node):  # type: ignore[misc]
        def _exec(self, prepared: Any) -> None:
            with contextlib.suppress(ValueError):
                self.exec(True)
            for thread in [run_in_context(self.exec, False) for _ in range(2)]:
                thread.join()

        def exec(self, fails: bool) -> None:
            if fails:
                raise ValueError
            both.wait(DEADLINE)

        def post(self, shared: Any, prepared: Any, result: Any) -> str:
            return "done"

    class Waits:
        def node_started(self, *args: Any) -> None: ...
        def node_ended(self, *args: Any) -> None: ...
        def run_ended(self, *args: Any) -> None: ...

        def node_retried(self, *args: Any) -> None:
            both.wait(DEADLINE)

    kaywatch.instrument(modules=[pocketflow])
    monkeypatch.setattr(_spans, "listener", Waits())
    with capture() as captured:
        Shares().run({})

    assert [e.action for e in captured.executions()] == ["done"]
