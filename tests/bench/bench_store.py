"""Measure durability: a tick and its commit, a restart with a day of history."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.agents import Agent
from tests.bench import series as many
from tests.bench.report import OURS, Figure, Row, summarize
from tests.bench.rounds import Effort, interleave

from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.change import WriteBatch
from kaywatch_agent.store import tiers
from kaywatch_agent.store.schema import connect, transaction
from kaywatch_agent.store.store import Store

SERIES = (1_000, 10_000)
TICKS = 60
DAY = 86_400
PER_TICK = 2  # executions of each series
PER_MINUTE = 12

Ticks = tuple[list[float], list[float]]  # times in the event loop, and of commits


def run_ticks(
    store: Store, series: int, start: float, count: int, **shape: int
) -> Iterator[tuple[float, float]]:
    """Run ticks that change all series; yield the seconds of tick and commit.

    In an agent, a thread commits the change.
    """
    aggregator = Aggregator(many.fill_registry(series, **shape), start)
    events = many.make_columns(series, PER_TICK, start)
    for now in (start + n for n in range(count)):
        timely = events._replace(time=events.time - start + now)
        aggregator._pending.add(timely, many.make_phases(timely))
        started = time.perf_counter()
        aggregator.advance(now)
        change = WriteBatch(aggregator.changes(full=False))
        handed_over = time.perf_counter()
        store.commit(change)
        yield handed_over - started, time.perf_counter() - handed_over


def measure_ticks(series: int, count: int) -> Ticks:
    """Return the milliseconds of durable ticks."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        store = Store(Path(folder) / "kaywatch.db")
        store.restore()
        took = list(run_ticks(store, series, 1_700_000_000.0, count))
        store.close()
    loop, commit = (
        [seconds * 1e3 for seconds in part] for part in zip(*took, strict=True)
    )
    return loop, commit


def fill_store(path: Path, series: int, seconds: int, **shape: int) -> None:
    """Write the buckets of the last `seconds`, and the last ticks.

    `shape` has the arguments of `series.fill_registry`.
    """
    now = int(time.time())
    store = Store(path, synchronous="OFF")
    store.restore()
    for _ in run_ticks(store, series, now - 15, 15, **shape):
        pass
    store.close()
    db = connect(path, "OFF", tiers.Retention().log_bytes)
    for tier, each, end, count in (
        (tiers.FINEST, 2, now - 60, min(seconds, 3600) // tiers.FINEST),
        (tiers.MINUTE, PER_MINUTE, now - 3900, max(0, seconds - 3600) // tiers.MINUTE),
        (tiers.HOUR, 60 * PER_MINUTE, now - 3900, seconds // tiers.HOUR),
    ):
        # All buckets have the same data, because creating each would take minutes.
        last = end - end % tier
        with transaction(db):
            tiers.add(db, tier, last, many.make_bucket(series, each, last))
            db.executemany(
                "INSERT INTO buckets SELECT tier, start - ?, data FROM buckets"
                " WHERE tier = ? AND start = ?",
                [(n * tier, tier, last) for n in range(1, count)],
            )
    db.close()


def measure_restart(agent: Agent) -> float:
    """Return the milliseconds until a new process serves the data of its store."""
    started = time.monotonic()
    agent.start()
    took = time.monotonic() - started
    restored = next(line for line in agent.log if line["event"] == "restored")
    assert restored["series"], restored
    agent.stop()
    return took * 1e3


def measure(effort: Effort) -> list[Row]:
    """Return the rows of commits, and of restarts."""
    dirty = [effort.whole(series, series // 100) for series in SERIES]
    measurements = interleave(
        effort.rounds,
        {
            series: partial(measure_ticks, series, effort.of(TICKS, 15))
            for series in dirty
        },
    )
    rows = [
        Row(
            f"{part}, {series:,} changed series",
            "ms",
            summarize_rounds([r[at] for r in rounds]),
        )
        for at, part in enumerate(
            ("event loop time of a tick", "commit of a tick, synced to disk")
        )
        for series, rounds in measurements.items()
    ]
    return rows + [restart_row(effort, series) for series in dirty]


def summarize_rounds(rounds: list[list[float]]) -> Figure:
    """Return the figure of the rounds' medians."""
    longest = max(max(took) for took in rounds)
    return summarize(
        OURS, [statistics.median(took) for took in rounds], f"at most {longest:.0f} ms"
    )


def restart_row(effort: Effort, series: int) -> Row:
    """Return the row of a restart with many series."""
    seconds = effort.whole(DAY, 60)
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        agent = Agent(Path(folder), fork=False)
        try:
            fill_store(Path(agent.store), series, seconds)
            size = Path(agent.store).stat().st_size / 1e6
            what = f"restart with {seconds / 3600:.3g} h of history, {series:,} series"
            measurements = interleave(
                effort.rounds, {what: partial(measure_restart, agent)}
            )[what]
        finally:
            agent.close()
    return Row(what, "ms", summarize(OURS, measurements, f"{size:,.0f} MB file"))
