"""Why a rule does not fire, and its description in words."""

from __future__ import annotations

from tests.agent.rules.harness import AlertHarness, rule

from kaywatch_agent.rules.explain import GroupResult, nearest, rule_sentence


def groups(harness: AlertHarness, name: str = "success") -> list[GroupResult]:
    harness.evaluate()
    result = harness.engine.last_result(name)
    assert result is not None
    return nearest(harness.engine.settings.rules[name], result, 10)


def test_groups_closest_to_firing_come_first() -> None:
    harness = AlertHarness(rule(value=0.9, clear=0.95))
    harness.ran(20, 0, node="fine")
    harness.ran(20, 4, node="broken")
    harness.ran(100, 7, node="between")
    harness.ran(25, 1, node="near")
    harness.ran(9, 9, node="rare")

    result = groups(harness)
    assert [group.labels["node"] for group in result] == [
        "broken", "between", "rare", "near", "fine"
    ]  # fmt: skip
    texts = {group.labels["node"]: group.text for group in result}
    assert texts["broken"] == "the condition is met"
    assert texts["between"].endswith("clear is success_rate >= 0.95")
    assert texts["near"] == "not met"
    assert texts["rare"] == "no data: 9 executions in 1m, 10 are needed"
    (rare,) = [group for group in result if group.labels["node"] == "rare"]
    assert (rare.status, rare.executions, rare.needed) == ("unknown", 9, 10)


def test_a_node_whose_usual_value_is_unknown_has_no_data_yet() -> None:
    slow = {"name": "slow", "metric": "latency_over_usual", "op": ">", "value": 3.0}
    harness = AlertHarness(slow)
    harness.ran(500)

    (group,) = groups(harness, "slow")
    assert group.status == "unknown"
    assert group.text == "no data: it has not been observed for long enough"


def test_what_a_node_is_compared_with_is_stated_while_it_does_not_fire() -> None:
    slow = {"name": "slow", "metric": "latency_over_usual", "op": ">", "value": 3.0}
    harness = AlertHarness(slow)
    harness.ran(100, seconds=0.2, ago=1800)
    harness.ran(50, seconds=0.3)

    (group,) = groups(harness, "slow")
    assert (
        group.text
        == "not met: 300ms on average instead of 200ms earlier in the last 24 hours"
    )


def test_all_metrics_of_an_expression_are_there() -> None:
    when = {"name": "busy", "when": "latency_p95 > 2 and throughput > 9", "for": "0"}
    harness = AlertHarness(when)
    harness.ran(30)

    (group,) = groups(harness, "busy")
    assert set(group.metrics) == {"latency_p95", "throughput"}


def test_a_rule_in_words() -> None:
    harness = AlertHarness(
        rule(match=['graph="g"'], clear=0.95, **{"for": "1m", "keep_firing_for": "2m"}),
        {"name": "memory", "metric": "memory_rss", "op": ">", "value": 2.0**31},
        {"name": "stuck", "kind": "stuck", "max_age": "5m", "for": "0"},
    )
    rules = harness.engine.settings.rules

    assert rule_sentence(rules["success"]) == (
        'success_rate < 0.9 over 1m, where graph="g", per service, graph and node, with'
        " at least 10 executions; fires after 1m, resolves after 2m of success_rate"
        " >= 0.95"
    )
    assert rule_sentence(rules["memory"]).startswith(
        "memory_rss > 2.0 GiB over 5m, per"
    )
    assert rule_sentence(rules["stuck"]) == (
        "in flight for over 10 times its p99, or 5m, per service, graph and node;"
        " fires at once, resolves after 2m without it"
    )


def test_nothing_is_absent_within_the_grace_after_the_start() -> None:
    absence = {"name": "gone", "kind": "absence", "max_age": "10s", "for": "0"}
    harness = AlertHarness(absence | {"expect": [{"graph": "g"}], "per": ["graph"]})
    harness.source.started = harness.now
    harness.wait(55)
    assert not harness.engine.alerts
    harness.wait(10)
    assert harness.only.lifecycle.is_firing


def test_a_resolved_alert_is_not_described_as_above() -> None:
    harness = AlertHarness(rule())
    harness.ran(10, 5)
    harness.evaluate()
    assert "below 90.0 %" in harness.sent[-1][3].summary
    harness.now += 120
    harness.ran(20)
    harness.evaluate()
    message = harness.sent[-1]
    assert message[2] == "resolved"
    assert "success rate 100.0 %, limit 90.0 %" in message[3].summary
