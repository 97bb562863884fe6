"""An hour of buckets: the open ones as they are, the closed ones compressed.

A closed bucket is rarely read and kept for an hour, so its columns are as narrow as
possible: about 50 bytes for a series and 3 for each of its facts, instead of 88 and 16.
Compression loses nothing.

Strategy: the facts of a bucket have few distinct numbers, so each is held as an
index of these. Counts are bytes; the few that don't fit, such as sums of time, are
stored separately. Rows equal to those of the previous bucket are shared.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import is_
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import (
    EMPTY,
    ROW_SHIFT,
    Bucket,
    merge,
    select,
    spans,
)

__all__ = ["History", "CompressedBucket", "compress", "decompress"]

# A multiple of ten seconds: six blocks make up most of an hour.
BLOCK_BUCKETS: Final = 60

_LOW: Final = (1 << ROW_SHIFT) - 1
_MOST: Final = int(np.iinfo(np.uint8).max)

# The spacing of floats between 2004 and 2038, in Unix seconds: times are multiples of
# it.
UNIT: Final = 2.0**-22
MAX_UNITS: Final = float(np.iinfo(np.uint32).max)


class CompressedBucket(NamedTuple):
    """A bucket in narrow columns; the facts of each row follow one another."""

    rows: NDArray[np.int32]
    executions: NDArray[Any]
    attempts: NDArray[Any]
    floats: NDArray[np.float64]  # total, squares, least, most and last, a line each
    last_time: NDArray[Any]  # Unix seconds, or whole UNITs since `since`
    since: NDArray[np.float64]  # one value
    facts_per_row: NDArray[Any]
    kinds: NDArray[np.uint32]  # distinct pairs of dimension and number
    facts: NDArray[Any]  # indexes into them
    fact_counts: NDArray[np.uint8]  # 0: see `large`, in order
    large: NDArray[Any]


def compress(bucket: Bucket, like: CompressedBucket | None = None) -> CompressedBucket:
    """Return the bucket in narrow columns; equal rows are shared with `like`."""
    starts = np.searchsorted(bucket.fact_keys, bucket.rows << ROW_SHIFT)
    sizes = np.diff(starts, append=len(bucket.fact_keys))
    kinds, facts = np.unique(bucket.fact_keys & _LOW, return_inverse=True)
    fits = (bucket.fact_counts > 0) & (bucket.fact_counts <= _MOST)
    last_time, since = _since(bucket.last_time)
    own = like is None or not np.array_equal(like.rows, bucket.rows)
    compressed = CompressedBucket(
        rows=bucket.rows.astype(np.int32) if own else np.zeros(0, np.int32),
        executions=_narrow(bucket.executions),
        attempts=_narrow(bucket.attempts),
        floats=np.array([*bucket[3:7], bucket.last]),
        last_time=last_time,
        since=np.array([since]),
        facts_per_row=_narrow(sizes),
        kinds=kinds.astype(np.uint32),
        facts=_narrow(facts),
        fact_counts=np.where(fits, bucket.fact_counts, 0).astype(np.uint8),
        large=_narrow(bucket.fact_counts[~fits]),
    )
    result = CompressedBucket(*_copy_to_block(compressed))
    return result if own or like is None else result._replace(rows=like.rows)


def decompress(
    packed: CompressedBucket, rows: NDArray[np.int64] | None = None, facts: bool = True
) -> Bucket:
    """Return the bucket that was compressed, or a part of it.

    Args:
        packed: the compressed bucket.
        rows: the only rows wanted, sorted; None for all.
        facts: whether facts are wanted; most of the time is theirs.
    """
    at = slice(None) if rows is None else _find(packed, rows)
    present = packed.rows[at].astype(np.int64)
    columns = [
        present,
        packed.executions[at].astype(np.int64),
        packed.attempts[at].astype(np.int64),
        *packed.floats[:4, at],
        _times(packed, at),
        packed.floats[4, at],
    ]
    if not facts:
        return Bucket._make([*columns, EMPTY.fact_keys, EMPTY.fact_counts])
    positions = slice(None) if isinstance(at, slice) else _find_facts(packed, at)
    row_of_fact = np.repeat(present, packed.facts_per_row[at])
    keys = (row_of_fact << ROW_SHIFT) | packed.kinds[packed.facts[positions]]
    return Bucket._make([*columns, keys, _counts(packed, positions)])


class _Block(NamedTuple):
    """Consecutive buckets, merged."""

    parts: list[CompressedBucket]
    merged: CompressedBucket

    def is_of(self, parts: Sequence[object]) -> bool:
        """Return whether these are its parts: a late event replaces one."""
        return len(parts) == len(self.parts) and all(map(is_, parts, self.parts))


class History(Mapping[int, Bucket]):
    """Buckets by number, decompressed when read. Immutable."""

    def __init__(
        self,
        buckets: Mapping[int, Bucket | CompressedBucket | None],
        read: Callable[[int], Bucket] = lambda _: EMPTY,
    ) -> None:
        """Prepare a history.

        Args:
            buckets: by number; None for a bucket that only the store has.
            read: returns a bucket from the store.
        """
        self._buckets = buckets
        self._read = read
        # Filled by readers, in any thread; a block takes the memory of five buckets.
        self._blocks: dict[int, _Block] = {}

    def __getitem__(self, number: int) -> Bucket:
        return self.part(number)

    def part(
        self, number: int, rows: NDArray[np.int64] | None = None, facts: bool = True
    ) -> Bucket:
        """Return a part of a bucket; the arguments are those of `decompress`."""
        bucket = self._buckets[number]
        if isinstance(bucket, CompressedBucket):
            return decompress(bucket, rows, facts)
        if bucket is None:
            bucket = self._read(number)
        return bucket if rows is None else select(bucket, rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._buckets)

    def __len__(self) -> int:
        return len(self._buckets)

    def __contains__(self, number: object) -> bool:
        return number in self._buckets

    def merged(self, numbers: Iterable[int]) -> Iterator[Bucket]:
        """Yield few buckets with the events of many; `numbers` is sorted."""
        for block, members in groupby(numbers, lambda number: number // BLOCK_BUCKETS):
            group = list(members)
            parts = [self._buckets[number] for number in group]
            closed = [part for part in parts if isinstance(part, CompressedBucket)]
            if len(closed) == BLOCK_BUCKETS:
                yield self._block(block, closed)
            else:
                yield from map(self.part, group)

    def stored(self, number: int) -> object:
        """Return an object that is another one once the bucket has changed."""
        return self._buckets[number]

    def is_closed(self, number: int) -> bool:
        """Return whether a bucket changes only through late events."""
        return not isinstance(self._buckets[number], Bucket)

    def advance(self, fresh: Mapping[int, Bucket], current: int, kept: int) -> History:
        """Return the history after a tick.

        Args:
            fresh: the buckets that have changed.
            current: the number of the bucket of now.
            kept: how many buckets before it to keep.
        """
        buckets = {
            n: s for n, s in {**self._buckets, **fresh}.items() if n >= current - kept
        }
        like = next(
            (s for s in self._buckets.values() if isinstance(s, CompressedBucket)), None
        )
        for number, bucket in buckets.items():
            # The previous bucket is still open: events arrive about a second late.
            if number < current - 1 and isinstance(bucket, Bucket):
                buckets[number] = like = compress(bucket, like)
        history = History(buckets, self._read)
        oldest = (current - kept) // BLOCK_BUCKETS
        history._blocks = {n: b for n, b in self._blocks.copy().items() if n >= oldest}
        return history

    def _block(self, number: int, parts: list[CompressedBucket]) -> Bucket:
        block = self._blocks.get(number)
        if block is not None and block.is_of(parts):
            return decompress(block.merged)
        merged = merge(map(decompress, parts))
        self._blocks[number] = _Block(parts, compress(merged))
        return merged


def _since(times: NDArray[np.float64]) -> tuple[NDArray[Any], float]:
    """Return times as whole UNITs since the earliest, if that loses nothing."""
    if not len(times):
        return times, 0.0
    first = float(times.min())
    units = (times - first) / UNIT
    if not units.max() <= MAX_UNITS:
        return times, 0.0
    whole = units.astype(np.uint32)
    exact = np.array_equal(whole * UNIT + first, times)
    return (whole, first) if exact else (times, 0.0)


_Positions = NDArray[np.int64] | slice


def _find(packed: CompressedBucket, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of those of some rows that the bucket has."""
    at = np.searchsorted(packed.rows, rows.astype(np.int32))
    inside = at < len(packed.rows)
    at = at[inside]
    present: NDArray[np.int64] = at[packed.rows[at] == rows[inside]]
    return present


