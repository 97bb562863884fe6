"""What durability costs: a tick's commit, a restart with a day of history, its size.

python -m tests.bench.bench_store
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from kaywatch_agent.aggregate.change import Change
from kaywatch_agent.aggregate.step import EMPTY, Step, merge, reduce
from kaywatch_agent.model import Columns, Kind, SeriesKey
from kaywatch_agent.store.store import Store

START = 1_700_000_000 - 1_700_000_000 % 3600
NAMES: dict[str, list[str]] = {"actions": ["", "default"], "errors": [], "ends": []}
RANDOM = np.random.default_rng(1)


def keys(series: int) -> list[SeriesKey]:
    return [
        SeriesKey(Kind.NODE, "shop", f"graph{n % 100}", f"node{n}")
        for n in range(series)
    ]


def step(series: int, now: float, each: int = 2) -> Step:
    """Return `each` executions of every series."""
    size = series * each
    return reduce(
        Columns(
            np.tile(np.arange(series), each),
            np.full(size, now),
            RANDOM.lognormal(-3, 1, size),
            (RANDOM.random(size) < 0.02).astype(np.uint8),
            np.ones(size, np.int64),
            np.ones(size, np.int64),
            np.zeros(size, np.int64),
        )
    )


def change(now: float, part: Step, totals: Step, known: list[SeriesKey]) -> Change:
    return Change(
        now=now,
        since=START,
        steps={int(now // 10): part},
        late=EMPTY,
        totals=totals,
        keys=known,
        rows=len(known),
        names=NAMES,
        sizes={name: len(values) for name, values in NAMES.items()},
    )


def ticks(series: int, count: int = 120) -> list[float]:
    """Return the seconds of each commit of two minutes of ticks."""
    known, totals, took = keys(series), EMPTY, []
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        store = Store(Path(folder) / "kaywatch.db")
        store.restore()
        for n in range(count):
            part = step(series, START + n)
            totals = merge([totals, part])
            started = time.perf_counter()
            store.commit(change(START + n, part, totals, known))
            took.append(time.perf_counter() - started)
        store.close()
    return took


def restart(series: int) -> tuple[float, float]:
    """Return the seconds of a restart after a day, and the file's size in MB."""
    known, totals = keys(series), EMPTY
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        path = Path(folder) / "kaywatch.db"
        store = Store(path, synchronous="OFF")
        store.restore()
        parts = [step(series, START, 20) for _ in range(5)]
        for n in range(0, 86_400, 60):
            part = parts[n // 60 % 5]
            totals = merge([totals, part])
            store.commit(change(START + n, part, totals, known))
        for n in range(86_400, 86_400 + 15):
            part = parts[n % 5]
            store.commit(change(START + n, part, totals, known))
        store.close()
        size = path.stat().st_size / 1e6
        again = Store(path)
        started = time.perf_counter()
        again.restore()
        took = time.perf_counter() - started
        again.close()
    return took, size


def main() -> None:
    for series in (1_000, 10_000):
        took = sorted(ticks(series))
        print(
            f"{series:,} dirty series: commit {statistics.median(took) * 1e3:.1f} ms"
            f" median, {took[int(len(took) * 0.99)] * 1e3:.1f} ms p99,"
            f" {took[-1] * 1e3:.1f} ms at most"
        )
    for series in (1_000, 10_000):
        took_one, size = restart(series)
        print(
            f"{series:,} series, a day of minutes: restored in"
            f" {took_one * 1e3:.0f} ms, {size:.0f} MB"
        )


if __name__ == "__main__":
    main()
