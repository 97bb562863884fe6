"""Processes and users have quotas for the bytes of their details."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate import detail_quota
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.detail_quota import OBJECT_BYTES, Detail, DetailQuota
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.model.records import TopologyRecord
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.protocol.messages import Details

ITEM = 1_000 - OBJECT_BYTES  # encoded bytes of an item that takes 1,000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detail_quota, "PROCESS_BYTES", 10_000)
    monkeypatch.setattr(detail_quota, "USER_BYTES", 25_000)
    monkeypatch.setattr(detail_quota, "ALL_BYTES", 40_000)


def new_aggregator() -> Aggregator:
    return Aggregator(Registry(Limits()), 0.0)


def keep(aggregator: Aggregator, key: str, count: int, owner: str) -> int:
    items = range(count)
    kept = aggregator.details.keep(Detail.LOOPS, key, items, ITEM * count, owner)
    assert list(kept) == list(items[: len(kept)])
    return len(kept)


def dropped(aggregator: Aggregator, kind: Detail) -> float:
    return aggregator.metrics.details_dropped.labels(kind).value


def test_a_process_has_its_share_whatever_its_number_of_clients() -> None:
    aggregator = new_aggregator()
    assert [keep(aggregator, str(n), 4, "a") for n in range(4)] == [4, 4, 2, 0]
    assert keep(aggregator, "x", 4, "b") == 4
    assert dropped(aggregator, Detail.LOOPS) == 6


def test_what_is_replaced_or_released_makes_room() -> None:
    aggregator = new_aggregator()
    assert keep(aggregator, "x", 9, "a") == 9
    assert keep(aggregator, "x", 10, "a") == 10
    assert keep(aggregator, "y", 3, "a") == 0
    aggregator.details.release(Detail.LOOPS, "x")
    assert keep(aggregator, "y", 3, "a") == 3
    assert keep(aggregator, "y", 0, "a") == 0
    assert aggregator.details.bytes == 0


def test_a_user_has_a_share_whatever_its_number_of_processes() -> None:
    aggregator = new_aggregator()
    for owner in "abcd":
        aggregator.registry.quota.set_user(owner, 1000)
    aggregator.registry.quota.set_user("e", 1001)
    kept = [keep(aggregator, owner, 10, owner) for owner in "abcde"]
    assert kept == [10, 10, 5, 0, 10]


@calm
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(Detail)),
            st.integers(0, 5),
            st.integers(0, 30),
            st.integers(0, 3_000),
            st.sampled_from("abc"),
        ),
        max_size=40,
    )
)
def test_shares_add_up_and_stay_within_the_limits(
    steps: list[tuple[Detail, int, int, int, str]],
) -> None:
    aggregator = new_aggregator()
    quota: DetailQuota = aggregator.details
    for kind, key, count, size, owner in steps:
        quota.keep(kind, key, range(count), size, owner)
        by_owner: defaultdict[str, int] = defaultdict(int)
        for share in quota._shares.values():
            by_owner[share.owner] += share.size
        assert quota.bytes == sum(by_owner.values())
        assert max(by_owner.values(), default=0) <= 10_000
    for kind, key, *_ in steps:
        quota.release(kind, key)
    assert quota.bytes == 0


# -- topologies ------------------------------------------------------------------------


def topology(graph: str, nodes: int) -> TopologyRecord:
    return TopologyRecord(graph=graph, nodes=tuple(f"n{n}" for n in range(nodes)))


def take(aggregator: Aggregator, *topologies: TopologyRecord) -> list[int]:
    """Accept topologies; return the sizes of the known ones."""
    details = Details(topologies=topologies)
    aggregator.take_details(details, "shop", "c", "a", 1.0)
    known = aggregator.view(1.0).topologies.values()
    return [len(one.nodes) for one in known]


def test_topologies_over_the_quota_are_dropped_as_a_whole() -> None:
    aggregator = new_aggregator()
    assert take(aggregator, topology("g", 15), topology("h", 15)) == [15]
    assert dropped(aggregator, Detail.TOPOLOGIES) == 1
    assert take(aggregator, topology("g", 10), topology("h", 5)) == [10, 5]


def test_a_topology_that_grows_over_the_quota_stays_as_it_was() -> None:
    aggregator = new_aggregator()
    assert take(aggregator, topology("g", 15)) == [15]
    assert take(aggregator, topology("g", 100)) == [15]
    assert take(aggregator, topology("g", 15), topology("h", 15)) == [15]


# -- names of series -------------------------------------------------------------------


def test_long_names_use_up_the_quota_of_a_process_but_not_of_others() -> None:
    registry = Registry(Limits(series_per_client=10))
    rows = {
        registry.row(SeriesKey(Kind.NODE, "s", "g", f"{n}".ljust(3_000, "x")), "a")
        for n in range(10)
    }
    assert len(rows) == 4  # three, and the one that stands for the others
    registry.row(SeriesKey(Kind.NODE, "s", "g", "short"), "b")
    assert registry.keys[-1].node == "short"
