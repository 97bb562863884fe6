"""Whether a message has to wait for other alerts of its group."""

from __future__ import annotations

from typing import Any

import pytest
from tests.agent.rules.harness import AlertHarness, rule

from kaywatch_agent.rules.built_in import BUILT_IN

NO_THRESHOLDS = dict.fromkeys(BUILT_IN, False)


def alone(harness: AlertHarness) -> dict[tuple[str, str], bool]:
    """Return which notifications of the last evaluation need not wait, by receiver."""
    return {
        (request.receiver, request.alert.labels.get("node", "")): request.is_alone
        for request in harness.last.requests
    }


def fail(harness: AlertHarness, *nodes: str, **place: str) -> None:
    for node in nodes:
        harness.ran(20, errors=20, node=node, **place)


def test_the_only_node_of_a_graph_waits_for_nobody() -> None:
    harness = AlertHarness(rule(notify=["chat"]))
    fail(harness, "pay")
    harness.ran(20, node="load", graph="etl")  # another group
    harness.evaluate()
    assert alone(harness) == {("chat", "pay"): True}


def test_a_node_whose_neighbour_may_fail_at_once_waits() -> None:
    harness = AlertHarness(rule(notify=["chat"]))
    fail(harness, "pay")
    harness.ran(20, node="ship")
    harness.evaluate()
    assert alone(harness) == {("chat", "pay"): False}


def test_a_neighbour_that_fires_at_the_same_time_need_not_be_waited_for() -> None:
    harness = AlertHarness(rule(notify=["chat"], keep_firing_for="2m"))
    fail(harness, "pay", "ship")
    harness.evaluate()
    assert alone(harness) == {("chat", "pay"): True, ("chat", "ship"): True}


def test_a_neighbour_that_may_resolve_at_once_is_waited_for() -> None:
    harness = AlertHarness(rule(notify=["chat"], keep_firing_for="0"))
    fail(harness, "pay", "ship")
    harness.evaluate()
    assert alone(harness) == {("chat", "pay"): False, ("chat", "ship"): False}


@pytest.mark.parametrize(("wait", "is_alone"), [("4s", True), ("5s", False)])
def test_a_neighbour_that_is_pending_is_waited_for_if_it_fires_in_time(
    wait: str, is_alone: bool
) -> None:
    harness = AlertHarness(
        rule(notify=["chat"], **{"for": "1m", "keep_firing_for": "2m"}),
        alerting={"group_wait": wait, "thresholds": NO_THRESHOLDS},
    )
    harness.ran(20, node="healthy")
    fail(harness, "pay")
    harness.evaluate()
    harness.wait(5.0)
    fail(harness, "ship")
    harness.evaluate()
    while not harness.last.requests:
        harness.wait(5.0)
        fail(harness, "pay", "ship")
    assert alone(harness) == {("chat", "pay"): is_alone}


def test_the_end_of_an_alert_waits_for_a_neighbour_that_may_end_in_time() -> None:
    for keep, is_alone in (("0", False), ("2m", True)):
        harness = AlertHarness(
            rule(notify=["chat"], **{"for": "1m", "keep_firing_for": keep})
        )
        for _ in range(15):
            fail(harness, "pay", "ship")
            harness.wait(5.0)
        assert len(harness.engine.alerts) == 2
        while not harness.last.requests or harness.last.requests[0].kind != "resolved":
            fail(harness, "ship")
            harness.ran(4_000, node="pay")
            harness.wait(5.0)
        assert alone(harness) == {("chat", "pay"): is_alone}


def test_a_rule_that_does_not_notify_the_receiver_does_not_count() -> None:
    rules = (
        rule(notify=["chat"]),
        rule(
            name="other", notify=["pager"], value=0.0001, metric="latency_p95", op=">"
        ),
    )
    tables: dict[str, Any] = {
        "alerting": {"group_by": ["graph"], "thresholds": NO_THRESHOLDS}
    }
    harness = AlertHarness(*rules, **tables)
    fail(harness, "pay")
    harness.evaluate()
    assert alone(harness)["chat", "pay"]

    both = AlertHarness(*(each | {"notify": ["chat"]} for each in rules), **tables)
    fail(both, "pay")
    both.ran(20, node="ship", seconds=0.0)
    both.evaluate()
    assert not alone(both)["chat", "pay"]


def test_labels_of_the_configuration_define_groups_as_well() -> None:
    harness = AlertHarness(
        rule(notify=["chat"], labels={"team": "a"}),
        rule(
            name="other", notify=["chat"], labels={"team": "b"}, match=['node="ship"']
        ),
        alerting={"group_by": ["team"], "thresholds": NO_THRESHOLDS},
    )
    fail(harness, "pay")
    harness.evaluate()
    assert alone(harness) == {("chat", "pay"): True}
