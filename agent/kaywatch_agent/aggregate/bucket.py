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
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate import histogram
from kaywatch_agent.model.series import Columns, Numbers, PhaseColumns

__all__ = [
    "EMPTY",
    "TICKS",
    "Dimension",
    "PhaseSum",
    "Bucket",
    "find_rows",
    "gather",
    "merge",
    "reduce",
    "select",
    "spans",
    "sum_in_order",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROW_SHIFT: Final = 32
DIMENSION_SHIFT: Final = 28
NUMBER_MASK: Final = (1 << DIMENSION_SHIFT) - 1

# Counting in a dense table is faster than sorting, while the table is not much larger
# than the data.
DENSE_FACTOR: Final = 8
DENSE_FLOOR: Final = 65_536


# Ticks per second: 100 ns each, as in .NET. Integers add up exactly in any order, and a
# sum of 29,000 years fits.
TICKS: Final = 10_000_000.0
# 325 days, for one phase of one execution. A longer one is a sender's bug; clamped, the
# sum of thousands of them still fits.
MAX_TICKS: Final = 2.0**48


# An hour has 361 buckets. Merging fewer at a time is slower, merging more needs more
# memory.
MAX_GATHERED: Final = 400

# The facts merged at a time, 16 bytes each: an hour of 10,000 series has 25 million.
MAX_MERGED_FACTS: Final = 2_000_000


class Dimension(IntEnum):
    """What a fact counts."""

    HISTOGRAM = 0  # number: code + CODE_LIMIT
    OUTCOME = 1  # number: Outcome; OK is not stored, it is the remainder
    ACTION = 2  # number: that of the action, or of a run's EndPoint
    ERROR = 3  # number: that of the ErrorKey
    PHASES = 4  # number: a PhaseSum; the count is that sum


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
    squares: Floats  # sum of their squares
    least: Floats
    most: Floats
    last_time: Floats
    last: Floats  # the value at last_time
    fact_keys: Ints
    fact_counts: Ints


def _empty() -> Bucket:
    ints: NDArray[Any] = np.zeros(0, np.int64)
    floats: NDArray[Any] = np.zeros(0, np.float64)
    return Bucket._make([ints] * 3 + [floats] * 6 + [ints] * 2)


EMPTY: Final = _empty()


def reduce(columns: Columns, phases: PhaseColumns | None = None) -> Bucket:
    """Aggregate events, and the phases of those among them that have any."""
    if not len(columns.row):
        return EMPTY
    rows, local = _compact(columns.row)
    size = len(rows)
    with np.errstate(over="ignore"):
        squares = columns.value * columns.value
        squares = np.bincount(local, squares, size).astype(np.float64)
    last_time = _extremes(np.maximum, local, columns.time, np.full(size, -np.inf))
    newest = np.flatnonzero(columns.time == last_time[local])
    last = np.empty(size)
    last[local[newest]] = columns.value[newest]
    keys, counts = _facts(rows, local, columns, phases)
    executions = np.bincount(local, minlength=size)
    return Bucket(
        rows,
        executions,
        executions + _further_attempts(local, columns.attempts, size),
        np.bincount(local, columns.value, size).astype(np.float64),
        squares,
        _extremes(np.minimum, local, columns.value, np.full(size, np.inf)),
        _extremes(np.maximum, local, columns.value, np.full(size, -np.inf)),
        last_time,
        last,
        keys,
        counts,
    )


def merge(buckets: Iterable[Bucket]) -> Bucket:
    """Return one bucket with the events of all `buckets`."""
    parts: list[Bucket] = []
    facts = 0
    for bucket in buckets:
        if len(bucket.rows):
            parts.append(bucket)
            facts += len(bucket.fact_keys)
        if facts > MAX_MERGED_FACTS:
            parts, facts = [_merge(parts)], 0
    if not parts:
        return EMPTY
    return parts[0] if len(parts) == 1 else _merge(parts)


def first_rows(bucket: Bucket, size: int) -> Bucket:
    """Return a bucket without the rows from `size` on, which are newer."""
    if not len(bucket.rows) or bucket.rows[-1] < size:
        return bucket
    rows: NDArray[np.bool_] = bucket.rows < size
    facts = bucket.fact_keys >> ROW_SHIFT < size
    columns = [column[rows] for column in bucket[:9]]
    return Bucket._make([*columns, bucket.fact_keys[facts], bucket.fact_counts[facts]])


def gather(buckets: Iterable[Bucket]) -> list[Bucket]:
    """Return few buckets with the same events: a month has too many for memory."""
    gathered: list[Bucket] = []
    for bucket in buckets:
        gathered.append(bucket)
        if len(gathered) > MAX_GATHERED:
            gathered = [merge(gathered)]
    return gathered


def select(bucket: Bucket, rows: Ints) -> Bucket:
    """Return the part of a bucket that some rows have; `rows` is sorted."""
    at, facts = find_rows(bucket, rows)
    columns = [column[at] for column in bucket[:9]]
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


def spans(starts: Ints, sizes: Ints) -> Ints:
    """Return the positions of consecutive items: `sizes[n]` from `starts[n]` on."""
    ends = np.cumsum(sizes)
    positions: Ints = np.repeat(starts - ends + sizes, sizes)
    positions += np.arange(len(positions))
    return positions


# -- inside ------------------------------------------------------------------------


def _further_attempts(local: Ints, attempts: Numbers, size: int) -> Ints:
    """Return the attempts at each position without the first one of each execution."""
    others = np.flatnonzero(attempts != 1)  # few, in executions
    further = attempts[others].astype(np.float64) - 1.0
    return np.bincount(local[others], further, size).astype(np.int64)


def _extremes(ufunc: np.ufunc, local: Ints, values: Floats, extremes: Floats) -> Floats:
    """Return the smallest or largest value at each position."""
    ufunc.at(extremes, local, values)
    return extremes


def _merge(parts: Sequence[Bucket]) -> Bucket:
    rows, order, starts = _group(np.concatenate([p.rows for p in parts]))

    def column(name: str) -> NDArray[Any]:
        joined: NDArray[Any] = np.concatenate([getattr(p, name) for p in parts])
        return joined[order]

    def add(name: str) -> NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):
            total: NDArray[Any] = np.add.reduceat(column(name), starts)
        return total

    keys, fact_order, fact_starts = _group(np.concatenate([p.fact_keys for p in parts]))
    counts = np.concatenate([p.fact_counts for p in parts])[fact_order]
    return Bucket(
        rows,
        add("executions"),
        add("attempts"),
        add("total"),
        add("squares"),
        np.minimum.reduceat(column("least"), starts),
        np.maximum.reduceat(column("most"), starts),
        *_latest(column("last_time"), column("last"), starts),
        keys,
        np.add.reduceat(counts, fact_starts) if len(counts) else counts,
    )


