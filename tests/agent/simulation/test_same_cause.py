"""Rules about the same failures notify once when they begin, and once at the end."""

from __future__ import annotations

from typing import Any

from tests.agent.simulation.cases import HOOK, run_case

PLACE = {"graph": "shop", "node": "pay"}


def executions(count: int, errors: int, **keys: Any) -> dict[str, Any]:
    return {**PLACE, "count": count, "errors": errors, **keys}


def notify(
    length: str, *happenings: dict[str, Any], rule: dict[str, Any] | None = None
) -> list[tuple[str, str, int]]:
    """Return the kinds of the messages, their rules, and when they were sent."""
    case, _, simulation = run_case(
        *([rule] if rule else []),
        receivers={"hook": HOOK},
        alerting={"thresholds": {}},
        length=length,
        interval="30s",
        executions=list(happenings),
    )
    start = case.start.timestamp()
    return [
        (
            message.notification.kind.value,
            alert.rule,
            round((message.time - start) / 60),
        )
        for message in simulation.delivery.messages
        for alert in message.notification.alerts
    ]


def test_failures_that_begin_with_the_first_execution() -> None:
    """Five executions are low traffic; after twenty, another rule judges them."""
    assert notify(
        "45m",
        executions(5, 5, to="10m"),
        executions(5, 0, **{"from": "10m"}),
    ) == [("firing", "success_rate_min", 2), ("resolved", "success_rate_min", 17)]


def test_a_long_window_does_not_report_an_outage_that_is_over() -> None:
    """For half an hour, most executions of the last half hour have failed."""
    assert notify(
        "2h",
        executions(10, 0, to="30m"),
        executions(10, 7, fallbacks=3, to="1h", **{"from": "30m"}),
        executions(10, 0, **{"from": "1h"}),
    ) == [("firing", "success_rate_min", 32), ("resolved", "success_rate_min", 67)]


def test_failures_go_on_with_low_traffic() -> None:
    """Once the window has forgotten those that were reported, they are reported."""
    messages = notify(
        "80m",
        executions(10, 10, to="10m"),
        executions(1, 1, every="2m", **{"from": "10m"}),
    )
    assert messages[0] == ("firing", "success_rate_min", 2)
    (ended,) = [at for kind, rule, at in messages if kind == "resolved"]
    assert messages[2:] == [("firing", "low_traffic", ended + 31)]


RARELY = {"to": "30m", "every": "20s"}


def test_failures_of_a_node_with_few_executions_are_low_traffic() -> None:
    """Fewer than 20 executions within 5 minutes say nothing about 5 %."""
    assert notify("30m", executions(1, 1, **RARELY)) == [("firing", "low_traffic", 2)]


def test_a_longer_window_judges_a_node_with_few_executions() -> None:
    own = {"name": "success_rate_min", "metric": "success_rate", "op": "<"}
    fifth = [executions(1, 0, to="30m", every="25s")]
    fifth += [executions(1, 1, to="30m", every="100s")]
    assert notify("30m", *fifth) == []
    messages = notify("30m", *fifth, rule={**own, "value": 0.95, "window": "30m"})
    assert [(kind, rule) for kind, rule, _ in messages] == [
        ("firing", "success_rate_min")
    ]
