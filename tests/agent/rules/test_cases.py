"""`rules test` files: what happens, and what there should be."""

from __future__ import annotations

from typing import Any

import pytest

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules import cases
from kaywatch_agent.rules.load import PAGE, load

OFF = {"thresholds": dict.fromkeys(PAGE, False)}


def differences(*rules: dict[str, Any], **test: Any) -> list[str]:
    settings = load({"rule": list(rules), "alerting": OFF}, receivers=["ops"])
    (case,) = cases.load({"test": [{"name": "t", **test}]}, settings)
    return cases.run(case, settings, {}).differences


def rule(**keys: Any) -> dict[str, Any]:
    return {"name": "r", "for": "0", "keep_firing_for": "0", **keys}


def test_each_kind_of_thing_can_happen() -> None:
    gauge = rule(when="custom.queue.last > 10", per=["service"])
    assert not differences(
        gauge,
        metric=[{"name": "queue", "values": [1, 5, 20, 3], "every": "1m"}],
        alerts=[
            {"at": "1m", "rule": "r"},
            {"at": "2m", "rule": "r", "firing": [{"service": "app"}]},
            {"at": "3m", "rule": "r"},
        ],
    )
    assert not differences(
        rule(kind="runaway", max_visits=10),
        runs=[{"graph": "g", "from": "1m", "to": "1m", "visits": 11}],
        alerts=[{"at": "1m", "rule": "r", "firing": [{"graph": "g"}]}],
    )
    assert not differences(
        rule(kind="process_died", per=["service", "pid"]),
        process=[{"pid": 7}, {"pid": 7, "at": "1m", "state": "died"}],
        alerts=[
            {"at": "50s", "rule": "r"},
            {"at": "1m", "rule": "r", "firing": [{"service": "app", "pid": "7"}]},
        ],
    )
    assert not differences(
        rule(kind="stuck", max_age="1m"),
        process=[{"in_flight": [{"graph": "g", "node": "n", "age": "30s"}]}],
        alerts=[
            {"at": "20s", "rule": "r"},
            {"at": "40s", "rule": "r", "firing": [{"graph": "g", "node": "n"}]},
        ],
    )
    assert not differences(
        rule(metric="memory_rss", op=">", value=2.0**30, per=["pid"]),
        process=[{"memory_mb": 2048}],
        alerts=[{"rule": "r", "firing": [{"pid": "1"}]}],
    )
    assert not differences(
        rule(kind="transition_share", action="retry", above=0.5, min_executions=1),
        executions=[{"node": "n", "action": "retry", "count": 3}],
        alerts=[
            {"rule": "r", "firing": [{"graph": "", "node": "n", "action": "retry"}]}
        ],
    )


def test_what_is_missing_and_what_is_too_much_is_said() -> None:
    fails = rule(metric="error_rate", op=">", value=0.5, min_executions=5)
    found = differences(
        fails,
        executions=[{"graph": "g", "node": "n", "count": 10, "errors": 10}],
        alerts=[{"at": "30s", "rule": "r", "pending": [{"graph": "g", "node": "x"}]}],
        message=[
            {"at": "20s", "to": "ops", "rule": "r"},
            {"at": "30s", "to": "ops", "rule": "r", "kind": "resolved"},
        ],
    )

    text = "\n".join(found)
    assert "at 30s, alerts of r:" in text
    assert "- pending    graph=g node=x" in text
    assert "+ firing     graph=g node=n, value 100.0 %" in text
    assert "-    20s ops firing r" in text
    assert "-    30s ops resolved r" in text
    assert "+      0 ops firing r graph=g node=n" in text


def test_messages_that_nobody_expects_are_differences_where_none_must_be() -> None:
    fails = rule(metric="error_rate", op=">", value=0.5, min_executions=5)
    happens = {"executions": [{"node": "n", "count": 9, "errors": 9}], "length": "1m"}

    assert not differences(fails, **happens)
    assert differences(fails, **happens, no_messages=True)
    silence = {"match": ["node=n"], "to": "50s"}
    assert not differences(
        fails,
        **happens,
        silence=[silence],
        message=[{"at": "50s", "to": "ops", "rule": "r"}],
    )


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ({"name": ""}, "test[1].name: missing"),
        ({"start": "today"}, "test[1].start: expected a time"),
        ({"alerts": [{"rule": "s"}]}, 'alerts[1].rule: "s" is no rule (there: r)'),
        (
            {"alerts": [{"rule": "r", "firing": [{"pod": "x"}]}]},
            "labels of r are graph",
        ),
        ({"alerts": [{"rule": "r", "firing": "x"}]}, "firing: expected labels"),
        ({"message": [{"rule": "r", "to": "me"}]}, 'to: "me": no rule tells it'),
        ({"executions": [{}]}, "executions[1].node: missing"),
        ({"executions": [{"node": "n", "errors": 2}]}, "count: 1: fewer than those"),
        ({"executions": [{"node": "n", "every": "1ms"}]}, 'every: at least "1s"'),
        ({"executions": [{"node": "n", "from": "2m", "to": "1m"}]}, "to: is before"),
        ({"metric": [{"name": "m", "values": ["x"]}]}, "values: expected numbers"),
        ({"silence": [{}]}, "silence[1].match: missing"),
        ({"length": "8d"}, "length: up to 7d"),
        ({"strange": 1}, "test[1].strange: unknown key"),
    ],
)
def test_a_mistake_is_told_with_its_key(test: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        differences(rule(metric="error_rate", op=">", value=0.5), **test)

    assert words in str(caught.value)
