from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.agent.aggregate.oracle import facts_of
from tests.agent.aggregate.samples import make_columns
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate import histogram
from kaywatch_agent.aggregate.bucket import Dimension, merge
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.reduction import reduce

Floats = NDArray[np.float64]

BOUND = 2 ** (1 / 64) - 1  # half a bucket: 1.09 %
QUANTILES = np.array(
    [0.0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0]
)


@cache
def datasets(size: int) -> dict[str, Floats]:
    """Return the named datasets, the same ones every time."""
    chance = np.random.default_rng(size)
    bimodal = np.where(
        chance.random(size) < 0.7,
        chance.normal(0.01, 0.001, size),
        chance.normal(5.0, 0.5, size),
    )
    return {
        "constant": np.full(size, 0.3),
        "uniform": chance.uniform(0.001, 1.0, size),
        "lognormal": chance.lognormal(-3, 1.5, size),
        "bimodal": np.abs(bimodal),
        "pareto": 0.001 * (1 + chance.pareto(0.8, size)),
        "1 us to 1 h": 10 ** chance.uniform(-6, math.log10(3_600), size),
        "zeros": np.zeros(size),
        "half zeros": np.where(chance.random(size) < 0.5, 0.0, chance.random(size)),
        "negatives": -chance.lognormal(0, 3, size),
        "both signs": chance.normal(0, 1e6, size),
        "integers": chance.integers(0, 1_000, size).astype(float),
        "powers of two": 2.0 ** chance.integers(-20, 20, size),
        "token counts": chance.lognormal(7, 1, size).round(),
        "tiny and huge": 10 ** chance.uniform(-60, 60, size),
    }


NAMES = sorted(datasets(1))


def stats_of(values: Floats) -> GroupStats:
    """Return the statistics of one series with these values."""
    stats = GroupStats(np.zeros(1, np.int64), 1)
    stats.add(reduce(make_columns(values)))
    return stats


def quantiles(values: Floats, ranks: Floats = QUANTILES) -> Floats:
    result = stats_of(values).quantiles(*ranks.tolist())
    return np.array([value for (value,) in result], float)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1_000, 100_000])
@pytest.mark.parametrize("name", NAMES)
def test_a_quantile_is_within_the_bound_of_the_exact_one(name: str, size: int) -> None:
    values = datasets(size)[name]
    value = quantiles(values)
    exact = np.quantile(values, QUANTILES, method="inverted_cdf")
    assert np.all(np.abs(value - exact) <= BOUND * 1.0001 * np.abs(exact))
    assert np.all(np.diff(value) >= 0)
    assert values.min() <= value[0]
    assert value[-1] <= values.max()


def test_quantiles_of_a_constant_are_exact() -> None:
    assert quantiles(np.full(7, 0.3)).tolist() == [0.3] * len(QUANTILES)


def test_a_quantile_is_a_value_that_occurred_not_one_between_two() -> None:
    values = np.array([1.0, 1000.0])
    low, high = quantiles(values, np.array([0.5, 0.51]))
    assert low == pytest.approx(1.0, rel=BOUND)
    assert high == pytest.approx(1000.0, rel=BOUND)


def test_quantiles_of_nothing_are_nan() -> None:
    assert np.isnan(quantiles(np.zeros(0))).all()


# -- codes -----------------------------------------------------------------------------


def code_of(value: float) -> int:
    return int(histogram.codes(np.array([value]))[0])


finite = st.floats(allow_nan=False, allow_infinity=False)


@calm
@given(finite, finite)
def test_codes_sort_as_their_values_do(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert code_of(low) <= code_of(high)


@calm
@given(finite)
def test_codes_are_mirrored_and_bounded(value: float) -> None:
    code = code_of(value)
    assert code == -code_of(-value)
    assert (code == 0) == (value == 0)
    assert abs(code) < histogram.CODE_LIMIT


@calm
@given(st.floats(2.0**-200, 2.0**200))
def test_a_bucket_holds_the_values_above_its_bound_up_to_the_next(value: float) -> None:
    code = np.array([code_of(value)])
    low, high = lower_bounds(np.concatenate((code, code + 1)))
    # Bounds that are not powers of two are not exact as floats, either.
    assert low * (1 - 1e-12) < value <= high * (1 + 1e-12)


def lower_bounds(code: NDArray[np.int64]) -> Floats:
    """Return the lower bounds of positive codes' buckets."""
    return np.exp2((code - histogram.OFFSET) / 32)


@calm
@given(st.lists(finite, min_size=1, max_size=50))
def test_a_code_does_not_depend_on_the_values_beside_it(values: list[float]) -> None:
    together = histogram.codes(np.array(values)).tolist()
    assert together == [code_of(value) for value in values]


def test_codes_of_many_values_are_those_of_each() -> None:
    values = datasets(3 * histogram.CHUNK + 5)["both signs"]
    assert histogram.codes(values).tolist() == [code_of(value) for value in values]
    assert histogram.codes(np.zeros(0)).tolist() == []


def test_values_beyond_the_scale_are_kept_at_its_ends() -> None:
    values = np.array([-1e300, -1e-300, -5e-324, 0.0, 5e-324, 1e-300, 1e300])
    top, bottom = histogram.CLAMP + histogram.OFFSET, 1
    codes = [-top, -bottom, -bottom, 0, bottom, bottom, top]
    assert histogram.codes(values).tolist() == codes
    assert quantiles(values, np.array([0.0, 0.5, 1.0])).tolist()[1] == 0.0


# -- counts below a bound --------------------------------------------------------------


# 499 tests of their own would take three times as long.
def test_counts_below_powers_of_two_are_exact() -> None:
    wrong = [
        (exponent, value)
        for exponent in range(-249, 250)
        for value, inside in near(2.0**exponent)
        if count_at_most(np.array([value]), np.array([exponent])) != [inside]
    ]
    assert wrong == []


def near(bound: float) -> list[tuple[float, int]]:
    """Return the values next to a bound, and how many of each are at most the bound."""
    return [
        (math.nextafter(bound, 0), 1),
        (bound, 1),
        (math.nextafter(bound, math.inf), 0),
    ]


def count_at_most(values: Floats, exponents: NDArray[np.int64]) -> NDArray[np.int64]:
    return stats_of(values).counts_at_most(2.0**exponents)[0]


@pytest.mark.parametrize("name", NAMES)
def test_counts_below_are_those_of_a_sorted_list(name: str) -> None:
    values = datasets(10_000)[name]
    exponents = np.arange(-30, 31)
    exact = [int(np.count_nonzero(values <= 2.0**e)) for e in exponents.tolist()]
    assert count_at_most(values, exponents).tolist() == exact


def test_counts_below_of_nothing_are_zero() -> None:
    assert count_at_most(np.zeros(0), np.array([-1, 0, 1])).tolist() == [0] * 3


# -- merging ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_merged_histograms_are_the_histogram_of_all_at_once(name: str) -> None:
    values = datasets(9_999)[name]
    parts = np.array_split(values, [10, 11, 3_000, 8_000])
    merged = merge([reduce(make_columns(part)) for part in parts])
    at_once = reduce(make_columns(values))
    for bucket in (merged, at_once):
        code, count = facts_of(bucket, 0, Dimension.HISTOGRAM)
        expected, counts = np.unique(histogram.codes(values), return_counts=True)
        assert code.tolist() == expected.tolist()
        assert count.tolist() == counts.tolist()
