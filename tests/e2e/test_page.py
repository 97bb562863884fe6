"""The examples of docs/from-the-page.md work, with real processes and a real agent."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.agents import DEADLINE, Agent, free_port, until

PAGE = (Path(__file__).parent.parent.parent / "docs/from-the-page.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

GET_STATS = {
    "total_executions",
    "success_rate",
    "avg_execution_time",
    "min_execution_time",
    "max_execution_time",
    "total_retries",
}
GET_DETAILED_STATS = GET_STATS | {
    "avg_data_size",
    "max_data_size",
    "min_data_size",
    "avg_processing_rate",
    "max_processing_rate",
    "peak_memory_mb",
    "error_breakdown",
}
GET_GRAPH_STATS = {
    "total_executions",
    "avg_execution_time",
    "total_time",
    "node_performance",
    "transition_counts",
    "failure_points",
}

APPLICATION = """
import json, sys
import kaywatch
from pocketflow import Flow, Node

kaywatch.instrument(data_sizes=True, memory=True)

class Load(Node):
    def prep(self, shared):
        return shared["data"]
    def exec(self, data):
        if self.params["round"] >= 9:
            raise ValueError("too large")
        if self.cur_retry < self.params["round"] % 3:
            raise KeyError(data)
        return data.upper()
    def post(self, shared, prep_res, exec_res):
        shared["data"] = exec_res

load = kaywatch.name(Load(max_retries=3), "monitored_processor")
flow = kaywatch.name(Flow(start=load), "processing")
for n in range(10):
    flow.set_params({"round": n})
    try:
        flow.run({"data": f"sample_data_{n}"})
    except ValueError:
        pass
"""


def test_the_page_s_statistics(agent: Agent) -> None:
    printed = agent.run(APPLICATION + SNIPPETS[0])

    lines = printed.splitlines()
    assert lines[0] == "Success rate: 90.0%"
    assert re.fullmatch(r"Avg execution time: 0\.\d{3}s", lines[1])
    # 0, 1 and 2 in turn, three times, and two retries of the execution that fails.
    assert lines[2] == "Total retries: 11"

    stats = agent.node("monitored_processor")
    assert stats.keys() >= GET_DETAILED_STATS
    assert stats["error_breakdown"] == {"ValueError": 1}
    assert stats["avg_data_size"] == stats["max_data_size"] == len("sample_data_0")
    assert stats["max_processing_rate"] >= stats["avg_processing_rate"] > 0
    assert 5 < stats["peak_memory_mb"] < 1000


def test_the_page_s_graph_statistics(agent: Agent) -> None:
    agent.run(APPLICATION)

    stats = agent.get("/api/v1/graphs/processing/stats")
    assert stats.keys() >= GET_GRAPH_STATS
    assert stats["total_executions"] == 10
    assert stats["node_performance"]["monitored_processor"].keys() == {
        "executions",
        "avg_time",
        "min_time",
        "max_time",
    }
    assert stats["transition_counts"] == {"monitored_processor->default": 9}
    assert stats["failure_points"] == {"monitored_processor": 1}


@pytest.fixture
def answering(agent: Agent, tmp_path: Path) -> str:
    """The documented route, with a node that fails on demand."""
    pytest.importorskip("fastapi")
    (tmp_path / "shop.py").write_text(
        SNIPPETS[2]
        + """

@app.get("/answer")
def answer(fail: bool = False) -> str:
    try:
        with kaywatch.execution("shop", "answer"):
            if fail:
                raise ValueError
    except ValueError:
        return "failed"
    return "answered"
"""
    )
    port = free_port()
    agent.start_process(
        *(agent.python, "-m", "uvicorn", "shop:app", "--log-level=error"),
        *(f"--app-dir={tmp_path}", "--host=127.0.0.1", f"--port={port}"),
    )
    url = f"http://127.0.0.1:{port}"
    until(lambda: get(url + "/answer"), "the application answers")
    return url


def get(url: str) -> tuple[int, Any] | None:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return None


def test_the_health_route_lists_its_nodes(answering: str, agent: Agent) -> None:
    status, body = get(answering + "/health") or (0, {})
    assert (status, body["status"]) == (200, "healthy")
    assert body["metrics"].keys() >= GET_STATS

    for _ in range(3):
        get(answering + "/answer?fail=true")
    status, body = get(answering + "/health") or (0, {})
    assert (status, body["status"]) == (503, "unhealthy")
    assert body["metrics"]["total_executions"] >= 4

    agent.stop()
    status, body = get(answering + "/health") or (0, {})
    assert (status, body["status"], body["metrics"]) == (200, "healthy", None)
