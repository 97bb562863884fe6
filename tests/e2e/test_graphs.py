"""Graphs on the command line: services stay separate, and figures are not cut."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.agent.cli.top.pushing import push, row
from tests.agents import Agent, running_agent, until

NAME = "A-graph-with-a-rather-long-name"


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """An agent with a node and a graph of the same names in two services."""
    with running_agent() as agent:
        for service, failed in (("busy", 0), ("small", 20)):
            outcomes = ["error"] * failed + ["ok"] * (40 - 2 * failed)
            push(
                agent,
                *(row("pay", outcome=outcome) for outcome in outcomes),
                *({"graph": NAME, "node": "Load", "seconds": 0.1} for _ in range(3)),
                service=service,
            )
        expected = {"pay": 60, "Load": 6}
        until(lambda: agent.executions() == expected, "all has arrived")
        yield agent


def kaywatch(agent: Agent, *arguments: str, columns: int = 80) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "kaywatch_agent", *arguments],
        env={**agent.environment, "COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_status_does_not_merge_services(agent: Agent) -> None:
    shown = kaywatch(agent, "status", columns=120)

    assert shown.returncode == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    nodes = [line for line in lines if "pay" in line]
    # The failing one comes first, and has its own success rate.
    assert [line[0] for line in nodes] == ["small", "busy"]
    assert nodes[0][4:6] == ["0.0", "%"] and nodes[1][4:6] == ["100.0", "%"]
    assert "busy / " + NAME in shown.stdout and "small / " + NAME in shown.stdout


def test_status_fits_80_columns(agent: Agent) -> None:
    shown = kaywatch(agent, "status").stdout

    assert "Graphs, last 5 minutes" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_stats_shows_a_graph(agent: Agent) -> None:
    shown = kaywatch(agent, "stats", NAME).stdout

    assert shown.startswith(f"{NAME} in busy, small, since first seen")
    for label in ("runs", "longest run", "dead ends", "retries", "fallbacks", "cost"):
        assert f"\n  {label} " in shown
    assert re.search(r"^Load +6 ", shown, re.MULTILINE)


def test_stats_of_an_unknown_name_suggests_the_nearest_node(agent: Agent) -> None:
    result = kaywatch(agent, "stats", "pai")

    assert result.returncode == 1
    assert "unknown node 'pai'; did you mean 'pay'?" in result.stderr
