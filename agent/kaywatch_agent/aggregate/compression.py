"""Narrow columns for buckets that rarely change: in memory, and in the store.

A series with a few executions in ten seconds takes 25 to 45 bytes, and each further
fact 2 or 3, instead of 80 and 16. Compression loses nothing, and a part of the rows can
be read without decompressing the others.

Strategy: a column holds only what does not follow from the columns before it. The
largest value of most series with one execution is their smallest, the sum of two values
is that of the smallest and the largest, and the last one is one of these. So there is a
bit for each row, and a value where the expected one is wrong. Facts have few distinct
numbers, and are held as indexes of these. The times of phases have many, and have
columns of their own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.arrays import DENSE_FACTOR, DENSE_FLOOR, spans
from kaywatch_agent.aggregate.bucket import (
    ALL_DIMENSIONS,
    DIMENSION_SHIFT,
    EMPTY,
    NUMBER_MASK,
    PIECE_FACTS,
    ROW_SHIFT,
    TICKS,
    Bucket,
    Dimension,
    PhaseSum,
)
from kaywatch_agent.aggregate.narrow import (
    Bits,
    Positions,
    copy_to_block,
    differing,
    escape,
    fill,
    narrow,
    pick,
    ranks,
    unescape,
)

__all__ = ["UNIT", "CompressedBucket", "compress", "decompress", "pack"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_LOW: Final = (1 << ROW_SHIFT) - 1
_FIRST_PHASE: Final = int(Dimension.PHASES) << DIMENSION_SHIFT
_DIMENSIONS: Final = int(Dimension.PHASES)  # the others come before it
_MIDDLE: Final = 127
_NO_ROWS: Final = np.zeros(0, np.int32)

# The spacing of floats between 2004 and 2038, in Unix seconds: times are multiples of
# it.
UNIT: Final = 2.0**-22
MAX_UNITS: Final = float(np.iinfo(np.uint32).max)


class CompressedBucket(NamedTuple):
    """A bucket in narrow columns.

    A name with `_at` has a bit for each row: whether the column of that name has a
    value for it, because the expected value is wrong (`narrow.differing`). A name with
    `_large` has the values that do not fit into the column (`narrow.escape`).
    """

    rows: NDArray[np.int32]
    executions: NDArray[Any]
    attempts: NDArray[Any]
    least: Floats
    most_at: Bits  # expected: least
    most: Floats
    total_at: Bits  # expected: least, and most as well if there are two
    total: Floats
    last_least: Bits  # bits: whether last is least; otherwise, it is most
    last_at: Bits
    last: Floats
    last_time: NDArray[Any]  # Unix seconds, or whole UNITs since `since`
    since: Floats  # one value
    facts_per_row: NDArray[Any]  # without phases
    kinds: NDArray[np.uint32]  # distinct pairs of dimension and number
    facts: NDArray[Any]  # indexes into them
    counts_at: Bits  # for each fact; expected: 1
    counts: NDArray[np.uint8]
    counts_large: NDArray[Any]
    phased: Bits  # bits: whether a row has phases
    phase_executions_at: Bits  # for rows with phases; expected: executions
    phase_executions: NDArray[Any]
    prep: NDArray[np.uint32]
    prep_large: NDArray[Any]
    exec: NDArray[np.uint32]
    exec_large: NDArray[Any]
    wait_at: Bits  # expected: 0
    wait: NDArray[Any]
    post: NDArray[np.uint8]  # minus what the others leave of total, plus _MIDDLE
    post_large: NDArray[Any]
    items_at: Bits  # expected: 0
    items: NDArray[Any]


def compress(bucket: Bucket, like: CompressedBucket | None = None) -> CompressedBucket:
    """Return the bucket in narrow columns; equal rows are shared with `like`."""
    packed = pack(bucket)
    if like is None or not np.array_equal(like.rows, bucket.rows):
        return CompressedBucket._make(copy_to_block(packed))
    others = CompressedBucket._make(copy_to_block(packed._replace(rows=_NO_ROWS)))
    return others._replace(rows=like.rows)


def pack(bucket: Bucket) -> CompressedBucket:
    """Return the bucket in narrow columns that are used at once, such as for a file."""
    is_phase = bucket.fact_keys & _LOW >= _FIRST_PHASE
    last_time, since = _since(bucket.last_time)
    return CompressedBucket(
        rows=bucket.rows.astype(np.int32),
        executions=narrow(bucket.executions),
        attempts=narrow(bucket.attempts),
        last_time=last_time,
        since=since,
        **_values(bucket),
        **_facts(bucket, is_phase),
        **_phases(bucket, is_phase),
    )


def decompress(
    packed: CompressedBucket,
    rows: Ints | None = None,
    dimensions: Collection[Dimension] = ALL_DIMENSIONS,
) -> Bucket:
    """Return the bucket that was compressed, or a part of it.

    Args:
        packed: the compressed bucket.
        rows: the only rows wanted, sorted; None for all.
        dimensions: those of the facts wanted. Most of the time is that of facts, half
            of it that of phases.
    """
    at = slice(None) if rows is None else _find(packed, rows)
    present = packed.rows[at].astype(np.int64)
    if not len(present):
        return EMPTY
    executions = packed.executions[at].astype(np.int64)
    least = packed.least[at]
    most = fill(least.copy(), packed.most_at, packed.most, at)
    total = _expected_total(executions, least, most)
    total = fill(total, packed.total_at, packed.total, at)
    is_least = pick(packed.last_least, at, len(packed.rows))
    last = np.where(is_least, least, most)
    columns = [
        present,
        executions,
        packed.attempts[at].astype(np.int64),
        total,
        least,
        most,
        _times(packed, at),
        fill(last, packed.last_at, packed.last, at),
    ]
    if not dimensions:
        return Bucket._make([*columns, EMPTY.fact_keys, EMPTY.fact_counts])
    keys, counts, sizes = _facts_of(packed, at, present, dimensions)
    if Dimension.PHASES in dimensions and len(packed.prep):
        known = _phase_sums(packed, at, executions, total)
        keys, counts = _add_phases(present, sizes, (keys, counts), known)
    return Bucket._make([*columns, keys, counts])


# -- compress --------------------------------------------------------------------------


def _values(bucket: Bucket) -> dict[str, NDArray[Any]]:
    least, most, last = bucket.least, bucket.most, bucket.last
    total = _expected_total(bucket.executions, least, most)
    is_least = last == least
    most_at, most_values = differing(most, least)
    total_at, total_values = differing(bucket.total, total)
    last_at, last_values = differing(last, np.where(is_least, least, most))
    return {
        "least": least,
        "most_at": most_at,
        "most": most_values,
        "total_at": total_at,
        "total": total_values,
        "last_least": np.packbits(is_least),
        "last_at": last_at,
        "last": last_values,
    }


def _expected_total(executions: Ints, least: Floats, most: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.where(executions == 1, least, least + most)


def _facts(bucket: Bucket, is_phase: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Return the columns of facts, except for phases."""
    keys, row_counts = bucket.fact_keys, bucket.fact_counts
    if is_phase.any():
        keys, row_counts = keys[~is_phase], row_counts[~is_phase]
    kinds, facts = _index(keys)
    counts_at, counts = differing(row_counts, 1)
    small, large = escape(counts, np.uint8)
    starts = np.searchsorted(keys, bucket.rows << ROW_SHIFT)
    return {
        "facts_per_row": narrow(np.diff(starts, append=len(keys))),
        "kinds": kinds,
        "facts": facts,
        "counts_at": counts_at,
        "counts": small,
        "counts_large": large,
    }


