"""With a webhook and nothing else, each usual failure of a graph is notified, once.

The processes, the agent and the receiver are real. What takes days to be unusual, such
as a graph that stopped, is in `tests.agent.simulation.test_week`, on a virtual clock.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.agent.simulation import test_week
from tests.agents import DEADLINE, Agent, until
from tests.docs.monitored import (
    FAULTS,
    OF_RULES,
    PAGE,
    Fault,
    monitored_table,
    promised_wait,
    slowest_promise,
)
from tests.e2e.healthy_hour import watch_healthy_services
from tests.receivers import Receivers, run_receivers

from kaywatch_agent.rules.built_in import BUILT_IN
from kaywatch_agent.rules.engine import MAX_STEP

# Some rules wait for a minute before they notify, and a busy machine takes its time.
pytestmark = pytest.mark.timeout(300)

APPLICATION = str(Path(__file__).parent / "faulty_app.py")

# A loop is unusual before it is out of hand, and is notified as such if the agent
# happens to look at it then.
EARLIER_TIER = Fault("unusual_loop", "shop", "Runaway", "Decides")


def start(agent: Agent, role: str) -> subprocess.Popen[str]:
    """Start a process of the application, which ends no later than the agent."""
    command = agent.python, APPLICATION, role
    return agent.start_process(*command, stdin=subprocess.PIPE)


def let_faults_happen(agent: Agent) -> None:
    """Start all processes, and kill one that is within a node."""
    start(agent, "shop")
    start(agent, "cache")
    worker = start(agent, "worker")
    until(
        lambda: any(
            client["service"] == "worker" and client["in_flight"]
            for client in agent.get("/api/v1/clients")["clients"]
        ),
        "the worker is within its node",
    )
    worker.kill()
    worker.wait(DEADLINE)


def check_promises(agent: Agent) -> None:
    """Check by the agent's own times that each fault was reported as promised."""
    alerts = {
        Fault(alert["rule"], **alert["labels"]): alert
        for alert in agent.get("/api/v1/alerts")["alerts"]
    }
    runs = agent.get("/api/v1/runs", graph="Stuck")["in_progress"]
    failures = agent.get("/api/v1/failures", graph="Failing")["failures"]
    for fault in FAULTS:
        alert, promised = alerts[fault], promised_wait(fault.rule)
        began = alert["started"]
        # This promise is about the age of the execution, not about the wait afterwards.
        if fault.rule == "stuck":
            (began,) = [run["node_start"] for run in runs]
        waited = alert["fired"] - began
        # The clock of observed time is another one, so the last digit may differ.
        assert promised - 0.1 <= waited < promised + MAX_STEP, fault
    first = min(failure["time"] for failure in failures)
    assert first <= alerts[FAULTS[0]]["started"]


def notified(receivers: Receivers) -> list[Fault]:
    """Return the alerts that the receiver was notified of, in this order."""
    return [
        Fault(alert["rule"], **alert["labels"])
        for request in receivers.accepted("/hook")
        for alert in request.json["alerts"]
        if alert["status"] == "firing"
    ]


def test_each_failure_is_notified_once_and_nothing_else(
    stopped_agent: Agent, tmp_path: Path
) -> None:
    agent, config = stopped_agent, tmp_path / "kaywatch.toml"
    with run_receivers() as receivers:
        config.write_text(
            f'[receiver.hook]\ntype = "webhook"\nurl = "{receivers.url}/hook"\n'
        )
        agent.start("--config", str(config))
        let_faults_happen(agent)
        until(
            lambda: set(FAULTS) <= set(notified(receivers)),
            "each failure is notified",
            slowest_promise() + DEADLINE,
        )
        faults = notified(receivers)
        check_promises(agent)

    assert set(faults) - {EARLIER_TIER} == set(FAULTS)
    assert len(faults) == len(set(faults))
    # All faults of the shop happen at the same time; some rules promise to wait.
    waits = [promised_wait(fault.rule) for fault in faults if fault.service == "shop"]
    assert waits == sorted(waits)


def test_healthy_services_are_not_reported() -> None:
    """`python -m tests.e2e.healthy_hour --minutes 60` is the same for an hour."""
    outcome = watch_healthy_services(seconds=6.0)

    assert outcome.messages == []
    # In so short a time, few rules would notify; but their alerts would be pending.
    assert outcome.alerts == []
    assert outcome.runs > 20
    assert outcome.ended_processes >= 2


def test_each_built_in_rule_is_shown_by_a_fault() -> None:
    simulated = {
        rule
        for fault in (*test_week.REPORTED, *test_week.STORED)
        for rule in fault.rules
    }
    assert {fault.rule for fault in FAULTS} | simulated | OF_RULES == set(BUILT_IN)


def test_the_documentation_has_the_table_of_what_is_monitored() -> None:
    """If not: `python -m tests.docs.monitored`."""
    assert monitored_table() in PAGE.read_text()
