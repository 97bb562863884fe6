"""The phases of an application's nodes reach HTTP, metrics and the command line."""

from __future__ import annotations

import re
import urllib.request

from tests.agents import DEADLINE, Agent

APPLICATION = """
import time

import kaywatch
from pocketflow import BatchNode, Flow, Node

kaywatch.instrument()


class Fetch(Node):
    left = [2]

    def exec(self, prep_res):
        if self.left[0]:
            self.left[0] -= 1
            raise OSError("busy")


class Summarize(BatchNode):
    def prep(self, shared):
        return iter("abcd")


fetch = Fetch(max_retries=3, wait=0.05)
fetch >> Summarize()
Flow(start=fetch).run({})
with kaywatch.execution("other", "block"):
    pass
assert kaywatch.flush(10)
"""

PHASES = ("prep", "exec", "wait", "post")


def test_the_time_of_nodes_and_their_items_are_seen_everywhere(agent: Agent) -> None:
    agent.run(APPLICATION)

    fetch, summarize, block = map(agent.node, ("Fetch", "Summarize", "block"))
    times = [fetch[f"avg_{phase}_time"] for phase in PHASES]
    # Twice 0.05 s, which sleeping never falls short of; the sum has 24 bits.
    assert times[2] >= 0.0999
    whole = fetch["avg_execution_time"]
    assert abs(sum(times) - whole) < 1e-6 + 1e-6 * whole
    assert (fetch["total_items"], summarize["total_items"]) == (0, 4)
    assert block["avg_exec_time"] is None

    answer = agent.get("/api/v1/query", metric="items", node="Summarize")
    assert sum(value or 0 for _, value, _ in answer["series"][0]["points"]) == 4
    assert _phase_seconds(agent, "Fetch", "wait") >= 0.0999
    assert _phase_seconds(agent, "block", "wait") is None
    shown = agent.command("stats", "Fetch")
    assert re.search(r"time +prep \d+ %, exec \d+ %, wait \d+ %, post \d+ %", shown)
    assert re.search(r"items +4", agent.command("stats", "Summarize"))
    assert "prep" not in agent.command("stats", "block")

    # The errors of retried attempts are shown as well.
    assert (fetch["error_breakdown"], fetch["retried_errors"]) == ({}, {"OSError": 2})
    assert re.search(r"retried errors +OSError 2 ", shown)
    failures = agent.get("/api/v1/failures", node="Fetch")["failures"]
    assert [
        (f["type"], f["message"], f["attempts"], f["outcome"]) for f in failures
    ] == [("OSError", "busy", 2, "ok"), ("OSError", "busy", 1, "ok")]


def _phase_seconds(agent: Agent, node: str, phase: str) -> float | None:
    pattern = rf'phase_seconds_total{{.*node="{node}",phase="{phase}"}} (.+)'
    with urllib.request.urlopen(f"{agent.url}/metrics", timeout=DEADLINE) as response:
        match = re.search(pattern, response.read().decode())
    return float(match[1]) if match else None
