"""The log of nodes and runs, read from its files."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pocketflow import (
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchNode,
    BatchFlow,
    BatchNode,
    Flow,
    Node,
)
from tests.client.instrument import kaygraph_standin as kaygraph

import kaywatch
from kaywatch._process import process
from kaywatch.logs import (
    FrameworkFilter,
    setup_production_logging,
    setup_structured_logging,
)
from kaywatch.testing import capture

pytestmark = pytest.mark.filterwarnings("ignore:Flow ends", "ignore:Graph ends")

Event = dict[str, Any]


class Load(Node):
    def exec(self, prep_res: Any) -> Any:
        return "loaded"


class Flaky(Node):
    """Fails as many times as its params specify, once by default."""

    def exec(self, prep_res: Any) -> Any:
        if self.cur_retry < self.params.get("failures", 1):
            raise TimeoutError("no answer\nfrom there")
        return 1


class Replaced(Node):
    def exec(self, prep_res: Any) -> Any:
        raise ValueError("broken")

    def exec_fallback(self, prep_res: Any, exc: Exception) -> Any:
        return "instead"


class Fails(Node):
    def exec(self, prep_res: Any) -> Any:
        raise ValueError("broken")


class Odd(Node):
    def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        return "odd"


class Checkout(Flow):
    pass


@pytest.fixture
def log(tmp_path: Path) -> Callable[[], list[Event]]:
    """Return the events logged as JSON so far."""
    setup_structured_logging(directory=tmp_path, console=False)

    def read() -> list[Event]:
        lines = (tmp_path / "kaygraph.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [event for event in events if event["logger"] != "asyncio"]

    return read


def names(events: list[Event]) -> list[tuple[str, str]]:
    return [(event["event"], event.get("node_id", "")) for event in events]


def select_event(events: list[Event], name: str) -> Event:
    (result,) = [event for event in events if event["event"] == name]
    return result


def fails(call: Callable[[], Any], error: type[BaseException] = ValueError) -> None:
    with pytest.raises(error):
        call()


# -- the plain format ----------------------------------------------------------------

PROGRAM = """
import logging, sys
import pocketflow
import kaywatch
from kaywatch.logs import setup_production_logging

class DataProcessor(pocketflow.Node):
    def exec(self, prep_res):
        if self.cur_retry == 0:
            raise TimeoutError("no answer")
    def post(self, shared, prep_res, exec_res):
        return "done"

class Send(pocketflow.Node):
    def exec(self, prep_res):
        logging.getLogger("shop").info("sending")
        raise ValueError("broken")

setup_production_logging(directory=sys.argv[1], payloads=True)
kaywatch.instrument(service="shop")
processor = kaywatch.name(DataProcessor(max_retries=2), "data_processor")
processor - "done" >> Send()
flow = pocketflow.Flow(start=processor)
flow.set_params({"batch_size": 100})
try:
    flow.run({})
except ValueError:
    pass
"""

GOLDEN = """
{} - Flow - INFO - [main.py:26] - Graph Flow[data_processor]: Starting execution
{} - DataProcessor - INFO - [main.py:8] - Node data_processor: Starting execution with params: {'batch_size': 100}
{} - DataProcessor - WARNING - [main.py:8] - Node data_processor: Retrying execution (attempt 2) after TimeoutError: no answer
{} - DataProcessor - INFO - [main.py:8] - Node data_processor: Completed in 0.000s with action: 'done' (attempts: 2)
{} - Flow - INFO - [main.py:26] - Graph Flow[data_processor]: Transition data_processor -> Send on action: 'done'
{} - Send - INFO - [main.py:15] - Node Send: Starting execution with params: {'batch_size': 100}
{} - shop - INFO - [main.py:16] - sending
{} - Send - ERROR - [main.py:17] - Node Send: Failed after 0.000s in exec: ValueError: broken
"""  # noqa: E501

GOLDEN_END = """
  File "main.py", line 17, in exec
    raise ValueError("broken")
