"""Limits how many facts a series has: histogram buckets, actions and errors.

Strategy: a fact that the totals have may be counted again at any time, so the limits
apply to new facts only, and once for each tick. What exceeds a limit is counted in a
wider bucket, or under `__other__`. The facts of every bucket are then among those of
the totals, and so are those of all that is merged from buckets, in memory and in the
store. No event is lost, and no count ever decreases.

Executions of a real node rarely have 400 different histogram buckets: with a lognormal
distribution, a million durations between 1 ms and 10 s have as many. If all series
together have very many facts, further ones are only for series with fewer than an equal
share of them. So the memory is bounded whatever the number of series, and those with
few facts keep all of their detail, whatever others send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate import histogram
from kaywatch_agent.aggregate.arrays import contains, group, spans
from kaywatch_agent.aggregate.bucket import (
    DIMENSION_SHIFT,
    NUMBER_MASK,
    ROW_SHIFT,
    Bucket,
    Dimension,
    merge,
)
from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.model.series import Kind
from kaywatch_agent.runtime.metrics import Counter

__all__ = ["FactLimits"]

Ints = NDArray[np.int64]

# Facts of all series: 16 bytes each, in up to twelve copies while a tick is committed.
# 10,000 series with 1,000 lognormal durations each (sigma 1) have as many.
SHARED: Final = 2_000_000

# Of one series. Wider buckets add up to 300 to the first, or 100 once SHARED is
# reached.
LIMITS: Final = {Dimension.HISTOGRAM: 400, Dimension.ACTION: 200, Dimension.ERROR: 200}

_DIMENSIONS: Final = (1 << (ROW_SHIFT - DIMENSION_SHIFT)) - 1  # a mask
_LIMITS: Final = np.full(_DIMENSIONS + 1, 1 << ROW_SHIFT)
_LIMITS[list(LIMITS)] = list(LIMITS.values())
_IS_LIMITED: Final = np.isin(np.arange(_DIMENSIONS + 1), list(LIMITS))

# Wider buckets per octave: while there is room for more facts, and afterwards.
_WIDE: Final = 4
_WIDEST: Final = 1


class FactLimits:
    """Counts facts beyond the limits of their series in less detail."""

    def __init__(self, registry: Registry, coarse: Counter) -> None:
        """Use the limits from now on.

        Args:
            registry: has the numbers of names that stand for others.
            coarse: counts events that are counted in less detail, by kind.
        """
        self._registry = registry
        self._coarse = coarse

    def add(
        self, totals: Bucket, parts: Sequence[Bucket]
    ) -> tuple[Bucket, Sequence[Bucket]]:
        """Return totals with new events, and these events with few enough facts."""
        merged = merge(parts)
        if not len(merged.rows):
            return totals, parts
        excess, per_octave = _find_excess(merged, totals, _LIMITS), _WIDE
        if len(totals.fact_keys) + len(merged.fact_keys) > SHARED:
            share = SHARED // len(self._registry.keys)
            more = _find_excess(merged, totals, share)
            excess, per_octave = np.union1d(excess, more), _WIDEST
        if len(excess):
            parts = [self._coarsen(part, excess, per_octave) for part in parts]
            merged = merge(parts)
        return merge([totals, merged]), parts

    def _coarsen(self, bucket: Bucket, excess: Ints, per_octave: int) -> Bucket:
        """Return a bucket without some facts, which are counted in others.

        Args:
            bucket: the bucket.
            excess: the keys of the facts.
            per_octave: histogram buckets for each doubling, instead of 32.
        """
        at = np.flatnonzero(contains(excess, bucket.fact_keys))
        if not len(at):
            return bucket
        keys, counts = bucket.fact_keys.copy(), bucket.fact_counts
        dimension = (keys[at] >> DIMENSION_SHIFT) & _DIMENSIONS
        for kind in LIMITS:
            of = at[dimension == kind]
            if len(of):
                substitutes = self._substitutes(kind, keys[of], per_octave)
                keys[of] = (keys[of] & ~NUMBER_MASK) | substitutes
                self._coarse.labels(kind.name.lower()).add(int(counts[of].sum()))
        keys, order, starts = group(keys)
        counts = np.add.reduceat(counts[order], starts)
        return bucket._replace(fact_keys=keys, fact_counts=counts)

    def _substitutes(self, kind: Dimension, keys: Ints, per_octave: int) -> Ints:
        """Return the numbers under which facts of one dimension are counted instead."""
        registry, number = self._registry, keys & NUMBER_MASK
        if kind is Dimension.HISTOGRAM:
            code = histogram.coarse(number - histogram.CODE_LIMIT, per_octave)
            return code + histogram.CODE_LIMIT
        if kind is Dimension.ERROR:
            return np.full_like(number, registry.errors.other)
        rows, where = np.unique(keys >> ROW_SHIFT, return_inverse=True)
        is_run = [registry.keys[row].kind is Kind.RUN for row in rows.tolist()]
        if any(is_run):
            other = registry.actions.other if not all(is_run) else 0
            return np.where(np.array(is_run)[where], registry.ends.other, other)
        return np.full_like(number, registry.actions.other)


def _find_excess(bucket: Bucket, totals: Bucket, most: Ints | int) -> Ints:
    """Return the keys of the new facts that exceed the limit of their series.

    Args:
        bucket: new events.
        totals: all earlier ones.
        most: the limit by dimension, or that of all dimensions together.
    """
    keys, known = bucket.fact_keys, totals.fact_keys
    shift = ROW_SHIFT if isinstance(most, int) else DIMENSION_SHIFT
    groups = keys >> shift
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes = np.diff(starts, append=len(keys))
    of = groups[starts]
    limits = np.full(len(of), most) if isinstance(most, int) else most[of & _DIMENSIONS]
    low = np.searchsorted(known, of << shift)
    high = np.searchsorted(known, (of + 1) << shift)
    over = np.flatnonzero(high - low + sizes > limits)
    if not len(over):
        return keys[:0]
    sizes = sizes[over]
    at = spans(starts[over], sizes)
    is_new = ~contains(known, keys[at])
    new = np.add.reduceat(is_new.astype(np.int64), np.cumsum(sizes) - sizes)
    is_full = (high - low)[over] + new > limits[over]
    keys = keys[at[is_new & np.repeat(is_full, sizes)]]
    excess: Ints = keys[_IS_LIMITED[(keys >> DIMENSION_SHIFT) & _DIMENSIONS]]
    return excess
