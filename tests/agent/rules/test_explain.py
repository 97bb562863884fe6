"""Why a rule is quiet, and what it looks for, in words."""

from __future__ import annotations

from tests.agent.rules.world import World, rule

from kaywatch_agent.rules.explain import GroupResult, nearest, rule_sentence


def groups(world: World, name: str = "success") -> list[GroupResult]:
    world.evaluate()
    found = world.engine.last_result(name)
    assert found is not None
    return nearest(world.engine.settings.rules[name], found, 10)


def test_what_would_fire_first_comes_first() -> None:
    world = World(rule(value=0.9, clear=0.95))
    world.ran(20, 0, node="fine")
    world.ran(20, 4, node="broken")
    world.ran(100, 7, node="between")
    world.ran(25, 1, node="near")
    world.ran(9, 9, node="rare")

    found = groups(world)
    assert [group.labels["node"] for group in found] == [
        "broken", "between", "rare", "near", "fine"
    ]  # fmt: skip
    texts = {group.labels["node"]: group.text for group in found}
    assert texts["broken"] == "the condition is met"
    assert texts["between"].endswith("clear is success_rate >= 0.95")
    assert texts["near"] == "not met"
    assert texts["rare"] == "too few executions: 9 in 1m, 10 are needed"


def test_all_metrics_of_an_expression_are_there() -> None:
    when = {"name": "busy", "when": "latency_p95 > 2 and throughput > 9", "for": "0"}
    world = World(when)
    world.ran(30)

    (group,) = groups(world, "busy")
    assert set(group.metrics) == {"latency_p95", "throughput"}


def test_a_rule_in_words() -> None:
    world = World(
        rule(match=['graph="g"'], clear=0.95, **{"for": "1m", "keep_firing_for": "2m"}),
        {"name": "memory", "metric": "memory_rss", "op": ">", "value": 2.0**31},
        {"name": "stuck", "kind": "stuck", "max_age": "5m", "for": "0"},
    )
    rules = world.engine.settings.rules

    assert rule_sentence(rules["success"]) == (
        'success_rate < 0.9 over 1m, where graph="g", per graph and node, with'
        " at least 10 executions; fires after 1m, resolves after 2m of success_rate"
        " >= 0.95"
    )
    assert rule_sentence(rules["memory"]).startswith(
        "memory_rss > 2.0 GiB over 5m, per"
    )
    assert rule_sentence(rules["stuck"]) == (
        "in flight for over 10 times its p99, or 5m, per graph and node;"
        " fires at once, resolves after 2m without it"
    )


def test_nothing_is_absent_within_the_grace_after_the_start() -> None:
    absence = {"name": "gone", "kind": "absence", "max_age": "10s", "for": "0"}
    world = World(absence | {"expect": [{"graph": "g"}], "per": ["graph"]})
    world.lab.started = world.now
    world.wait(55)
    assert not world.engine.alerts
    world.wait(10)
    assert world.only.lifecycle.is_firing


def test_a_resolved_alert_is_not_said_to_be_above() -> None:
    world = World(rule())
    world.ran(10, 5)
    world.evaluate()
    assert "below 90.0 %" in world.told[-1][3].summary
    world.now += 120
    world.ran(20)
    world.evaluate()
    told = world.told[-1]
    assert told[2] == "resolved"
    assert "success rate 100.0 %, limit 90.0 %" in told[3].summary
