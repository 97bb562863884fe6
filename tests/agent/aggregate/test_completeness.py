from __future__ import annotations

import numpy as np
import pytest
from tests.agent.aggregate.samples import Event, columns, make_columns

from kaywatch_agent.aggregate.bucket import MAX_GATHERED, Bucket, gather, merge
from kaywatch_agent.aggregate.completeness import Completeness, EventLayout
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.model.series import Kind, SeriesKey


def bucket_of(row: int, *values: float) -> Bucket:
    """Return a bucket in which one series has some values."""
    return reduce(make_columns(list(values)))._replace(rows=np.array([row]))


@pytest.fixture
def names() -> Registry:
    """One service's node, losses and lateness; another's node."""
    registry = Registry(Limits(series_per_client=4))
    for key in (
        SeriesKey(Kind.NODE, "shop", "g", "n"),
        SeriesKey(Kind.LOSS, "shop", "", "", "buffer_full"),
        SeriesKey(Kind.LATE, "shop", "", ""),
        SeriesKey(Kind.NODE, "mail", "g", "n"),
    ):
        registry.row(key, "client")
    return registry


def count_events(names: Registry, *buckets: Bucket) -> Completeness:
    completeness = Completeness(EventLayout(list(names.keys), names.overflow_rows))
    for bucket in buckets:
        completeness.add(bucket)
    return completeness


def test_completeness_is_counted_by_service(names: Registry) -> None:
    result = count_events(
        names,
        bucket_of(0, 1, 1, 1),
        bucket_of(1, 1.0),
        bucket_of(2, 1, 1),
        bucket_of(3, 1),
    )

    shop = result.of(["shop"])
    assert (shop.received, shop.late, shop.overflow) == (3, 2, 0)
    assert shop.dropped == {"buffer_full": 1}
    assert shop.ratio == 3 / 4  # late events are not of the window
    assert result.of(["mail"]).ratio == 1
    assert result.of(result.services).ratio == 4 / 5


def test_without_events_there_is_no_share(names: Registry) -> None:
    assert count_events(names).of(["shop", "nobody"]).ratio is None


def test_a_series_that_appeared_since_is_left_out(names: Registry) -> None:
    assert count_events(names, bucket_of(9, 1)).of(["shop", "mail"]).received == 0


def test_sums_of_a_bucket_stay_correct_when_series_are_added(names: Registry) -> None:
    buckets = bucket_of(0, 1, 1, 1), bucket_of(1, 2.0), bucket_of(3, 1)
    before = EventLayout(list(names.keys), names.overflow_rows)
    sums = [before.sum(bucket) for bucket in buckets]
    for key in (
        SeriesKey(Kind.LOSS, "mail", "", "", "unsent"),
        SeriesKey(Kind.UNKNOWN, "shop", "", ""),
        SeriesKey(Kind.NODE, "new", "g", "n"),
        SeriesKey(Kind.NODE, "shop", "g", "m"),
    ):
        names.row(key, "another")

    result = Completeness(EventLayout(list(names.keys), names.overflow_rows))
    for each in sums:
        result.add_sums(each)
    expected = count_events(names, *buckets)
    for service in ("shop", "mail", "new"):
        assert result.of([service]) == expected.of([service])
    assert result.of(["shop"]).dropped == {"buffer_full": 2}


def test_gathered_buckets_have_the_same_events() -> None:
    buckets = [reduce(columns([Event(), Event()])) for _ in range(2 * MAX_GATHERED + 9)]
    result = gather(buckets)

    assert len(result) <= MAX_GATHERED
    assert merge(result).executions.tolist() == merge(buckets).executions.tolist()
