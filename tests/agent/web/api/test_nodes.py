"""Nodes: the keys of KayGraph's page, their filters, and names of every kind."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from tests.agent.web.conftest import STRANGE
from tests.agent.web.serving import Served, serving

from kaywatch_agent.model.bounds import MAX_TIME
from kaywatch_agent.protocol.limits import MAX_VALUE
from kaywatch_agent.web.api import nodes

PAGE = {
    "total_executions",
    "success_rate",
    "avg_execution_time",
    "min_execution_time",
    "max_execution_time",
    "total_retries",
}
PAGE_DETAILED = {
    "avg_data_size",
    "max_data_size",
    "min_data_size",
    "avg_processing_rate",
    "max_processing_rate",
    "peak_memory_mb",
    "error_breakdown",
}


def names(answer: Any) -> list[str]:
    return [node["node"] for node in answer["nodes"]]


def test_a_node_has_the_pages_keys_and_more(shop: Served) -> None:
    pay = shop.node("pay")

    assert set(pay) > PAGE | PAGE_DETAILED
    assert pay["node"] == "pay"
    assert pay["services"] == ["back", "shop"]
    assert pay["graphs"] == ["checkout"]
    assert pay["window"] is None
    assert pay["total_executions"] == 5
    assert pay["total_retries"] == 2 + 1 + 3
    assert pay["retry_rate"] == 6 / 11
    # One of four that weren't cancelled failed; the fallback is a success.
    assert pay["success_rate"] == 0.75
    assert pay["error_rate"] == 0.25
    assert pay["avg_execution_time"] == (0.125 + 0.25 + 1.0 + 2.0 + 0.5) / 5
    assert pay["min_execution_time"] == 0.125
    assert pay["max_execution_time"] == 2.0
    assert pay["p50_execution_time"] == pytest.approx(0.5, rel=0.011)
    assert pay["p99_execution_time"] == pytest.approx(2.0, rel=0.011)
    assert pay["outcomes"] == {
        "ok": 2,
        "error": 1,
        "suppressed": 0,
        "fallback": 1,
        "cancelled": 1,
    }
    assert pay["actions"] == {"default": 2, "later": 1}
    assert pay["error_breakdown"] == {
        "CancelledError": 1,
        "KeyError": 1,
        "TimeoutError": 1,
    }
    assert pay["errors"] == [
        {"type": "CancelledError", "phase": "exec", "count": 1},
        {"type": "KeyError", "phase": "post", "count": 1},
        {"type": "TimeoutError", "phase": "exec", "count": 1},
    ]
    assert pay["last_execution"] == pytest.approx(shop.source.clock(), abs=60)
    # The larger of its two services' clients.
    assert pay["peak_memory_mb"] == 300.0
    assert pay["avg_data_size"] is None
    assert pay["max_processing_rate"] is None
    assert 0 < pay["completeness"] < 1


PHASES = ("avg_prep_time", "avg_exec_time", "avg_wait_time", "avg_post_time")


def test_where_the_time_of_a_node_went(served: Served) -> None:
    pay = {"graph": "checkout", "node": "pay"}
    served.send_rows(
        {**pay, "seconds": 4.0, "prep": 1.0, "exec": 2.0, "wait": 0.5, "items": 7},
        {**pay, "seconds": 2.0, "exec": 1.0, "items": 5},
        {**pay, "seconds": 9.0},
        {**pay, "node": "none", "seconds": 9.0},
        {**pay, "node": "single", "seconds": 1.0, "exec": 1.0},
    )

    result = served.node("pay")
    # Of the two executions that report it.
    assert [result[key] for key in PHASES] == [0.5, 1.5, 0.25, 0.75]
    assert (result["total_executions"], result["total_items"]) == (3, 12)
    assert result["avg_execution_time"] == 5.0
    single = served.node("single")
    assert [single[key] for key in PHASES] == [0.0, 1.0, 0.0, 0.0]
    assert single["total_items"] == 0


def test_phases_are_null_if_no_event_reports_them(shop: Served) -> None:
    pay = shop.node("pay")

    assert [pay[key] for key in (*PHASES, "total_items")] == [None] * 5


def test_phases_of_all_graphs_and_steps_are_added_up(served: Served) -> None:
    row = {"node": "pay", "seconds": 1.0}
    for graph, part in (("a", 0.25), ("b", 0.5), ("c", 0.75)):
        served.send_rows({**row, "graph": graph, "exec": part, "items": 1})

    assert served.node("pay")["avg_exec_time"] == 0.5
    assert served.node("pay", window="5m")["avg_exec_time"] == 0.5
    assert served.node("pay", window="5m")["total_items"] == 3
    assert served.node("pay", graph="c")["avg_exec_time"] == 0.75


def test_filters_narrow_a_node(shop: Served) -> None:
    assert shop.node("pay", service="shop")["total_executions"] == 4
    assert shop.node("pay", service="shop")["peak_memory_mb"] == 100.0
    assert shop.node("pay", service="back")["total_executions"] == 1
    assert shop.node("pay", service="back")["services"] == ["back"]
    assert shop.node("pay", service="back")["completeness"] == 1.0
    assert shop.node("pay", graph="checkout")["total_executions"] == 5
    assert shop.node("pay", graph="checkout", window="1m")["window"] == 60


def test_completeness_is_that_of_the_services(shop: Served) -> None:
    arrived = sum(
        client["events"] for client in shop.get("/api/v1/clients")["clients"]
        if client["service"] == "shop"
    )  # fmt: skip

    assert shop.node("load")["completeness"] == arrived / (arrived + 10)


def test_data_sizes_rates_and_other_custom_metrics(shop: Served) -> None:
    enrich = shop.node("enrich")

    assert enrich["avg_data_size"] == 200.0
    assert enrich["min_data_size"] == 100.0
    assert enrich["max_data_size"] == 300.0
    assert enrich["avg_processing_rate"] == 100.0
    assert enrich["max_processing_rate"] == 150.0
    assert enrich["peak_memory_mb"] == 100.0
    custom = {metric["name"]: metric for metric in enrich["custom"]}
    assert list(custom) == sorted(custom)
    assert set(custom) == {
        "items",
        "llm_calls",
        "llm_cost_usd",
        "llm_input_tokens",
        "llm_output_tokens",
        "orders",
        "queue_depth",
    }
    assert custom["items"]["labels"] == {"data-size": "big", "le": "1", "node": "x"}
    assert custom["orders"] == {
        "name": "orders",
        "kind": "count",
        "labels": {},
        "count": 1,
        **dict.fromkeys(("sum", "avg", "min", "max", "last"), 5.0),
        **dict.fromkeys(("p50", "p95", "p99"), 5.0),
    }
    assert custom["queue_depth"]["kind"] == "gauge"
    assert custom["queue_depth"]["last"] == 3.0
    assert custom["queue_depth"]["max"] == 7.0
    assert custom["llm_cost_usd"]["labels"] == {"model": "small"}


def test_the_list_has_every_node_once_by_name(shop: Served) -> None:
    answer = shop.get("/api/v1/nodes")

    assert names(answer) == sorted(["enrich", "load", "notify", "pay", *STRANGE])
    pay = next(node for node in answer["nodes"] if node["node"] == "pay")
    detailed = shop.node("pay")
    assert pay == {key: detailed[key] for key in pay}
    assert set(detailed) - set(pay) == {"errors", "custom", "account", "retried_errors"}


def test_filters_narrow_the_list(shop: Served) -> None:
    def listed(**filters: str) -> list[str]:
        return names(shop.get("/api/v1/nodes", **filters))

    assert listed(service="shop") == ["enrich", "load", "notify", "pay"]
    assert listed(service="back", graph="checkout") == ["pay"]
    assert listed(graph="odd/graph") == sorted(STRANGE)
    assert listed(graph="nowhere") == []
    assert listed(graph="") == []


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_may_hold_anything(shop: Served, name: str) -> None:
    assert shop.node(name)["node"] == name
    assert shop.node(name)["graphs"] == ["odd/graph"]


def test_an_unknown_node_is_404_with_the_nearest_names(shop: Served) -> None:
    answer = shop.ask("/api/v1/nodes/laod/stats")
    assert answer.status == 404
    assert answer.error == {
        "code": "unknown_node",
        "message": "unknown node 'laod'",
        "hint": "did you mean 'load'? /api/v1/nodes lists the known ones",
    }

    answer = shop.ask("/api/v1/nodes/load/stats?graph=other&service=back")
    assert answer.status == 404
    assert answer.error["message"] == (
        "unknown node 'load' in graph 'other' in service 'back'"
    )


def test_a_window_has_only_its_own_time() -> None:
    now = 1_700_000_005.0

    with serving(lambda: now) as served:
        served.send_rows(
            *(
                {"graph": "g", "node": "n", "seconds": seconds, "end": now - ago}
                for seconds, ago in ((1.0, 1), (2.0, 100), (4.0, 1000), (8.0, 5000))
            ),
            {"graph": "g", "node": "quiet", "seconds": 1.0, "end": now - 2000},
        )

        def maximum(**window: str) -> float | None:
            result: float | None = served.node("n", **window)["max_execution_time"]
            return result

        assert maximum() == 8.0  # too late for a bucket, and in the totals
        assert maximum(window="1h") == 4.0
        assert maximum(window="120s") == maximum(window="2m") == 2.0
        assert maximum(window="10s") == 1.0
        quiet = served.node("quiet", window="1m")
        assert quiet["total_executions"] == 0
        assert quiet["success_rate"] is quiet["p95_execution_time"] is None
        assert quiet["last_execution"] is None
        assert quiet["completeness"] == 1.0
        assert names(served.get("/api/v1/nodes", window="1m")) == ["n", "quiet"]


def test_the_export_is_that_of_the_page(shop: Served) -> None:
    export = shop.get("/api/v1/export")

    assert set(export) == {"timestamp", "nodes", "graphs"}
    assert export["timestamp"] == pytest.approx(shop.source.clock(), abs=60)
    assert set(export["nodes"]) == {"enrich", "load", "notify", "pay", *STRANGE}
    assert set(export["graphs"]) == {"checkout", "odd/graph"}
    for node in export["nodes"].values():
        assert set(node) > PAGE | PAGE_DETAILED
    narrowed = shop.get("/api/v1/export", service="back", graph="checkout", window="1h")
    assert set(narrowed["nodes"]) == {"pay"}
    assert set(narrowed["graphs"]) == {"checkout"}


def test_an_agent_that_has_seen_nothing_lists_nothing(served: Served) -> None:
    assert served.get("/api/v1/nodes")["nodes"] == []
    assert served.get("/api/v1/nodes", window="5m")["nodes"] == []
    assert served.get("/api/v1/graphs")["graphs"] == []
    assert served.get("/api/v1/failures") == {"matching": 0, "failures": []}
    assert served.get("/api/v1/clients")["clients"] == []
    export = served.get("/api/v1/export")
    assert (export["nodes"], export["graphs"]) == ({}, {})
    answer = served.ask("/api/v1/nodes/n/stats")
    assert answer.error["hint"] == "/api/v1/nodes lists the known ones"


def test_the_largest_values_stay_finite(served: Served) -> None:
    served.send_rows(
        *({"node": "n", "seconds": MAX_TIME} for _ in range(3)),
        *(
            {"node": "n", "metric": "m", "value": sign * MAX_VALUE}
            for sign in (1, 1, -1)
        ),
    )

    node = served.node("n")
    assert math.isclose(node["avg_execution_time"], MAX_TIME)
    assert math.isclose(node["p50_execution_time"], MAX_TIME, rel_tol=0.02)
    (metric,) = node["custom"]
    assert (metric["min"], metric["max"]) == (-MAX_VALUE, MAX_VALUE)
    assert math.isclose(metric["avg"], MAX_VALUE / 3)
    assert served.get("/api/v1/query", metric="avg")["series"]
    assert b"nan" not in served.ask("/metrics").body.lower()


def test_a_list_entry_and_a_nodes_answer_share_their_keys() -> None:
    def keys(kind: type) -> list[str]:
        return [field.encode_name for field in msgspec.structs.fields(kind)]

    own = keys(nodes.NodeStats)
    assert [key for key in own if key in keys(nodes.NodeSummary)] == keys(
        nodes.NodeSummary
    )
