"""`rules test` files: stimuli and expectations."""

from __future__ import annotations

from typing import Any

import pytest
from tests.agent.simulation.cases import HOOK, PAGER, failing_executions, rule, run_case

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.formatting import title
from kaywatch_agent.simulation.differences import compare_bodies


def differences(*rules: dict[str, Any], **test: Any) -> list[str]:
    return run_case(*rules, **test).differences


def plain(**keys: Any) -> dict[str, Any]:
    """A rule without a metric of its own."""
    return {"name": "r", "for": "0", "keep_firing_for": "0", **keys}


def test_each_kind_of_thing_can_happen() -> None:
    gauge = plain(when="custom.queue.last > 10", per=["service"])
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
        plain(kind="runaway", max_visits=10),
        runs=[{"graph": "g", "from": "1m", "to": "1m", "visits": 11}],
        alerts=[{"at": "1m", "rule": "r", "firing": [{"graph": "g"}]}],
    )
    assert not differences(
        plain(kind="runaway", max_node_visits=10),
        process=[
            {"loops": [{"graph": "g", "node": "n", "visits": 10}]},
            {"at": "1m", "loops": [{"graph": "g", "node": "n", "visits": 11}]},
        ],
        alerts=[
            {"at": "50s", "rule": "r"},
            {"at": "1m", "rule": "r", "firing": [{"graph": "g", "node": "n"}]},
        ],
    )
    assert not differences(
        plain(kind="process_died", per=["service", "pid"]),
        process=[{"pid": 7}, {"pid": 7, "at": "1m", "state": "died"}],
        alerts=[
            {"at": "50s", "rule": "r"},
            {"at": "1m", "rule": "r", "firing": [{"service": "app", "pid": "7"}]},
        ],
    )
    assert not differences(
        plain(kind="stuck", max_age="1m"),
        process=[{"in_flight": [{"graph": "g", "node": "n", "age": "30s"}]}],
        alerts=[
            {"at": "20s", "rule": "r"},
            {"at": "40s", "rule": "r", "firing": [{"graph": "g", "node": "n"}]},
        ],
    )
    assert not differences(
        plain(metric="memory_rss", op=">", value=2.0**30, per=["pid"]),
        process=[{"memory_mb": 2048}],
        alerts=[{"rule": "r", "firing": [{"pid": "1"}]}],
    )
    assert not differences(
        plain(kind="transition_share", action="retry", above=0.5, min_executions=1),
        executions=[{"node": "n", "action": "retry", "count": 3}],
        alerts=[
            {"rule": "r", "firing": [{"graph": "", "node": "n", "action": "retry"}]}
        ],
    )


def test_a_process_that_dies_keeps_its_last_memory() -> None:
    memory = plain(metric="memory_rss", op=">", value=1e9, per=["service"])
    case = run_case(
        memory,
        receivers={"hook": HOOK},
        process=[{"memory_mb": 2048}, {"at": "1m", "state": "died"}],
        length="2m",
    )
    titles = [title(one.notification) for one in case.simulation.delivery.messages]
    # Its memory did not become less before it died.
    assert titles == ["[FIRING] r: app", "[NO DATA] r: app"]


def test_missing_unexpected_and_different_messages_are_reported() -> None:
    result = differences(
        rule(summary="{node} fails"),
        executions=failing_executions("pay"),
        alerts=[
            {"at": "30s", "rule": "fails", "pending": [{"graph": "shop", "node": "x"}]}
        ],
        receivers={"ops": HOOK, "pager": PAGER},
        message=[
            {
                "at": "0",
                "to": "ops",
                "alerts": 2,
                "contains": ["pay fails", "ship fails"],
                "body": {
                    "kind": "firing",
                    "alerts": [{"labels": {"node": "ship"}, "severity": "warning"}],
                    "colour": "red",
                },
            },
            {"at": "20s", "to": "ops", "contains": ["never"]},
            {"at": "30s", "to": "ops", "kind": "resolved", "alerts": 2},
        ],
    )

    assert "\n".join(result).splitlines() == [
        "at 30s, alerts of fails:",
        "  - pending    graph=shop node=x",
        "  + firing     graph=shop node=pay service=app, value 100.0 %",
        "messages:",
        "  ~       0s ops firing, 1 alert",
        "             [FIRING] fails: app / shop / pay",
        "             2 alerts expected",
        '             "ship fails" is in none of its texts',
        '             body.alerts[0].labels.node: "pay", expected "ship"',
        '             body.colour: not there, expected "red"',
        "  +       0s pager firing, 1 alert",
        "             [FIRING] fails: app / shop / pay",
        "  -      20s ops firing",
        '             "never"',
        "  -      30s ops resolved, 2 alerts",
    ]


