"""Narrow columns: small integers, and bits with the values that are not as expected."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Bits",
    "Positions",
    "copy_to_block",
    "differing",
    "escape",
    "fill",
    "narrow",
    "pick",
    "ranks",
    "unescape",
]

Ints = NDArray[np.int64]
Bits = NDArray[np.uint8]  # eight rows in a byte, as of np.packbits
Positions = Ints | slice  # a slice stands for all

_ONES: Final = np.array([n.bit_count() for n in range(256)], np.uint8)
_FIRST: Final = np.array([0xFF ^ (0xFF >> n) for n in range(8)], np.uint8)


def narrow(column: NDArray[Any]) -> NDArray[Any]:
    """Return integers in the smallest type that can represent them."""
    if not len(column):
        return column.astype(np.uint8)
    low, high = int(column.min()), int(column.max())
    return column.astype(np.min_scalar_type(high if low >= 0 else -max(high + 1, -low)))


def escape(column: Ints, kind: type) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a column of narrow integers, and the values that do not fit, in order.

    These have the largest number of the type in the column.
    """
    most = np.iinfo(kind).max
    fits = (column >= 0) & (column < most)
    return np.where(fits, column, most).astype(kind), narrow(column[~fits])


def unescape(
    column: NDArray[Any], large: NDArray[Any], at: Positions = slice(None)
) -> Ints:
    """Return the integers of `escape` at some positions."""
    values = column[at].astype(np.int64)
    if not len(large):
        return values
    return fill(values, np.packbits(column == np.iinfo(column.dtype).max), large, at)


def differing(
    column: NDArray[Any], expected: NDArray[Any] | int
) -> tuple[Bits, NDArray[Any]]:
    """Return which values of a column are not as expected, and these values."""
    differs = column != expected
    return np.packbits(differs), column[differs]


def fill(
    expected: NDArray[Any], where: Bits, values: NDArray[Any], at: Positions
) -> NDArray[Any]:
    """Return the values of a column at some positions.

    Args:
        expected: the expected values there; overwritten.
        where: which values of the column differ, as of `differing`.
        values: these values.
        at: the positions.
    """
    if not len(values):
        return expected
    if isinstance(at, slice):
        expected[pick(where, at, len(expected))] = values
        return expected
    here = pick(where, at)
    if here.any():
        expected[here] = values[ranks(where, at[here])]
    return expected


def pick(where: Bits, at: Positions, size: int = 0) -> NDArray[np.bool_]:
    """Return the bits at some positions; for all, `size` is their number."""
    if isinstance(at, slice):
        return np.unpackbits(where, count=size).view(np.bool_)
    bits: NDArray[np.uint8] = (where[at >> 3] << (at & 7).astype(np.uint8)) & 0x80
    return bits.astype(np.bool_)


def ranks(where: Bits, at: Ints) -> Ints:
    """Return how many bits are set before each of some positions."""
    byte = at >> 3
    ones = _ONES.take(where[: byte.max(initial=-1) + 1])
    before = ones.cumsum(dtype=np.int64)[byte] - ones[byte]
    result: Ints = before + _ONES[where[byte] & _FIRST[at & 7]]
    return result


def copy_to_block(columns: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return copies of columns in one separate block of memory.

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
        copies[place] = np.frombuffer(block, column.dtype, column.size, at)
        copies[place][...] = column
        at += column.nbytes
    return copies
