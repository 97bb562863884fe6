"""Exponential histograms have the buckets of native ones, at the scale they need."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.aggregate.test_histogram import NAMES, datasets, stats_of
from tests.agent.aggregate.test_native_histogram import counted
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate.native_histogram import native_histograms
from kaywatch_agent.export.dense_histogram import (
    MIN_SCALE,
    DenseBuckets,
    DenseHistogram,
    dense_histograms,
)


def buckets(part: DenseBuckets) -> Counter[int]:
    numbered = enumerate(part.counts, part.offset)
    return Counter({index: count for index, count in numbered if count})


def check(values: list[float], limit: int) -> DenseHistogram:
    """Compare the buckets with those of a native histogram, merged in pairs."""
    stats = stats_of(np.array(values))
    (dense,) = dense_histograms(stats, limit)
    (native,) = native_histograms(stats)
    merged: Counter[tuple[int, int]] = Counter()
    for (sign, index), count in counted(native).items():
        place = (index - 1) >> (5 - dense.scale) if sign else 0
        merged[sign, place] += count
    found = {(1, index): n for index, n in buckets(dense.positive).items()}
    found |= {(-1, index): n for index, n in buckets(dense.negative).items()}
    if dense.zero_count:
        found[0, 0] = dense.zero_count
    assert found == +merged
    for part in (dense.positive, dense.negative):
        assert len(part.counts) <= limit or dense.scale == MIN_SCALE
        assert not part.counts or (part.counts[0] and part.counts[-1])
    return dense


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [100_000, 160, 20, 1])
def test_every_value_is_in_its_bucket(name: str, limit: int) -> None:
    dense = check(datasets(2_000)[name].tolist(), limit)
    if limit == 100_000:
        assert dense.scale == 5
    elif MIN_SCALE < dense.scale < 5:
        # No lower than it has to be.
        (finer,) = dense_histograms(stats_of(datasets(2_000)[name]), 100_000)
        shift = 5 - dense.scale - 1
        sizes = []
        for part in (finer.positive, finer.negative):
            places = [index >> shift for index in buckets(part)]
            sizes.append(max(places) - min(places) + 1 if places else 0)
        assert max(sizes) > limit


@calm
@given(st.lists(st.floats(-1e70, 1e70), min_size=1, max_size=30), st.integers(1, 200))
def test_any_value_is_in_its_bucket(values: list[float], limit: int) -> None:
    check(values, limit)
