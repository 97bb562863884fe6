"""Filters of series: the rows that columns select are those that match one by one."""

from __future__ import annotations

from itertools import product

import pytest

from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.web.series_filter import SeriesColumns, SeriesFilter

KEYS = [
    SeriesKey(kind, service, graph, node)
    for kind, service, graph, node in product(
        (Kind.NODE, Kind.RUN, Kind.LOSS), ("shop", "mail"), ("", "pay"), ("", "a", "b")
    )
]


@pytest.mark.parametrize("kinds", [None, {Kind.RUN}, {Kind.NODE, Kind.LOSS}, set()])
@pytest.mark.parametrize("service", [None, "shop", "unknown", {"mail", "unknown"}])
@pytest.mark.parametrize("graph", [None, "", {"pay"}, ["", "pay"]])
@pytest.mark.parametrize("node", [None, "a", ("a", "b"), ()])
def test_selected_rows_are_those_of_matching_series(
    kinds: set[Kind] | None,
    service: str | set[str] | None,
    graph: str | set[str] | list[str] | None,
    node: str | tuple[str, ...] | None,
) -> None:
    matches = SeriesFilter(kinds=kinds, service=service, graph=graph, node=node)
    selected = SeriesColumns(KEYS).select(matches)
    assert selected.tolist() == [matches(key) for key in KEYS]


def test_nothing_is_selected_without_series() -> None:
    columns = SeriesColumns([])
    assert not columns.select(SeriesFilter(service="shop")).any()
    assert not columns.is_of(Kind.NODE).any()
