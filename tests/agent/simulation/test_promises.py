"""Each built-in rule notifies as soon as docs/alerts.md promises, on a virtual clock.

The rules that need no history, as in `tests.e2e.test_failure_modes`. There, a busy
machine decides how long a message takes.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from tests.agent.simulation.cases import HOOK, run_case
from tests.docs.monitored import FAULTS, SETTINGS, promised_wait

FAULT: Final = 60.0  # when it happens, in seconds
EVALUATION: Final = 1.0

PLACE: Final = {"graph": "shop", "node": "pay"}
ONCE: Final = {"from": "1m", "to": "1m1s"}  # as soon as it happens
GRAPH_RUNS: Final = {"graph": "shop", "every": "10s", "count": 20, "to": "1m"}
ALIVE: Final = {"pid": 7, "at": "0"}


def executions(**keys: Any) -> dict[str, Any]:
    return {"executions": [{**PLACE, "count": 40, **ONCE, **keys}]}


def spent(name: str, value: float) -> dict[str, Any]:
    labels = {"model": "gpt"}
    return {"name": name, "kind": "count", "value": value, "labels": labels}


def process(**keys: Any) -> dict[str, Any]:
    return {"process": [ALIVE, {"pid": 7, "at": "1m", **keys}]}


def loop(visits: int) -> dict[str, Any]:
    return process(loops=[{**PLACE, "visits": visits, "run": "r"}])


WHAT_HAPPENS: Final[dict[str, dict[str, Any]]] = {
    "success_rate_min": executions(errors=40),
    "avg_execution_time_max": executions(seconds=6.0),
    "memory_usage_max": process(memory_mb=2048.0),
    "low_traffic": executions(count=6, errors=6),
    "process_died": process(state="died"),
    "dead_end": {
        "runs": [{"graph": "shop", "dead_end": ["pay", "refund"], "count": 3, **ONCE}]
    },
    "never_reached": {
        "topology": [{"graph": "shop", "nodes": ["pay", "refund"]}],
        "runs": [{"graph": "shop", "count": 120, **ONCE}],
        **executions(count=120),
    },
    "unusual_loop": loop(150),
    "runaway": loop(400),
    "stuck": {
        "executions": [{**PLACE, "count": 40, "to": "10s"}],
        **process(in_flight=[{**PLACE, "run": "r"}]),
    },
    "masked_failures": executions(fallbacks=40),
    "wasted_spend": {
        "metric": [
            {**PLACE, **ONCE, **spent(name, value)}
            for name, value in (
                ("llm_calls", 40.0),
                ("llm_cost_usd", 2.0),
                ("llm_wasted_cost_usd", 0.5),
            )
        ]
    },
}


def test_each_fault_without_history_is_here() -> None:
    assert {fault.rule for fault in FAULTS} == set(WHAT_HAPPENS)


@pytest.mark.parametrize("rule", WHAT_HAPPENS)
def test_a_fault_is_notified_when_it_is_promised(rule: str) -> None:
    case, _, simulation = run_case(
        receivers={"hook": HOOK},
        alerting={"thresholds": {}},
        length="2m20s",
        interval="1s",
        **WHAT_HAPPENS[rule],
    )
    fault = case.start.timestamp() + FAULT
    notified = [
        (alert.rule, message.time - fault)
        for message in simulation.delivery.messages
        for alert in message.notification.alerts
    ]

    assert {name for name, _ in notified} == {rule}
    seconds, promised = notified[0][1], promised_wait(rule)
    assert promised <= seconds
    assert seconds <= promised + 2 * EVALUATION + SETTINGS.grouping.group_wait
