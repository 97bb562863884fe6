"""The agent's own metrics: declared by a class, counted by an instance, collected."""

from __future__ import annotations

import pytest

from kaywatch_agent.runtime.metrics import (
    CATALOGUE,
    Counter,
    Gauge,
    Metrics,
    MetricsRegistry,
)


class ShopMetrics(Metrics):
    orders = Counter("test_orders_total", "Orders.", durable=True)
    lost = Counter("test_lost_total", "Lost.", labels=("reason",), durable=True)
    visits = Counter("test_visits_total", "Visits.")
    open = Gauge("test_open", "Open.")
    states = Gauge("test_states", "By state.", labels=("state",))


def collect(*components: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    registry = MetricsRegistry()
    registry.include(*components)
    return {instrument.name: result for instrument, result in registry.collect()}


def test_counted_metrics_are_collected() -> None:
    shop = ShopMetrics()
    shop.orders.add()
    shop.orders.add(2)
    shop.lost.labels("fire").add(3)
    shop.lost.labels("fire").add()
    shop.open.set(5)

    assert shop.orders.value == 3
    assert collect(shop) == {
        "test_orders_total": {(): 3.0},
        "test_lost_total": {("fire",): 4.0},
        "test_visits_total": {(): 0.0},
        "test_open": {(): 5.0},
        "test_states": {},
    }


def test_each_instance_counts_for_itself() -> None:
    one, other = ShopMetrics(), ShopMetrics()
    one.orders.add()
    one.lost.labels("fire").add()

    assert other.orders.value == 0
    assert collect(other)["test_lost_total"] == {}
    assert ShopMetrics.orders.value == 0


def test_a_child_is_made_once() -> None:
    lost = ShopMetrics().lost

    assert lost.labels("fire") is lost.labels("fire")
    assert lost.labels("fire") is not lost.labels("flood")


def test_components_of_one_class_are_added_up() -> None:
    one, other = ShopMetrics(), ShopMetrics()
    one.visits.add(1)
    other.visits.add(2)
    one.lost.labels("fire").add(1)
    other.lost.labels("flood").add(2)

    result = collect(one, other)

    assert result["test_visits_total"] == {(): 3.0}
    assert result["test_lost_total"] == {("fire",): 1.0, ("flood",): 2.0}


def test_a_function_is_asked_at_each_collection() -> None:
    shop, values = ShopMetrics(), [1]
    shop.open.set_function(lambda: len(values))
    shop.states.set_function(lambda: {("new",): len(values)})
    assert collect(shop)["test_open"] == {(): 1.0}

    values.append(2)

    assert collect(shop)["test_open"] == {(): 2.0}
    assert collect(shop)["test_states"] == {("new",): 2.0}
    # Python's int equals its float, but is written otherwise.
    assert isinstance(collect(shop)["test_states"]["new",], float)


def test_durable_counters_go_on_after_a_restart() -> None:
    shop, registry = ShopMetrics(), MetricsRegistry()
    registry.include(shop)
    shop.orders.add(2)
    shop.lost.labels("fire").add(3)
    shop.visits.add(4)
    stored = registry.changes(full=False)
    registry.committed(stored)

    restarted, registry = ShopMetrics(), MetricsRegistry()
    registry.include(restarted)
    restarted.orders.add()
    registry.restore(stored)

    assert restarted.orders.value == 3
    assert restarted.lost.labels("fire").value == 3
    assert restarted.visits.value == 0


def test_stored_counters_that_are_not_known_are_left_out() -> None:
    registry, shop = MetricsRegistry(), ShopMetrics()
    registry.include(shop)
    registry.restore(b'{"gone_total": [[[], 1.0]], "test_visits_total": [[[], 7.0]]}')

    assert shop.visits.value == 0


def test_a_refused_change_is_in_the_next() -> None:
    shop, registry = ShopMetrics(), MetricsRegistry()
    registry.include(shop)
    shop.orders.add(2)
    refused = registry.changes(full=False)
    registry.refused(refused)

    assert registry.changes(full=False) == refused


def test_labels_are_neither_forgotten_nor_miscounted() -> None:
    shop = ShopMetrics()

    with pytest.raises(AttributeError, match=r"test_lost_total.*labels\(\)"):
        shop.lost.add()
    with pytest.raises(ValueError, match="test_lost_total"):
        shop.lost.labels("fire", "night")
    with pytest.raises(ValueError, match="test_orders_total"):
        shop.orders.labels()


def test_a_subclass_inherits_declared_metrics() -> None:
    class LargeShopMetrics(ShopMetrics):
        floors = Gauge("test_floors", "Floors.")

    names = {*collect(ShopMetrics()), "test_floors"}
    assert {*collect(LargeShopMetrics())} == names


def test_the_catalogue_has_each_name_once() -> None:
    assert CATALOGUE["test_orders_total"] is ShopMetrics.orders

    with pytest.raises(TypeError, match="test_orders_total is declared twice"):

        class Again(Metrics):
            orders = Counter("test_orders_total", "Orders.")
