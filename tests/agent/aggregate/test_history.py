"""An hour of buckets: which are in memory, and how they are read."""

from __future__ import annotations

import numpy as np

from kaywatch_agent.aggregate.bucket import Bucket, merge, select
from kaywatch_agent.aggregate.compression import CompressedBucket
from kaywatch_agent.aggregate.history import (
    BLOCK_BUCKETS,
    OVERHEAD_BYTES,
    ClosedBucket,
    History,
    StoredBucket,
)
from kaywatch_agent.aggregate.reduction import reduce
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


def test_the_two_newest_buckets_stay_open_and_old_ones_go() -> None:
    bucket = reduce(events(10))
    history = History({}).advance(dict.fromkeys(range(90, 101), bucket), 100, 5)

    assert sorted(history) == [95, 96, 97, 98, 99, 100]
    kinds = [type(history._buckets[n]) for n in sorted(history)]
    assert kinds == [ClosedBucket] * 4 + [Bucket] * 2
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

    # For some rows, blocks are merged afterwards, one at a time; also of later ticks.
    some = np.unique(merge(buckets.values()).rows[::3])
    expected = select(merge(buckets.values()), some)
    fresh = History({}).advance(buckets, 1_199, 360)
    assert not fresh.is_block_missing
    for size in (60 + 60 + 60, 1 + 60 + 60, 2 + 60):
        few = list(fresh.merged(numbers, some))
        assert len(few) == size
        assert is_close(merge(few), expected)
        assert fresh.is_block_missing is (size > 2 + 60)
        before, fresh = fresh, fresh.advance({}, 1_199, 360)
        before.merge_missing()

    # A late event: only its block is merged again.
    late = merge([buckets[1_100], reduce(events(9))])
    after = history.advance({1_100: late}, 1_201, 360)
    expected = merge({**buckets, 1_100: late}.values())
    assert is_close(merge(after.merged(numbers)), expected)
    assert is_close(merge(history.merged(numbers)), merge(buckets.values()))


def test_a_block_that_is_too_old_by_now_is_not_merged() -> None:
    buckets = dict.fromkeys(range(1_020, 1_080), reduce(events(10)))
    history = History({}).advance(buckets, 1_100, 360)
    list(history.merged(sorted(buckets), np.array([3])))
    later = history.advance({}, 1_400, 360)

    assert later.is_block_missing
    later.merge_missing()
    assert not later.is_block_missing
    assert not later._blocks


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


def test_steps_of_the_same_series_hold_their_rows_once() -> None:
    first, second, other = (
        reduce(events(size, rows)) for size, rows in ((900, 40), (901, 40), (900, 30))
    )
    history = History({}).advance({1: first, 2: second, 3: other}, 10, 9)
    closed = [history._buckets[n] for n in (1, 2, 3)]
    packed = [bucket.packed for bucket in closed if isinstance(bucket, ClosedBucket)]

    assert packed[1].rows is packed[0].rows
    assert packed[2].rows is not packed[0].rows
    columns = sum(map(size_of, packed)) - packed[0].rows.nbytes
    assert history.bytes == columns + 3 * OVERHEAD_BYTES
    assert all(is_same(history[n], s) for n, s in ((1, first), (2, second), (3, other)))


class Reader:
    """The store of a history, which records what was read."""

    def __init__(self, buckets: dict[int, Bucket]) -> None:
        self.buckets = buckets
        self.numbers: list[int] = []

    def read(self, number: int, rows: np.ndarray | None = None, *_: object) -> Bucket:
        self.numbers.append(number)
        bucket = self.buckets[number]
        return bucket if rows is None else select(bucket, rows)


def spilled(history: History) -> list[int]:
    """Return which buckets only the store has."""
    return [n for n in history if isinstance(history._buckets[n], StoredBucket)]


def test_the_oldest_buckets_beyond_the_limit_are_read_from_the_store() -> None:
    store = Reader({n: reduce(events(200 + n)) for n in range(100, 111)})
    history = History({}, store.read).advance(store.buckets, 110, 20)
    half = history.bytes // 2
    shrunk = history.shrink(half, 111)

    assert history.shrink(history.bytes, 111) is history
    assert half * 0.8 < shrunk.bytes <= half
    assert spilled(shrunk) == list(range(100, 100 + shrunk.stored_count))
    assert not spilled(history)
    # Readers who remember what they computed need not compute it again.
    assert all(shrunk.stored(n) is history.stored(n) for n in range(100, 109))
    assert not store.numbers
    for number, bucket in store.buckets.items():
        assert is_same(shrunk[number], bucket)
    assert store.numbers == spilled(shrunk)
    part = shrunk.part(100, np.array([3, 7]), dimensions=())
    assert np.array_equal(part.rows, [3, 7])


def test_a_bucket_stays_in_memory_until_the_store_has_all_of_it() -> None:
    buckets = {n: reduce(events(50 + n)) for n in range(100, 111)}
    history = History({}).advance(buckets, 110, 20)
    # The last commit was before the buckets had changed, or in the same ten seconds.
    assert not spilled(history.shrink(0, 109))
    assert not spilled(history.shrink(0, 110))
    # Closed buckets only, also if the limit cannot be kept.
    assert spilled(history.shrink(0, 111)) == list(range(100, 109))
    # A late event: its commit may be in progress.
    late = history.advance({103: buckets[103]}, 111, 20)
    assert spilled(late.shrink(0, 111)) == [100, 101, 102, *range(104, 109)]
    assert 103 in spilled(late.shrink(0, 112))


def test_a_late_event_brings_a_bucket_back_until_it_is_committed() -> None:
    store = Reader({n: reduce(events(50 + n)) for n in range(100, 111)})
    history = History({}, store.read).advance(store.buckets, 110, 20).shrink(0, 111)
    known = history.stored(103)
    changed = merge([history[103], reduce(events(9))])
    after = history.advance({103: changed}, 111, 20)

    assert is_same(after[103], changed)
    store.buckets[103] = changed
    again = after.shrink(0, 112)
    assert 103 in spilled(again)
    assert again.stored(103) is not known  # readers remember what they computed
    assert is_same(again[103], changed)


def test_merged_blocks_survive_and_are_dropped_last() -> None:
    first = 20 * BLOCK_BUCKETS
    numbers = range(first, first + 2 * BLOCK_BUCKETS)
    store = Reader({n: reduce(events(100 + n % 7)) for n in numbers})
    now = numbers[-1] + 2
    history = History({}, store.read).advance(store.buckets, now, 360)
    expected = merge(history.merged(numbers))
    blocks = sum(block.size for block in history._blocks.values())

    shrunk = history.shrink(blocks, now + 1)
    assert spilled(shrunk) == list(numbers)
    assert shrunk.bytes == blocks
    assert is_close(merge(shrunk.merged(numbers)), expected)
    assert not store.numbers  # not read again

    nothing = shrunk.shrink(0, now + 1)
    assert nothing.bytes == 0
    assert is_close(merge(nothing.merged(numbers)), expected)
    assert sorted(store.numbers) == list(numbers)
    store.numbers.clear()
    assert is_close(merge(nothing.merged(numbers)), expected)
    assert not store.numbers  # merged once
