"""What 10,000 series cost: the memory of an hour of them, and the longest tick."""

from __future__ import annotations

import ctypes
import multiprocessing
import time

import numpy as np
import psutil

from kaywatch_agent.aggregate.aggregator import HISTORY_STEPS, STEP_SECONDS, Aggregator
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.app import tune_allocator
from kaywatch_agent.model import Columns, Kind, PhaseColumns, SeriesKey

SERIES = 10_000
PER_STEP = 3  # executions of each series in each step


def phases_of(columns: Columns) -> PhaseColumns:
    """Return phases of all executions, as an instrumented framework's nodes have."""
    row, time_, seconds = columns[:3]
    tenth = (seconds * 0.1).astype(np.float32)
    none = np.zeros(len(row), np.uint32)
    return PhaseColumns(row, time_, seconds, tenth, 8 * tenth, 0 * tenth, none)


def measure(phases: bool) -> None:
    tune_allocator()
    now = float(int(time.time()) // STEP_SECONDS * STEP_SECONDS)
    registry = Registry(Limits(series_per_client=SERIES))
    for number in range(SERIES):
        key = SeriesKey(Kind.NODE, "service", f"graph{number % 50}", f"node{number}")
        registry.row(key, "")
    aggregator = Aggregator(registry, now)
    before = psutil.Process().memory_info().rss
    random = np.random.default_rng(1)
    ticks = []
    size = SERIES * PER_STEP
    for step in range(HISTORY_STEPS):
        at = now + step * STEP_SECONDS
        columns = Columns(
            np.tile(np.arange(SERIES), PER_STEP),
            np.full(size, at),
            random.lognormal(-3, 1, size),
            (random.random(size) < 0.01).astype(np.uint8),
            np.ones(size, np.int64),
            np.ones(size, np.int64),
            np.zeros(size, np.int64),
        )
        aggregator._pending.append(columns)
        if phases:
            aggregator._pending_phases.append(phases_of(columns))
        started = time.perf_counter()
        aggregator.advance(at)
        aggregator.committed()
        ticks.append(time.perf_counter() - started)
    used = psutil.Process().memory_info().rss - before
    # What is merely kept for the next tick differs from run to run.
    ctypes.CDLL(None).malloc_trim(0)
    held = psutil.Process().memory_info().rss - before
    print(
        f"{SERIES:,} series in each of {HISTORY_STEPS} steps"
        f"{', phases too' if phases else ''}: {used / 1e6:.0f} MB,"
        f" {held / 1e6:.0f} of them in use;"
        f" a tick takes {np.median(ticks) * 1e3:.0f} ms, at most {max(ticks) * 1e3:.0f}"
    )
    view = aggregator.view(now + HISTORY_STEPS * STEP_SECONDS)
    for window in (60.0, 300.0, 3600.0):
        started = time.perf_counter()
        found = view.window(window)
        took = (time.perf_counter() - started) * 1e3
        print(f"a window of {window:.0f} s: {took:.0f} ms, {len(found.rows):,} series")


def main() -> None:
    for phases in (False, True):
        # A process each: what one has freed would serve the other.
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=measure, args=(phases,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
