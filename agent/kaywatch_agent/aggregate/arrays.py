"""Operations on arrays of integers, most of them sorted: grouping, counting, union."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "compact",
    "contains",
    "count_pairs",
    "group",
    "insert",
    "spans",
    "union",
]

Ints = NDArray[np.int64]

# Counting in a dense table is faster than sorting, while the table is not much larger
# than the data.
DENSE_FACTOR: Final = 8
DENSE_FLOOR: Final = 65_536


def spans(starts: Ints, sizes: Ints) -> Ints:
    """Return the positions of consecutive items: `sizes[n]` from `starts[n]` on."""
    ends = sizes.cumsum()
    positions: Ints = (starts - ends + sizes).repeat(sizes)
    positions += np.arange(len(positions))
    return positions


def group(keys: Ints) -> tuple[Ints, Ints, Ints]:
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


def contains(base: Ints, keys: Ints, at: Ints | None = None) -> NDArray[np.bool_]:
    """Return which keys a sorted array contains.

    Args:
        base: the sorted array.
        keys: the keys.
        at: their places in `base` if these are known, as of `np.searchsorted`.
    """
    if not len(base):
        return np.zeros(len(keys), np.bool_)
    if at is None:
        at = np.searchsorted(base, keys)
    known: NDArray[np.bool_] = base[np.minimum(at, len(base) - 1)] == keys
    return known


def union(base: Ints, keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the union of two sorted arrays without duplicates.

    Fast if `keys` are few: these are searched, and nothing is sorted.

    Returns:
        The union, which is `base` itself if it contains all keys; the places of `keys`
        in it; and, for `insert`, the places in `base` before which keys were inserted.
    """
    at = np.searchsorted(base, keys)
    is_new = ~contains(base, keys, at)
    if not is_new.any():
        return base, at, at[:0]
    places = at[is_new]
    at += np.cumsum(is_new) - is_new
    return np.insert(base, places, keys[is_new]), at, places


def insert(column: NDArray[Any], places: Ints, value: float) -> NDArray[Any]:
    """Return a copy of a column, with a value inserted at the places of `union`."""
    return np.insert(column, places, value) if len(places) else column.copy()


def compact(row: NDArray[Any]) -> tuple[Ints, Ints]:
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


def count_pairs(position: Ints, number: Ints, size: int) -> tuple[Ints, Ints, Ints]:
    """Count the distinct (position, number) pairs; positions are less than `size`."""
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