def _latest(times: Floats, values: Floats, starts: Ints) -> tuple[Floats, Floats]:
    """Return each group's newest time, and the last of the values at that time."""
    newest = np.maximum.reduceat(times, starts)
    group = np.repeat(np.arange(len(starts)), np.diff([*starts, len(times)]))
    at_newest = np.flatnonzero(times == newest[group])
    last = np.empty(len(starts))
    last[group[at_newest]] = values[at_newest]
    return newest, last


def _compact(row: Numbers) -> tuple[Ints, Ints]:
    """Return the distinct rows, sorted, and each event's position among them."""
    top = int(row.max()) + 1
    if top > DENSE_FACTOR * len(row) + DENSE_FLOOR:
        rows, local = np.unique(row.astype(np.int64), return_inverse=True)
        return rows, local
    present = np.zeros(top, np.bool_)
    present[row] = True
    rows = np.flatnonzero(present)
    position = np.empty(top, np.int64)
    position[rows] = np.arange(len(rows))
    # With narrow indexes, `take` is up to four times as fast as `position[row]`.
    return rows, position.take(row)


def _facts(
    rows: Ints, local: Ints, columns: Columns, phases: PhaseColumns | None
) -> tuple[Ints, Ints]:
    code = histogram.codes(columns.value) + histogram.CODE_LIMIT
    dimensions: list[tuple[Dimension, Ints, Ints]] = [
        (Dimension.HISTOGRAM, local, code)
    ]
    for dimension, number in (
        (Dimension.OUTCOME, columns.outcome),
        (Dimension.ACTION, columns.action),
        (Dimension.ERROR, columns.error),
    ):
        some = np.flatnonzero(number != 0)  # five times as fast as without `!= 0`
        if len(some) == len(number):
            dimensions.append((dimension, local, number.astype(np.int64)))
        elif len(some):
            dimensions.append((dimension, local[some], number[some].astype(np.int64)))
    keys, counts = [], []
    for dimension, position, number in dimensions:
        at, sub, count = _count_pairs(position, number, len(rows))
        keys.append((rows[at] << ROW_SHIFT) | (int(dimension) << DIMENSION_SHIFT) | sub)
        counts.append(count)
    if phases is not None:
        phase_keys, sums = _phase_facts(phases)
        keys.append(phase_keys)
        counts.append(sums)
    joined = np.concatenate(keys)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(counts)[order]


