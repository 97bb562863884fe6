"""A graph as the page draws it: nodes, edges, and what happened on them."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from tests.agent.web.serving import Served, serving

from kaywatch.recorder import Topology
from kaywatch.wire import EndReason, Outcome

WIRING = Topology(
    "agent",
    "decide",
    ("decide", "search", "answer", "escalate"),
    (
        ("decide", "search", "search"),
        ("decide", "answer", "answer"),
        ("decide", "help", "escalate"),
        ("search", "default", "decide"),
    ),
)


@pytest.fixture(scope="module")
def loops() -> Any:
    with serving() as served:
        with served.recording("shop") as recorder:
            recorder.add_topology(WIRING)
            decide = recorder.series("agent", "decide").record
            for _ in range(3):
                decide(0.5, Outcome.OK, 1, "search")
                recorder.series("agent", "search").record(0.25)
            decide(0.5, Outcome.OK, 2, "answer")
            decide(0.5, Outcome.OK, 1, "give up")
            recorder.series("agent", "answer").record(
                1.0, Outcome.ERROR, 1, "", ("KeyError", "exec")
            )
            recorder.series("agent", "hidden").record(0.125)
            ends = [
                (EndReason.ERROR, "answer", "", Outcome.ERROR, 6),
                (EndReason.UNMATCHED_ACTION, "decide", "give up", Outcome.OK, 3),
            ]
            for reason, node, action, outcome, visits in ends:
                recorder.run_ended("agent", 2.0, outcome, reason, node, action, visits)
            recorder.revisits.add("agent", {"decide": 4, "search": 3, "answer": 1})
        wire(served, Topology("answer", "a", ("a",), ()))
        yield served


def wire(served: Served, topology: Topology) -> None:
    """Let a new process report a topology."""
    batch = {"type": "batch", "v": 1, "service": "shop"}
    served.receive([{**batch, "topologies": [topology._asdict()]}], "wiring")


def index_by(rows: list[dict[str, Any]], *keys: str) -> dict[Any, dict[str, Any]]:
    return {tuple(row[key] for key in keys): row for row in rows}


def test_nodes_have_figures_and_what_is_special_about_them(loops: Served) -> None:
    graph = loops.get("/api/v1/topology", graph="agent", window="5m")
    assert [n["node"] for n in graph["nodes"]] == [*WIRING.nodes, "hidden"]
    nodes = {n["node"]: n for n in graph["nodes"]}
    decide, answer = nodes["decide"], nodes["answer"]
    assert (decide["executions"], decide["avg"], decide["retries"]) == (5, 0.5, 1)
    assert (answer["success_rate"], answer["outcomes"]["error"]) == (0, 1)
    assert (decide["dead_ends"], answer["dead_ends"]) == (1, 0)
    assert (decide["max_visits"], answer["max_visits"]) == (4, None)
    assert nodes["escalate"]["never_reached"]
    assert not nodes["answer"]["never_reached"]
    assert [n for n in nodes if not nodes[n]["is_wired"]] == ["hidden"]
    assert [n for n in nodes if nodes[n]["subgraph"]] == ["answer"]
    # The built-in rules.
    assert (decide["max_avg"], decide["min_success_rate"]) == (5.0, 0.95)
    assert decide["usual_p95"] is decide["usual_error_rate"] is None
    assert (graph["runs"], graph["start"], graph["service"]) == (2, "decide", "shop")
    assert graph["changed"] == pytest.approx(time.time(), abs=60)


def test_edges_have_traffic_and_lead_back(loops: Served) -> None:
    graph = loops.get("/api/v1/topology", graph="agent", window="5m")
    edges = index_by(graph["edges"], "source", "action")
    assert len(edges) == len(graph["edges"])
    assert [key for key, edge in edges.items() if edge["is_back_edge"]] == [
        ("search", "default")
    ]
    assert edges["decide", "search"] == {
        "source": "decide",
        "target": "search",
        "action": "search",
        "count": 3,
        "share": 0.6,
        "is_back_edge": False,
        "per_run": 1.5,
    }
    assert edges["decide", "help"]["count"] == 0
    assert edges["decide", "give up"]["target"] is None
    assert edges["hidden", "default"]["target"] is None


def test_figures_equal_those_of_the_other_endpoints(loops: Served) -> None:
    graph = loops.get("/api/v1/topology", graph="agent")
    for row in graph["nodes"]:
        if not row["executions"]:
            continue
        stats = loops.node(row["node"], graph="agent")
        assert row["executions"] == stats["total_executions"]
        assert row["outcomes"] == stats["outcomes"]
        assert row["success_rate"] == stats["success_rate"]
        assert row["avg"] == stats["avg_execution_time"]
        assert row["p95"] == stats["p95_execution_time"]
        assert row["retries"] == stats["total_retries"]
        assert row["last_execution"] == stats["last_execution"]


def test_the_hash_changes_with_the_topology_only() -> None:
    now = [1_800_000_000.0]
    with serving(lambda: now[0]) as served:

        def rewired(*edges: tuple[str, str, str]) -> Any:
            wire(served, Topology("g", "a", ("a", "b"), edges))
            return served.get("/api/v1/topology", graph="g")

        first = rewired(("a", "default", "b"))
        now[0] += 60
        served.send_rows({"graph": "g", "node": "a", "seconds": 1.0, "end": now[0]})
        same = rewired(("a", "default", "b"))
        now[0] += 60
        other = rewired(("a", "default", "b"), ("b", "again", "a"))
    assert same["hash"] == first["hash"] != other["hash"]
    assert first["changed"] == same["changed"] == 1_800_000_000.0
    assert other["changed"] == now[0]


def test_a_period_in_the_past_and_what_is_usual() -> None:
    now = [1_800_000_000.0 - 600]  # in the hour before
    with serving(lambda: now[0]) as served:
        row = {"graph": "g", "node": "n", "seconds": 0.5, "end": now[0]}
        served.send_rows(*[row] * 150, *[{**row, "outcome": "error"}] * 50)
        now[0] += 3000
        served.send_rows({**row, "seconds": 4.0, "end": now[0]})

        def node(**period: str) -> Any:
            graph = served.get("/api/v1/topology", graph="g", **period)
            return graph["nodes"][0]

        assert node(window="5m")["executions"] == 1
        assert node(window="5m")["usual_p95"] == 0.5
        assert node(window="5m")["usual_error_rate"] == 0.25
        assert node(window="5m", end="-49m")["executions"] == 200
        assert node(window="5m", end="-20m")["executions"] == 0
        assert node(end="-30m")["executions"] == 200
        assert node()["executions"] == 201
        stats = served.node("n", window="5m", end="-49m")
        assert stats["total_executions"] == 200


def test_a_deep_graph_and_an_unknown_one(served: Served) -> None:
    names = tuple(f"n{number}" for number in range(3_000))
    edges = [(a, "default", b) for a, b in itertools.pairwise(names)]
    edges.append((names[-1], "again", names[0]))
    wire(served, Topology("deep", names[0], names, tuple(edges)))
    graph = served.get("/api/v1/topology", graph="deep")
    back = [edge["source"] for edge in graph["edges"] if edge["is_back_edge"]]
    assert back == [names[-1]]
    answer = served.ask("/api/v1/topology?graph=dep")
    assert answer.status == 404
    assert "did you mean 'deep'" in answer.error["hint"]
