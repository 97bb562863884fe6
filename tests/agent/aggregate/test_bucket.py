from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.aggregate.oracle import collapse, facts_of, rows_of
from tests.agent.aggregate.samples import (
    Event,
    bucket_of,
    columns,
    make_columns,
    naive,
    to_naive,
)
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate import bucket as bucket_module
from kaywatch_agent.aggregate.bucket import (
    EMPTY,
    TICKS,
    Bucket,
    Dimension,
    PhaseSum,
    merge,
    split,
)
from kaywatch_agent.aggregate.reduction import reduce

# Multiples of 1/8 add up exactly, so that sums compare by ==.
exact = st.integers(-8_000, 8_000).map(lambda n: n / 8)
eighths = st.integers(0, 400).map(lambda n: n / 8)
any_value = st.floats(-1e100, 1e100)


def lists_of(values: st.SearchStrategy[float]) -> st.SearchStrategy[list[Event]]:
    """Return lists of events of some series, each at a time of its own."""
    event = st.builds(
        Event,
        row=st.sampled_from([0, 1, 2, 7, 40_000]),
        value=values,
        outcome=st.integers(0, 4),
        attempts=st.integers(0, 9),
        action=st.sampled_from([0, 1, 2, 4_095]),
        error=st.sampled_from([0, 1, 4_095]),
        phases=st.none() | st.tuples(eighths, eighths, eighths, st.integers(0, 9)),
    )
    return st.lists(event, max_size=40).map(
        lambda events: [e._replace(time=float(at)) for at, e in enumerate(events)]
    )


def parts_of(events: list[Event], seed: int, parts: int) -> list[list[Event]]:
    """Deal events out at random."""
    chance = random.Random(seed)
    result: list[list[Event]] = [[] for _ in range(parts)]
    for event in events:
        chance.choice(result).append(event)
    return result


@calm
@given(lists_of(exact))
def test_a_bucket_equals_adding_up_one_by_one(events: list[Event]) -> None:
    assert to_naive(bucket_of(events)) == naive(events)


@calm
@given(lists_of(exact), st.integers(0, 2**32), st.integers(1, 5))
def test_any_partition_gives_the_same_bucket(
    events: list[Event], seed: int, parts: int
) -> None:
    buckets = [bucket_of(part) for part in parts_of(events, seed, parts)]
    at_once = to_naive(bucket_of(events))
    assert to_naive(merge(buckets)) == at_once
    assert to_naive(merge(reversed(buckets))) == at_once


@calm
@given(lists_of(exact), st.integers(0, 2**32))
def test_merging_is_associative_and_commutative(events: list[Event], seed: int) -> None:
    a, b, c = (bucket_of(part) for part in parts_of(events, seed, 3))
    assert to_naive(merge([merge([a, b]), c])) == to_naive(merge([a, merge([b, c])]))
    assert to_naive(merge([a, b])) == to_naive(merge([b, a]))
    assert to_naive(merge([a, EMPTY])) == to_naive(a)


@calm
@given(lists_of(any_value), st.integers(0, 2**32), st.integers(1, 5))
def test_sums_agree_to_the_last_bits_and_all_else_exactly(
    events: list[Event], seed: int, parts: int
) -> None:
    buckets = [bucket_of(part) for part in parts_of(events, seed, parts)]
    merged, at_once = merge(buckets), bucket_of(events)
    scale = {
        row: sum(abs(e.value) for e in events if e.row == row)
        for row in at_once.rows.tolist()
    }
    for name, one, other in zip(Bucket._fields, merged, at_once, strict=True):
        if name == "total":
            for row, x, y in zip(at_once.rows.tolist(), one, other, strict=True):
                assert abs(x - y) <= 1e-12 * scale[row]
        else:
            assert one.tolist() == other.tolist(), name


@calm
@given(lists_of(exact), lists_of(exact))
def test_adding_a_small_bucket_equals_sorting(
    events: list[Event], more: list[Event]
) -> None:
    one, other = bucket_of(events), bucket_of(more)
    if len(one.rows) and len(other.rows):
        added = bucket_module._add(one, other)
        expected = bucket_module._sort([one, other])
        for name, *pair in zip(Bucket._fields, added, expected, strict=True):
            assert pair[0].dtype == pair[1].dtype, name
            assert pair[0].tolist() == pair[1].tolist(), name


