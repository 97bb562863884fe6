"""Graphs: the keys of KayGraph's page, where runs end, and the wiring."""

from __future__ import annotations

import time

import pytest
from tests.agent.web.serving import Served, serving

from kaywatch.recorder import Topology
from kaywatch.wire import EndReason, Outcome

PAGE = {
    "total_executions",
    "avg_execution_time",
    "total_time",
    "node_performance",
    "transition_counts",
    "failure_points",
}


def test_a_graph_has_the_pages_keys_and_more(shop: Served) -> None:
    graph = shop.graph("checkout")

    assert set(graph) > PAGE
    assert graph["status"] == "ok"
    assert graph["services"] == ["back", "shop"]
    assert graph["total_executions"] == 4
    assert graph["total_time"] == pytest.approx(0.225 + 0.45 + 1.3 + 2.4)
    assert graph["avg_execution_time"] == pytest.approx(graph["total_time"] / 4)
    assert graph["success_rate"] == pytest.approx(2 / 3)
    assert graph["outcomes"]["cancelled"] == 1
    assert (graph["visits"], graph["avg_visits"]) == (8, 2.0)
    assert (graph["cost_usd"], graph["wasted_cost_usd"]) == (0.25, 0.0)
    assert graph["p50_execution_time"] == pytest.approx(0.45, rel=0.011)
    assert graph["node_performance"]["load"] == {
        "executions": 5,
        "avg_time": pytest.approx(0.22),
        "min_time": 0.1,
        "max_time": 0.4,
    }
    assert list(graph["node_performance"]) == ["enrich", "load", "notify", "pay"]
    assert graph["transition_counts"] == {
        "enrich->default": 1,
        "load->default": 5,
        "notify->default": 1,
        "pay->default": 2,
        "pay->later": 1,
    }
    # Suppressed, replaced and cancelled executions are not failures.
    assert graph["failure_points"] == {"pay": 1}
    unmatched, others = graph["ends"].pop(), graph["ends"]
    assert unmatched == {
        "reason": "unmatched_action",
        "node": "pay",
        "action": "later",
        "count": 1,
        "available": ["default"],
    }
    assert [list(end.values()) for end in others] == [
        ["cancelled", "pay", "", 1, None],
        ["error", "pay", "", 1, None],
        ["no_successors", "pay", "default", 1, None],
    ]
    assert graph["never_run"] == []
    assert (graph["retries"], graph["fallbacks"], graph["dead_ends"]) == (6, 1, 1)
    assert graph["max_execution_time"] == 2.4
    assert graph["topology"] == {
        "service": "shop",
        "graph": "checkout",
        "start": "load",
        "nodes": ["load", "pay", "notify"],
        "edges": [["load", "default", "pay"], ["pay", "default", "notify"]],
        "since": graph["topology"]["changed"],
        "changed": pytest.approx(time.time(), abs=600),
    }


def test_a_graph_without_runs_has_an_explanation(shop: Served) -> None:
    graph = shop.graph("odd/graph")

    assert graph["status"] == "no_executions"
    assert graph["total_executions"] == graph["total_time"] == graph["visits"] == 0
    assert graph["avg_execution_time"] is graph["success_rate"] is None
    assert graph["p95_execution_time"] is graph["avg_visits"] is None
    assert graph["cost_usd"] is graph["wasted_cost_usd"] is None
    assert graph["topology"] is None
    assert graph["ends"] == []
    assert graph["never_run"] is None
    assert len(graph["node_performance"]) == 8


def test_filters_narrow_a_graph(shop: Served) -> None:
    back = shop.graph("checkout", service="back")
    assert back["status"] == "no_executions"
    assert back["services"] == ["back"]
    assert back["topology"] is None
    assert list(back["node_performance"]) == ["pay"]
    assert back["transition_counts"] == {"pay->default": 1}
    assert shop.graph("checkout", window="5m")["window"] == 300
    assert shop.graph("checkout", window="5m")["total_executions"] == 4


