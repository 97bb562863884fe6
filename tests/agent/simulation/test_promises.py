"""Each built-in rule notifies as soon as docs/alerts.md promises, on a virtual clock.

Each fault begins at a known time. `tests.e2e.test_failure_modes` has the same for real
processes, by the times that the agent reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from tests.agent.simulation.cases import HOOK, run_case
from tests.docs.monitored import FAULTS, OF_RULES, RULES, SETTINGS, promised_wait

from kaywatch.wire import EndReason, Outcome
from kaywatch_agent.config import assemble
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import EndPoint, Kind, SeriesKey
from kaywatch_agent.rules.built_in import BUILT_IN
from kaywatch_agent.rules.engine import refresh_interval
from kaywatch_agent.simulation.simulation import Simulation
from kaywatch_agent.simulation.synthetic import SyntheticSource

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
    "error_rate_max": executions(errors=40),
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


# The same errors, where the rule that is usually notified of them is disabled.
OTHERS_DISABLED: Final = {"error_rate_max": {"success_rate_min": False}}


def notified(simulation: Simulation, fault: float) -> list[tuple[str, float]]:
    """Return the rules of the alerts, and after how many seconds they were sent."""
    return [
        (alert.rule, message.time - fault)
        for message in simulation.delivery.messages
        for alert in message.notification.alerts
    ]


def check_promise(rule: str, alerts: list[tuple[str, float]]) -> None:
    """Check that only this rule was notified, and when."""
    assert {name for name, _ in alerts} == {rule}
    seconds, promised = alerts[0][1], promised_wait(rule)
    # The fault is seen by the next evaluation, and so is the end of the wait.
    evaluation = max(EVALUATION, refresh_interval(RULES[rule]))
    assert promised <= seconds
    assert seconds <= promised + 2 * evaluation + SETTINGS.grouping.group_wait


def test_each_rule_is_here() -> None:
    with_errors = {"error_rate_max"}
    without_history = {fault.rule for fault in FAULTS} | with_errors
    assert set(WHAT_HAPPENS) == without_history
    assert set(WHAT_CHANGES) == set(BUILT_IN) - without_history - OF_RULES


@pytest.mark.parametrize("rule", WHAT_HAPPENS)
def test_a_fault_is_notified_when_it_is_promised(rule: str) -> None:
    case, _, simulation = run_case(
        receivers={"hook": HOOK},
        alerting={"thresholds": OTHERS_DISABLED.get(rule, {})},
        length="2m20s",
        interval="1s",
        **WHAT_HAPPENS[rule],
    )
    check_promise(rule, notified(simulation, case.start.timestamp() + FAULT))


# -- rules that need history -----------------------------------------------------------

START: Final = 1_800_000_000.0
HOUR: Final = 3600.0
NODE: Final = SeriesKey(Kind.NODE, "web", "shop", "pay")
RUN: Final = SeriesKey(Kind.RUN, "web", "shop", "")
COST: Final = SeriesKey(Kind.COUNT, "web", "shop", "pay", "llm_cost_usd", ())
END: Final = EndPoint(EndReason.NO_SUCCESSORS, "", "")


def execute(
    source: SyntheticSource, time: float, *, seconds: float = 0.2, revised: int = 2
) -> None:
    """Let 20 executions of a node end, some of which return another action."""
    for action, count in (("approve", 20 - revised), ("revise", revised)):
        outcomes = {Outcome.OK: count}
        source.add_executions(NODE, time, outcomes, seconds=seconds, action=action)


def run(source: SyntheticSource, time: float, *, usd: float = 0.1) -> None:
    """Let 20 runs of a graph end, and spend money."""
    source.add_executions(RUN, time, {Outcome.OK: 20}, action=END)
    source.add_values(COST, time, [20 * usd])


def run_dear(source: SyntheticSource, time: float) -> None:
    # So much that the mean of the past hour is over twice the usual at once.
    run(source, time, usd=5.0)


def execute_slowly(source: SyntheticSource, time: float) -> None:
    execute(source, time, seconds=4.0)


def execute_otherwise(source: SyntheticSource, time: float) -> None:
    for _ in range(20):
        execute(source, time, revised=18)


def stop(_: SyntheticSource, __: float) -> None:
    """Let nothing happen: the runs end here."""


# What happens each ten minutes, and what happens instead when the fault begins.
Event = Callable[[SyntheticSource, float], None]
WHAT_CHANGES: Final[dict[str, tuple[Event, Event]]] = {
    "slow": (execute, execute_slowly),
    "drift": (execute, execute_otherwise),
    "cost_per_run": (run, run_dear),
    "silent": (run, stop),
}

# Two runs a minute: more than 30 are missing after 15 minutes, counted from the last
# ones. Other faults are known at once.
MISSING: Final = {"silent": 900.0}


@pytest.mark.parametrize("rule", WHAT_CHANGES)
def test_a_change_is_notified_when_it_is_promised(rule: str) -> None:
    usually, changed = WHAT_CHANGES[rule]
    source = SyntheticSource(START - 9 * 24 * HOUR)
    source.clients[7] = Client(id="c", service="web", host="h", pid=7, since=START)
    config = assemble({"receiver": {"hook": HOOK}})
    simulation = Simulation(config.alerts, config.notify.receivers)
    for time in range(int(START - 9 * 24 * HOUR), int(START), 600):
        usually(source, float(time))
        if time % 7200 == 0:
            simulation.evaluate(source.eval_input(float(time)), 600.0)
    usually(source, START)
    simulation.evaluate(source.eval_input(START), 600.0)
    wait = MISSING.get(rule, 0.0)
    fault = START + (wait or FAULT)
    # Only the seconds around the fault are of interest.
    for second in range(int(fault - START) - 30, int(fault - START) + 220):
        if START + second == fault:
            changed(source, fault)
        simulation.evaluate(source.eval_input(START + second), 1.0)
    check_promise(rule, notified(simulation, fault))