def test_messages_are_matched_by_content() -> None:
    """Two events for the same pager at the same time, named in the other order."""
    expected = [
        {"at": "0", "to": "pager", "body": {"payload": {"component": node}}}
        for node in ("ship", "pay")
    ]
    happens: dict[str, Any] = {
        "executions": failing_executions("pay", "ship"),
        "receivers": {"pager": PAGER},
    }
    assert not differences(rule(), **happens, message=expected)
    result = differences(rule(), **happens, message=expected[:1])
    assert [line.partition("\n")[0] for line in result] == [
        "messages:",
        "  +       0s pager firing, 1 alert",
    ]


@pytest.mark.parametrize(
    ("expected", "actual", "lines"),
    [
        ({}, {"a": 1}, []),
        ({"a": 0.3}, {"a": 0.1 + 0.2}, []),
        ({"a": True}, {"a": 1}, ["body.a: 1, expected true"]),
        ({"a": {"b": 1}}, {"a": 2}, ['body.a: 2, expected {"b": 1}']),
        ({"a": [1]}, {"a": []}, ["body.a: empty, expected 1 in it"]),
        ({"a": [3, 1]}, {"a": [1, 2, 3]}, []),
        (
            {"a": [{"b": 1, "c": 1}]},
            {"a": [{"b": 2, "c": 2}, {"b": 1, "c": 3}]},
            ["body.a[1].c: 3, expected 1"],
        ),
        ([{"x": "y"}], [{"x": "z"}], ['body[0].x: "z", expected "y"']),
        ({"a": "x" * 500}, {"a": "y"}, [f'body.a: "y", expected "{"x" * 198}…']),
    ],
)
def test_part_of_a_body_is_compared(expected: Any, actual: Any, lines: Any) -> None:
    assert compare_bodies(expected, actual, "body") == lines


def test_unexpected_messages_are_differences_where_none_is_expected() -> None:
    happens: dict[str, Any] = {"executions": failing_executions("n"), "length": "1m"}

    assert not differences(rule(), **happens)
    assert differences(rule(), **happens, no_messages=True)
    silence = {"match": ["node=n"], "to": "40s"}
    assert not differences(
        rule(), **happens, silence=[silence], message=[{"at": "40s", "to": "ops"}]
    )


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ({"name": ""}, "test[0].name: missing"),
        ({"start": "today"}, "test[0].start: expected a date and time"),
        (
            {"alerts": [{"rule": "s"}]},
            'alerts[0].rule: unknown rule "s" (known: fails)',
        ),
        (
            {"alerts": [{"rule": "fails", "firing": [{"pod": "x"}]}]},
            "labels of fails are service, graph",
        ),
        (
            {"alerts": [{"rule": "fails", "firing": "x"}]},
            "firing: expected a list of tables",
        ),
        ({"message": [{"to": "me"}]}, 'to: unknown receiver "me" (known: ops)'),
        ({"message": [{"to": "ops", "kind": "test"}]}, "kind: 'test' is not one of"),
        ({"message": [{"to": "ops", "alerts": 0}]}, "alerts: 0: expected at least 1"),
        ({"message": [{"to": "ops", "body": "x"}]}, "body: expected a table"),
        (
            {"message": [{"to": "ops", "contains": [1]}]},
            "contains[0]: expected",
        ),
        ({"outage": [{"receiver": "me"}]}, 'receiver: unknown receiver "me"'),
        ({"executions": [{}]}, "executions[0].node: missing"),
        (
            {"executions": [{"node": "n", "errors": 2}]},
            "count: 1: expected at least the sum",
        ),
        (
            {"executions": [{"node": "n", "errors": -1}]},
            "errors: -1: expected at least 0",
        ),
        (
            {"executions": [{"node": "n", "retries": -1}]},
            "retries: -1: expected at least 0",
        ),
        ({"runs": [{"visits": 0}]}, "runs[0].visits: 0: expected at least 1"),
        (
            {"executions": [{"node": "n", "every": "1ms"}]},
            'every: "1ms": expected at least "1s"',
        ),
        (
            {"executions": [{"node": "n", "from": "2m", "to": "1m"}]},
            'to: "1m" is before from = "2m"',
        ),
        ({"metric": [{"name": "m", "values": ["x"]}]}, "values[0]: expected a number"),
        ({"silence": [{}]}, "silence[0].match: missing"),
        ({"silence": [{"match": []}]}, "silence[0].match: the list is empty"),
        ({"length": "8d"}, "length: expected at most 7d"),
        ({"strange": 1}, "test[0].strange: unknown key"),
    ],
)
def test_a_mistake_is_reported_with_its_key(test: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        differences(rule(), **test)

    assert words in str(caught.value)


def test_an_outage_of_alertmanager_or_of_an_unknown_receiver_is_rejected() -> None:
    am = {"type": "alertmanager", "urls": ["http://127.0.0.1:9093"]}
    with pytest.raises(ConfigError, match="has no outage"):
        differences(rule(), receivers={"am": am}, outage=[{"receiver": "am"}])
    with pytest.raises(ConfigError, match=r"known: none; write \[receiver.NAME\]"):
        differences(rule(), receivers={}, message=[{"to": "ops"}])
