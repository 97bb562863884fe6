"""Aggregates of a set of events, per series. Merging is exact.

Strategy: an open bucket, a closed one, a window and the totals all have one type,
Bucket, made by two functions: `reduce` from columns and `merge` from buckets. Merging
is associative and commutative, so neither the order of arrival nor the length of a tick
shows in a result, except in the last bits of sums of floats.

What varies in number per series (histogram, outcomes, actions, errors) is kept in one
sorted array of keys with counts, the "facts": row, dimension and number packed into an
int64. So there is one kind of counter, and the facts of a series are one slice.

Buckets are never mutated: any thread may read them without a lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.arrays import group, insert, spans, union

__all__ = [
    "ALL_DIMENSIONS",
    "EMPTY",
    "TICKS",
    "Dimension",
    "PhaseSum",
    "Bucket",
    "find_rows",
    "gather",
    "merge",
    "select",
    "split",
    "without_histograms",
    "sum_in_order",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROW_SHIFT: Final = 32
DIMENSION_SHIFT: Final = 28
NUMBER_MASK: Final = (1 << DIMENSION_SHIFT) - 1

# Ticks per second: 100 ns each, as in .NET. Integers add up exactly in any order, and a
# sum of 29,000 years fits.
TICKS: Final = 10_000_000.0
# 325 days, for one phase of one execution. A longer one is a sender's bug; clamped, the
# sum of thousands of them still fits.
MAX_TICKS: Final = 2.0**48


# An hour has 361 buckets. Merging fewer at a time is slower, merging more needs more
# memory.
MAX_GATHERED: Final = 400

# The facts that are gathered before they are merged: 16 MB.
MAX_GATHERED_FACTS: Final = 1_000_000

# More buckets than this are merged if they have no more rows and facts than `SMALL`.
# For a small bucket, the calls of numpy cost more than the addition, and a dozen rules
# add up the same buckets: merged ones make a backtest 18 % faster.
MAX_SMALL: Final = 3
SMALL: Final = 10_000

# The facts that wait to be merged, 16 bytes each: an hour of 10,000 series has 25
# million.
MAX_MERGED_FACTS: Final = 1_000_000

# Large buckets are merged in pieces with this many facts, which bounds the temporary
# arrays to about 60 MB. In larger pieces, merging is no faster.
PIECE_FACTS: Final = 1_000_000

# A bucket is added to one that is this many times as large by a search for its keys,
# without sorting: 2 to 20 times as fast, and without temporary arrays of that size.
ADD_FACTOR: Final = 4


class Dimension(IntEnum):
    """What a fact counts."""

    HISTOGRAM = 0  # number: code + CODE_LIMIT
    OUTCOME = 1  # number: Outcome; OK is not stored, it is the remainder
    ACTION = 2  # number: that of the action, or of a run's EndPoint
    ERROR = 3  # number: that of the ErrorKey
    PHASES = 4  # number: a PhaseSum; the count is that sum


ALL_DIMENSIONS: Final = frozenset(Dimension)


class PhaseSum(IntEnum):
    """The sums over executions whose phases are known; times in ticks."""

    EXECUTIONS = 0  # their number
    PREP = 1
    EXEC = 2
    WAIT = 3
    POST = 4
    ITEMS = 5


class Bucket(NamedTuple):
    """Aggregates per series; `rows` is sorted and without duplicates."""

    rows: Ints
    executions: Ints
    attempts: Ints
    total: Floats  # sum of the values
    least: Floats
    most: Floats
    last_time: Floats
    last: Floats  # the value at last_time
    fact_keys: Ints
    fact_counts: Ints


# How many columns have a value for each row; the others are about facts.
ROW_COLUMNS: Final = Bucket._fields.index("fact_keys")


def _empty() -> Bucket:
    ints: NDArray[Any] = np.zeros(0, np.int64)
    floats: NDArray[Any] = np.zeros(0, np.float64)
    return Bucket._make([ints] * 3 + [floats] * 5 + [ints] * 2)


EMPTY: Final = _empty()


def merge(buckets: Iterable[Bucket]) -> Bucket:
    """Return one bucket with the events of all `buckets`.

    Of the values at the newest time, the one in the last bucket is kept.
    """
    parts: list[Bucket] = []
    facts = 0
    for bucket in buckets:
        if len(bucket.rows):
            parts.append(bucket)
            facts += len(bucket.fact_keys)
        if facts > MAX_MERGED_FACTS:
            parts, facts = [_merge(parts)], 0
    return _merge(parts) if parts else EMPTY


def first_rows(bucket: Bucket, size: int) -> Bucket:
    """Return a bucket without the rows from `size` on, which are newer."""
    if not len(bucket.rows) or bucket.rows[-1] < size:
        return bucket
    rows: NDArray[np.bool_] = bucket.rows < size
    facts = bucket.fact_keys >> ROW_SHIFT < size
    columns = [column[rows] for column in bucket[:ROW_COLUMNS]]
    return Bucket._make([*columns, bucket.fact_keys[facts], bucket.fact_counts[facts]])


def gather(buckets: Iterable[Bucket]) -> list[Bucket]:
    """Return few buckets with the same events: a month has too many for memory."""
    gathered: list[Bucket] = []
    facts = 0
    for bucket in buckets:
        gathered.append(bucket)
        facts += len(bucket.fact_keys)
        if len(gathered) > MAX_GATHERED or facts > MAX_GATHERED_FACTS:
            gathered, facts = [_merge(gathered)], 0
    if len(gathered) > MAX_SMALL and sum(map(_size, gathered)) <= SMALL:
        return [_merge(gathered)]
    return gathered


def split(bucket: Bucket, at: Ints | None = None) -> list[Bucket]:
    """Return the parts of a bucket, without copying.

    Args:
        bucket: the bucket.
        at: the first rows of the parts but the first; by default, parts are of
            `PIECE_FACTS` facts.
    """
    cuts = _cuts([bucket]) if at is None else at
    if not len(cuts):
        return [bucket]
    rows = [0, *np.searchsorted(bucket.rows, cuts).tolist(), len(bucket.rows)]
    facts = np.searchsorted(bucket.fact_keys, cuts << ROW_SHIFT).tolist()
    facts = [0, *facts, len(bucket.fact_keys)]
    return [
        Bucket._make(
            [column[slice(*row)] for column in bucket[:ROW_COLUMNS]]
            + [column[slice(*fact)] for column in bucket[ROW_COLUMNS:]]
        )
        for row, fact in zip(pairwise(rows), pairwise(facts), strict=True)
    ]


def without_histograms(bucket: Bucket) -> Bucket:
    """Return a bucket without the facts of histograms: most facts of busy series."""
    kept = bucket.fact_keys & ((1 << ROW_SHIFT) - 1) > NUMBER_MASK
    return bucket._replace(
        fact_keys=bucket.fact_keys[kept], fact_counts=bucket.fact_counts[kept]
    )


def select(bucket: Bucket, rows: Ints) -> Bucket:
    """Return the part of a bucket that some rows have; `rows` is sorted."""
    at, facts = find_rows(bucket, rows)
    columns = [column[at] for column in bucket[:ROW_COLUMNS]]
    return Bucket._make([*columns, bucket.fact_keys[facts], bucket.fact_counts[facts]])


def find_rows(bucket: Bucket, rows: Ints) -> tuple[Ints, Ints]:
    """Return the positions of those of some rows that a bucket has, and of their facts.

    Searches: faster than a pass over the bucket if it has many times as many rows.
    """
    at = np.searchsorted(bucket.rows, rows)
    inside = at < len(bucket.rows)
    at, rows = at[inside], rows[inside]
    at = at[bucket.rows[at] == rows]
    rows = bucket.rows[at]
    low = np.searchsorted(bucket.fact_keys, rows << ROW_SHIFT)
    high = np.searchsorted(bucket.fact_keys, (rows + 1) << ROW_SHIFT)
    return at, spans(low, high - low)


def sum_in_order(rows: Ints, parts: Iterable[Bucket]) -> Floats:
    """Return the sums of the values of some rows, added part after part.

    `merge` adds floats in any order, which may change the last bits of a sum.
    """
    total = np.zeros(len(rows))
    for part in parts:
        with np.errstate(over="ignore", invalid="ignore"):
            total[np.searchsorted(rows, part.rows)] += part.total
    return total


# -- inside ------------------------------------------------------------------------


def _merge(parts: Sequence[Bucket]) -> Bucket:
    first, *others = parts
    if not others:
        return first
    if sum(map(_size, others)) * ADD_FACTOR <= _size(first):
        return _add(first, _merge(others))
    cuts = _cuts(parts)
    if not len(cuts):
        return _sort(parts)
    pieces = zip(*[split(part, cuts) for part in parts], strict=True)
    merged = [_sort(piece) for piece in pieces if sum(map(_size, piece))]
    return Bucket._make(map(np.concatenate, zip(*merged, strict=True)))


def _size(bucket: Bucket) -> int:
    return len(bucket.rows) + len(bucket.fact_keys)


def _cuts(parts: Sequence[Bucket]) -> Ints:
    """Return the rows at which to cut buckets into pieces of `PIECE_FACTS`."""
    pieces = sum(len(part.fact_keys) for part in parts) // PIECE_FACTS
    if not pieces:
        return EMPTY.rows
    largest = max((part.fact_keys for part in parts), key=len)
    at = np.linspace(0, len(largest), pieces + 1, endpoint=False)[1:]
    rows = np.unique(largest[at.astype(np.int64)] >> ROW_SHIFT)
    cuts: Ints = rows[rows > largest[0] >> ROW_SHIFT]
    return cuts


def _add(bucket: Bucket, more: Bucket) -> Bucket:
    """Return the merge of a bucket and a much smaller one."""
    rows, at, places = union(bucket.rows, more.rows)
    keys, facts, fact_places = union(bucket.fact_keys, more.fact_keys)
    fill = (0, 0, 0.0, np.inf, -np.inf, -np.inf, 0.0)
    columns = [
        insert(column, places, value)
        for column, value in zip(bucket[1:ROW_COLUMNS], fill, strict=True)
    ]
    executions, attempts, total, least, most, last_time, last = columns
    executions[at] += more.executions
    attempts[at] += more.attempts
    with np.errstate(over="ignore", invalid="ignore"):
        total[at] += more.total
    least[at] = np.minimum(least[at], more.least)
    most[at] = np.maximum(most[at], more.most)
    newer = np.flatnonzero(more.last_time >= last_time[at])
    last_time[at[newer]] = more.last_time[newer]
    last[at[newer]] = more.last[newer]
    counts = insert(bucket.fact_counts, fact_places, 0)
    counts[facts] += more.fact_counts
    return Bucket._make([rows, *columns, keys, counts])


def _sort(parts: Sequence[Bucket]) -> Bucket:
    """Return the merge of buckets, by sorting."""
    rows, order, starts = group(np.concatenate([p.rows for p in parts]))

    def column(name: str) -> NDArray[Any]:
        joined: NDArray[Any] = np.concatenate([getattr(p, name) for p in parts])
        return joined[order]

    def add(name: str) -> NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):
            total: NDArray[Any] = np.add.reduceat(column(name), starts)
        return total

    keys, fact_order, fact_starts = group(np.concatenate([p.fact_keys for p in parts]))
    counts = np.concatenate([p.fact_counts for p in parts])[fact_order]
    return Bucket(
        rows,
        add("executions"),
        add("attempts"),
        add("total"),
        np.minimum.reduceat(column("least"), starts),
        np.maximum.reduceat(column("most"), starts),
        *_latest(column("last_time"), column("last"), starts),
        keys,
        np.add.reduceat(counts, fact_starts) if len(counts) else counts,
    )


def _latest(times: Floats, values: Floats, starts: Ints) -> tuple[Floats, Floats]:
    """Return each group's newest time, and the last of the values at that time."""
    newest = np.maximum.reduceat(times, starts)
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(times)))
    at_newest = np.flatnonzero(times == newest[group])
    last = np.empty(len(starts))
    last[group[at_newest]] = values[at_newest]
    return newest, last
