"""A bucket: everything known of a set of events, per series. Merging is exact.

Strategy: an open bucket, a closed one, a window and the totals are all the same
thing, a Bucket, and all are made by two functions: `reduce` from columns and `merge`
from buckets. Merging is associative and commutative, so the order of arrival and the
size of ticks can't show in a result (but for the last bits of float sums).

What varies in number per series (histogram buckets, outcomes, actions, errors) is
kept in one sorted array of keys with counts, the "facts": row, dimension and number
packed into an int64. So there is one kind of counter, and a series' facts are one
slice.

Steps are never mutated, so they can be read from other threads without a lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate import histogram
from kaywatch_agent.model.series import Columns, PhaseColumns

__all__ = [
    "EMPTY",
    "TICKS",
    "Dimension",
    "PhaseSum",
    "Bucket",
    "collapse",
    "facts_of",
    "gather",
    "merge",
    "reduce",
    "rows_of",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROW_SHIFT: Final = 32
DIMENSION_SHIFT: Final = 28
NUMBER_MASK: Final = (1 << DIMENSION_SHIFT) - 1

# A dense count beats a sort as long as its table isn't much larger than the data.
DENSE_FACTOR: Final = 8
DENSE_FLOOR: Final = 65_536


# Per second, of 100 ns each, as .NET and Windows count: whole numbers add up exactly,
# in whatever order, and a sum of 29,000 years fits.
TICKS: Final = 10_000_000.0
# Of one phase of one execution, 325 days: what is beyond is a sender's bug, and sums of
# thousands of them still fit.
MAX_TICKS: Final = 2.0**48


# An hour has 361; merging fewer at a time takes longer, and more takes more memory.
MAX_GATHERED: Final = 400


class Dimension(IntEnum):
    """What a fact counts."""

    HISTOGRAM = 0  # number: code + CODE_LIMIT
    OUTCOME = 1  # number: Outcome; ok is not stored, it is the rest
    ACTION = 2  # number: of the action, or of a run's EndPoint
    ERROR = 3  # number: of the ErrorKey
    PHASES = 4  # number: a PhaseSum; the count is that sum


class PhaseSum(IntEnum):
    """What is added up of executions whose phases are known: times in ticks."""

    EXECUTIONS = 0  # how many they are
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
    """Aggregate events into a bucket, and the phases that are known of some of them."""
    count = len(columns.row)
    if not count:
        return EMPTY
    rows, local = _compact(columns.row)
    size = len(rows)
    executions = np.bincount(local, minlength=size)
    attempts = np.bincount(local, columns.attempts, size).astype(np.int64)
    total: Floats = np.bincount(local, columns.value, size).astype(np.float64)
    with np.errstate(over="ignore"):
        weights = columns.value * columns.value
        squares: Floats = np.bincount(local, weights, size).astype(np.float64)
    least = np.full(size, np.inf)
    np.minimum.at(least, local, columns.value)
    most = np.full(size, -np.inf)
    np.maximum.at(most, local, columns.value)
    last_time = np.full(size, -np.inf)
    np.maximum.at(last_time, local, columns.time)
    last = np.empty(size)
    newest = columns.time == last_time[local]
    last[local[newest]] = columns.value[newest]
    keys, counts = _facts(rows, local, columns, phases)
    return Bucket(
        rows,
        executions,
        attempts,
        total,
        squares,
        least,
        most,
        last_time,
        last,
        keys,
        counts,
    )


def merge(buckets: Iterable[Bucket]) -> Bucket:
    """Return the bucket of all the events in `buckets`."""
    parts = [bucket for bucket in buckets if len(bucket.rows)]
    if not parts:
        return EMPTY
    return parts[0] if len(parts) == 1 else _merge(parts)


def gather(buckets: Iterable[Bucket]) -> list[Bucket]:
    """Return buckets with the same events, merged some at a time: a month has many."""
    found: list[Bucket] = []
    for bucket in buckets:
        found.append(bucket)
        if len(found) > MAX_GATHERED:
            found = [merge(found)]
    return found


def _merge(parts: Sequence[Bucket]) -> Bucket:
    rows, order, starts = _group(np.concatenate([p.rows for p in parts]))

    def column(name: str) -> NDArray[Any]:
        joined: NDArray[Any] = np.concatenate([getattr(p, name) for p in parts])
        return joined[order]

    def add(name: str) -> NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):
            total: NDArray[Any] = np.add.reduceat(column(name), starts)
        return total

    last_time = column("last_time")
    newest = np.maximum.reduceat(last_time, starts)
    # Within a row's group, the last of those that carry its newest time.
    group = np.repeat(np.arange(len(starts)), np.diff([*starts, len(last_time)]))
    carriers = np.flatnonzero(last_time == newest[group])
    last = np.empty(len(starts))
    last[group[carriers]] = column("last")[carriers]
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
        newest,
        last,
        keys,
        np.add.reduceat(counts, fact_starts) if len(counts) else counts,
    )


def rows_of(bucket: Bucket, wanted: Ints) -> Bucket:
    """Return the part of a bucket that concerns the `wanted` rows, given sorted."""
    if not len(bucket.rows):
        return EMPTY
    at = np.minimum(np.searchsorted(bucket.rows, wanted), len(bucket.rows) - 1)
    at = at[bucket.rows[at] == wanted]
    if not len(at):
        return EMPTY
    rows = bucket.rows[at]
    low = np.searchsorted(bucket.fact_keys, rows << ROW_SHIFT)
    high = np.searchsorted(bucket.fact_keys, (rows + 1) << ROW_SHIFT)
    facts = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)])
    columns = [column[at] for column in bucket[:9]]
    return Bucket._make([*columns, bucket.fact_keys[facts], bucket.fact_counts[facts]])


def collapse(bucket: Bucket) -> Bucket:
    """Return all series of a bucket as if they were one, with row 0."""
    one = np.zeros(len(bucket.rows), np.int64)
    keys = bucket.fact_keys & ((1 << ROW_SHIFT) - 1)
    order = np.argsort(keys, kind="stable")
    flat = bucket._replace(
        rows=one, fact_keys=keys[order], fact_counts=bucket.fact_counts[order]
    )
    # Merging with nothing would return it as it is, with its duplicate rows.
    return _merge([flat])


def facts_of(bucket: Bucket, row: int, dimension: Dimension) -> tuple[Ints, Ints]:
    """Return (numbers, counts) of one dimension of one series, sorted by number."""
    low = (row << ROW_SHIFT) | (dimension << DIMENSION_SHIFT)
    bounds = np.searchsorted(bucket.fact_keys, [low, low + (1 << DIMENSION_SHIFT)])
    part = slice(int(bounds[0]), int(bounds[1]))
    numbers = bucket.fact_keys[part] & NUMBER_MASK
    if dimension is Dimension.HISTOGRAM:
        numbers = numbers - histogram.CODE_LIMIT
    return numbers, bucket.fact_counts[part]


# -- inside --------------------------------------------------------------------------


def _compact(row: Ints) -> tuple[Ints, Ints]:
    """Return the distinct rows, sorted, and each event's position among them."""
    top = int(row.max()) + 1
    if top > DENSE_FACTOR * len(row) + DENSE_FLOOR:
        rows, local = np.unique(row, return_inverse=True)
        return rows, local
    present = np.zeros(top, np.bool_)
    present[row] = True
    rows = np.flatnonzero(present)
    position = np.empty(top, np.int64)
    position[rows] = np.arange(len(rows))
    return rows, position[row]


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
        some = np.flatnonzero(number)
        if len(some):
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
    """Return the keys and the sums of a PhaseColumns, those that aren't 0."""
    rows, local = _compact(phases.row)
    size = len(rows)
    prep, run, wait = (
        _ticks(taken) for taken in (phases.prep, phases.exec, phases.wait)
    )
    # The rest. Rounding, and senders that are at odds, could make it negative.
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
    flat = position * width + (number - low)
    if size * width <= DENSE_FACTOR * len(flat) + DENSE_FLOOR:
        table = np.bincount(flat, minlength=size * width)
        found = np.flatnonzero(table)
        count = table[found]
    else:
        found, count = np.unique(flat, return_counts=True)
    return found // width, found % width + low, count


def _group(keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the distinct keys, a sorting order, and where each key starts in it."""
    # Stable: the inputs are sorted runs, which timsort merges in linear time.
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    if not len(ordered):
        return ordered, order, order
    fresh = np.empty(len(ordered), np.bool_)
    fresh[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    starts = np.flatnonzero(fresh)
    return ordered[starts], order, starts
