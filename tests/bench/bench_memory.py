"""What 10,000 series cost: the memory of an hour of them, and a window.

Every series is busy in every step, with phases, as an instrumented framework's are: the
most that so many can cost.
"""

from __future__ import annotations

import ctypes
import time
from functools import partial

from tests.bench import series as many
from tests.bench.report import OURS, Promise, Row, figure
from tests.bench.rounds import Effort, Measured, alone, in_turns, python
from tests.bench.usage import resident_mb

from kaywatch_agent.aggregate.aggregator import HISTORY_STEPS, STEP_SECONDS, Aggregator
from kaywatch_agent.app import tune_allocator

SERIES = 10_000
PER_STEP = 3  # executions of each series in each step
WINDOW = 3600.0

# Without numpy, which our modules would bring into its process.
PEER = """
import json, sys
from prometheus_client import Histogram
from tests.bench.usage import resident_mb
histogram = Histogram("seconds", "s", ["service", "graph", "node"])
for n in range(int(sys.argv[1])):
    names = f"service-{n % 5}", f"graph-{n % 200}", f"node-{n}"
    histogram.labels(*names).observe(0.1)
print(json.dumps({"resident_mb": resident_mb()}))
"""


def hour(series: int, steps: int) -> Measured:
    """Fill an aggregator; return its process's memory, and what a window takes."""
    tune_allocator()
    now = float(int(time.time()) // STEP_SECONDS * STEP_SECONDS)
    aggregator = Aggregator(many.registry(series), now)
    events = many.columns(series, PER_STEP, now)
    for step in range(steps):
        at = now + step * STEP_SECONDS
        timely = events._replace(time=events.time + step * STEP_SECONDS)
        aggregator._pending.append(timely)
        aggregator._pending_phases.append(many.phases(timely))
        aggregator.advance(at)
        aggregator.change(at)
    # What is merely kept for the next tick differs from run to run.
    ctypes.CDLL(None).malloc_trim(0)
    held = resident_mb()
    started = time.perf_counter()
    found = aggregator.view(now + steps * STEP_SECONDS).window(WINDOW)
    took = time.perf_counter() - started
    assert len(found.rows) == series
    return {"resident_mb": held, "window_ms": took * 1e3}


def measure(effort: Effort) -> list[Row]:
    """Return the rows of many series."""
    series, steps = effort.whole(SERIES, 50), effort.whole(HISTORY_STEPS, 3)
    found = in_turns(
        effort.rounds,
        {
            OURS: partial(alone, hour, series, steps),
            "prometheus_client": partial(python, "-c", PEER, str(series)),
        },
    )

    def samples(key: str, who: str = OURS) -> list[float]:
        return [each[key] for each in found[who]]

    peer = figure(
        "prometheus_client",
        samples("resident_mb", "prometheus_client"),
        "totals alone, without a history",
    )
    return [
        Row(
            f"memory, {series:,} series in all of {steps} steps",
            "MB",
            figure(OURS, samples("resident_mb")),
            Promise(400),
            (peer,),
        ),
        Row(
            f"a window of {steps} steps, {series:,} series",
            "ms",
            figure(OURS, samples("window_ms")),
        ),
    ]
