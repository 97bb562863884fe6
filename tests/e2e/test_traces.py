"""Failures and runs of an application that is traced with OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
from tests.agents import Agent, running_agent

from kaywatch._traces import current_trace_id

# Prints the id of each trace, and waits for a line with a run in progress.
APPLICATION = """
import sys, kaywatch
from opentelemetry.sdk.trace import TracerProvider
from pocketflow import Flow, Node

tracer = TracerProvider().get_tracer("shop")

class Pay(Node):
    def exec(self, prepared):
        with tracer.start_as_current_span("pay"):
            raise TimeoutError("the bank")

class Wait(Node):
    def exec(self, prepared):
        assert kaywatch.flush(10)
        print("waiting", flush=True)
        sys.stdin.readline()

def run(graph, node):
    try:
        kaywatch.name(Flow(start=node()), graph).run({})
    except TimeoutError:
        pass

kaywatch.instrument(service="shop")
run("untraced", Pay)
for graph, node in (("traced", Pay), ("waits", Wait)):
    with tracer.start_as_current_span(graph) as span:
        print(f"{span.get_span_context().trace_id:032x}", flush=True)
        run(graph, node)
"""


class Traced(NamedTuple):
    """An application that waits, and the ids of its traces."""

    agent: Agent
    failed: str
    waiting: str


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    with running_agent() as agent:
        application = agent.start_process(
            *(sys.executable, "-c", APPLICATION),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert application.stdout is not None
        failed, waiting = (application.stdout.readline().strip() for _ in range(2))
        assert application.stdout.readline() == "waiting\n"
        yield Traced(agent, failed, waiting)


def test_a_failure_has_the_id_of_the_trace_around_it(traced: Traced) -> None:
    failures = traced.agent.get("/api/v1/failures")["failures"]
    ids = {failure["graph"]: failure["trace_id"] for failure in failures}
    assert ids == {"traced": traced.failed, "untraced": ""}
    assert len(traced.failed) == 32


def test_a_failed_run_and_one_in_progress_have_their_trace(traced: Traced) -> None:
    runs = traced.agent.get("/api/v1/runs", window="1h")
    (waiting,) = runs["in_progress"]
    assert (waiting["graph"], waiting["trace_id"]) == ("waits", traced.waiting)
    ended = {run["graph"]: run["trace_id"] for run in runs["ended"]}
    assert ended == {"traced": traced.failed, "untraced": ""}


def fail() -> None:
    raise RuntimeError("tracing is not set up")


@pytest.mark.parametrize(
    "module",
    [
        ModuleType("opentelemetry.trace"),
        SimpleNamespace(get_current_span=fail),
        SimpleNamespace(get_current_span=lambda: None),
    ],
    ids=["half imported", "raises", "no span"],
)
def test_a_tracing_api_that_does_not_work_is_no_trace(
    module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", module)
    assert current_trace_id() == ""


def test_without_tracing_nothing_is_imported(traced: Traced) -> None:
    traced.agent.run(
        "import sys, kaywatch\n"
        "with kaywatch.execution('shop', 'pay'): pass\n"
        "assert not [name for name in sys.modules if 'opentelemetry' in name]"
    )
