"""A line of the log and the agent's figures have the same run id."""

from __future__ import annotations

import json
from pathlib import Path

from tests.agents import Agent, until

PROGRAM = """
import sys
import pocketflow, kaywatch
from kaywatch.logs import setup_structured_logging

class Charge(pocketflow.Node):
    def exec(self, prep_res):
        raise ValueError("card declined")

setup_structured_logging(directory=sys.argv[1], console=False)
kaywatch.instrument(service="shop")
for _ in range(2):
    try:
        pocketflow.Flow(Charge()).run({})
    except ValueError:
        pass
kaywatch.flush(10)
"""


def test_the_log_and_the_agent_share_the_runs_id(agent: Agent, tmp_path: Path) -> None:
    agent.run(PROGRAM, str(tmp_path))

    lines = (tmp_path / "kaygraph_errors.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    failures = until(
        lambda: agent.get("/api/v1/failures", node="Charge")["failures"], "failures"
    )
    assert sorted(e["run_id"] for e in logged) == sorted(f["run"] for f in failures)
    assert len({e["run_id"] for e in logged}) == 2
    assert {e["service"] for e in logged} == {f["service"] for f in failures}
