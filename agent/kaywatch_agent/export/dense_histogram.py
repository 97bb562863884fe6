"""OpenTelemetry's exponential histograms, made of the codes and counts of ours.

Bucket `i` of scale 5 holds (2^(i/32), 2^((i+1)/32)]: its bounds are those of our
buckets. All buckets from the first to the last are listed. Where these are too many,
neighbours are merged in pairs, which lowers the scale by one each time.

Source: opentelemetry.io/docs/specs/otel/metrics/data-model, "ExponentialHistogram".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate import histogram
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.native_histogram import ZERO_THRESHOLD

__all__ = ["DenseBuckets", "DenseHistogram", "dense_histograms"]

MIN_SCALE: Final = -10  # of the data model
_ZERO_INDEX: Final = int(np.log2(ZERO_THRESHOLD)) * histogram.PER_OCTAVE

Ints = NDArray[np.int64]


class DenseBuckets(NamedTuple):
    """The buckets of the values of one sign.

    Attributes:
        offset: the index of the first bucket.
        counts: of all buckets from the first to the last.
    """

    offset: int
    counts: list[int]


class DenseHistogram(NamedTuple):
    """The distribution of the values of one group.

    Attributes:
        scale: there are 2^scale buckets for each doubling.
        zero_count: how many values are at most ZERO_THRESHOLD from zero.
        negative, positive: the other values.
    """

    scale: int
    zero_count: int
    negative: DenseBuckets
    positive: DenseBuckets


def dense_histograms(stats: GroupStats, max_buckets: int) -> Iterator[DenseHistogram]:
    """Yield the distribution of each group.

    Args:
        stats: the groups.
        max_buckets: how many buckets a histogram may have for each sign.
    """
    group, code, count = stats.facts(Dimension.HISTOGRAM)
    index = np.abs(code) - histogram.OFFSET
    is_zero = (code == 0) | (index < _ZERO_INDEX)
    size = len(stats)
    zeros = np.bincount(group[is_zero], count[is_zero], size).astype(np.int64)
    signs = [
        _DenseBuckets.of(group[at], index[at], count[at], size)
        for at in (~is_zero & (code < 0), ~is_zero & (code > 0))
    ]
    lowered = np.zeros(size, np.int64)
    for _ in range(histogram.SCALE - MIN_SCALE):
        # Buckets below and above one never become the same.
        large = np.any([each.sizes(lowered) > max_buckets for each in signs], axis=0)
        if not large.any():
            break
        lowered[large] += 1
    dense = (each.dense(lowered) for each in signs)
    scales = (histogram.SCALE - lowered).tolist()
    yield from map(DenseHistogram, scales, zeros.tolist(), *dense)


class _DenseBuckets(NamedTuple):
    """The buckets of the values of one sign, of all groups.

    Attributes:
        groups, indexes, counts: of each bucket.
        firsts, lasts: the range of indexes of each group; 0 to -1 if it has none.
    """

    groups: Ints
    indexes: Ints
    counts: Ints
    firsts: Ints
    lasts: Ints

    @classmethod
    def of(cls, groups: Ints, indexes: Ints, counts: Ints, size: int) -> _DenseBuckets:
        """Return the buckets of some groups."""
        limit = np.iinfo(np.int64).max
        firsts, lasts = np.full(size, limit), np.full(size, -limit)
        np.minimum.at(firsts, groups, indexes)
        np.maximum.at(lasts, groups, indexes)
        is_empty = firsts > lasts
        firsts[is_empty], lasts[is_empty] = 0, -1
        return cls(groups, indexes, counts, firsts, lasts)

    def sizes(self, lowered: Ints) -> Ints:
        """Return how many buckets each group has at a lower scale."""
        is_empty = self.firsts > self.lasts
        sizes = (self.lasts >> lowered) - (self.firsts >> lowered) + 1
        return np.where(is_empty, 0, sizes)

    def dense(self, lowered: Ints) -> Iterator[DenseBuckets]:
        """Yield the buckets of each group at a lower scale."""
        sizes = self.sizes(lowered)
        ends = np.cumsum(sizes)
        firsts = self.firsts >> lowered
        starts = ends - sizes
        place = (self.indexes >> lowered[self.groups]) + (starts - firsts)[self.groups]
        total = int(ends[-1]) if len(ends) else 0
        counts = np.bincount(place, self.counts, total).astype(np.int64).tolist()
        for first, start, end in zip(
            firsts.tolist(), starts.tolist(), ends.tolist(), strict=True
        ):
            yield DenseBuckets(first if end > start else 0, counts[start:end])
