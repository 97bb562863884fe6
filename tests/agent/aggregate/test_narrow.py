"""Narrow columns keep every value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate.narrow import (
    differing,
    escape,
    fill,
    narrow,
    pick,
    ranks,
    unescape,
)

LARGEST = np.iinfo(np.int64).max
integers = st.sampled_from([0, 1, 254, 255, 256, 2**32 - 1, LARGEST]) | st.integers(
    -(2**63), LARGEST
)
columns = st.lists(integers, max_size=40).map(lambda some: np.array(some, np.int64))
places = st.lists(st.integers(0, 39), max_size=20)


@calm
@given(columns, places, st.sampled_from([np.uint8, np.uint32]))
def test_integers_are_kept_whether_they_fit_or_not(
    column: np.ndarray, at: list[int], kind: type
) -> None:
    some = np.array([place for place in at if place < len(column)], np.int64)
    small, large = escape(column, kind)

    assert small.dtype == kind
    assert unescape(small, large).tolist() == column.tolist()
    assert unescape(small, large, some).tolist() == column[some].tolist()
    assert narrow(column).tolist() == column.tolist()


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0, 255, "u1"), (0, 256, "u2"), (-1, 127, "i1"), (-1, 128, "i2"), (-9, 9, "i1")],
)
def test_integers_are_as_narrow_as_possible(low: int, high: int, kind: str) -> None:
    assert narrow(np.array([low, high])).dtype == kind


@calm
@given(st.lists(st.booleans(), max_size=70), places)
def test_only_values_that_differ_are_kept(differs: list[bool], at: list[int]) -> None:
    expected = np.arange(len(differs), dtype=float)
    column = np.where(differs, -expected - 1, expected)
    where, values = differing(column, expected)
    some = np.array(sorted(p for p in at if p < len(differs)), np.int64)

    assert len(values) == sum(differs)
    assert fill(expected.copy(), where, values, slice(None)).tolist() == column.tolist()
    assert fill(expected[some], where, values, some).tolist() == column[some].tolist()
    assert pick(where, some).tolist() == [differs[place] for place in some]
    assert pick(where, slice(None), len(differs)).tolist() == differs
    assert ranks(where, some).tolist() == [sum(differs[:place]) for place in some]
