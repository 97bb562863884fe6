"""Measure the memory of 10,000 series over one hour.

Every series is active in every bucket and has phases, as with an instrumented
framework. This is the worst case for this number of series.
"""

from __future__ import annotations

import ctypes
import time
from functools import partial

from tests.bench import series as many
from tests.bench.report import OURS, Promise, Row, summarize
from tests.bench.rounds import Effort, interleave, run_in_process, run_python
from tests.bench.usage import resident_mb

from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, HISTORY_BUCKETS
from kaywatch_agent.runtime.process import tune_allocator

SERIES = 10_000
PER_STEP = 3  # executions per series and bucket

PEER = "prometheus_client"
# Without numpy, which our modules would import.
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


def measure_hour(series: int, steps: int) -> float:
    """Fill an aggregator; return its process's memory in MB."""
    tune_allocator()
    now = float(int(time.time()) // BUCKET_SECONDS * BUCKET_SECONDS)
    aggregator = Aggregator(many.fill_registry(series), now)
    events = many.make_columns(series, PER_STEP, now)
    for step in range(steps):
        at = now + step * BUCKET_SECONDS
        timely = events._replace(time=events.time + step * BUCKET_SECONDS)
        aggregator._pending.add(timely, many.make_phases(timely))
        aggregator.advance(at)
        aggregator.changes(full=False)
    # The memory that malloc keeps for reuse differs from run to run.
    ctypes.CDLL(None).malloc_trim(0)
    return resident_mb()


def measure_histograms(series: int) -> float:
    """Fill prometheus_client's histograms; return their process's memory in MB."""
    return run_python("-c", HISTOGRAMS, str(series))["resident_mb"]


def measure(effort: Effort) -> list[Row]:
    """Return the row of many series."""
    series, steps = effort.whole(SERIES, 50), effort.whole(HISTORY_BUCKETS, 3)
    measurements = interleave(
        effort.rounds,
        {
            OURS: partial(run_in_process, effort.seconds, measure_hour, series, steps),
            PEER: partial(measure_histograms, series),
        },
    )
    return [
        Row(
            f"memory, {series:,} series in each of {steps} buckets",
            "MB",
            summarize(OURS, measurements[OURS]),
            Promise(400),
            (summarize(PEER, measurements[PEER], "totals only, no history"),),
        )
    ]
