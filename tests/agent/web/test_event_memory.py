"""What is remembered of closed buckets gives the same completeness as the buckets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from tests.agent.aggregate.samples import make_columns

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge
from kaywatch_agent.aggregate.completeness import (
    Completeness,
    EventCounts,
    EventLayout,
)
from kaywatch_agent.aggregate.history import ClosedBucket, History
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.aggregate.view import HISTORY_BUCKETS, View
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.web import event_memory
from kaywatch_agent.web.event_memory import EventMemory

SERVICES = "shop", "mail"
FIRST = 100


def bucket_of(row: int, *values: float) -> Bucket:
    """Return a bucket in which one series has some values."""
    return reduce(make_columns(list(values)))._replace(rows=np.array([row]))


@pytest.fixture
def registry() -> Registry:
    registry = Registry(Limits())
    for key in (
        SeriesKey(Kind.NODE, "shop", "g", "n"),
        SeriesKey(Kind.LOSS, "shop", "", "", "buffer_full"),
        SeriesKey(Kind.NODE, "mail", "g", "n"),
    ):
        registry.row(key, "client")
    return registry


def view_of(registry: Registry, buckets: Mapping[int, Bucket]) -> View:
    """Return a view in which all buckets but the last are closed."""
    last = max(buckets)
    stored = {n: b if n == last else ClosedBucket.of(b) for n, b in buckets.items()}
    history = History(stored)
    return View(last * 10.0, 0.0, EMPTY, history, registry, (), {})


def count(memory: EventMemory, view: View) -> dict[str, EventCounts]:
    layout = EventLayout(list(view.registry.keys), view.registry.overflow_rows)
    completeness = Completeness(layout)
    for _, sums in memory.recent(view, layout, 0.0, view.now + 10.0):
        completeness.add_sums(sums)
    return {service: completeness.of([service]) for service in SERVICES}


def count_anew(view: View) -> dict[str, EventCounts]:
    keys, overflow = list(view.registry.keys), view.registry.overflow_rows
    completeness = Completeness(EventLayout(keys, overflow))
    for bucket in view.buckets.values():
        completeness.add(bucket)
    return {service: completeness.of([service]) for service in SERVICES}


def test_the_counts_are_those_of_the_buckets(registry: Registry) -> None:
    memory = EventMemory()
    buckets = {
        FIRST: bucket_of(0, 1, 1, 1),
        FIRST + 1: bucket_of(1, 5.0),
        FIRST + 2: bucket_of(2, 1),
    }
    view = view_of(registry, buckets)
    for _ in range(2):
        counts = count(memory, view)
        assert counts == count_anew(view)
        assert counts["shop"].received == 3
        assert counts["shop"].dropped == {"buffer_full": 5}
    assert sorted(memory._sums) == [FIRST, FIRST + 1]  # the open bucket changes


def test_a_late_event_and_a_new_series_count(registry: Registry) -> None:
    memory = EventMemory()
    buckets = {FIRST: bucket_of(0, 1), FIRST + 1: bucket_of(2, 1)}
    count(memory, view_of(registry, buckets))

    row = registry.row(SeriesKey(Kind.NODE, "mail", "g", "late"), "client")
    late = bucket_of(row, 1, 1)
    buckets[FIRST] = merge([buckets[FIRST], late])
    buckets[FIRST + 2] = bucket_of(0, 1)
    view = view_of(registry, buckets)
    counts = count(memory, view)
    assert counts == count_anew(view)
    assert counts["mail"].received == 3


def test_old_buckets_and_those_of_many_services_are_not_remembered(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = EventMemory()
    for start in range(FIRST, FIRST + 5 * HISTORY_BUCKETS, HISTORY_BUCKETS):
        numbers = range(start, start + HISTORY_BUCKETS + 1)
        view = view_of(registry, {number: bucket_of(0, 1) for number in numbers})
        assert count(memory, view) == count_anew(view)
        assert len(memory._sums) <= HISTORY_BUCKETS + 1

    monkeypatch.setattr(event_memory, "MAX_CELLS", 0)
    memory = EventMemory()
    assert count(memory, view) == count_anew(view)
    assert not memory._sums
