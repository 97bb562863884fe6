"""Statistics of many groups: those of Summary for each, however they merge."""

from __future__ import annotations

import numpy as np
import pytest
from tests.agent.aggregate.oracle import Summary, facts_of, rows_of

from kaywatch_agent.aggregate import group_stats as module
from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, Dimension, merge
from kaywatch_agent.aggregate.group_stats import GroupStats, SeriesGroups
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.model.series import Columns, ErrorKey, Kind, SeriesKey

ROWS = 120


def random_columns(seed: int, size: int) -> Columns:
    random = np.random.default_rng(seed)
    outcome = random.choice([0, 0, 0, 1, 2, 3, 4], size).astype(np.uint8)
    value = random.lognormal(0, 3, size) * random.choice([1, 1, 0, -1], size)
    return Columns(
        random.integers(0, ROWS, size),
        random.integers(1_000, 1_050, size).astype(np.float64),
        value,
        outcome,
        random.integers(1, 4, size),
        random.integers(0, 3, size),
        np.where(outcome > 0, random.integers(1, 4, size), 0),
    )


@pytest.fixture(scope="module")
def registry() -> Registry:
    result = Registry(Limits())
    for row in range(ROWS):
        result.row(SeriesKey(Kind.NODE, f"s{row % 3}", f"g{row % 7}", f"n{row}"), "")
    for word in ("default", "later"):
        result.actions.number(word)
    for word in ("A", "B", "C"):
        result.errors.number(ErrorKey(word, "exec"))
    return result


def groups_by_graph(registry: Registry, few: bool = False) -> SeriesGroups[str]:
    def name(key: SeriesKey) -> str | None:
        return (
            key.graph if key.graph != "g6" and (not few or key.node == "n4") else None
        )

    return SeriesGroups(registry.keys, range(ROWS), name)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("few", [False, True])
def test_each_group_has_the_stats_of_its_summary(
    registry: Registry, seed: int, few: bool
) -> None:
    buckets = [reduce(random_columns(seed * 10 + n, 400)) for n in range(4)]
    groups = groups_by_graph(registry, few)
    stats = GroupStats(groups.numbers, len(groups))
    for bucket in [*buckets, EMPTY]:
        stats.add(bucket)

    average, least, most = stats.averages(), stats.leasts(), stats.mosts()
    last, rates = stats.lasts(), stats.error_rates()
    quantiles = stats.quantiles(0.0, 0.5, 0.9, 1.0)
    outcomes = stats.outcomes()
    for name, n in groups.items():
        rows = np.flatnonzero(groups.numbers == n)
        summary = Summary(rows_of(merge(buckets), rows), registry)
        assert stats.executions[n] == summary.executions, name
        assert stats.attempts[n] == summary.attempts
        assert stats.total[n] == pytest.approx(summary.total)
        assert average[n] == pytest.approx(summary.average)
        assert (least[n], most[n]) == (summary.least, summary.most)
        assert stats.last_time[n] == summary.last_time
        assert last[n] in values_at(buckets, rows, summary.last_time)
        assert stats.retries()[n] == summary.retries
        assert outcomes[n].tolist() == list(summary.outcomes.values())
        assert rates[n] == summary.error_rate
        assert stats.success_rates()[n] == summary.success_rate
        assert [q[n] for q in quantiles] == summary.quantiles(0.0, 0.5, 0.9, 1.0)
        for dimension in (Dimension.ACTION, Dimension.ERROR):
            mine = [(at, count) for g, at, count in stats.counted(dimension) if g == n]
            collapsed = facts_of(summary._bucket, 0, dimension)
            assert mine == list(zip(*(c.tolist() for c in collapsed), strict=True))


def values_at(buckets: list[Bucket], rows: np.ndarray, time: float) -> list[float]:
    """The last values at a time, of which any may count as the last of a group."""
    return [
        value
        for bucket in buckets
        for row, at, value in zip(
            bucket.rows, bucket.last_time, bucket.last, strict=True
        )
        if row in rows and at == time
    ]


@pytest.mark.parametrize("seed", range(5))
def test_counts_up_to_powers_of_two_are_exact(registry: Registry, seed: int) -> None:
    columns = random_columns(seed, 2_000)
    value = columns.value.copy()
    value[::5] = 2.0 ** np.random.default_rng(seed).integers(-12, 12, len(value[::5]))
    columns = columns._replace(value=value)
    groups = groups_by_graph(registry)
    stats = GroupStats(groups.numbers, len(groups))
    stats.add(reduce(columns))
    exponents = np.arange(-10.0, 10.0)

    below = stats.counts_at_most(2.0**exponents)

    for _, n in groups.items():
        mine = value[np.isin(columns.row, np.flatnonzero(groups.numbers == n))]
        assert below[n].tolist() == [int((mine <= 2.0**e).sum()) for e in exponents]


