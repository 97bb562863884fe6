"""The base-2 exponential histogram at scale 5: values to codes and back.

A bucket's bounds grow by 2^(1/32), about 2.19 %, so the geometric middle of a bucket
is within 2^(1/64) - 1 = 1.09 % of every value in it. Any two histograms merge exactly
by adding counts. The scheme is OpenTelemetry's exponential histogram (scale 5) and
Prometheus's native histogram (schema 5); bucket `i` holds (2^(i/32), 2^((i+1)/32)].

A code is the bucket's index in an order-preserving integer: 0 is exactly zero,
positive values have codes above it and negative ones, mirrored, below. So codes sort
as their values do.

Source: OpenTelemetry metrics data model, "ExponentialHistogram".
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CODE_LIMIT",
    "Codes",
    "Values",
    "coarse",
    "codes",
    "row_bounds",
    "rows",
    "values",
]

SCALE: Final = 5
PER_OCTAVE: Final = 1 << SCALE

# Index 0 (values just above 1) has code OFFSET + 1. Indexes are clamped to +-8,000,
# which is 2^-250 to 2^250: beyond any duration, size or price. So |code| <= 16,001.
OFFSET: Final = 8_001
CLAMP: Final = 8_000
CODE_LIMIT: Final = 1 << 14

# Nearly all values are between these, and need no handling of zero, sign or clamping,
# which begins at 2^-250 (5e-76) and 2^250 (2e75).
PLAIN_MIN: Final = 1e-30
PLAIN_MAX: Final = 1e30

# Temporaries of 64 kB stay in the CPU cache and need no mmap: 3 ns an event, not 20.
CHUNK: Final = 8_192

# Durations, sizes, prices and counts are within 2^-34 to 2^34.
COMMON_OCTAVES: Final = 34

Values = NDArray[np.float64]
Codes = NDArray[np.int64]


def codes(samples: Values) -> Codes:
    """Return each sample's code. Samples are finite.

    The index is ceil(log2(v) * 32) - 1, so that upper bounds are inclusive. It is
    computed from mantissa and exponent separately: log2(v) would round a value just
    above a power of two down to it, and so into the bucket below.
    """
    code = np.empty(len(samples), np.int64)
    for start in range(0, len(samples), CHUNK):
        part = samples[start : start + CHUNK]
        code[start : start + CHUNK] = _codes(part)
    return code


def _codes(samples: Values) -> Values:
    if samples.min() >= PLAIN_MIN and samples.max() <= PLAIN_MAX:
        return _upper(samples, OFFSET - 1.0)
    magnitude = np.abs(samples)
    with np.errstate(divide="ignore"):
        code = np.clip(_upper(magnitude, -1.0), -CLAMP, CLAMP) + OFFSET
    return np.where(magnitude == 0, 0.0, np.copysign(code, samples))


def _upper(magnitude: Values, shift: float) -> Values:
    """Return ceil(log2(v) * 32) + shift."""
    mantissa, exponent = np.frexp(magnitude)
    bound: Values = np.log2(mantissa, out=mantissa)
    bound *= PER_OCTAVE
    np.ceil(bound, out=bound)
    whole = exponent * float(PER_OCTAVE)
    whole += shift
    bound += whole
    return bound


def values(code: Codes) -> Values:
    """Return the geometric middle of each code's bucket."""
    middle = np.exp2((np.abs(code) - OFFSET + 0.5) / PER_OCTAVE)
    return np.where(code == 0, 0.0, np.sign(code) * middle)


def coarse(code: Codes, per_octave: int) -> Codes:
    """Return the codes that stand for wider ranges of codes.

    A positive value between 6e-11 and 2e10 then has a bucket of a part of an octave,
    so that powers of two still are bounds of buckets. All other values have buckets of
    32 octaves. There are 303 such codes with 4 per octave, and 99 with one.

    Args:
        code: codes.
        per_octave: common buckets for each doubling. With 4, a value is within 10 % of
            the middle of its bucket, and with one within 42 %.
    """
    index = np.abs(code) - OFFSET
    end = COMMON_OCTAVES * PER_OCTAVE
    is_common = (code > 0) & (index >= -end) & (index < end)
    width = np.where(is_common, PER_OCTAVE // per_octave, 32 * PER_OCTAVE)
    middle = index // width * width + width // 2 + OFFSET
    return np.where(code == 0, 0, np.sign(code) * middle)


def rows(code: Codes, per_octave: int) -> Codes:
    """Return the number of the coarser bucket of each code, of values not below 0.

    Args:
        code: codes; that of 0 is in the lowest coarse bucket there is.
        per_octave: coarse buckets for each doubling; a divisor of 32.
    """
    numbers: Codes = (code - OFFSET) // (PER_OCTAVE // per_octave)
    if len(code) and (some := code > 0).any():
        numbers = np.maximum(numbers, numbers[some].min())
    return numbers


def row_bounds(row: Codes, per_octave: int) -> Values:
    """Return the inclusive upper bounds of coarser buckets."""
    bounds: Values = np.exp2((row + 1) / per_octave)
    return bounds
