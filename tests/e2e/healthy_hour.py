"""Healthy services in real time: no rule may report anything.

    python -m tests.e2e.healthy_hour --minutes 60

Real processes push to a real agent with a webhook and no other configuration. Two web
processes are recycled and deployed one after the other, and batch jobs come and go.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.agents import DEADLINE, Agent, new_agent, until
from tests.receivers import run_receivers

APPLICATION: Final = str(Path(__file__).parent / "healthy_app.py")

# A web process is replaced this many times in the period, in turns.
REPLACEMENTS: Final = 4


class HealthyPeriod(NamedTuple):
    """What was reported of a healthy period.

    Attributes:
        messages: the titles of the messages to the webhook.
        alerts: the alerts that are pending or firing at the end.
        runs: how many runs of graphs were counted.
        ended_processes: how many processes ended in an orderly way.
    """

    messages: list[str]
    alerts: list[str]
    runs: int
    ended_processes: int


def watch_healthy_services(seconds: float) -> HealthyPeriod:
    """Let the services work for a while."""
    with run_receivers() as receivers, new_agent() as agent:
        config = agent.folder / "kaywatch.toml"
        config.write_text(
            f'[receiver.hook]\ntype = "webhook"\nurl = "{receivers.url}/hook"\n'
        )
        agent.start("--config", str(config))
        ended = _work(agent, seconds)
        graphs = agent.get("/api/v1/graphs")["graphs"]
        alerts = agent.get("/api/v1/alerts")["alerts"]
        return HealthyPeriod(
            [request.json["title"] for request in receivers.accepted("/hook")],
            [alert["summary"] for alert in alerts if alert["state"] != "ok"],
            sum(graph["total_executions"] for graph in graphs),
            ended,
        )


# -- inside --------------------------------------------------------------------------


def _work(agent: Agent, seconds: float) -> int:
    """Run the processes; return how many of them ended."""
    web = deque(_start(agent, "web") for _ in range(2))
    ended = 0
    for _ in range(REPLACEMENTS):
        batch = _start(agent, "batch")
        time.sleep(seconds / REPLACEMENTS)
        # As a deployment does: the new one is there before the old one goes.
        web.append(_start(agent, "web"))
        for process in (web.popleft(), batch):
            _end(agent, process)
            ended += 1
    return ended


def _start(agent: Agent, role: str) -> subprocess.Popen[str]:
    """Start a process, and wait until it is at work."""
    command = agent.python, APPLICATION, role
    process = agent.start_process(*command, stdin=subprocess.PIPE)
    until(
        lambda: any(client["pid"] == process.pid for client in _clients(agent)),
        f"{role} is at work",
    )
    return process


def _end(agent: Agent, process: subprocess.Popen[str]) -> None:
    """Let a process end, which finishes its run first; wait until the agent knows."""
    assert process.stdin is not None
    process.stdin.close()
    code = process.wait(DEADLINE)
    assert code == 0, code
    # At once, because the agent forgets ended processes before an hour is over.
    until(
        lambda: any(
            client["pid"] == process.pid and client["state"] == "ended"
            for client in _clients(agent)
        ),
        "the agent knows that the process ended",
    )


def _clients(agent: Agent) -> list[dict[str, Any]]:
    clients: list[dict[str, Any]] = agent.get("/api/v1/clients")["clients"]
    return clients


def main() -> int:
    """Print what was reported; nothing is expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    arguments = parser.parse_args()
    period = watch_healthy_services(60.0 * arguments.minutes)
    print(
        f"{arguments.minutes:g} min: {period.runs:,} runs,"
        f" {period.ended_processes} processes ended,"
        f" {len(period.messages)} messages, {len(period.alerts)} alerts"
    )
    print(*period.messages, *period.alerts, sep="\n")
    return int(bool(period.messages or period.alerts))


if __name__ == "__main__":
    sys.exit(main())
