from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate.registry import Excess, Interner, Limits, Registry
from kaywatch_agent.model.series import OTHER, ErrorKey, Kind, SeriesKey


def node(name: str, graph: str = "g", service: str = "s") -> SeriesKey:
    return SeriesKey(Kind.NODE, service, graph, name)


def run(graph: str, service: str = "s") -> SeriesKey:
    return SeriesKey(Kind.RUN, service, graph, "")


def small(series: int = 3, per_client: int = 100, names: int = 3) -> Registry:
    return Registry(Limits(series=series, series_per_client=per_client, names=names))


def key_of(registry: Registry, key: SeriesKey, client: str = "c") -> SeriesKey:
    return registry.keys[registry.row(key, client)]


def test_a_series_keeps_its_row() -> None:
    registry = small()
    rows = [registry.row(node(name), "c") for name in ("a", "b", "a", "b")]
    assert rows == [0, 1, 0, 1]
    assert registry.keys == [node("a"), node("b")]
    assert not registry.overflow


def test_beyond_the_cap_a_series_is_counted_under_other_of_its_graph() -> None:
    registry = small(series=2)
    registry.row(node("a", "g"), "c")
    registry.row(node("a", "h"), "c")
    assert key_of(registry, node("b", "g")) == node(OTHER, "g")
    assert key_of(registry, node("b", "h")) == node(OTHER, "h")
    assert registry.row(node("x", "g"), "c") == registry.row(node("y", "g"), "c")
    assert key_of(registry, node("a", "g")) == node("a", "g")


def test_a_graph_that_came_too_late_is_counted_under_other_of_its_service() -> None:
    registry = small(series=10, per_client=1)
    registry.row(node("a", "g"), "c")
    assert key_of(registry, node("b", "late")) == node(OTHER, OTHER)
    assert key_of(registry, run("late")) == run(OTHER)
    assert key_of(registry, node("b", "late", "t")) == node(OTHER, OTHER, "t")


def test_a_series_outside_any_graph_is_counted_under_other_beside_its_like() -> None:
    registry = small(series=1)
    registry.row(node("a", ""), "c")
    assert key_of(registry, node("b", "")) == node(OTHER, "")


def test_metrics_are_counted_under_other_by_kind_without_names_or_labels() -> None:
    registry = small(series=10, per_client=1)
    registry.row(node("a", "g"), "c")
    for kind in (Kind.OBSERVE, Kind.COUNT, Kind.GAUGE):
        result = [
            key_of(registry, SeriesKey(kind, "s", "g", name, name, ((name, name),)))
            for name in ("x", "y")
        ]
        assert result == [SeriesKey(kind, "s", "g", OTHER, OTHER)] * 2


def test_services_made_up_without_end_end_up_in_one_row_per_kind() -> None:
    registry = small(series=5)
    for number in range(1_000):
        registry.row(node("a", "g", f"s{number}"), "c")
        registry.row(run("g", f"s{number}"), "c")
    assert len(registry.keys) <= 2 * 5 + len(Kind)
    assert key_of(registry, node("a", "g", "s999")) == node(OTHER, OTHER, OTHER)
    assert key_of(registry, run("g", "s999")) == run(OTHER, OTHER)


def test_one_client_can_use_up_only_its_own_share() -> None:
    registry = small(series=1_000, per_client=2)
    for name in "abcdef":
        registry.row(node(name), "greedy")
    assert key_of(registry, node("mine"), "modest") == node("mine")
    # Series of other clients do not count for its share.
    assert key_of(registry, node("mine"), "greedy") == node("mine")
    assert registry.overflow == {Excess.PROCESS: 4}
    assert registry.quota.by_client == {"greedy": 2, "modest": 1}


@pytest.mark.parametrize("user", [1000, -1], ids=["local", "broker"])
def test_the_clients_of_one_user_leave_series_to_others(user: int) -> None:
    registry = small(series=100, per_client=4)
    registry.limit(replace(registry.limits, series_per_user=10))
    registry.quota.set_user("other", 1001)
    for client in "abcde":
        if user >= 0:
            registry.quota.set_user(client, user)
        for name in "vwxyz":
            registry.row(node(f"{client}-{name}"), client)
    assert len(registry.keys) - len(registry.overflow_rows) == 10
    # Four of each of the first two clients, and two of the third.
    process, by_user = registry.overflow[Excess.PROCESS], registry.overflow[Excess.USER]
    assert (process, by_user) == (2, 13)
    assert key_of(registry, node("mine"), "other") == node("mine")
    assert key_of(registry, node("own"), "") == node("own")


