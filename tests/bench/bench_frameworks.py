"""What instrumentation adds to one visit of a PocketFlow node.

    python tests/bench/bench_frameworks.py

A flow of ten nodes that do nothing is run bare and instrumented, in turns, so that
a change of the machine's speed meets both. Events go to an agent in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pocketflow

import kaywatch
from kaywatch.testing import capture

# CPU time of the application's thread: the sender's and the neighbours' is not in it.
clock = time.thread_time
NODES = 10
RUNS = 1_000
ROUNDS = 15


class Step(pocketflow.Node):
    def prep(self, shared: dict[str, Any]) -> int:
        return 1

    def exec(self, prep_res: int) -> int:
        return prep_res

    def post(self, shared: dict[str, Any], prep_res: int, exec_res: int) -> str:
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


def run_sync(runs: int) -> float:
    """Return the seconds that one visit of a node takes."""
    flow = chain(pocketflow.Flow, Step)
    started = clock()
    for _ in range(runs):
        flow.run({})
    return (clock() - started) / (runs * NODES)


def run_async(runs: int) -> float:
    """Return the seconds that one visit of an async node takes."""
    flow = chain(pocketflow.AsyncFlow, AsyncStep)

    async def drive() -> float:
        started = clock()
        for _ in range(runs):
            await flow.run_async({})
        return (clock() - started) / (runs * NODES)

    return asyncio.run(drive())


def compare(measure: Callable[[int], float], runs: int, rounds: int) -> list[float]:
    """Return the median nanoseconds per node: bare and instrumented."""
    bare, instrumented = [], []
    with capture():
        for _ in range(rounds):
            kaywatch.uninstrument()
            bare.append(measure(runs))
            kaywatch.instrument(modules=[pocketflow])
            instrumented.append(measure(runs))
        kaywatch.uninstrument()
    return [statistics.median(seconds) * 1e9 for seconds in (bare, instrumented)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="of the flow, a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    print(f"{'ns per node':<14}{'bare':>8}{'watched':>10}{'added':>8}")
    for name, measure in (("Node", run_sync), ("AsyncNode", run_async)):
        bare, watched = compare(measure, options.runs, options.rounds)
        print(f"{name:<14}{bare:>8.0f}{watched:>10.0f}{watched - bare:>8.0f}")


if __name__ == "__main__":
    main()
