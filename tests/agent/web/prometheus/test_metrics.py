"""/metrics: both formats, by our reading, promtool's, and a real Prometheus's."""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tests.agent.web.conftest import STRANGE, fill
from tests.agent.web.serving import Served, serving
from tests.agents import until
from tests.prometheus import running_prometheus
from tests.servers import require

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PAY = {"service": "shop", "graph": "checkout", "node": "pay"}


def text(served: Served, accept: str = "text/plain") -> str:
    answer = served.ask("/metrics", {"Accept": accept})
    assert answer.status == 200
    return answer.body.decode()


def parse_metrics(
    served: Served, accept: str = "text/plain"
) -> dict[str, list[Sample]]:
    """The samples by name, as the Python client's parser reads them."""
    if "openmetrics" in accept:
        families = openmetrics.text_string_to_metric_families(text(served, accept))
    else:
        families = text_string_to_metric_families(text(served, accept))
    result: dict[str, list[Sample]] = {}
    for family in families:
        for sample in family.samples:
            result.setdefault(sample.name, []).append(sample)
    return result


def value(samples: dict[str, list[Sample]], name: str, **labels: str) -> float:
    """The value of the one sample with all these labels."""
    (result,) = [
        s.value for s in samples[name] if labels.items() <= s.labels.items()
    ]  # fmt: skip
    return result


@pytest.fixture(scope="module", params=["text/plain", "application/openmetrics-text"])
def samples(shop: Served, request: pytest.FixtureRequest) -> dict[str, list[Sample]]:
    return parse_metrics(shop, request.param)


def test_nodes(samples: dict[str, list[Sample]]) -> None:
    assert value(samples, "kaygraph_node_executions_total", **PAY) == 4
    assert value(samples, "kaygraph_node_success_rate", **PAY) == pytest.approx(2 / 3)
    assert value(samples, "kaygraph_node_avg_duration_seconds", **PAY) == 0.84375
    assert value(samples, "kaygraph_node_retries_total", **PAY) == 6
    name = "kaygraph_node_outcomes_total"
    assert value(samples, name, **PAY, outcome="ok") == 1
    assert value(samples, name, **PAY, outcome="suppressed") == 0
    assert sum(s.value for s in samples[name] if PAY.items() <= s.labels.items()) == 4
    name = "kaygraph_node_last_execution_timestamp_seconds"
    assert value(samples, name, **PAY) > 1.7e9
    name = "kaygraph_transitions_total"
    assert value(samples, name, **PAY, action="later") == 1
    name = "kaygraph_errors_total"
    assert value(samples, name, **PAY, type="KeyError", phase="post") == 1


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
def test_phases_and_items_are_exported_where_reported(
    served: Served, accept: str
) -> None:
    pay = {"graph": "checkout", "node": "pay", "seconds": 4.0}
    served.send_rows(
        {**pay, "exec": 2.0, "wait": 0.5, "items": 7},
        {**pay, "prep": 1.0, "exec": 0.25},
        {**pay, "node": "single", "exec": 4.0},
        {**pay, "node": "none"},
    )

    result = parse_metrics(served, accept)
    name = "kaygraph_node_phase_seconds_total"
    seconds = {
        s.labels["phase"]: s.value
        for s in result[name]
        if PAY.items() <= s.labels.items()
    }
    assert seconds == {"prep": 1.0, "exec": 2.25, "wait": 0.5, "post": 4.25}
    assert {sample.labels["node"] for sample in result[name]} == {"pay", "single"}
    (items,) = result["kaygraph_node_items_total"]
    assert (items.labels, items.value) == (PAY, 7)


def test_the_sum_of_values_that_may_be_negative_is_left_out(served: Served) -> None:
    for value_ in (-0.5, 9.0):
        served.send_rows({"metric": "score_change", "value": value_})
    served.send_rows({"metric": "size", "value": 5.5})

    result = parse_metrics(served, "application/openmetrics-text")

    counts = {s.labels["metric"]: s.value for s in result["kaygraph_observation_count"]}
    sums = {s.labels["metric"]: s.value for s in result["kaygraph_observation_sum"]}
    assert counts == {"score_change": 2, "size": 1}
    assert sums == {"size": 5.5}


