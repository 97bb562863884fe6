"""Closed buckets take less memory, and keep their content."""

from __future__ import annotations

import numpy as np
import pytest

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge, reduce
from kaywatch_agent.aggregate.history import (
    CompressedBucket,
    History,
    compress,
    decompress,
)
from kaywatch_agent.model.series import Columns, PhaseColumns


def events(size: int, rows: int = 40, attempts: int = 1) -> Columns:
    random = np.random.default_rng(size)
    return Columns(
        random.integers(0, rows, size),
        1e9 + random.random(size),
        random.lognormal(-3, 1, size),
        random.integers(0, 5, size).astype(np.uint8),
        np.full(size, attempts, np.int64),
        random.integers(0, 4_000, size),
        random.integers(0, 3, size),
    )


def phases(columns: Columns) -> PhaseColumns:
    """Return phases of half of the events."""
    row, time, value = (column[::2] for column in columns[:3])
    part = (value / 4).astype(np.float32)
    items = np.arange(len(row), dtype=np.uint32)
    return PhaseColumns(row, time, value, part, part, 0 * part, items)


def is_same(one: Bucket, other: Bucket) -> bool:
    return all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(one, other, strict=True)
    )


def size_of(bucket: Bucket | CompressedBucket) -> int:
    return sum(column.nbytes for column in bucket)


@pytest.mark.parametrize(
    "bucket",
    [
        EMPTY,
        reduce(events(1)),
        reduce(events(300, attempts=70_000)),
        reduce(events(100_000, rows=3)),
        reduce(events(5_000, rows=5_000)),
        merge([reduce(events(1_000))] * 300),
        reduce(events(5_000), phases(events(5_000))),
    ],
    ids=[
        *("empty", "one", "attempts", "few rows", "many rows", "large counts"),
        "phases",
    ],
)
def test_a_compressed_bucket_survives_encoding(bucket: Bucket) -> None:
    assert is_same(decompress(compress(bucket)), bucket)


@pytest.mark.parametrize("phased", [False, True])
@pytest.mark.parametrize("rows", [[], [7], [3, 4, 39], [0, 5, 40, 41, 90], [200]])
def test_a_part_of_a_bucket_is_that_of_its_rows(rows: list[int], phased: bool) -> None:
    source = events(3_000, attempts=300)
    bucket = reduce(source, phases(source) if phased else None)
    wanted = np.array(rows, np.int64)
    # Independently: of the events of these rows alone.
    chosen = np.isin(source.row, wanted)
    alone = Columns(*(column[chosen] for column in source))
    kept = phases(source)
    kept = PhaseColumns(*(column[np.isin(kept.row, wanted)] for column in kept))
    expected = reduce(alone, kept if phased else None)

    history = History({1: bucket, 2: compress(bucket), 3: None}, lambda _: bucket)
    for number in history:
        part = history.part(number, wanted)
        assert is_same(part, expected)
        without = history.part(number, wanted, facts=False)
        assert all(map(np.array_equal, without[:9], expected[:9]))


def test_packing_saves_most_of_the_facts() -> None:
    bucket = reduce(events(50_000, rows=1_000))
    assert size_of(compress(bucket)) < 0.45 * size_of(bucket)


def test_times_cost_series_without_phases_nothing() -> None:
    result = events(50_000, rows=1_000)
    few = PhaseColumns(*(column[:20] for column in phases(result)))
    without, with_few = compress(reduce(result)), compress(reduce(result, few))
    assert size_of(with_few) < size_of(without) + 40 * 20


def test_the_two_newest_buckets_stay_open_and_old_ones_go() -> None:
    bucket = reduce(events(10))
    history = History({}).advance(dict.fromkeys(range(90, 101), bucket), 100, 5)

    assert sorted(history) == [95, 96, 97, 98, 99, 100]
    kinds = [type(history._buckets[n]) for n in sorted(history)]
    assert kinds == [CompressedBucket] * 4 + [Bucket] * 2
    assert all(is_same(history[n], bucket) for n in history)
    assert 94 not in history


def test_merged_blocks_have_the_events_of_their_buckets() -> None:
    # Two whole blocks, and one with open buckets.
    buckets = {n: reduce(events(20 + n % 7)) for n in range(1_020, 1_200)}
    history = History({}).advance(buckets, 1_199, 360)
    numbers = sorted(buckets)

    for chosen in (numbers, numbers[40:120], numbers[:1], []):
        for _ in range(2):  # computed, and remembered
            few = list(history.merged(chosen))
            expected = merge(history[n] for n in chosen)
            assert is_close(merge(few), expected)
    assert len(list(history.merged(numbers))) == 2 + 60

    # A late event: only its block is merged again.
    late = merge([buckets[1_100], reduce(events(9))])
    after = history.advance({1_100: late}, 1_201, 360)
    expected = merge({**buckets, 1_100: late}.values())
    assert is_close(merge(after.merged(numbers)), expected)
    assert is_close(merge(history.merged(numbers)), merge(buckets.values()))


def is_close(one: Bucket, other: Bucket) -> bool:
    """Return whether two buckets differ at most in the last bits of sums of floats."""
    return len(one.rows) == len(other.rows) and all(
        map(np.allclose, one, other)  # type: ignore[arg-type]
    )


def test_a_history_snapshot_does_not_change() -> None:
    bucket = reduce(events(10))
    before = History({}).advance({100: bucket}, 100, 5)
    after = before.advance({101: bucket}, 103, 5)

    assert list(before) == [100]
    assert type(before._buckets[100]) is Bucket
    assert list(after) == [100, 101]


@pytest.mark.parametrize(
    "times",
    [
        [1.8e9, np.nextafter(1.8e9, 2e9), 1.8e9 + 9.999],
        [1e9, 1e9 + 1e-7],  # finer than the unit
        [1.8e9, 1.8e9 + 86_400.0],  # too far apart for it
        [0.0, 1.8e9],
        [0.1, 0.2],
        [3e9, 3e9 + 1.0],
    ],
)
def test_times_lose_nothing(times: list[float]) -> None:
    size = len(times)
    columns = events(size)._replace(row=np.arange(size), time=np.array(times))
    bucket = reduce(columns)
    assert is_same(decompress(compress(bucket)), bucket)


def test_steps_of_the_same_series_hold_their_rows_once() -> None:
    first, second, other = (
        reduce(events(size, rows)) for size, rows in ((900, 40), (901, 40), (900, 30))
    )
    history = History({}).advance({1: first, 2: second, 3: other}, 10, 9)
    packed = [history._buckets[n] for n in (1, 2, 3)]
    assert all(isinstance(bucket, CompressedBucket) for bucket in packed)
    rows = [bucket.rows for bucket in packed if isinstance(bucket, CompressedBucket)]

    assert rows[1] is rows[0]
    assert rows[2] is not rows[0]
    assert all(is_same(history[n], s) for n, s in ((1, first), (2, second), (3, other)))
