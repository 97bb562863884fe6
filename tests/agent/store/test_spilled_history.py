"""Buckets that do not fit into memory are read from the store, and stay exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.agent.aggregate.samples import to_naive
from tests.agent.aggregate.test_aggregator import Aggregation
from tests.agent.protocol.samples import batch, executions

from kaywatch_agent.aggregate.bucket import merge
from kaywatch_agent.aggregate.change import WriteBatch
from kaywatch_agent.aggregate.registry import Limits
from kaywatch_agent.aggregate.view import HISTORY_BUCKETS, NoArchive, View
from kaywatch_agent.store.archive import Archive
from kaywatch_agent.store.store import Store

SMALL = Limits(history="200kB")
NOW = 1_700_000_000.0
CURRENT = int(NOW // 10)


class StoredAggregation(Aggregation):
    """An aggregation whose changes are committed to a store."""

    def __init__(self, path: Path, limits: Limits = SMALL) -> None:
        super().__init__(limits)
        self.store = Store(path)
        state = self.store.restore()
        self.archive = Archive(path, 1e9)
        self.aggregator.use(self.archive)
        if state.now is not None:
            self.aggregator.restore(state)

    def save(self, now: float, fails: bool = False) -> None:
        self.aggregator.advance(now)
        change = self.aggregator.changes(full=False)
        if fails:
            self.aggregator.refused(change)
        else:
            self.store.commit(WriteBatch(change))
            self.aggregator.committed(change)

    def close(self) -> None:
        self.archive.close()
        self.store.close()

    @property
    def stored_count(self) -> int:
        return self.aggregator.view(NOW).buckets.stored_count


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kaywatch.db"


@pytest.fixture
def small(path: Path) -> Iterator[StoredAggregation]:
    aggregation = StoredAggregation(path)
    yield aggregation
    aggregation.close()


def send(aggregations: list[Aggregation], seed: int, now: float, age: float) -> None:
    """Send the same executions to some aggregations, some of them late."""
    random = np.random.default_rng(seed)
    size = 40
    ends = now - 1 - random.random(size) * age
    # Multiples of 1/64 add up exactly.
    seconds = np.ceil(random.lognormal(0, 1, size) * 64) / 64
    message = batch(
        executions=executions(
            size,
            series=random.integers(0, 2, size).tolist(),
            end=ends.tolist(),
            seconds=seconds.tolist(),
        )
    )
    for aggregation in aggregations:
        assert aggregation.accept(message, now) == size


def is_same(one: View, other: View) -> bool:
    numbers = sorted(one.buckets)
    return (
        numbers == sorted(other.buckets)
        and all(to_naive(one.buckets[n]) == to_naive(other.buckets[n]) for n in numbers)
        and to_naive(merge(one.buckets.merged(numbers)))
        == to_naive(merge(other.buckets.merged(numbers)))
        and to_naive(one.totals) == to_naive(other.totals)
    )


@pytest.mark.parametrize("late", [60.0, 2_000.0])
def test_windows_are_exact_whatever_is_in_memory(
    small: StoredAggregation, path: Path, late: float
) -> None:
    large = Aggregation()
    for step in range(250):
        # Four commits in ten seconds, of which some fail.
        now = NOW + step * 2.5
        send([small, large], step, now, late if step % 7 == 0 else 2.0)
        small.save(now, fails=step % 5 == 4)
        large.commit(now)
        if step % 125 == 124:
            views = (each.aggregator.view(now) for each in (small, large))
            assert is_same(*views)
    now = NOW + 626
    small.save(now)
    large.commit(now)
    metrics = small.aggregator.metrics

    assert small.stored_count > 30
    assert metrics.history_stored.value == small.stored_count
    assert metrics.history_bytes.value <= 220_000
    assert metrics.history_dropped.value == 0
    views = (each.aggregator.view(now) for each in (small, large))
    assert is_same(*views)

    small.close()
    again = StoredAggregation(path)
    again.aggregator.advance(now)
    assert is_same(again.aggregator.view(now), large.aggregator.view(now))
    again.close()


def test_nothing_leaves_memory_while_the_store_cannot_be_written(
    small: StoredAggregation, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Aggregation()
    for step in range(60):
        now = NOW + step * 10
        send([small, large], step, now, 9.0)
        small.save(now, fails=True)
        large.commit(now)
    assert small.stored_count == 0
    small.save(now + 10)
    large.commit(now + 10)
    # Its changes are from before these ten seconds.
    assert small.stored_count > 20
    assert is_same(*(each.aggregator.view(now + 10) for each in (small, large)))


def test_without_a_store_the_oldest_buckets_are_dropped_and_counted() -> None:
    aggregation = Aggregation(SMALL)
    for step in range(100):
        now = NOW + step * 10
        send([aggregation], step, now, 9.0)
        aggregation.aggregator.committed(aggregation.commit(now))
    view = aggregation.aggregator.view(now)
    dropped = int(aggregation.aggregator.metrics.history_dropped.value)
    counts = {n: len(view.buckets[n].rows) for n in sorted(view.buckets)}

    assert isinstance(view.archive, NoArchive)
    assert 50 < dropped == list(counts.values()).count(0)
    assert all(list(counts.values())[dropped:])
    assert int(view.totals.executions.sum()) == 100 * 40
    assert aggregation.aggregator.metrics.history_stored.value == 0


def test_a_full_snapshot_contains_what_only_the_store_has(
    small: StoredAggregation, tmp_path: Path
) -> None:
    for step in range(100):
        now = NOW + step * 10
        send([small], step, now, 9.0)
        small.save(now)
    assert small.stored_count > 30
    other = Store(tmp_path / "other.db")
    other.restore()
    other.commit(WriteBatch(small.aggregator.changes(full=True)))
    other.close()

    copy = StoredAggregation(tmp_path / "other.db")
    copy.aggregator.advance(now)
    assert is_same(copy.aggregator.view(now), small.aggregator.view(now))
    assert len(small.aggregator.view(now).buckets) <= HISTORY_BUCKETS + 1
    copy.close()
