"""What 10,000 series cost: the memory of an hour of them.

Every series is busy in every step, with phases, as an instrumented framework's are: the
most that so many can cost.
"""

from __future__ import annotations

import ctypes
import time
from functools import partial

from tests.bench import series as many
from tests.bench.report import OURS, Promise, Row, figure
from tests.bench.rounds import Effort, alone, in_turns, python
from tests.bench.usage import resident_mb

from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, HISTORY_BUCKETS
from kaywatch_agent.runtime.process import tune_allocator

SERIES = 10_000
PER_STEP = 3  # executions of each series in each step

PEER = "prometheus_client"
# Without numpy, which our modules would bring into its process.
HISTOGRAMS = """
import json, sys
from prometheus_client import Histogram
from tests.bench.usage import resident_mb
histogram = Histogram("seconds", "s", ["service", "graph", "node"])
for n in range(int(sys.argv[1])):
    names = f"service-{n % 5}", f"graph-{n % 200}", f"node-{n}"
    histogram.labels(*names).observe(0.1)
print(json.dumps({"resident_mb": resident_mb()}))
"""


def hour(series: int, steps: int) -> float:
    """Fill an aggregator; return its process's memory in MB."""
    tune_allocator()
    now = float(int(time.time()) // BUCKET_SECONDS * BUCKET_SECONDS)
    aggregator = Aggregator(many.registry(series), now)
    events = many.columns(series, PER_STEP, now)
    for step in range(steps):
        at = now + step * BUCKET_SECONDS
        timely = events._replace(time=events.time + step * BUCKET_SECONDS)
        aggregator._pending.add(timely, many.phases(timely))
        aggregator.advance(at)
        aggregator.changes(full=False)
    # What is merely kept for the next tick differs from run to run.
    ctypes.CDLL(None).malloc_trim(0)
    return resident_mb()


def histograms(series: int) -> float:
    """Fill prometheus_client's histograms; return their process's memory in MB."""
    return python("-c", HISTOGRAMS, str(series))["resident_mb"]


def measure(effort: Effort) -> list[Row]:
    """Return the row of many series."""
    series, steps = effort.whole(SERIES, 50), effort.whole(HISTORY_BUCKETS, 3)
    measurements = in_turns(
        effort.rounds,
        {
            OURS: partial(alone, effort.seconds, hour, series, steps),
            PEER: partial(histograms, series),
        },
    )
    return [
        Row(
            f"memory, {series:,} series in all of {steps} steps",
            "MB",
            figure(OURS, measurements[OURS]),
            Promise(400),
            (figure(PEER, measurements[PEER], "totals alone, without a history"),),
        )
    ]