ValueError: broken
{} - Flow - INFO - [main.py:26] - Graph Flow[data_processor]: Failed after 0.000s at node 'Send': ValueError: broken
"""  # noqa: E501


def normal(text: str) -> str:
    # There is no agent, which is logged as well.
    text = re.sub(r"(?m)^.* - kaywatch - WARNING - .*\n", "", text)
    text = re.sub(r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "{}", text)
    text = re.sub(r"\d+\.\d{3}s", "0.000s", text)
    return re.sub(r'File ".*/main.py"', 'File "main.py"', text)


def test_lines_read_as_on_the_page_and_point_at_the_code(tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    main.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(main), str(tmp_path)], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    text = normal((tmp_path / "kaygraph.log").read_text())
    assert text.startswith(GOLDEN.lstrip())
    assert text.endswith(GOLDEN_END.lstrip("\n"))
    assert normal(done.stderr) == text
    raw = (tmp_path / "kaygraph_errors.log").read_text()
    errors = normal(raw)
    assert errors.splitlines()[0] == GOLDEN.splitlines()[-1]
    assert errors.count(" - ERROR - ") == errors.count(" - [") == 1
    # The traceback is the application's and the framework's alone, in whatever folder
    # either of them is.
    files = [Path(name) for name in re.findall(r'File "(.+)", line \d+, in ', raw)]
    ours = Path(kaywatch.__file__).parent
    assert main in files
    assert [file for file in files if file.is_relative_to(ours)] == []


# -- events --------------------------------------------------------------------------


def test_run_is_logged_from_start_to_end(log: Callable[[], list[Event]]) -> None:
    load = Load()
    load >> Odd()
    Checkout(load).run({"user": 1})

    events = log()
    assert names(events) == [
        ("graph_execution_start", ""),
        ("node_execution_start", "Load"),
        ("node_execution_success", "Load"),
        ("node_transition", "Load"),
        ("node_execution_start", "Odd"),
        ("node_execution_success", "Odd"),
        ("graph_execution_end", "Odd"),
    ]
    assert {event["graph"] for event in events} == {"Checkout"}
    assert {event["level"] for event in events} == {"info"}
    assert {event["service"] for event in events} == {process.service()}
    assert len({event["run_id"] for event in events}) == 1
    success = select_event(events[:3], "node_execution_success")
    assert success["action"] == "default"
    assert success["attempt"] == 1
    assert 0 <= success["duration"] < 5
    transition = select_event(events, "node_transition")
    assert transition["next_node_id"] == "Odd"
    end = events[-1]
    assert (end["outcome"], end["reason"], end["visits"]) == ("ok", "no_successors", 2)
    assert "params" not in events[1]
    assert "shared_keys" not in events[1]


def test_run_id_and_failure_match_the_metrics(
    log: Callable[[], list[Event]],
) -> None:
    load = Load()
    load >> Fails()
    with capture() as captured:
        fails(lambda: Checkout(load).run({}))

    (failure,) = captured.failures()
    error = select_event(log(), "node_execution_error")
    assert error["run_id"] == failure.run
    assert error["level"] == "error"
    assert (error["error_type"], error["error"]) == (failure.type, failure.message)
    assert (error["node_id"], error["graph"]) == (failure.node, failure.graph)
    assert (error["phase"], error["attempt"]) == (failure.phase, failure.attempts)
    assert "raise ValueError" in error["exception"]
    end = select_event(log(), "graph_execution_end")
    assert (end["level"], end["outcome"], end["run_id"]) == (
        "info",
        "error",
        failure.run,
    )


def test_retries_and_fallbacks_are_warnings(
    log: Callable[[], list[Event]],
) -> None:
    flaky = Flaky(max_retries=2)
    flaky >> Replaced(max_retries=2)
    Flow(flaky).run({})

    events = [e for e in log() if e["level"] == "warning"]
    assert [(e["event"], e["node_id"], e.get("attempt")) for e in events] == [
        ("node_retry", "Flaky", 2),
        ("node_retry", "Replaced", 2),
        ("node_fallback", "Replaced", None),
    ]
    assert events[0]["error"] == "no answer\nfrom there"
    assert events[0]["error_type"] == "TimeoutError"
    ends = [e for e in log() if e["event"] == "node_execution_success"]
    assert [(e["outcome"], e["attempt"]) for e in ends] == [("ok", 2), ("fallback", 2)]


def test_single_failing_node_logs_one_error(
    log: Callable[[], list[Event]],
) -> None:
    fails(lambda: Fails().run({}))

    assert names(log()) == [
        ("node_execution_start", "Fails"),
        ("node_execution_error", "Fails"),
    ]


def test_dead_end_lists_the_available_actions(log: Callable[[], list[Event]]) -> None:
    odd = Odd()
    odd - "even" >> Load()
    odd >> Load()
    Checkout(odd).run({})

    dead_end = select_event(log(), "graph_dead_end")
    assert dead_end["level"] == "warning"
    assert (dead_end["node_id"], dead_end["action"]) == ("Odd", "odd")
    assert dead_end["available_actions"] == ["even", "default"]
    assert select_event(log(), "graph_execution_end")["reason"] == "unmatched_action"


def test_end_without_successors_is_not_a_dead_end(
    log: Callable[[], list[Event]],
) -> None:
    Checkout(Odd()).run({})

    assert "graph_dead_end" not in [event["event"] for event in log()]


def test_suppressed_error_is_logged_before_the_success(
    log: Callable[[], list[Event]],
) -> None:
    class Forgiving(kaygraph.Node):
        def exec(self, prep_res: Any) -> Any:
            raise ValueError("broken")

        def on_error(self, shared: Any, error: Exception) -> bool:
            return True

    kaygraph.Graph(Forgiving(node_id="forgiving")).run({})

    suppressed = select_event(log(), "node_error_suppressed")
    assert (suppressed["level"], suppressed["error"]) == ("warning", "broken")
    success = select_event(log(), "node_execution_success")
    assert (success["node_id"], success["outcome"]) == ("forgiving", "suppressed")


def test_traceback_is_logged_once_and_nested_run_names_its_parent(
    log: Callable[[], list[Event]],
) -> None:
    load = Load()
    load >> Checkout(Fails())
    fails(lambda: Flow(load).run({}))

    events = log()
    errors = [e for e in events if e["level"] == "error"]
    assert [(e["event"], e["node_id"]) for e in errors] == [
        ("node_execution_error", "Fails"),
        ("node_execution_error", "Checkout"),
    ]
    assert ["exception" in e for e in errors] == [True, False]
    outer, inner = [e for e in events if e["event"] == "graph_execution_start"]
    assert "action" not in outer
    assert inner["parent_run_id"] == outer["run_id"] == errors[1]["run_id"]
    assert inner["run_id"] == errors[0]["run_id"]


def test_graph_logs_its_own_failure(
    log: Callable[[], list[Event]],
) -> None:
    class Broken(Flow):
        def prep(self, shared: Any) -> Any:
            raise ValueError("no way to begin")

    fails(lambda: Broken(Load()).run({}))

    (end,) = log()
    assert (end["event"], end["level"]) == ("graph_execution_end", "error")
    assert end["error"] == "no way to begin"
    assert "no way to begin" in end["exception"]


def test_each_item_of_a_batch_of_runs_is_a_run(log: Callable[[], list[Event]]) -> None:
    class Each(BatchFlow):
        def prep(self, shared: Any) -> Any:
            return [{"n": 1}, {"n": 2}]

    Each(Load()).run({})

    starts = [e for e in log() if e["event"] == "graph_execution_start"]
    ends = [e for e in log() if e["event"] == "graph_execution_end"]
    assert len(starts) == len(ends) == 2
    assert [e["run_id"] for e in starts] == [e["run_id"] for e in ends]
    assert len({e["run_id"] for e in starts}) == 2


def test_retries_of_batch_items_are_logged(
    log: Callable[[], list[Event]],
) -> None:
    class Items(BatchNode):
        def prep(self, shared: Any) -> Any:
            return [1, 2]

        def exec(self, prep_res: Any) -> Any:
            if prep_res == 2 and self.cur_retry == 0:
                raise ValueError("item")
            return prep_res

    class Pool(kaygraph.ParallelBatchNode):
        tried: ClassVar[set[int]] = set()

        def prep(self, shared: Any) -> Any:
            return [3]

        def exec(self, prep_res: Any) -> Any:
            if prep_res not in self.tried:
                self.tried.add(prep_res)
                raise ValueError("item")
            return prep_res

    Flow(Items(max_retries=2)).run({})
    kaygraph.Graph(Pool(max_retries=2)).run({})

    retries = [e for e in log() if e["event"] == "node_retry"]
    assert [(e["node_id"], e["attempt"]) for e in retries] == [
        ("Items", 2),
        ("Pool", 2),
    ]
    ends = [e for e in log() if e["event"] == "node_execution_success"]
    assert [e["run_id"] for e in retries] == [e["run_id"] for e in ends]


async def test_concurrent_runs_are_distinguished(
    log: Callable[[], list[Event]],
) -> None:
    class Waits(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            await asyncio.sleep(0)
            logging.getLogger("shop").info("waiting")

    class Items(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return [1, 2]

        async def exec_async(self, prep_res: Any) -> Any:
            await asyncio.sleep(0)
            logging.getLogger("shop").info("item")

    waits = Waits()
    waits >> Items()
    flows = [AsyncFlow(waits) for _ in range(3)]
    await asyncio.gather(*(flow.run_async({}) for flow in flows))

    by_run: dict[str, list[Event]] = {}
    for event in log():
        by_run.setdefault(event["run_id"], []).append(event)
    assert len(by_run) == 3
    for events in by_run.values():
        assert names(events) == [
            ("graph_execution_start", ""),
            ("node_execution_start", "Waits"),
            ("waiting", "Waits"),
            ("node_execution_success", "Waits"),
            ("node_transition", "Waits"),
            ("node_execution_start", "Items"),
            ("item", "Items"),
            ("item", "Items"),
            ("node_execution_success", "Items"),
            ("graph_execution_end", "Items"),
        ]


async def test_cancelled_node_is_a_warning(log: Callable[[], list[Event]]) -> None:
    started = asyncio.Event()

    class Waits(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            started.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(AsyncFlow(Waits()).run_async({}))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    cancelled = select_event(log(), "node_execution_cancelled")
    assert cancelled["level"] == "warning"
    assert "exception" not in cancelled
    assert select_event(log(), "graph_execution_end")["outcome"] == "cancelled"


def test_closed_coroutine_is_counted_and_not_logged(
    log: Callable[[], list[Event]],
) -> None:
    @types.coroutine
    def for_ever() -> Iterator[None]:
        while True:
            yield

    class Waits(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            await for_ever()

    with capture() as captured:
        run = AsyncFlow(Waits()).run_async({})
        run.send(None)
        run.close()

    assert [e.outcome.name for e in captured.executions()] == ["CANCELLED"]
    assert [event for event, _ in names(log())] == [
        "graph_execution_start",
        "node_execution_start",
    ]


def test_graph_with_its_own_loop_is_logged(log: Callable[[], list[Event]]) -> None:
    class Step(kaygraph.Node):
        pass

    first = Step(node_id="first")
    first >> Step(node_id="second")
    kaygraph.PersistentGraph(first).run({})

    events = [e for e in log() if e["logger"] != "Step" or "run_id" in e]
    assert [e["event"] for e in events] == [
        "graph_execution_start",
        "node_execution_start",
        "node_execution_success",
        "node_transition",
        "node_execution_start",
        "node_execution_success",
        "graph_execution_end",
    ]


def test_block_is_logged_with_its_line(tmp_path: Path) -> None:
    setup_production_logging(directory=tmp_path, console=False)
    with kaywatch.execution("checkout", "pay"):
        pass

    start, end = (tmp_path / "kaygraph.log").read_text().splitlines()
    here = Path(__file__).name
    assert f" - kaywatch.execution - INFO - [{here}:" in start
    assert f" - kaywatch.execution - INFO - [{here}:" in end
    assert end.endswith("with action: 'default'")


def test_node_without_methods_is_logged_with_its_caller(
    tmp_path: Path,
) -> None:
    class Plain(Node):
        pass

    setup_production_logging(directory=tmp_path, console=False)
    Flow(Plain()).run({})

    text = (tmp_path / "kaygraph.log").read_text()
    assert text.count(f"[{Path(__file__).name}:") == len(text.splitlines()) == 4


def test_error_message_cannot_forge_a_line(tmp_path: Path) -> None:
    class Forger(Node):
        def exec(self, prep_res: Any) -> Any:
            raise ValueError("x\n2024-01-01 00:00:00,000 - a - ERROR - [b:1] - c\r")

    setup_production_logging(directory=tmp_path, console=False, tracebacks=False)
    fails(lambda: Forger().run({}))

    lines = (tmp_path / "kaygraph.log").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("x\\n2024-01-01 00:00:00,000 - a - ERROR - [b:1] - c\\r")


# -- payloads ------------------------------------------------------------------------


class Untouchable:
    def __repr__(self) -> str:
        raise RuntimeError("must not be inspected")

    __str__ = __repr__


def test_payloads_are_not_inspected(log: Callable[[], list[Event]]) -> None:
    class Carries(Node):
        def prep(self, shared: Any) -> Any:
            return shared["secret"]

        def exec(self, prep_res: Any) -> Any:
            return prep_res

    flow = Flow(Carries())
    flow.set_params({"secret": Untouchable()})
    flow.run({"secret": Untouchable()})

    assert len(log()) == 4
    assert "secret" not in json.dumps(log())


def test_payloads_on_request_are_short_and_safe(tmp_path: Path) -> None:
    setup_structured_logging(directory=tmp_path, console=False, payloads=True)
    flow = Flow(Load())
    circle: list[Any] = []
    circle.append(circle)
    params: dict[Any, Any] = {
        "size": 100,
        "text": "x" * 5_000,
        "bad": Untouchable(),
        "circle": circle,
        "deep": {"a": list(range(1_000))},
        "huge": 1 << 100_000,
        "nan": float("nan"),
    }
    flow.set_params(params | {f"more {n}": n for n in range(100)})
    flow.run({"user": 1, 7: 2})

    lines = (tmp_path / "kaygraph.jsonl").read_text().splitlines()
    start = json.loads(lines[1])
    assert start["shared_keys"] == ["user", "7"]
    shown = start["params"]
    assert shown["size"] == 100
    assert shown["text"] == "x" * 200
    assert shown["bad"].startswith("<Untouchable")
    assert len(shown) == 50
    assert max(map(len, lines)) < 10_000


# -- levels --------------------------------------------------------------------------


def test_disabled_level_makes_no_record(tmp_path: Path) -> None:
    made: list[str] = []
    factory = logging.getLogRecordFactory()

    def counting(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        made.append(record.getMessage())
        return record

    setup_production_logging(directory=tmp_path, console=False, level="WARNING")
    flow = Flow(Flaky(max_retries=2))
    logging.setLogRecordFactory(counting)
    try:
        flow.run({})
        assert len(made) == 1 and "Retrying" in made[0]
        # A class's logger can be quieted by its name, as KayGraph's can.
        logging.getLogger("Flaky").setLevel(logging.ERROR)
        flow.run({})
        assert len(made) == 1
    finally:
        logging.setLogRecordFactory(factory)
        logging.getLogger("Flaky").setLevel(logging.NOTSET)


# -- whatever handlers do ------------------------------------------------------------


class Recording(logging.Handler):
    """Keeps the messages, and calls `also` with each."""

    def __init__(self, also: Callable[[], Any] = lambda: None) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.also = also

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.also()


@pytest.fixture
def attached() -> Iterator[Callable[[logging.Handler], None]]:
    """Adds a handler to the root logger for as long as the test runs."""
    root = logging.getLogger()
    added: list[logging.Handler] = []

    def attach(handler: logging.Handler) -> None:
        added.append(handler)
        root.addHandler(handler)

    yield attach
    for handler in added:
        root.removeHandler(handler)


def test_handler_that_runs_a_node_terminates(
    tmp_path: Path, attached: Callable[[logging.Handler], None]
) -> None:
    handler = Recording(lambda: Flow(Load()).run({}))
    setup_production_logging(directory=tmp_path, console=False, level="INFO")
    attached(handler)
    with capture() as captured:
        Flow(Odd()).run({})

    assert len(handler.messages) == 4
    assert not any("Load" in message for message in handler.messages)
    # Not in the log, but counted.
    assert len(captured.executions("Load")) == 4


def test_handler_may_log(
    tmp_path: Path, attached: Callable[[logging.Handler], None]
) -> None:
    logger = logging.getLogger("audit")

    def once() -> None:
        if not any(m == "noted" for m in handler.messages):
            logger.info("noted")

    handler = Recording(once)
    setup_production_logging(directory=tmp_path, console=False, level="INFO")
    attached(handler)
    Flow(Load()).run({})

    assert handler.messages.count("noted") == 1
    assert len(handler.messages) == 5


def broken_filter(record: logging.LogRecord) -> bool:
    raise RuntimeError("broken filter")


def test_handler_errors_do_not_reach_the_nodes(
    tmp_path: Path, attached: Callable[[logging.Handler], None]
) -> None:
    def emit() -> None:
        raise RuntimeError("broken handler")

    setup_production_logging(directory=tmp_path, console=False, level="INFO")
    filtered = Recording()
    filtered.addFilter(broken_filter)
    for handler in (Recording(emit), filtered):
        attached(handler)
        with capture() as captured:
            assert Flow(Odd()).run({}) == "odd"
            fails(lambda: Flow(Fails()).run({}))
        assert len(captured.executions()) == 2
        logging.getLogger().removeHandler(handler)


def test_interrupt_in_a_handler_closes_the_span(
    tmp_path: Path, attached: Callable[[logging.Handler], None]
) -> None:
    def interrupt() -> None:
        if "Node Load: Starting execution" in handler.messages:
            raise KeyboardInterrupt

    handler = Recording(interrupt)
    setup_production_logging(directory=tmp_path, console=False, level="INFO")
    attached(handler)
    with capture() as captured:
        fails(lambda: Flow(Load()).run({}), KeyboardInterrupt)
        assert not process.recorder.in_flight
        logging.getLogger().removeHandler(handler)
        Flow(Odd()).run({})

    assert [(e.node, e.outcome.name) for e in captured.executions()] == [
        ("Load", "CANCELLED"),
        ("Odd", "OK"),
    ]


def test_record_factory_of_the_application_keeps_its_fields(
    tmp_path: Path,
) -> None:
    factory = logging.getLogRecordFactory()

    def own(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        record.service = "theirs"
        return record

    format = "%(service)s %(node_id)s %(message)s"
    setup_production_logging(directory=tmp_path, console=False, format=format)
    logging.setLogRecordFactory(own)
    try:
        Load().run({})
    finally:
        logging.setLogRecordFactory(factory)

    text = (tmp_path / "kaygraph.log").read_text()
    assert text.startswith("theirs Load Node Load: Starting execution\n")


# -- nothing changes -----------------------------------------------------------------


def application() -> list[Any]:
    """Run several graphs, and return their results and errors."""
    logger = logging.getLogger("shop")
    results: list[Any] = []

    class Speaks(Node):
        def exec(self, prep_res: Any) -> Any:
            logger.warning("speaking of %s", self.params)

        def post(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["spoke"] = True
            return "odd"

    speaks = Speaks()
    speaks >> Load()
    shared: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results.append(Flow(speaks).run(shared))
    results += [str(w.message) for w in caught]
    results.append(shared)
    try:
        Flow(Fails(max_retries=2)).run({})
    except ValueError as error:
        results.append((type(error), error.args, error.__cause__, error.__context__))
    results.append(Flow(Replaced()).run({}))
    return results


@pytest.mark.parametrize("setup", [setup_production_logging, setup_structured_logging])
def test_results_errors_and_application_records_are_unchanged(
    tmp_path: Path,
    attached: Callable[[logging.Handler], None],
    setup: Callable[..., None],
) -> None:
    handler = Recording()
    # At any time, the sender's thread may report that there is no agent.
    handler.addFilter(lambda record: record.name != "kaywatch")
    attached(handler)
    without = application(), handler.messages[:]
    handler.messages.clear()
    setup(directory=tmp_path, console=False, payloads=True)
    also = application()

    spoken = [m for m in handler.messages if not m.startswith(("Node", "Graph"))]
    assert (also, spoken) == without
    assert len(without[1]) == 1


# -- the framework's own lines -------------------------------------------------------


class Talks(kaygraph.Node):
    def exec(self, prep_res: Any) -> Any:
        self.logger.info("mine")


def test_framework_records_are_filtered_and_node_records_pass(tmp_path: Path) -> None:
    setup_production_logging(directory=tmp_path, console=False)
    kaygraph.Graph(Talks(node_id="talks")).run({})

    text = (tmp_path / "kaygraph.log").read_text()
    assert text.count("Node talks: Starting execution") == 1
    assert text.count(" - mine\n") == 1


def test_framework_records_pass_on_request(tmp_path: Path) -> None:
    setup_production_logging(directory=tmp_path, console=False, frameworks=True)
    kaygraph.Graph(Talks(node_id="talks")).run({})

    text = (tmp_path / "kaygraph.log").read_text()
    assert text.count("Node talks: Starting execution") == 2


def test_framework_filter_works_on_an_application_handler(
    tmp_path: Path, attached: Callable[[logging.Handler], None]
) -> None:
    handler = Recording()
    handler.addFilter(FrameworkFilter())
    setup_production_logging(directory=tmp_path, console=False)
    attached(handler)
    kaygraph.Graph(Talks(node_id="talks")).run({})

    assert handler.messages.count("Node talks: Starting execution") == 1
    assert "mine" in handler.messages


def test_nothing_is_logged_without_set_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    Flow(Load()).run({})

    assert caplog.messages == []


def test_deleted_class_is_not_cached(tmp_path: Path) -> None:
    from kaywatch.logs._places import _sources

    def run() -> int:
        class Passing(Node):
            pass

        Flow(Passing()).run({})
        return id(Passing)

    setup_production_logging(directory=tmp_path, console=False)
    key = run()
    assert key in _sources
    import gc

    gc.collect()
    assert key not in _sources
