"""The base-2 exponential histogram at scale 5: value -> code, codes -> quantiles.

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
    "SCALE",
    "Codes",
    "Counts",
    "Values",
    "codes",
    "counts_below",
    "index",
    "lower_bounds",
    "quantiles",
    "values",
]

SCALE: Final = 5
PER_OCTAVE: Final = 1 << SCALE

# Index 0 (values just above 1) has code OFFSET + 1. Indexes are clamped to +-8,000,
# which is 2^-250 to 2^250: beyond any duration, size or price. So |code| <= 16,001.
OFFSET: Final = 8_001
CLAMP: Final = 8_000
CODE_LIMIT: Final = 1 << 14

# Values that need no care for zero, sign or clamping: nearly all there are. Well
# within the clamp of 2^-250 (5e-76) to 2^250 (2e75).
PLAIN_MIN: Final = 1e-30
PLAIN_MAX: Final = 1e30

# Temporaries of 64 kB stay in the cache and off mmap: 3 ns an event against 20.
CHUNK: Final = 8_192

Values = NDArray[np.float64]
Codes = NDArray[np.int64]
Counts = NDArray[np.int64]


def codes(samples: Values) -> Codes:
    """Return each sample's code. Samples are finite.

    The index is ceil(log2(v) * 32) - 1, so that upper bounds are inclusive. It is
    taken of mantissa and exponent apart: log2(v) itself rounds a value just above a
    power of two down to it, and so into the bucket below.
    """
    found = np.empty(len(samples), np.int64)
    for start in range(0, len(samples), CHUNK):
        part = samples[start : start + CHUNK]
        found[start : start + CHUNK] = _codes(part)
    return found


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
    found: Values = np.log2(mantissa, out=mantissa)
    found *= PER_OCTAVE
    np.ceil(found, out=found)
    whole = exponent * float(PER_OCTAVE)
    whole += shift
    found += whole
    return found


def index(code: Codes) -> Codes:
    """Return the bucket indexes of positive codes, in OpenTelemetry's counting."""
    return code - OFFSET


def values(code: Codes) -> Values:
    """Return the geometric middle of each code's bucket."""
    middle = np.exp2((np.abs(code) - OFFSET + 0.5) / PER_OCTAVE)
    return np.where(code == 0, 0.0, np.sign(code) * middle)


def lower_bounds(code: Codes) -> Values:
    """Return the lower bounds of positive codes' buckets."""
    return np.exp2((code - OFFSET) / PER_OCTAVE)


def quantiles(
    code: Codes, count: Counts, wanted: Values, least: float, most: float
) -> Values:
    """Return quantiles of a histogram, each within 1.1 % of the exact one.

    "Exact" is the sample of rank ceil(q * n) (numpy's `inverted_cdf`): a value that
    occurred, never one between two.

    Args:
        code: sorted codes.
        count: how many samples each has, all positive.
        wanted: quantiles in [0, 1].
        least: the exact minimum; no estimate is below it.
        most: the exact maximum; no estimate is above it.

    Returns:
        An array of the shape of `wanted`; NaN everywhere for an empty histogram.
    """
    if not len(code):
        return np.full(len(wanted), np.nan)
    cumulative = np.cumsum(count)
    total = cumulative[-1]
    rank = np.clip(np.ceil(wanted * total), 1, total)
    position = np.searchsorted(cumulative, rank, side="left")
    return np.clip(values(code[position]), least, most)


def counts_below(code: Codes, count: Counts, exponents: Codes) -> Counts:
    """Return how many samples are at most 2^e, for each (integer) exponent.

    Powers of two are bucket bounds at every scale, so these counts are exact.
    """
    cumulative = np.concatenate(([0], np.cumsum(count)))
    # The last code with an upper bound <= 2^e has index 32 e - 1.
    limit = np.clip(exponents * PER_OCTAVE - 1, -CLAMP, CLAMP) + OFFSET
    return cumulative[np.searchsorted(code, limit, side="right")].astype(np.int64)
