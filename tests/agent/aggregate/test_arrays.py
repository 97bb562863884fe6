"""Operations on sorted arrays equal those on sets and dictionaries."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate.arrays import (
    compact,
    contains,
    count_pairs,
    group,
    insert,
    spans,
    union,
)

numbers = st.lists(st.integers(0, 60), max_size=40)


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


@calm
@given(numbers, numbers)
def test_a_union_has_each_key_once_and_knows_its_place(
    one: list[int], other: list[int]
) -> None:
    base, keys = ints(sorted({*one})), ints(sorted({*other}))
    joined, at, places = union(base, keys)

    assert joined.tolist() == sorted({*one, *other})
    assert joined[at].tolist() == keys.tolist()
    assert contains(base, keys).tolist() == [key in one for key in keys]
    column = insert(base * 10, places, -1)
    expected = [key * 10 if key in one else -1 for key in joined.tolist()]
    assert column.tolist() == expected
    column[...] = 0
    assert base.tolist() == sorted({*one})


def test_a_union_with_nothing_new_copies_nothing() -> None:
    base = ints([2, 3, 5])
    assert union(base, ints([3]))[0] is base
    assert union(base, ints([]))[0] is base


@calm
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10**6)), min_size=1))
def test_groups_and_pairs_are_counted(pairs: list[tuple[int, int]]) -> None:
    position, number = (ints(list(column)) for column in zip(*pairs, strict=True))
    at, value, count = count_pairs(position, number, 10)
    counted = zip(zip(at, value, strict=True), count, strict=True)
    assert dict(counted) == Counter(pairs)

    keys, order, starts = group(number)
    assert keys.tolist() == sorted({*number.tolist()})
    assert np.diff(starts, append=len(order)).tolist() == [
        (number == key).sum() for key in keys
    ]
    rows, local = compact(number)
    assert rows[local].tolist() == number.tolist()


def test_spans_are_consecutive() -> None:
    assert spans(ints([7, 2, 5]), ints([2, 0, 3])).tolist() == [7, 8, 5, 6, 7]