def test_a_client_that_has_left_leaves_its_series_behind() -> None:
    registry = small(per_client=1)
    registry.row(node("a"), "c")
    registry.row(node("b"), "c")
    registry.quota.forget("c")
    assert not registry.quota.by_client
    assert registry.keys[0] == node("a")
    assert registry.overflow == {Excess.PROCESS: 1}


keys = st.builds(
    SeriesKey,
    st.sampled_from(list(Kind)),
    st.sampled_from(["s", "t", "u"]),
    st.sampled_from(["", "g", "h", "i"]),
    st.sampled_from("abcdefgh"),
    st.sampled_from(["", "m", "n"]),
)


@calm
@given(
    st.lists(st.tuples(keys, st.sampled_from("pqr")), max_size=200), st.integers(1, 9)
)
def test_every_event_has_a_row_of_its_kind_and_rows_are_bounded(
    events: list[tuple[SeriesKey, str]], series: int
) -> None:
    registry = small(series=series, per_client=4)
    by_kind: Counter[Kind] = Counter()
    for key, client in events:
        row = registry.row(key, client)
        assert registry.row(key, client) == row
        assert registry.keys[row].kind is key.kind
        assert registry.keys[row].service in (key.service, OTHER)
        assert registry.keys[row].graph in (key.graph, OTHER)
        by_kind[key.kind] += 1
        assert find_overflow(registry) == registry.overflow_rows
    assert len(registry.keys) <= 2 * series + len(Kind)
    assert len(set(registry.keys)) == len(registry.keys)
    assert sum(registry.quota.by_client.values()) <= series
    restored = small(series=series)
    restored.restore(registry.keys, registry.names)
    assert find_overflow(restored) == registry.overflow_rows


def find_overflow(registry: Registry) -> list[int]:
    rows = np.arange(len(registry.keys), dtype=np.int32)
    return rows[registry.find_overflow(rows)].tolist()


# -- names -----------------------------------------------------------------------------


def test_names_are_numbered_in_order_from_the_first() -> None:
    names = Interner("", OTHER, limit=4)
    assert [names.number(name) for name in ("", "a", "b", "a")] == [0, 1, 2, 1]
    assert names.values == ["", "a", "b"]


def test_names_beyond_the_cap_are_one() -> None:
    names = Interner("", OTHER, limit=3)
    numbers = [names.number(name) for name in ("a", "b", "c", "d", "a", OTHER)]
    assert numbers == [1, 2, 3, 3, 1, 3]
    assert names.values == ["", "a", "b", OTHER]


def test_errors_beyond_the_cap_have_no_phase() -> None:
    registry = small(names=2)
    registry.errors.number(ErrorKey("ValueError", "exec"))
    other = registry.errors.number(ErrorKey("KeyError", "prep"))
    assert registry.errors.values[other] == ErrorKey(OTHER, "")
    assert registry.errors.number(ErrorKey("", "")) == 0


def test_a_name_that_is_the_word_for_others_is_among_them() -> None:
    names = Interner("", OTHER, limit=100)
    assert names.number(OTHER) == names.number(OTHER) == 1


def test_one_client_and_one_user_leave_names_to_others() -> None:
    registry = Registry(Limits(names=20, names_per_client=3, names_per_user=5))
    for client in ("a1", "a2"):
        registry.quota.set_user(client, 1)
    registry.quota.set_user("b1", 2)
    numbers = {
        client: [registry.actions.number(f"{client}-{n}", client) for n in range(4)]
        for client in ("a1", "a2", "b1")
    }
    # `__other__` takes a number of its own.
    assert numbers == {"a1": [1, 2, 3, 4], "a2": [5, 6, 4, 4], "b1": [7, 8, 9, 4]}
    assert registry.actions.overflow == {Excess.PROCESS: 2, Excess.USER: 2}

    # Known names and other kinds are not affected.
    assert registry.actions.number("a1-0", "a2") == 1
    assert registry.errors.number(ErrorKey("E", ""), "a1") == 1
    registry.limit(Limits(names=10))
    assert registry.actions.number("more", "b1") == 4
    assert registry.actions.overflow[Excess.TOTAL] == 1


def test_the_names_of_a_client_that_has_left_count_for_its_user_only() -> None:
    registry = Registry(Limits(names=10, names_per_client=2, names_per_user=3))
    registry.quota.set_user("a", 1)
    for n in range(3):
        registry.actions.number(f"first-{n}", "a")
    registry.forget("a")
    registry.quota.set_user("a", 1)
    for n in range(3):
        registry.actions.number(f"second-{n}", "a")
    assert registry.actions.values == ["", "first-0", "first-1", OTHER, "second-0"]
    assert registry.actions.overflow == {Excess.PROCESS: 1, Excess.USER: 2}