def test_histograms_are_exact_at_powers_of_two(
    samples: dict[str, list[Sample]],
) -> None:
    name = "kaygraph_node_duration_seconds"
    buckets = {
        s.labels["le"]: s.value
        for s in samples[f"{name}_bucket"]
        if PAY.items() <= s.labels.items()
    }
    bounds = [repr(2.0**e) for e in range(-10, 10)]
    assert list(buckets) == [*bounds, "+Inf"]
    # 0.125, 0.25, 1.0 and 2.0 seconds: each on a bound, which includes it.
    expected = [sum(s <= float(le) for s in (0.125, 0.25, 1.0, 2.0)) for le in buckets]
    assert list(buckets.values()) == expected
    assert value(samples, f"{name}_count", **PAY) == 4
    assert value(samples, f"{name}_sum", **PAY) == 3.375


def test_graphs(samples: dict[str, list[Sample]]) -> None:
    labels = {"service": "shop", "graph": "checkout"}
    assert value(samples, "kaygraph_graph_executions_total", **labels) == 4
    name = "kaygraph_graph_success_rate"
    assert value(samples, name, **labels) == pytest.approx(2 / 3)
    assert value(samples, "kaygraph_graph_avg_duration_seconds", **labels) == 1.09375
    name = "kaygraph_graph_duration_seconds"
    assert value(samples, f"{name}_bucket", **labels, le="0.5") == 2
    assert value(samples, f"{name}_count", **labels) == 4
    name = "kaygraph_graph_outcomes_total"
    assert value(samples, name, **labels, outcome="error") == 1
    assert value(samples, name, **labels, outcome="cancelled") == 1
    name = "kaygraph_graph_ends_total"
    assert value(samples, name, reason="error", node="pay", action="") == 1


def test_custom_metrics_and_their_labels(samples: dict[str, list[Sample]]) -> None:
    place = {"service": "shop", "graph": "checkout", "node": "enrich"}
    name = "kaygraph_count_total"
    assert value(samples, name, **place, metric="orders") == 5
    assert value(samples, name, service="shop", graph="", node="") == 2
    assert {s.labels["metric"] for s in samples[name]} == {"orders"}
    assert value(samples, "kaygraph_last_value", metric="queue_depth") == 3
    assert value(samples, "kaygraph_observation_count", metric="data_size") == 3
    assert value(samples, "kaygraph_observation_sum", metric="data_size") == 600
    labels = {**place, "data_size": "big", "label_le": "1", "label_node": "x"}
    assert value(samples, "kaygraph_observation_count", **labels) == 1
    model = {**place, "model": "small"}
    assert value(samples, "kaygraph_llm_calls_total", **model) == 1
    assert value(samples, "kaygraph_llm_input_tokens_total", **model) == 10
    assert value(samples, "kaygraph_llm_output_tokens_total", **model) == 20
    assert value(samples, "kaygraph_llm_cost_usd_total", **model) == 0.25


def test_names_of_every_kind_come_back_as_they_were(
    samples: dict[str, list[Sample]],
) -> None:
    for name in ("executions_total", "outcomes_total", "duration_seconds_bucket"):
        nodes = {s.labels["node"] for s in samples[f"kaygraph_node_{name}"]}
        assert nodes >= set(STRANGE)


def test_the_agents_own_are_all_there(
    shop: Served, samples: dict[str, list[Sample]]
) -> None:
    assert value(samples, "kaywatch_series_completeness", service="back") == 1
    assert value(samples, "kaywatch_events_total") == 38
    assert value(samples, "kaywatch_client_dropped_total", reason="buffer_full") == 10
    assert value(samples, "kaywatch_connections_total") == 3
    types = dict(re.findall(r"# TYPE (\S+) (\S+)", text(shop)))
    for metric, _ in shop.source.telemetry.collect():
        assert types[metric.name] == metric.type