def test_a_bucket_with_known_facts_is_added_without_a_copy_of_the_keys() -> None:
    totals = reduce(make_columns(np.arange(1.0, 300.0)))
    added = merge([totals, reduce(make_columns([7.0, 7.0]))])
    assert added.fact_keys is totals.fact_keys
    assert added.executions.tolist() == [301]
    assert totals.executions.tolist() == [299]


@pytest.mark.parametrize("piece", [1, 7, 1_000])
def test_large_buckets_are_merged_in_pieces(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(piece)
    parts = []
    for _ in range(4):
        events = make_columns(random.lognormal(0, 2, 900))
        parts.append(reduce(events._replace(row=random.integers(0, 50, 900))))
    at_once = merge(parts)
    monkeypatch.setattr(bucket_module, "PIECE_FACTS", piece)
    pieces = split(at_once)

    assert len(pieces) == min(50, 1 + len(at_once.fact_keys) // piece)
    for name, one, other in zip(Bucket._fields, merge(parts), at_once, strict=True):
        assert one.tolist() == other.tolist(), name
    for name, *split_up, other in zip(Bucket._fields, *pieces, at_once, strict=True):
        assert np.concatenate(split_up).tolist() == other.tolist(), name


@pytest.mark.parametrize("size", [1, 2, 10, 1_000, 100_000])
def test_windows_merged_are_all_at_once(size: int) -> None:
    chance = np.random.default_rng(size)
    events = columns([])._replace(
        row=chance.integers(0, 50, size),
        time=np.arange(size, dtype=float),
        value=chance.lognormal(-3, 2, size),
        outcome=chance.integers(0, 5, size).astype(np.uint8),
        attempts=chance.integers(1, 4, size),
        action=chance.integers(0, 9, size),
        error=chance.integers(0, 3, size),
    )
    at_once = reduce(events)
    cuts = [size // 7, size // 3, size // 2, size - 1]
    merged = merge(
        reduce(type(events)(*parts))
        for parts in zip(*(np.array_split(c, cuts) for c in events), strict=True)
    )
    for name, one, other in zip(Bucket._fields, merged, at_once, strict=True):
        if name == "total":
            assert one == pytest.approx(other, rel=1e-12)
        else:
            assert one.tolist() == other.tolist(), name


def test_of_values_at_the_same_time_the_one_that_came_last_is_the_last() -> None:
    first = reduce(columns([Event(time=5.0, value=1.0), Event(time=5.0, value=2.0)]))
    second = reduce(columns([Event(time=5.0, value=3.0), Event(time=4.0, value=9.0)]))
    assert first.last.tolist() == [2.0]
    assert merge([first, second]).last.tolist() == [3.0]
    assert merge([second, first]).last.tolist() == [2.0]


def test_no_events_give_an_empty_bucket() -> None:
    assert reduce(columns([])) is EMPTY
    assert merge([]) is EMPTY
    assert merge([EMPTY, EMPTY]) is EMPTY
    assert not len(EMPTY.rows)


def test_a_bucket_is_not_changed_by_merging_it() -> None:
    a, b = reduce(make_columns([1.0, 2.0])), reduce(make_columns([3.0]))
    before = [column.tolist() for column in a]
    merge([a, b])
    collapse(a)
    assert [column.tolist() for column in a] == before


def test_sparse_rows_and_wide_numbers_are_counted_like_dense_ones() -> None:
    rows = [0, 3, 10_000_000, 99_999]
    events = [Event(row=rows[n % 4], action=n % 4_096) for n in range(9_000)]
    assert to_naive(bucket_of(events)) == naive(events)


# -- parts of a bucket -----------------------------------------------------------------


def four_rows() -> Bucket:
    events = [
        Event(row=row, value=float(row), action=row) for row in (2, 5, 5, 9, 70_000)
    ]
    return bucket_of(events)


def test_rows_of_gives_the_rows_that_are_asked_for_with_their_facts() -> None:
    bucket = four_rows()
    part = rows_of(bucket, np.array([5, 70_000]))
    everything = to_naive(bucket)
    assert to_naive(part) == {row: everything[row] for row in (5, 70_000)}
    assert to_naive(rows_of(bucket, np.array([2, 5, 9, 70_000]))) == everything


@pytest.mark.parametrize(
    "selected",
    [[], [0], [3], [100_000], [0, 1], [3, 4], [6, 7, 8], [10, 69_999, 70_001]],
)
def test_rows_of_rows_that_are_not_there_is_empty(selected: list[int]) -> None:
    assert not len(rows_of(four_rows(), np.array(selected, np.int64)).rows)


@pytest.mark.parametrize(
    ("selected", "there"),
    [
        ([0, 1, 2], [2]),
        ([3, 5], [5]),
        ([3, 4, 5, 6, 9], [5, 9]),
        (list(range(12)), [2, 5, 9]),
        ([69_999, 70_000, 70_001], [70_000]),
    ],
)
def test_rows_of_rows_of_which_some_are_not_there_gives_each_other_once(
    selected: list[int], there: list[int]
) -> None:
    bucket = four_rows()
    everything = to_naive(bucket)
    part = rows_of(bucket, np.array(selected, np.int64))
    assert part.rows.tolist() == there
    assert to_naive(part) == {row: everything[row] for row in there}


def test_rows_of_an_empty_bucket_is_empty() -> None:
    assert rows_of(EMPTY, np.array([1, 2])) is EMPTY


@calm
@given(lists_of(exact))
def test_collapsing_is_aggregating_as_one_series(events: list[Event]) -> None:
    bucket = bucket_of(events)
    if not events:
        return
    as_one = [event._replace(row=0) for event in events]
    assert to_naive(collapse(bucket)) == naive(as_one)


def test_facts_of_a_series_are_not_mixed_with_its_neighbours() -> None:
    events = [
        Event(row=1, outcome=4, action=4_095, error=4_095),
        Event(row=2, outcome=1, action=1, error=1),
        Event(row=3, outcome=4, action=4_095, error=4_095),
    ]
    bucket = bucket_of(events)
    for dimension in (Dimension.OUTCOME, Dimension.ACTION, Dimension.ERROR):
        numbers, counts = facts_of(bucket, 2, dimension)
        assert (numbers.tolist(), counts.tolist()) == ([1], [1])
        assert facts_of(bucket, 4, dimension)[0].tolist() == []


# -- phases ----------------------------------------------------------------------------


def sums(bucket: Bucket) -> dict[str, int]:
    numbers, counts = facts_of(bucket, 0, Dimension.PHASES)
    named = zip(numbers.tolist(), counts.tolist(), strict=True)
    return {PhaseSum(number).name: count for number, count in named}


def test_post_is_the_rest_of_the_other_phases() -> None:
    bucket = bucket_of(
        [Event(value=1.0, phases=(0.125, 0.5, 0.25, 7)), Event(value=9.0)]
    )
    assert sums(bucket) == {
        "EXECUTIONS": 1,
        "PREP": 1_250_000,
        "EXEC": 5_000_000,
        "WAIT": 2_500_000,
        "POST": 1_250_000,
        "ITEMS": 7,
    }


def test_a_split_that_is_more_than_the_whole_leaves_nothing_for_post() -> None:
    bucket = bucket_of([Event(value=0.5, phases=(0.5, 0.5, 0.0, 0))])
    assert sums(bucket) == {"EXECUTIONS": 1, "PREP": 5_000_000, "EXEC": 5_000_000}


def test_a_series_of_which_no_phases_are_known_pays_nothing_for_them() -> None:
    bucket = bucket_of([Event(row=0), Event(row=1, phases=(0.0, 0.5, 0.0, 0))])
    assert not sums(bucket)
    assert len(facts_of(bucket, 1, Dimension.PHASES)[0])


def test_phases_of_a_split_second_add_up_to_the_whole() -> None:
    chance = np.random.default_rng(1)
    parts = chance.random((1_000, 4)).astype(np.float32).tolist()
    events = [Event(value=sum(p), phases=(p[0], p[1], p[2], 0)) for p in parts]
    result = sums(bucket_of(events))
    whole = sum(result[name] for name in ("PREP", "EXEC", "WAIT", "POST"))
    # Each is rounded to a tick of 100 ns.
    assert whole == pytest.approx(sum(e.value for e in events) * TICKS, abs=2 * 1_000)


def test_times_beyond_all_measure_are_cut_without_a_warning() -> None:
    huge = 3e38
    events = [Event(value=1.7e308, phases=(huge, huge, 0.0, 1))]
    result = sums(merge([bucket_of(events)] * 100))
    assert result["PREP"] == result["EXEC"] == 100 * 2**48
    assert result["EXECUTIONS"] == 100


def test_sums_beyond_the_floats_become_infinite_without_a_warning() -> None:
    bucket = reduce(make_columns([1.7e308, 1.7e308]))
    assert bucket.total.tolist() == [math.inf]
    one = reduce(make_columns([1.7e308]))
    assert merge([one, one]).total.tolist() == [math.inf]
    other = reduce(make_columns([-1.7e308, -1.7e308]))
    assert math.isnan(merge([bucket, other]).total[0])
