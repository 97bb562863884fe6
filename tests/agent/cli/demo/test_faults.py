"""The faults of `kaywatch demo --fault`: the page names them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.agents import DEADLINE, Agent, new_agent, until

from kaywatch_agent.cli.demo.faults import FAULTS

# Draft usually takes some 12 ms, and three times as long with retries.
SLOW_SECONDS = 0.1


def test_each_fault_is_a_problem_of_its_node(tmp_path: Path) -> None:
    with new_agent() as agent:
        agent.start()
        workloads = [start(agent, fault, tmp_path) for fault in FAULTS]
        for service, kind, node in (
            ("failing", "failing", "Review"),
            ("runaway", "runaway", ""),
            ("dead-end", "dead_end", "Triage"),
            ("waste", "masked_failures", "Draft"),
        ):
            until(
                lambda s=service, place=(kind, node): place in problems(agent, s),
                f"{kind} of {service}",
            )
        until(lambda: draft_p95(agent) > SLOW_SECONDS, "Draft is slow")
        for workload in workloads:
            workload.terminate()
        assert [workload.wait(DEADLINE) for workload in workloads] == [0] * len(FAULTS)


def problems(agent: Agent, service: str) -> set[tuple[str, str]]:
    rows = agent.get("/api/v1/problems", service=service)["problems"]
    return {(row["kind"], row["node"]) for row in rows}


def draft_p95(agent: Agent) -> float:
    stats = agent.node("Draft", service="slow", window="1m")
    return float(stats["p95_execution_time"] or 0.0)


def start(agent: Agent, fault: str, folder: Path) -> subprocess.Popen[str]:
    """Run the application of the demo, as a service with the fault's name."""
    return agent.start_process(
        *(agent.python, "-m", "kaywatch_agent.cli.demo.workload"),
        *("--counts", str(folder / fault), "--fault", fault, "--fault-after", "2"),
        environment={"KAYWATCH_SERVICE": fault},
    )
