"""What durability costs: a tick and its commit, a restart with a day of history."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.agents import Agent
from tests.bench import series as many
from tests.bench.report import OURS, Figure, Row, figure
from tests.bench.rounds import Effort, in_turns

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

Ticks = tuple[list[float], list[float]]  # in the loop, of the commit


def ticking(
    store: Store, series: int, start: float, count: int, **shape: int
) -> Iterator[tuple[float, float]]:
    """Tick so often, all series dirty; yield the seconds in the loop and of the commit.

    The loop hands a change over, and a thread commits it.
    """
    aggregator = Aggregator(many.registry(series, **shape), start)
    events = many.columns(series, PER_TICK, start)
    for now in (start + n for n in range(count)):
        timely = events._replace(time=events.time - start + now)
        aggregator._pending.add(timely, many.phases(timely))
        started = time.perf_counter()
        aggregator.advance(now)
        change = WriteBatch(aggregator.changes(full=False))
        handed_over = time.perf_counter()
        store.commit(change)
        yield handed_over - started, time.perf_counter() - handed_over


def ticks(series: int, count: int) -> Ticks:
    """Return what ticks took, each made durable, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        store = Store(Path(folder) / "kaywatch.db")
        store.restore()
        took = list(ticking(store, series, 1_700_000_000.0, count))
        store.close()
    loop, commit = (
        [seconds * 1e3 for seconds in part] for part in zip(*took, strict=True)
    )
    return loop, commit


def fill(path: Path, series: int, seconds: int, **shape: int) -> None:
    """Write a day of buckets that ended now, and the last ticks.

    `shape` is that of `series.registry`.
    """
    now = int(time.time())
    store = Store(path, synchronous="OFF")
    store.restore()
    for _ in ticking(store, series, now - 15, 15, **shape):
        pass
    store.close()
    db = connect(path, "OFF")
    for tier, each, end, count in (
        (tiers.FINEST, 2, now - 60, min(seconds, 3600) // tiers.FINEST),
        (tiers.MINUTE, PER_MINUTE, now - 3900, max(0, seconds - 3600) // tiers.MINUTE),
        (tiers.HOUR, 60 * PER_MINUTE, now - 3900, seconds // tiers.HOUR),
    ):
        # One is packed, and stands for all: to pack each would take minutes.
        last = end - end % tier
        with transaction(db):
            tiers.add(db, tier, last, many.bucket(series, each, last))
            db.executemany(
                "INSERT INTO buckets SELECT tier, start - ?, data FROM buckets"
                " WHERE tier = ? AND start = ?",
                [(n * tier, tier, last) for n in range(1, count)],
            )
    db.close()


def restart(agent: Agent) -> float:
    """Return the milliseconds until a new process serves what is in its store."""
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
    measurements = in_turns(
        effort.rounds,
        {series: partial(ticks, series, effort.of(TICKS, 15)) for series in dirty},
    )
    rows = [
        Row(f"{part}, {series:,} dirty series", "ms", typical([r[at] for r in rounds]))
        for at, part in enumerate(
            ("a tick in the loop", "a tick's commit, synced to disk")
        )
        for series, rounds in measurements.items()
    ]
    return rows + [restarts(effort, series) for series in dirty]


def typical(rounds: list[list[float]]) -> Figure:
    """Return the figure of each round's median."""
    longest = max(max(took) for took in rounds)
    return figure(
        OURS, [statistics.median(took) for took in rounds], f"at most {longest:.0f} ms"
    )


def restarts(effort: Effort, series: int) -> Row:
    """Return the row of a restart with so many series."""
    seconds = effort.whole(DAY, 60)
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        agent = Agent(Path(folder))
        try:
            fill(Path(agent.store), series, seconds)
            size = Path(agent.store).stat().st_size / 1e6
            what = f"restart with {seconds / 3600:.3g} h of {series:,} series"
            measurements = in_turns(effort.rounds, {what: partial(restart, agent)})[
                what
            ]
        finally:
            agent.close()
    return Row(what, "ms", figure(OURS, measurements, f"a file of {size:,.0f} MB"))
