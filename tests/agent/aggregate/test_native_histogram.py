"""Native histograms: each bucket holds what its bounds say, at any schema."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.agent.aggregate.samples import make_columns
from tests.agent.aggregate.test_histogram import NAMES, datasets, stats_of
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate.bucket import merge
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.native_histogram import (
    ZERO_THRESHOLD,
    BucketSpans,
    NativeHistogram,
    native_histograms,
)
from kaywatch_agent.aggregate.reduction import reduce

Floats = NDArray[np.float64]


def expand(part: BucketSpans) -> dict[int, int]:
    """Return the counts by index, read as Prometheus's specification says."""
    deltas, counts = iter(part.deltas), {}
    index = count = 0
    for offset, length in zip(part.offsets, part.lengths, strict=True):
        index += offset
        for _ in range(length):
            count += next(deltas)
            counts[index] = count
            index += 1
    assert next(deltas, None) is None
    return counts


def counted(histogram: NativeHistogram) -> Counter[tuple[int, int]]:
    """Return the counts by sign and index; the zero bucket is (0, 0)."""
    return Counter(
        {
            (0, 0): histogram.zero_count,
            **{(1, at): count for at, count in expand(histogram.positive).items()},
            **{(-1, at): count for at, count in expand(histogram.negative).items()},
        }
    )


def place(value: float, schema: int) -> tuple[int, int]:
    """Return the sign and the index of the bucket that holds a value."""
    if abs(value) <= ZERO_THRESHOLD:
        return 0, 0
    per_octave = 2.0**schema
    index = int(np.ceil(np.log2(abs(value)) * per_octave))
    for near in (index - 1, index, index + 1):  # the logarithm is rounded
        lower, upper = (2.0 ** (n / per_octave) for n in (near - 1, near))
        if lower < abs(value) <= upper:
            return int(np.sign(value)), near
    raise AssertionError(value)


def expected(values: Floats, schema: int) -> Counter[tuple[int, int]]:
    return Counter(place(value, schema) for value in values.tolist())


def is_same(result: Counter[tuple[int, int]], values: Floats, schema: int) -> bool:
    return +result == +expected(values, schema)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [None, 160, 20, 1])
def test_every_value_is_in_its_bucket(name: str, limit: int | None) -> None:
    values = datasets(2_000)[name]
    (histogram,) = native_histograms(stats_of(values), limit)
    counts = counted(histogram)

    assert is_same(counts, values, histogram.schema)
    assert counts.total() == len(values)
    if limit is None:
        assert histogram.schema == 5
    elif histogram.schema > -4:
        assert len(counts) - 1 <= limit
    if limit is not None and -4 < histogram.schema < 5:
        # No lower than it has to be.
        finer = expected(values, histogram.schema + 1)
        assert len([place for place in finer if place != (0, 0)]) > limit


def test_a_thousand_latencies_need_fewer_buckets_than_mimir_allows() -> None:
    values = datasets(2_000)["lognormal"]
    (whole,) = native_histograms(stats_of(values))
    (merged,) = native_histograms(stats_of(values), 160)

    assert len(counted(whole)) > 160
    assert merged.schema in (3, 4)
    assert 80 < len(counted(merged)) <= 161


@calm
@given(st.lists(st.floats(-1e70, 1e70), max_size=30))
def test_any_value_is_in_its_bucket(numbers: list[float]) -> None:
    values = np.array(numbers, float)
    if not len(values):
        return
    (histogram,) = native_histograms(stats_of(values))
    assert is_same(counted(histogram), values, 5)


def test_groups_have_histograms_of_their_own() -> None:
    rows = {0: [1.0, 2.0, 2.0], 2: [-1.0, 0.0], 3: [5.0]}
    bucket = merge(reduce(make_columns(values, row)) for row, values in rows.items())
    # The last series is in no group; the third group is empty.
    stats = GroupStats(np.array([1, -1, 0, -1]), 3)
    stats.add(bucket)

    both, ones, none = map(counted, native_histograms(stats))
    assert is_same(both, np.array(rows[2]), 5)
    assert is_same(ones, np.array(rows[0]), 5)
    assert none == {(0, 0): 0}