def _phase_facts(phases: PhaseColumns) -> tuple[Ints, Ints]:
    """Return the fact keys and sums of phases, without zeros."""
    rows, local = _compact(phases.row)
    size = len(rows)
    prep, run, wait = (
        _ticks(taken) for taken in (phases.prep, phases.exec, phases.wait)
    )
    # The remainder. Rounding and inconsistent senders could make it negative.
    post = np.maximum(_ticks(phases.value) - prep - run - wait, 0.0)
    sums = np.empty((size, len(PhaseSum)), np.int64)
    sums[:, PhaseSum.EXECUTIONS] = np.bincount(local, minlength=size)
    for part, weights in (
        (PhaseSum.PREP, prep),
        (PhaseSum.EXEC, run),
        (PhaseSum.WAIT, wait),
        (PhaseSum.POST, post),
        (PhaseSum.ITEMS, phases.items),
    ):
        sums[:, part] = np.bincount(local, weights, size)
    flat = sums.ravel()
    some = np.flatnonzero(flat)
    at, number = np.divmod(some, len(PhaseSum))
    keys = (rows[at] << ROW_SHIFT) | (int(Dimension.PHASES) << DIMENSION_SHIFT) | number
    return keys, flat[some]


def _ticks(seconds: NDArray[np.floating[Any]]) -> Floats:
    """Return whole ticks, so that their sums are exact."""
    with np.errstate(over="ignore"):
        ticks: Floats = np.multiply(seconds, TICKS, dtype=np.float64)
    np.rint(ticks, out=ticks)
    return np.minimum(ticks, MAX_TICKS, out=ticks)


def _count_pairs(position: Ints, number: Ints, size: int) -> tuple[Ints, Ints, Ints]:
    """Count the distinct (position, number) pairs."""
    low = int(number.min())
    width = int(number.max()) - low + 1
    flat = position * width + (number - low) if width > 1 else position
    if size * width <= DENSE_FACTOR * len(flat) + DENSE_FLOOR:
        table = np.bincount(flat, minlength=size * width)
        pairs = np.flatnonzero(table)
        count = table[pairs]
    else:
        pairs, count = np.unique(flat, return_counts=True)
    return pairs // width, pairs % width + low, count


def _group(keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the distinct keys, a sorting order, and where each key starts in it."""
    # Stable: the input consists of sorted runs, which timsort merges in linear time.
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    if not len(ordered):
        return ordered, order, order
    fresh = np.empty(len(ordered), np.bool_)
    fresh[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    starts = np.flatnonzero(fresh)
    return ordered[starts], order, starts