def test_the_two_formats_differ_where_they_must_and_nowhere_else(shop: Served) -> None:
    plain, rich = text(shop), text(shop, "application/openmetrics-text")

    def lines(exposition: str) -> list[str]:
        samples = [line for line in exposition.splitlines() if not line.startswith("#")]
        # What changes from one answer to the next.
        return [
            line for line in samples if not re.match("kaywatch_(http|process)_", line)
        ]

    # Exemplars are in OpenMetrics only.
    rich_lines = [line.partition(" # {")[0] for line in lines(rich)]
    assert lines(plain) == rich_lines
    assert rich.endswith("\n# EOF\n")
    assert "# EOF" not in plain
    assert "# TYPE kaygraph_node_executions counter" in rich
    assert "# TYPE kaygraph_node_executions_total counter" in plain
    assert "# UNIT kaygraph_node_duration_seconds seconds" in rich
    assert "# UNIT kaywatch_received_bytes bytes" in rich
    # A gauge `x` and a counter `x_total` would clash there.
    families = re.findall(r"^# TYPE (\S+)", rich, re.MULTILINE)
    assert len(families) == len(set(families))


def test_counters_never_go_back() -> None:
    with serving() as served:
        fill(served)
        before = parse_metrics(served)
        served.send_rows({"graph": "checkout", "node": "pay", "seconds": 1.0})
        after = parse_metrics(served)

    def counters(families: dict[str, list[Sample]]) -> dict[Any, float]:
        return {
            (s.name, *sorted(s.labels.items())): s.value
            for name, values in families.items()
            for s in values
            if re.search("_(total|bucket|count)$", name)
        }

    now = counters(after)
    assert all(now[key] >= count for key, count in counters(before).items())


def test_content_types_name_format_version_and_charset(shop: Served) -> None:
    assert shop.ask("/metrics").headers["Content-Type"] == TEXT_TYPE
    answer = shop.ask("/metrics", {"Accept": "application/openmetrics-text"})
    assert answer.headers["Content-Type"] == OPEN_TYPE


def test_series_whose_labels_become_the_same_are_added_up(served: Served) -> None:
    served.send_rows(
        *(
            {"metric": "m", "kind": "count", "value": value, "labels": {name: "x"}}
            for name, value in (("a-b", 1.0), ("a_b", 2.0), ("a.b", 4.0))
        )
    )

    result = parse_metrics(served)
    assert value(result, "kaygraph_count_total", metric="m", a_b="x") == 7


def test_a_compressed_scrape_is_the_same(shop: Served) -> None:
    headers = {"Accept": "application/openmetrics-text", "Accept-Encoding": "gzip"}
    answer = shop.ask("/metrics", headers)

    assert answer.headers["Content-Encoding"] == "gzip"
    unpacked = gzip.decompress(answer.body).decode()
    plain = text(shop, "application/openmetrics-text")
    # The agent's own memory and requests go on between two scrapes.
    moving = re.compile(r"kaywatch_(http|process)_")
    first, second = (
        [line for line in body.splitlines() if not moving.search(line)]
        for body in (unpacked, plain)
    )
    assert first == second
    assert any(line.startswith("kaywatch_events_total") for line in first)
    assert unpacked.endswith("# EOF\n")


# -- promtool ------------------------------------------------------------------------


def check(body: str) -> None:
    done = subprocess.run(
        [require("promtool"), "check", "metrics"],
        input=body,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_finds_no_fault_with_a_busy_agent(shop: Served) -> None:
    check(text(shop))


def test_promtool_finds_no_fault_with_an_empty_agent(served: Served) -> None:
    check(text(served))


# -- Prometheus ----------------------------------------------------------------------


def test_prometheus_scrapes_and_answers(shop: Served, tmp_path: Path) -> None:
    target = f"{shop.host}:{shop.port}"
    with running_prometheus(tmp_path, [target]) as server:
        query = server.query
        until(lambda: query("kaygraph_node_executions_total"), "a scrape")
        (state,) = server.ask("targets")["activeTargets"]
        assert (state["health"], state["lastError"]) == ("up", "")

        def one(expression: str) -> float:
            ((_, result),) = query(expression)
            return result

        assert one('kaygraph_node_executions_total{node="pay",service="shop"}') == 4
        assert one('sum(kaygraph_errors_total{type="KeyError"})') == 1
        name = "kaygraph_node_duration_seconds"
        half = one(
            f'histogram_quantile(0.5, {name}_bucket{{service="back",node="pay"}})'
        )
        assert 0.25 < half <= 0.5
        nodes = {labels["node"] for labels, _ in query(f"{name}_count")}
        assert nodes >= set(STRANGE)
        # It asked for OpenMetrics and so knows the units.
        (meta,) = server.ask("targets/metadata", metric=name)
        assert (meta["type"], meta["unit"]) == ("histogram", "seconds")
