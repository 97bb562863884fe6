"""What instrumentation adds to one visit of a PocketFlow node.

A flow of ten nodes that do nothing is run bare and instrumented. Events go to an agent
in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pocketflow
from tests.bench.report import OURS, Promise, Row, added, figure
from tests.bench.rounds import Effort, in_turns

import kaywatch
from kaywatch.testing import capture

__all__ = ["Step", "measure", "visit"]

# CPU time of the application's thread: the sender's and the neighbours' is not in it.
clock = time.thread_time
NODES = 10
RUNS = 1_000
REPEAT = 5  # such short measures in one round


class Step(pocketflow.Node):
    def prep(self, shared: dict[str, Any]) -> Any:
        return 1

    def exec(self, prep_res: Any) -> Any:
        return prep_res

    def post(self, shared: dict[str, Any], prep_res: Any, exec_res: Any) -> str:
        return "default"


class AsyncStep(pocketflow.AsyncNode):
    async def prep_async(self, shared: dict[str, Any]) -> int:
        return 1

    async def exec_async(self, prep_res: int) -> int:
        return prep_res

    async def post_async(
        self, shared: dict[str, Any], prep_res: int, exec_res: int
    ) -> str:
        return "default"


def chain(flow: type, step: type) -> Any:
    """Return a flow of ten steps."""
    steps = [step() for _ in range(NODES)]
    for one, other in pairwise(steps):
        one >> other
    return flow(start=steps[0])


def visit(step: type, shared: dict[str, Any], runs: int) -> float:
    """Return the microseconds that one visit of a node takes."""
    flow = chain(pocketflow.Flow, step)
    started = clock()
    for _ in range(runs):
        flow.run(dict(shared))
    return (clock() - started) / (runs * NODES) * 1e6


def visit_async(runs: int) -> float:
    """Return the microseconds that one visit of an async node takes."""
    flow = chain(pocketflow.AsyncFlow, AsyncStep)

    async def drive() -> float:
        started = clock()
        for _ in range(runs):
            await flow.run_async({})
        return (clock() - started) / (runs * NODES) * 1e6

    return asyncio.run(drive())


def instrumented(visits: Callable[[], float]) -> float:
    kaywatch.instrument(modules=[pocketflow])
    try:
        return visits()
    finally:
        kaywatch.uninstrument()


def measure(effort: Effort) -> list[Row]:
    """Return a row for each kind of node."""
    runs = effort.of(RUNS, 10)
    kinds = {"Node": partial(visit, Step, {}, runs)}
    kinds["AsyncNode"] = partial(visit_async, runs)
    with capture():
        measurements = in_turns(
            effort.rounds * REPEAT,
            {
                (kind, way): partial(wrap, visits)
                for kind, visits in kinds.items()
                for way, wrap in (("bare", lambda call: call()), (OURS, instrumented))
            },
        )
    return [row for kind in kinds for row in rows(kind, measurements)]


def rows(kind: str, times: dict[tuple[str, str], list[float]]) -> list[Row]:
    """Return a visit beside a bare one, and the difference."""
    ours, bare = times[kind, OURS], times[kind, "bare"]
    visit, more = figure(OURS, ours), figure(OURS, added(ours, bare))
    return [
        Row(
            f"a visit of a PocketFlow {kind}",
            "us",
            visit,
            peers=(figure("not instrumented", bare),),
        ),
        Row(
            f"added to a visit of a {kind}",
            "us",
            more,
            Promise(3) if kind == "Node" else None,
        ),
    ]