def test_many_small_merges_and_one_give_the_same(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets = [reduce(random_columns(n, 300)) for n in range(10)]
    groups = groups_by_graph(registry)

    def facts(limit: int) -> list[list[int]]:
        monkeypatch.setattr(module, "MAX_PENDING", limit)
        stats = GroupStats(groups.numbers, len(groups))
        for bucket in buckets:
            stats.add(bucket)
        return [c.tolist() for c in stats.facts(Dimension.HISTOGRAM)]

    assert facts(0) == facts(500) == facts(10**9)


def test_an_offset_moves_a_bucket_to_another_group(registry: Registry) -> None:
    everything = SeriesGroups(registry.keys, range(ROWS), lambda key: 0)
    buckets = [reduce(random_columns(n, 100 + n)) for n in range(3)]
    stats = GroupStats(everything.numbers, 5, {Dimension.HISTOGRAM})
    for n, bucket in enumerate(buckets):
        stats.add(bucket, offset=n + 1)

    assert stats.executions.tolist() == [0, 100, 101, 102, 0]
    assert stats.quantiles(0.5)[0][0] is None
    for n, bucket in enumerate(buckets):
        (expected,) = Summary(bucket, registry).quantiles(0.5)
        assert stats.quantiles(0.5)[0][n + 1] == expected


@pytest.mark.parametrize("joined", [1, 50, 200_000])
def test_small_buckets_that_are_added_together_give_the_same(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, joined: int
) -> None:
    module = "kaywatch_agent.aggregate.group_stats"
    monkeypatch.setattr(f"{module}.JOINED_FACTS", joined)
    monkeypatch.setattr(f"{module}.SMALL_ROWS", 30)
    groups = groups_by_graph(registry)
    sizes = (3, 400, 1, 20, 0, 9)
    buckets = [reduce(random_columns(n, size)) for n, size in enumerate(sizes)]
    points = [(n % 3 * len(groups), bucket) for n, bucket in enumerate(buckets)]
    one, other = (GroupStats(groups.numbers, 3 * len(groups)) for _ in range(2))
    for offset, bucket in points:
        one.add(bucket, offset)
    other.add_all(points)

    for name in ("executions", "attempts", "least", "most", "last_time"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert other.total == pytest.approx(one.total)
    for dimension in Dimension:
        pairs = zip(one.facts(dimension), other.facts(dimension), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)


def test_nothing_gives_nulls_and_zeros() -> None:
    stats = GroupStats(np.zeros(0, np.int64), 2)
    stats.add(EMPTY)

    assert stats.executions.tolist() == [0, 0]
    for numbers in (
        stats.averages(),
        stats.leasts(),
        stats.mosts(),
        stats.lasts(),
        stats.error_rates(),
        stats.success_rates(),
        stats.retry_rates(),
        stats.quantiles(0.5)[0],
    ):
        assert numbers == [None, None]
    assert stats.sums() == [0.0, 0.0]
    assert stats.counts_at_most(np.array([1.0, 2.0, 4.0])).tolist() == [[0, 0, 0]] * 2


def test_sums_beyond_floats_are_null() -> None:
    size = 3
    zero = np.zeros(size, np.int64)
    columns = Columns(
        zero,
        np.full(size, 1.0),
        np.full(size, 1e308),
        zero.astype(np.uint8),
        np.ones(size, np.int64),
        zero,
        zero,
    )
    stats = GroupStats(np.zeros(1, np.int64), 1)
    with np.errstate(over="ignore"):
        stats.add(reduce(columns))

    assert stats.sums() == stats.averages() == [None]
    assert stats.quantiles(0.5)[0][0] == 1e308


def test_names_that_are_given_come_first_and_stay() -> None:
    keys = [SeriesKey(Kind.NODE, "s", "g", name) for name in ("b", "x", "a")]
    groups = SeriesGroups(
        keys, [0, 1, 2], lambda key: None if key.node == "x" else key.node, ["a", "c"]
    )

    assert dict(groups.items()) == {"a": 0, "c": 1, "b": 2}
    assert groups.numbers.tolist() == [2, -1, 0]