def _find_facts(packed: CompressedBucket, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of the facts of the rows at some positions."""
    sizes = packed.facts_per_row[at].astype(np.int64)
    ends = np.cumsum(packed.facts_per_row, dtype=np.int64)[at]
    return spans(ends - sizes, sizes)


def _counts(packed: CompressedBucket, facts: _Positions) -> NDArray[np.int64]:
    counts = packed.fact_counts[facts].astype(np.int64)
    large = counts == 0
    if isinstance(facts, slice):
        counts[large] = packed.large
    elif large.any():
        separate = np.flatnonzero(packed.fact_counts == 0)
        counts[large] = packed.large[np.searchsorted(separate, facts[large])]
    return counts


def _times(packed: CompressedBucket, at: _Positions) -> NDArray[np.float64]:
    last_time = packed.last_time[at]
    if last_time.dtype == np.float64:
        return last_time
    times: NDArray[np.float64] = last_time * UNIT + packed.since
    return times


def _copy_to_block(columns: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return copies of the columns in one separate block of memory.

    On the heap, between a tick's temporaries, they would keep free memory from being
    reused (measured: 680 MB for 270 MB of columns).
    """
    size = sum(column.nbytes for column in columns)
    block = mmap.mmap(-1, max(size, 1))
    copies = list(columns)
    at = 0
    # Widest first, so that every column is aligned.
    for place in sorted(range(len(columns)), key=lambda n: -columns[n].itemsize):
        column = columns[place]
        copy = np.frombuffer(block, column.dtype, column.size, at)
        copies[place] = copy.reshape(column.shape)
        copies[place][...] = column
        at += column.nbytes
    return copies


def _narrow(column: NDArray[np.int64]) -> NDArray[Any]:
    most = int(column.max()) if len(column) else 0
    return column.astype(np.min_scalar_type(most))
