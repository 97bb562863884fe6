"""/api/v1/llm, and the families of /metrics, from what a client records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pocketflow import Flow, Node
from tests.agent.web.serving import Served, serving

import kaywatch


class Ask(Node):
    """Fails at first, then asks two models."""

    def exec(self, prep_res: Any) -> None:
        kaywatch.record_llm(
            model="large",
            input_tokens=1_000,
            output_tokens=100,
            cached_tokens=400,
            cost_usd=0.5,
            seconds=2.0,
            first_token_seconds=0.5,
        )
        if self.cur_retry == 0:
            raise ValueError
        kaywatch.record_llm(model="small", input_tokens=10, output_tokens=1)


class Refused(Exception):
    status_code = 429


@pytest.fixture(scope="module")
def fed() -> Iterator[Served]:
    kaywatch.instrument(modules=["pocketflow"], llm=False)
    with serving() as result:
        with result.recording("shop"):
            for _ in range(2):
                kaywatch.name(Flow(start=Ask(max_retries=2)), "talk").run({})
            kaywatch.observe("llm_seconds_of_mine", 1)
        with result.recording("back"):
            kaywatch.record_llm(model="large", seconds=4.0, error=Refused())
            kaywatch.record_llm(model="large", error="Overloaded")
        yield result
    kaywatch.uninstrument()


def test_a_graph_has_the_cost_of_its_calls(fed: Served) -> None:
    graph = fed.graph("talk")
    assert (graph["cost_usd"], graph["wasted_cost_usd"]) == (2.0, 1.0)
    assert fed.graph("talk", window="5m")["cost_usd"] == 2.0


def test_all_calls_together(fed: Served) -> None:
    answer = fed.get("/api/v1/llm")
    totals = answer["totals"]

    assert {k: v for k, v in totals.items() if not isinstance(v, dict)} == {
        "calls": 8,
        "errors": 2,
        "rate_limited": 1,
        "input_tokens": 4_020,
        "output_tokens": 402,
        "cached_tokens": 1_600,
        "cost_usd": 2.0,
        "wasted_input_tokens": 2_000,
        "wasted_output_tokens": 200,
        "wasted_cost_usd": 1.0,
        "unpriced_calls": 2,
        "calls_without_usage": 0,
    }
    assert totals["error_breakdown"] == {"Overloaded": 1, "Refused": 1}
    assert totals["seconds"]["avg"] == pytest.approx(12 / 5)
    assert totals["seconds"]["p50"] == pytest.approx(2.0, rel=0.011)
    assert totals["seconds"]["p99"] == pytest.approx(4.0, rel=0.011)
    assert totals["first_token_seconds"]["p95"] == pytest.approx(0.5, rel=0.011)
    assert totals["per_run"]["cost_usd"]["count"] == 2
    assert totals["per_run"]["cost_usd"]["max"] == 1.0
    assert totals["per_run"]["tokens"]["avg"] == 2 * 1_100 + 11
    assert answer["completeness"] == 1.0


def test_by_model_node_and_graph(fed: Served) -> None:
    answer = fed.get("/api/v1/llm")

    models = {model["model"]: model for model in answer["models"]}
    assert list(models) == ["large", "small"]  # the dearest first
    assert (models["large"]["calls"], models["small"]["calls"]) == (6, 2)
    assert models["large"]["wasted_cost_usd"] == 1.0
    assert models["small"]["seconds"]["avg"] is None
    assert models["small"]["unpriced_calls"] == 2
    names = ("service", "graph", "node", "calls")
    nodes = [tuple(node[name] for name in names) for node in answer["nodes"]]
    assert nodes == [("shop", "talk", "Ask", 6), ("back", "", "", 2)]
    graphs = [(g["graph"], g["calls"]) for g in answer["graphs"]]
    assert graphs == [("talk", 6), ("", 2)]
    assert answer["graphs"][0]["per_run"]["cost_usd"]["avg"] == 1.0


@pytest.mark.parametrize(
    ("filters", "calls"),
    [
        ({"service": "back"}, 2),
        ({"graph": "talk"}, 6),
        ({"graph": ""}, 2),
        ({"node": "Ask", "window": "5m"}, 6),
        ({"node": "nobody"}, 0),
    ],
)
def test_filters_and_windows_narrow_calls(
    fed: Served, filters: dict[str, str], calls: int
) -> None:
    answer = fed.get("/api/v1/llm", **filters)

    assert answer["totals"]["calls"] == calls
    assert sum(model["calls"] for model in answer["models"]) == calls
    assert answer["window"] == (300 if "window" in filters else None)


def test_figures_that_a_client_made_up_are_no_fault_of_ours(served: Served) -> None:
    with served.recording("odd"):
        for value in (float("nan"), float("-inf"), -3.0):
            kaywatch.count("llm_calls", value, model="m")
            kaywatch.count("llm_cost_usd", value)
        kaywatch.gauge("llm_seconds", 3)

    assert served.get("/api/v1/llm")["totals"]["calls"] == 0
    assert "kaygraph_last_value{" in served.ask("/metrics").body.decode()


def test_the_families(fed: Served) -> None:
    body = fed.ask("/metrics").body.decode()
    ask = 'service="shop",graph="talk",node="Ask",model="large"'
    back = 'service="back",graph="",node="",model="large"'

    for line in (
        f"kaygraph_llm_calls_total{{{ask}}} 4",
        f"kaygraph_llm_cached_tokens_total{{{ask}}} 1600",
        f"kaygraph_llm_wasted_cost_usd_total{{{ask}}} 1",
        f'kaygraph_llm_errors_total{{{back},type="Refused",status="429"}} 1',
        f'kaygraph_llm_errors_total{{{back},type="Overloaded",status=""}} 1',
        f"kaygraph_llm_rate_limited_total{{{back}}} 1",
        f'kaygraph_llm_duration_seconds_bucket{{{ask},le="1.0"}} 0',
        f'kaygraph_llm_duration_seconds_bucket{{{ask},le="2.0"}} 4',
        f"kaygraph_llm_first_token_seconds_sum{{{ask}}} 2",
        'kaygraph_llm_run_cost_usd_bucket{service="shop",graph="talk",le="1.0"} 2',
        'kaygraph_llm_run_tokens_sum{service="shop",graph="talk"} 4422',
    ):
        assert line in body.splitlines()
    # And not also among the custom metrics.
    assert re.findall(r'metric="(llm\w*)"', body) == ["llm_seconds_of_mine"] * 2


def test_the_longest_names_can_be_asked_for(fed: Served) -> None:
    longest = chr(0x1F600) * 200  # 12 bytes each, percent-encoded

    asked = {"graph": longest, "node": longest, "service": longest, "window": longest}
    assert fed.ask("/api/v1/llm", **asked).error["code"] == "bad_parameter"
    del asked["window"]
    assert fed.get("/api/v1/llm", **asked)["totals"]["calls"] == 0