def test_the_list_has_every_graph_once_by_name(shop: Served) -> None:
    graphs = shop.get("/api/v1/graphs")["graphs"]
    assert [graph["graph"] for graph in graphs] == ["checkout", "odd/graph"]
    detailed = shop.graph("checkout")
    assert graphs[0] == {key: detailed[key] for key in graphs[0]}
    assert set(detailed) - set(graphs[0]) == {"ends", "topology", "account"}

    (only,) = shop.get("/api/v1/graphs", service="shop")["graphs"]
    assert only["graph"] == "checkout"
    (only,) = shop.get("/api/v1/graphs", graph="odd/graph", window="1m")["graphs"]
    assert only["graph"] == "odd/graph"


def test_an_unknown_graph_is_404_with_the_nearest_names(shop: Served) -> None:
    answer = shop.ask("/api/v1/graphs/chekout/stats")
    assert answer.status == 404
    assert answer.error == {
        "code": "unknown_graph",
        "message": "unknown graph 'chekout'",
        "hint": "did you mean 'checkout'? /api/v1/graphs lists the known ones",
    }
    answer = shop.ask("/api/v1/graphs/odd%2Fgraph/stats?service=shop")
    assert answer.error["message"].endswith("in service 'shop'")


def test_a_graph_that_is_only_wired_is_known() -> None:
    now = [1_800_000_000.0]
    with serving(lambda: now[0]) as served:
        report_two_wirings(served, now)


def report_two_wirings(served: Served, now: list[float]) -> None:
    wiring = {"graph": "g", "start": "a", "nodes": ["a"], "edges": []}
    other = {"graph": "g", "start": "b", "nodes": ["b"], "edges": [["b", "x", "a"]]}
    for service, topology in (("one", wiring), ("two", other)):
        batch = {"type": "batch", "v": 1, "service": service, "topologies": [topology]}
        served.receive([batch], service)
        now[0] += 60

    assert served.graph("g")["status"] == "no_executions"
    # Of several services, the wirings are put together.
    assert served.graph("g")["topology"] == {
        "service": "",
        "graph": "g",
        "start": "a",
        "nodes": ["a", "b"],
        "edges": [["b", "x", "a"]],
        "since": 1_800_000_000.0,
        "changed": 1_800_000_060.0,
    }
    assert served.graph("g", service="two")["topology"]["nodes"] == ["b"]


WIRING = Topology(
    "g",
    "ask",
    ("ask", "search", "answer", "give_up"),
    (
        ("ask", "search", "search"),
        ("ask", "answer", "answer"),
        ("ask", "give_up", "give_up"),
        ("search", "default", "ask"),
    ),
)


def test_nodes_that_never_ran_and_the_actions_that_there_are(served: Served) -> None:
    with served.recording("one") as recorder:
        recorder.add_topology(WIRING)
        recorder.series("g", "ask").record(0.1)
        recorder.series("g", "search").record(0.1, Outcome.CANCELLED)
        for node in ("ask", "answer", "elsewhere"):
            reason = EndReason.UNMATCHED_ACTION
            recorder.run_ended("g", 0.1, Outcome.OK, reason, node, "serach", 1)
        recorder.run_ended("g", 0.1, Outcome.OK, EndReason.UNKNOWN, "ask", "search", 1)
    with served.recording("two") as recorder:
        recorder.series("g", "give_up").record(0.1)

    graph = served.graph("g", service="one")
    assert graph["never_run"] == ["answer", "give_up"]
    assert {(e["reason"], e["node"]): e["available"] for e in graph["ends"]} == {
        ("unmatched_action", "ask"): ["search", "answer", "give_up"],
        ("unmatched_action", "answer"): [],
        ("unmatched_action", "elsewhere"): None,
        ("unknown", "ask"): None,
    }
    # What is known of all services is put together; of one it is its own.
    assert served.graph("g")["never_run"] == ["answer"]
    assert served.graph("g", service="two")["never_run"] is None


def test_the_overflow_node_may_be_any_node_that_never_ran(served: Served) -> None:
    with served.recording("one") as recorder:
        recorder.add_topology(WIRING)
        recorder.series("g", "__other__").record(0.1)

    assert served.graph("g")["never_run"] is None
