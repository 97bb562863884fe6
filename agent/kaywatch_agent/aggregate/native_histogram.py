"""Prometheus's native histograms, made of the codes and counts of our histograms.

Bucket `i` of schema 5 holds (2^((i-1)/32), 2^(i/32)]: its bounds are those of our
buckets, so that nothing is lost. Where a receiver allows fewer buckets, neighbours are
merged in pairs, which lowers the schema by one each time and stays exact.

Source: prometheus.io/docs/specs/native_histograms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate import histogram
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats

__all__ = ["ZERO_THRESHOLD", "BucketSpans", "NativeHistogram", "native_histograms"]

# Values up to here, of either sign, are in the zero bucket: Prometheus's own default,
# so that its sums of our histograms and others need no change of threshold.
ZERO_THRESHOLD: Final = 2.0**-128
_ZERO_INDEX: Final = -128 * histogram.PER_OCTAVE
MIN_SCHEMA: Final = -4

# Filling a longer gap takes more bytes than a span.
MAX_GAP: Final = 4

Ints = NDArray[np.int64]


class BucketSpans(NamedTuple):
    """The buckets of the values of one sign.

    Attributes:
        offsets: the buckets skipped before each span; for the first span, its index.
        lengths: the number of consecutive buckets in each span.
        deltas: the count of each bucket, minus that of the previous one.
    """

    offsets: list[int]
    lengths: list[int]
    deltas: list[int]


class NativeHistogram(NamedTuple):
    """The distribution of the values of one group.

    Attributes:
        schema: there are 2^schema buckets for each doubling.
        zero_count: how many values are at most ZERO_THRESHOLD from zero.
        negative, positive: the other values.
    """

    schema: int
    zero_count: int
    negative: BucketSpans
    positive: BucketSpans


def native_histograms(
    stats: GroupStats, max_buckets: int | None = None
) -> Iterator[NativeHistogram]:
    """Yield the distribution of each group.

    Args:
        stats: the groups.
        max_buckets: how many buckets a histogram may have; None for any number.
    """
    group, code, count = stats.facts(Dimension.HISTOGRAM)
    index = np.abs(code) - histogram.OFFSET + 1
    is_zero = (code == 0) | (index <= _ZERO_INDEX)
    size = len(stats)
    # Where buckets are limited, empty ones must not take the place of others.
    max_gap = MAX_GAP if max_buckets is None else 0
    zeros = np.bincount(group[is_zero], count[is_zero], size).astype(np.int64)
    schemas = np.full(size, histogram.SCALE)
    signs = [
        _Buckets(group[at], index[at], count[at], max_gap).sort()
        for at in (~is_zero & (code < 0), ~is_zero & (code > 0))
    ]
    while max_buckets is not None:
        sizes = sum(each.sizes(size) for each in signs)
        large = (sizes > max_buckets) & (schemas > MIN_SCHEMA)
        if not large.any():
            break
        signs = [each.merge_pairs(large) for each in signs]
        schemas[large] -= 1
    spans = (each.spans(size) for each in signs)
    yield from map(NativeHistogram, schemas.tolist(), zeros.tolist(), *spans)


class _Buckets(NamedTuple):
    """The buckets of the values of one sign, of all groups, sorted by `sort`.

    A gap between two buckets is filled if it is short: that takes fewer bytes, and less
    time, than another span.

    Attributes:
        groups, indexes, counts: of each bucket.
        max_gap: the longest gap that is filled.
    """

    groups: Ints
    indexes: Ints
    counts: Ints
    max_gap: int

    def sort(self) -> _Buckets:
        """Return the same buckets by group and index."""
        order = np.lexsort((self.indexes, self.groups))
        groups, indexes, counts = (column[order] for column in self[:3])
        return _Buckets(groups, indexes, counts, self.max_gap)

    def sizes(self, size: int) -> Ints:
        """Return how many buckets each group has, with those in short gaps."""
        return np.bincount(self.groups, 1 + self._filled(), size).astype(np.int64)

    def merge_pairs(self, large: NDArray[np.bool_]) -> _Buckets:
        """Merge each two buckets of some groups that one of a lower schema covers."""
        index = np.where(
            large[self.groups], ((self.indexes - 1) >> 1) + 1, self.indexes
        )
        if not len(index):
            return self
        is_same = (np.diff(index) == 0) & (np.diff(self.groups) == 0)
        starts = np.flatnonzero(np.append(True, ~is_same))
        counts = np.add.reduceat(self.counts, starts)
        return _Buckets(self.groups[starts], index[starts], counts, self.max_gap)

    def spans(self, size: int) -> Iterator[BucketSpans]:
        """Yield the spans of each group."""
        gaps, filled = self._gaps(), self._filled()
        place = np.arange(len(gaps)) + np.cumsum(filled)
        counts = np.zeros(len(gaps) + int(filled.sum()), np.int64)
        counts[place] = self.counts
        deltas = np.diff(counts, prepend=0)
        is_first = np.diff(self.groups, prepend=-1) != 0
        deltas[place[is_first]] = self.counts[is_first]
        at = np.flatnonzero(is_first | (gaps > self.max_gap))
        offsets = np.where(is_first, self.indexes, gaps)[at].tolist()
        lengths = np.diff(place[at], append=len(counts)).tolist()
        every = np.arange(size + 1)
        ends = np.searchsorted(self.groups[at], every).tolist()
        places = np.append(place, len(counts))
        delta_ends = places[np.searchsorted(self.groups, every)].tolist()
        values = deltas.tolist()
        for n in range(size):
            part = slice(ends[n], ends[n + 1])
            yield BucketSpans(
                offsets[part], lengths[part], values[delta_ends[n] : delta_ends[n + 1]]
            )

    def _gaps(self) -> Ints:
        """Return how many empty buckets precede each one, within its group."""
        gaps = np.diff(self.indexes, prepend=0) - 1
        gaps[np.diff(self.groups, prepend=-1) != 0] = 0
        return gaps

    def _filled(self) -> Ints:
        """Return how many empty buckets before each one are in its span."""
        gaps = self._gaps()
        return np.where(gaps <= self.max_gap, gaps, 0)
