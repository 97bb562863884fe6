"""What went away with its process has not recovered: its alert ends without data."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.agent.rules.harness import AlertHarness

from kaywatch_agent.model.records import (
    InFlight,
    NodeRevisits,
    ProcessSample,
    TopologyRecord,
)
from kaywatch_agent.model.series import ClientState, Kind, SeriesKey
from kaywatch_agent.units import MIB

GIB = 1024 * MIB
DIED = ClientState.DIED


def memory(size: int) -> dict[str, Any]:
    return {"sample": ProcessSample(rss_bytes=size, cpu_seconds=0.0)}


def waiting(harness: AlertHarness, since: float = 0.0) -> dict[str, Any]:
    """Return what a process says that is within a node."""
    return {"in_flight": (InFlight("shop", "pay", since or harness.now, "r1", 400),)}


def circling(visits: int = 400) -> dict[str, Any]:
    return {"loops": (NodeRevisits("shop", "pay", visits, "r1", visits),)}


# What a process says while each rule about it fires.
LIVE: dict[str, dict[str, Any]] = {
    "stuck": {},
    "memory_usage_max": memory(2 * GIB),
    "unusual_loop": circling(150),
    "runaway": circling(),
}


def firing_harness(rule: str) -> tuple[AlertHarness, dict[str, Any]]:
    """Return an engine with a firing alert of a rule, and what its process says."""
    harness = AlertHarness(alerting={})
    harness.ran(100, seconds=1.0)
    says = LIVE[rule] or waiting(harness)
    harness.process(7, **says)
    harness.wait(90)
    (alert,) = [alert for alert in harness.engine.alerts if alert.rule == rule]
    assert alert.lifecycle.is_firing
    return harness, says


END_OF = "chat", "resolved"


def ends(harness: AlertHarness, rule: str) -> list[tuple[str, str]]:
    """Return the reasons and summaries of the ends that a receiver was notified of."""
    return [
        (message.reason, message.summary)
        for _, receiver, kind, message in harness.sent
        if (receiver, kind) == END_OF and message.rule == rule
    ]


@pytest.mark.parametrize("rule", LIVE)
def test_a_process_that_dies_takes_its_alerts_with_it(rule: str) -> None:
    harness, says = firing_harness(rule)
    harness.process(7, DIED, **says)
    harness.wait(10)

    ((reason, summary),) = ends(harness, rule)
    assert reason == "no_data"
    assert summary.endswith(": no data: pid 7 on box died; not confirmed healthy")
    message = harness.sent[-1][3]
    # The value is the last that was observed.
    assert message.value == message.worst
    harness.wait(1200, 15)
    assert len(ends(harness, rule)) == 1


@pytest.mark.parametrize("rule", LIVE)
def test_a_disconnected_process_is_waited_for(rule: str) -> None:
    harness, says = firing_harness(rule)
    harness.process(7, ClientState.DISCONNECTED, **says)
    harness.wait(300)
    assert ends(harness, rule) == []
    harness.wait(600, 15)

    ((reason, summary),) = ends(harness, rule)
    assert reason == "no_data"
    assert ": no data: pid 7 on box is disconnected; not confirmed" in summary


@pytest.mark.parametrize("rule", LIVE)
def test_a_process_that_reconnects_goes_on(rule: str) -> None:
    harness, says = firing_harness(rule)
    harness.process(7, ClientState.DISCONNECTED, **says)
    harness.wait(60)
    harness.process(7, **says)
    harness.wait(900, 15)
    assert ends(harness, rule) == []
    harness.process(7)
    harness.wait(300)

    ((reason, _),) = ends(harness, rule)
    assert reason == "cleared"


@pytest.mark.parametrize("rule", LIVE)
def test_an_orderly_end_or_a_recovery_before_the_death_is_no_loss_of_data(
    rule: str,
) -> None:
    harness, _ = firing_harness(rule)
    harness.process(7)
    harness.wait(10)
    harness.process(7, DIED)
    harness.wait(300)

    ((reason, _),) = ends(harness, rule)
    assert reason == "cleared"


@pytest.mark.parametrize("rule", LIVE)
def test_only_a_process_that_went_away_since_the_alert_began_counts(rule: str) -> None:
    harness = AlertHarness(alerting={})
    harness.ran(100, seconds=1.0)
    old = LIVE[rule] or waiting(harness, harness.now - 900)
    harness.process(6, DIED, **old)
    harness.wait(300)
    says = LIVE[rule] or waiting(harness)
    harness.process(7, **says)
    harness.wait(90)
    harness.process(7)
    harness.wait(300)

    assert [reason for reason, _ in ends(harness, rule)] == ["cleared"]


def test_memory_is_that_of_the_largest_process_that_is_left() -> None:
    harness, _ = firing_harness("memory_usage_max")
    harness.process(8, **memory(3 * GIB))
    harness.wait(30)
    harness.process(8, DIED, **memory(3 * GIB))
    harness.wait(30)
    assert ends(harness, "memory_usage_max") == []
    # A small one that dies later has no part in the end.
    harness.process(9, DIED, **memory(50 * MIB))
    harness.process(7, **memory(40 * MIB))
    harness.process(8, ClientState.ENDED)
    harness.wait(300)

    assert [reason for reason, _ in ends(harness, "memory_usage_max")] == ["cleared"]


def test_a_restart_of_the_agent_does_not_end_an_alert() -> None:
    """Its clients are disconnected until they find it again."""
    harness, says = firing_harness("stuck")
    harness.process(7, ClientState.DISCONNECTED, **says)
    harness.restart(20)
    harness.wait(10)
    assert ends(harness, "stuck") == []


def test_a_rule_of_ones_own_on_visits_ends_without_data() -> None:
    own = {"name": "loops", "kind": "runaway", "max_visits": 50, "for": "0"}
    harness = AlertHarness(own)
    harness.run_ended(3)
    says = waiting(harness)
    harness.process(7, **says)
    harness.wait(10)
    harness.process(7, DIED, **says)
    harness.wait(10)

    ((reason, _),) = ends(harness, "loops")
    assert reason == "no_data"


COUNTED = {"name": "rejects", "op": ">", "window": "1m", "for": "0"}


def count(harness: AlertHarness, name: str, value: float) -> None:
    key = SeriesKey(Kind.COUNT, "web", "shop", "pay", name, (("model", "m"),))
    harness.source.add_values(key, harness.now, [value])


@pytest.mark.parametrize("is_dead", [True, False])
def test_a_count_falls_to_0_with_the_last_process_of_its_service(is_dead: bool) -> None:
    rule = {**COUNTED, "metric": "custom.rejects.sum", "value": 5}
    harness = AlertHarness(rule)
    harness.process(7)
    count(harness, "rejects", 9)
    harness.wait(30)
    assert harness.only.lifecycle.is_firing
    if is_dead:
        harness.process(7, DIED)
    harness.wait(300)

    ((reason, _),) = ends(harness, "rejects")
    assert reason == ("no_data" if is_dead else "cleared")


@pytest.mark.parametrize("goes_on", [True, False])
def test_only_calls_show_that_a_model_fails_no_longer(goes_on: bool) -> None:
    rule = {**COUNTED, "metric": "llm_errors_per_minute", "value": 5}
    harness = AlertHarness(rule)
    count(harness, "llm_calls", 9)
    count(harness, "llm_errors", 9)
    harness.wait(30)
    assert harness.only.lifecycle.is_firing
    for _ in range(80):
        if goes_on:
            count(harness, "llm_calls", 1)
        harness.wait(10, 10)

    ((reason, _),) = ends(harness, "rejects")
    assert reason == ("cleared" if goes_on else "no_data")


def never_reached_harness() -> AlertHarness:
    """Return an engine with a firing alert about a node that no run has reached."""
    harness = AlertHarness(alerting={})
    topology = TopologyRecord(
        service="web",
        graph="shop",
        start="pay",
        nodes=("pay", "refund"),
        since=harness.now - 90_000.0,
        changed=harness.now - 7200.0,
    )
    harness.source.topologies["web", "shop"] = topology
    harness.ran(120)
    for _ in range(120):
        harness.run_ended(1)
    harness.wait(120)
    assert [alert.rule for alert in harness.engine.alerts] == ["never_reached"]
    return harness


def test_a_node_is_not_reached_because_its_graph_stopped() -> None:
    harness = never_reached_harness()
    harness.wait(7200, 30)
    assert ends(harness, "never_reached") == []
    harness.wait(7200, 30)

    ((reason, summary),) = ends(harness, "never_reached")
    assert reason == "no_data"
    assert ": no data, or too little, for 2h; not confirmed" in summary


def test_a_node_is_not_reached_because_its_graph_changed() -> None:
    harness = never_reached_harness()
    place, topology = ("web", "shop"), harness.source.topologies["web", "shop"]
    changed = msgspec.structs.replace(topology, changed=harness.now)
    harness.source.topologies[place] = changed
    harness.wait(60)

    ((reason, summary),) = ends(harness, "never_reached")
    assert reason == "no_data"
    assert ": no data: the graph has changed; not confirmed healthy" in summary


def test_a_node_that_is_reached_ends_its_alert() -> None:
    harness = never_reached_harness()
    harness.ran(1, node="refund")
    harness.wait(300)

    ((reason, _),) = ends(harness, "never_reached")
    assert reason == "cleared"