def _index(keys: Ints) -> tuple[NDArray[np.uint32], NDArray[Any]]:
    """Return the distinct low halves of keys, and the index of each key's half."""
    pieces = [keys[n : n + PIECE_FACTS] for n in range(0, len(keys), PIECE_FACTS)]
    width = 1 + max([int((piece & NUMBER_MASK).max()) for piece in pieces], default=0)
    if width * _DIMENSIONS > DENSE_FACTOR * len(keys) + DENSE_FLOOR:
        kinds, indexes = np.unique(keys & _LOW, return_inverse=True)
        return kinds.astype(np.uint32), narrow(indexes)
    # In a table, which is eight times as fast as sorting.
    present = np.zeros(width * _DIMENSIONS, np.bool_)
    for piece in pieces:
        present[_cells(piece, width)] = True
    cells = np.flatnonzero(present)
    index = np.zeros(len(present), np.min_scalar_type(max(len(cells) - 1, 0)))
    index[cells] = np.arange(len(cells))
    kinds = (cells // width << DIMENSION_SHIFT) | cells % width
    found = [index.take(_cells(piece, width)) for piece in pieces]
    return kinds.astype(np.uint32), np.concatenate(found) if found else index[:0]


def _cells(keys: Ints, width: int) -> Ints:
    """Return the place of each key in a table with a row for each dimension."""
    return ((keys & _LOW) >> DIMENSION_SHIFT) * width + (keys & NUMBER_MASK)


def _phases(bucket: Bucket, is_phase: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Return the columns of phases."""
    keys = bucket.fact_keys[is_phase]
    sums = np.zeros((len(PhaseSum), len(bucket.rows)), np.int64)
    row = np.searchsorted(bucket.rows, keys >> ROW_SHIFT)
    sums[keys & NUMBER_MASK, row] = bucket.fact_counts[is_phase]
    phased = sums.any(axis=0)
    executions, prep, run, wait, post, items = sums[:, phased]
    executions_at, executions = differing(executions, bucket.executions[phased])
    post = post - _rest(bucket.total[phased], prep, run, wait) + _MIDDLE
    prep, prep_large = escape(prep, np.uint32)
    run, run_large = escape(run, np.uint32)
    post, post_large = escape(post, np.uint8)
    wait_at, wait = differing(wait, 0)
    items_at, items = differing(items, 0)
    return {
        "phased": np.packbits(phased),
        "phase_executions_at": executions_at,
        "phase_executions": narrow(executions),
        "prep": prep,
        "prep_large": prep_large,
        "exec": run,
        "exec_large": run_large,
        "wait_at": wait_at,
        "wait": narrow(wait),
        "post": post,
        "post_large": post_large,
        "items_at": items_at,
        "items": narrow(items),
    }


def _rest(total: Floats, prep: Ints, run: Ints, wait: Ints) -> Ints:
    """Return the ticks of a total that other phases leave, about."""
    with np.errstate(over="ignore", invalid="ignore"):
        ticks = np.rint(total * TICKS)
    # Beyond 2^62, or infinite: anything, as long as it is the same each time.
    whole = np.where(np.abs(ticks) < 2.0**62, ticks, 0.0).astype(np.int64)
    rest: Ints = whole - prep - run - wait
    return rest


def _since(times: Floats) -> tuple[NDArray[Any], Floats]:
    """Return times as whole UNITs since the earliest, if that loses nothing."""
    never = np.zeros(1)
    if not len(times):
        return times, never
    first = times.min()
    units = (times - first) / UNIT
    if not units.max() <= MAX_UNITS:
        return times, never
    whole = units.astype(np.uint32)
    is_exact = np.array_equal(whole * UNIT + first, times)
    return (narrow(whole), np.array([first])) if is_exact else (times, never)


# -- decompress ------------------------------------------------------------------------


def _find(packed: CompressedBucket, rows: Ints) -> Ints:
    """Return the positions of those of some rows that the bucket has."""
    at = np.searchsorted(packed.rows, rows.astype(np.int32))
    inside = at < len(packed.rows)
    at = at[inside]
    present: Ints = at[packed.rows[at] == rows[inside]]
    return present


def _times(packed: CompressedBucket, at: Positions) -> Floats:
    last_time = packed.last_time[at]
    if last_time.dtype == np.float64:
        return last_time
    times: Floats = last_time * UNIT + packed.since
    return times


def _facts_of(
    packed: CompressedBucket,
    at: Positions,
    rows: Ints,
    dimensions: Collection[Dimension],
) -> tuple[Ints, Ints, Ints]:
    """Return the keys and counts of facts, except for phases, and the facts per row.

    The facts per row are those of the result only if phases are wanted.
    """
    sizes = packed.facts_per_row[at].astype(np.int64)
    facts: Positions = slice(None)
    if not isinstance(at, slice):
        # Only up to the last row: for a few rows, this takes a third of the time.
        before = packed.facts_per_row[: at[-1] + 1]
        ends = before.cumsum(dtype=np.int64)[at]
        facts = spans(ends - sizes, sizes)
    kinds = packed.facts[facts]
    keys = (rows << ROW_SHIFT).repeat(sizes)
    is_wanted = np.zeros(len(Dimension), np.bool_)
    is_wanted[list(dimensions)] = True
    if not is_wanted[:_DIMENSIONS].all():
        wanted_kinds = is_wanted[packed.kinds >> DIMENSION_SHIFT]
        kept = np.flatnonzero(wanted_kinds.take(kinds))
        kinds, keys = kinds[kept], keys[kept]
        facts = kept if isinstance(facts, slice) else facts[kept]
        if is_wanted[Dimension.PHASES]:
            sizes = np.diff(np.searchsorted(kept, np.cumsum(sizes)), prepend=0)
    keys |= packed.kinds.take(kinds)  # twice as fast as an index
    counts: NDArray[Any] = packed.counts
    if len(packed.counts_large):
        counts = unescape(counts, packed.counts_large)
    ones = np.ones(len(keys), np.int64)
    return keys, fill(ones, packed.counts_at, counts, facts), sizes


def _add_phases(
    rows: Ints,
    others: Ints,
    facts: tuple[Ints, Ints],
    known: tuple[Ints, Ints],
) -> tuple[Ints, Ints]:
    """Return all facts of some rows: those about phases follow the others of a row.

    Args:
        rows: the rows.
        others: how many other facts each has.
        facts: these, as of `_facts_of`.
        known: their phases, as of `_phase_sums`.
    """
    of, sums = known
    some = np.flatnonzero(sums)
    row = some // len(PhaseSum)  # four times as fast as np.divmod
    number = some - len(PhaseSum) * row
    keys = (rows[of] << ROW_SHIFT)[row] | (number + _FIRST_PHASE)
    sizes = np.zeros(len(rows), np.int64)
    sizes[of] = np.bincount(row, minlength=len(of))
    place = np.repeat(np.cumsum(others), sizes)
    place += np.arange(len(place))
    is_other = np.ones(len(facts[0]) + len(place), np.bool_)
    is_other[place] = False
    before = np.flatnonzero(is_other)
    joined_keys, joined_counts = np.empty((2, len(is_other)), np.int64)
    joined_keys[before], joined_keys[place] = facts[0], keys
    joined_counts[before], joined_counts[place] = facts[1], sums.ravel()[some]
    return joined_keys, joined_counts


def _phase_sums(
    packed: CompressedBucket, at: Positions, executions: Ints, total: Floats
) -> tuple[Ints, Ints]:
    """Return which of the rows at some positions have phases, and these: a row each."""
    here = pick(packed.phased, at, len(packed.rows))
    of = np.flatnonzero(here)
    inner: Positions = slice(None)
    if not isinstance(at, slice):
        inner = ranks(packed.phased, at[here])
    zero = np.zeros(len(of), np.int64)
    prep = unescape(packed.prep, packed.prep_large, inner)
    run = unescape(packed.exec, packed.exec_large, inner)
    wait = fill(zero.copy(), packed.wait_at, packed.wait, inner)
    post = unescape(packed.post, packed.post_large, inner) - _MIDDLE
    known = (packed.phase_executions_at, packed.phase_executions)
    sums = (
        fill(executions[of], *known, inner),
        prep,
        run,
        wait,
        post + _rest(total[of], prep, run, wait),
        fill(zero, packed.items_at, packed.items, inner),
    )
    return of, np.stack(sums, axis=1)
