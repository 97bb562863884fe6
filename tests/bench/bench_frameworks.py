"""Measure the overhead of instrumentation per visit of a PocketFlow node.

A flow of ten nodes that do nothing runs with and without instrumentation. Events are
captured in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pocketflow
from tests.bench.report import OURS, Promise, Row, differences, summarize
from tests.bench.rounds import Effort, interleave

import kaywatch
from kaywatch.testing import capture

__all__ = ["Step", "measure", "measure_visit"]

# CPU time of the application's thread, without the sender and other load.
clock = time.thread_time
NODES = 10
RUNS = 1_000
REPEAT = 5  # measurements per round, as they are short


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


def measure_visit(step: type, shared: dict[str, Any], runs: int) -> float:
    """Return the microseconds of one visit of a node."""
    flow = chain(pocketflow.Flow, step)
    started = clock()
    for _ in range(runs):
        flow.run(dict(shared))
    return (clock() - started) / (runs * NODES) * 1e6


def measure_async_visit(runs: int) -> float:
    """Return the microseconds of one visit of an async node."""
    flow = chain(pocketflow.AsyncFlow, AsyncStep)

    async def drive() -> float:
        started = clock()
        for _ in range(runs):
            await flow.run_async({})
        return (clock() - started) / (runs * NODES) * 1e6

    return asyncio.run(drive())


def measure_instrumented(visits: Callable[[], float]) -> float:
    kaywatch.instrument(modules=[pocketflow])
    try:
        return visits()
    finally:
        kaywatch.uninstrument()


def measure(effort: Effort) -> list[Row]:
    """Return a row for each kind of node."""
    runs = effort.of(RUNS, 10)
    kinds = {"Node": partial(measure_visit, Step, {}, runs)}
    kinds["AsyncNode"] = partial(measure_async_visit, runs)
    with capture():
        measurements = interleave(
            effort.rounds * REPEAT,
            {
                (kind, way): partial(wrap, visits)
                for kind, visits in kinds.items()
                for way, wrap in (
                    ("bare", lambda call: call()),
                    (OURS, measure_instrumented),
                )
            },
        )
    return [row for kind in kinds for row in rows(kind, measurements)]


def rows(kind: str, times: dict[tuple[str, str], list[float]]) -> list[Row]:
    """Return the rows of an instrumented visit, and of the overhead."""
    ours, bare = times[kind, OURS], times[kind, "bare"]
    visit, more = summarize(OURS, ours), summarize(OURS, differences(ours, bare))
    return [
        Row(
            f"instrumented visit of a PocketFlow {kind}",
            "us",
            visit,
            peers=(summarize("not instrumented", bare),),
        ),
        Row(
            f"overhead per visit of a PocketFlow {kind}",
            "us",
            more,
            Promise(3) if kind == "Node" else None,
        ),
    ]
