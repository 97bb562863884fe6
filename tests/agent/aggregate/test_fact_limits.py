"""A series has a limited number of facts, whatever its values; no event is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.aggregate.oracle import facts_of
from tests.agent.aggregate.samples import make_columns
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate import histogram
from kaywatch_agent.aggregate.aggregator import AggregateMetrics
from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, Dimension, merge
from kaywatch_agent.aggregate.fact_limits import LIMITS, FactLimits
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.model.series import OTHER, EndPoint, ErrorKey, Kind, SeriesKey

MOST = LIMITS[Dimension.HISTOGRAM]
# The wider buckets of positive values between 2^-34 and 2^34, and of all others.
COMMON, RARE = 4 * 2 * 34, 14 + 16 + 1


class Totals:
    """Totals that events are added to, tick by tick."""

    def __init__(self) -> None:
        self.registry = Registry(Limits())
        for kind in (Kind.NODE, Kind.RUN, Kind.NODE):
            self.registry.row(
                SeriesKey(kind, "s", "g", f"n{len(self.registry.keys)}"), ""
            )
        self.metrics = AggregateMetrics()
        self.limits = FactLimits(self.registry, self.metrics.coarse)
        self.bucket = EMPTY

    def add(self, *parts: Bucket) -> list[Bucket]:
        self.bucket, limited = self.limits.add(self.bucket, parts)
        return list(limited)

    def values(self, row: int, values: np.ndarray) -> Bucket:
        return self.add(reduce(make_columns(values, row)))[0]

    def size(self, row: int, dimension: Dimension = Dimension.HISTOGRAM) -> int:
        return len(facts_of(self.bucket, row, dimension)[0])

    def coarse(self, kind: str) -> float:
        return self.metrics.coarse.labels(kind).value


def widest(size: int) -> np.ndarray:
    """Return values in as many different buckets as possible, from 1 us to a day."""
    return 1e-6 * 1.022 ** (np.arange(size) % 1_150)


def test_a_series_within_the_limit_keeps_every_bucket() -> None:
    totals = Totals()
    values = np.random.default_rng(1).lognormal(-2, 1, 100_000)
    for part in np.array_split(values, 50):
        bucket = reduce(make_columns(part))
        assert totals.add(bucket)[0] is bucket
    assert totals.coarse("histogram") == 0
    assert 300 < totals.size(0) <= MOST


@pytest.mark.parametrize("ticks", [1, 7, 60])
def test_the_buckets_of_a_series_are_limited_and_all_values_counted(ticks: int) -> None:
    totals = Totals()
    values = np.random.default_rng(2).permutation(widest(5_750))
    for part in np.array_split(values, ticks):
        bucket = totals.values(0, part)
        codes, counts = facts_of(bucket, 0, Dimension.HISTOGRAM)
        assert counts.sum() == len(part)
        # What a bucket has, the totals have: so anything merged from buckets is as
        # limited as they are.
        assert np.isin(codes, facts_of(totals.bucket, 0, Dimension.HISTOGRAM)[0]).all()
    _, counts = facts_of(totals.bucket, 0, Dimension.HISTOGRAM)

    assert counts.sum() == len(values)
    assert totals.size(0) <= MOST + 4 * 37
    assert 0 < totals.coarse("histogram") <= len(values)
    assert totals.bucket.total[0] == pytest.approx(values.sum())


def test_quantiles_of_wider_buckets_are_near_and_powers_of_two_exact() -> None:
    totals = Totals()
    values = np.random.default_rng(3).permutation(widest(20_000))
    for part in np.array_split(values, 100):
        totals.values(0, part)
    stats = GroupStats(np.zeros(1, np.int64), 1)
    stats.add(totals.bucket)

    for rank in (0.01, 0.25, 0.5, 0.9, 0.99):
        exact = np.sort(values)[int(np.ceil(rank * len(values))) - 1]
        (near,) = stats.quantiles(rank)[0]
        assert near == pytest.approx(exact, rel=0.21)
    limits = 2.0 ** np.arange(-19, 17)
    below = stats.counts_at_most(limits)[0]
    assert below.tolist() == [int((values <= limit).sum()) for limit in limits]


def test_no_count_of_the_totals_ever_decreases() -> None:
    totals = Totals()
    random = np.random.default_rng(4)
    for _ in range(30):
        before = totals.bucket
        totals.values(0, random.choice(widest(1_150), 90))
        kept = np.isin(before.fact_keys, totals.bucket.fact_keys)
        assert kept.all()
        at = np.searchsorted(totals.bucket.fact_keys, before.fact_keys)
        assert (totals.bucket.fact_counts[at] >= before.fact_counts).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_values_of_any_size_have_few_buckets(sign: float) -> None:
    totals = Totals()
    exponents = np.random.default_rng(5).uniform(-249, 249, 60_000)
    for part in np.array_split(exponents, 30):
        totals.values(0, sign * 2.0**part)
    assert totals.size(0) <= MOST + COMMON + RARE


def test_other_series_are_not_affected() -> None:
    totals = Totals()
    values = np.random.default_rng(6).lognormal(-2, 1, 3_000)
    for part in np.array_split(values, 3):
        wide = reduce(make_columns(widest(1_150), 0))
        limited = totals.add(merge([wide, reduce(make_columns(part, 2))]))[0]
        own = facts_of(reduce(make_columns(part)), 0, Dimension.HISTOGRAM)
        assert all(map(np.array_equal, facts_of(limited, 2, Dimension.HISTOGRAM), own))
    assert totals.size(0) < totals.size(2) + 700


def test_parts_of_one_tick_share_the_limit() -> None:
    totals = Totals()
    parts = [reduce(make_columns(part)) for part in np.array_split(widest(1_150), 10)]
    limited = totals.add(*parts)

    assert totals.size(0) <= MOST + 4 * 37
    assert [int(part.executions[0]) for part in limited] == [115] * 10
    merged = merge(limited)
    assert np.array_equal(merged.fact_keys, totals.bucket.fact_keys)
    assert np.array_equal(merged.fact_counts, totals.bucket.fact_counts)


def named(row: int, numbers: range, column: str) -> Bucket:
    """Return executions of a series, each with another action or error."""
    events = make_columns(np.ones(len(numbers)), row)
    number = np.array(numbers, np.int64)
    return reduce(events._replace(**{column: number}))


@pytest.mark.parametrize(
    ("row", "column", "dimension"),
    [
        (0, "action", Dimension.ACTION),
        (1, "action", Dimension.ACTION),
        (0, "error", Dimension.ERROR),
    ],
    ids=["action", "end", "error"],
)
def test_names_beyond_the_limit_are_counted_under_other(
    row: int, column: str, dimension: Dimension
) -> None:
    totals, most = Totals(), LIMITS[dimension]
    registry = totals.registry
    for n in range(2_000):
        registry.actions.number(f"a{n}")
        registry.ends.number(EndPoint("action", f"n{n}", "a"))
        registry.errors.number(ErrorKey(f"E{n}", "exec"))
    interner = {
        (0, "action"): registry.actions,
        (1, "action"): registry.ends,
        (0, "error"): registry.errors,
    }[row, column]
    for start in range(1, 1_900, 150):
        totals.add(named(row, range(start, start + 150), column))
    numbers, counts = facts_of(totals.bucket, row, dimension)

    assert len(numbers) <= most + 1
    assert counts.sum() == 13 * 150
    other = interner.values[numbers[counts.argmax()]]
    assert OTHER in (other if isinstance(other, tuple) else (other,))
    assert totals.coarse(column) == counts.max()


def test_all_series_together_have_a_limited_number_of_facts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kaywatch_agent.aggregate.fact_limits.SHARED", 2_000)
    totals = Totals()
    for n in range(50):
        key = SeriesKey(Kind.NODE, "s", "g", f"wide{n}")
        totals.registry.row(key, "")
    rows = range(3, 53)
    share = 2_000 // len(totals.registry.keys)
    few, many = np.random.default_rng(8).permutation(widest(1_150)).reshape(2, -1)
    narrow = 2.0 ** ((np.arange(share) + 0.5) / 32)
    for part in np.array_split(few, 25):
        totals.add(*[reduce(make_columns(part, row)) for row in rows])
    for part in np.array_split(many, 25):
        parts = [reduce(make_columns(part, row)) for row in rows]
        *_, own = totals.add(*parts, reduce(make_columns(narrow, 0)))

    # One tick may exceed it by what all series send in it.
    assert len(totals.bucket.fact_keys) < 2_000 + 50 * (23 + 40)
    assert totals.bucket.executions.tolist() == [25 * len(narrow), *[1_150] * 50]
    for row in rows:
        _, counts = facts_of(totals.bucket, row, Dimension.HISTOGRAM)
        assert counts.sum() == 1_150
    # A series with fewer facts than its share keeps its detail.
    exact = facts_of(reduce(make_columns(narrow)), 0, Dimension.HISTOGRAM)
    assert all(map(np.array_equal, facts_of(own, 0, Dimension.HISTOGRAM), exact))
    assert totals.size(0) == share


@calm
@given(
    st.lists(st.floats(-1e300, 1e300), min_size=1),
    st.sampled_from([(4, 0.15), (1, 0.52)]),
)
def test_a_wider_bucket_contains_the_value_and_is_stable(
    values: list[float], wide: tuple[int, float]
) -> None:
    per_octave, distance = wide
    code = histogram.codes(np.array(values))
    wider = histogram.coarse(code, per_octave)

    assert np.array_equal(histogram.coarse(wider, per_octave), wider)
    assert np.array_equal(np.sign(wider), np.sign(code))
    common = (np.array(values) >= 2.0**-33) & (np.array(values) <= 2.0**33)
    middle = histogram.values(wider[common])
    assert (np.abs(np.log2(middle / np.array(values)[common])) < distance).all()
