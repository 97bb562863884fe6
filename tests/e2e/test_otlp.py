"""OTLP through rotel, a real collector: its output has our numbers."""

from __future__ import annotations

import contextlib
import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from tests.agents import Agent, free_port, new_agent, until
from tests.collectors import Backend, collector
from tests.e2e.test_peers import metrics
from tests.e2e.test_prometheus import DURATIONS, EXECUTIONS, RECORD, counts, expected

BUCKET = 2 ** (1 / 32)
LLM = """
import kaywatch
kaywatch.instrument(service="writing")
with kaywatch.execution("g", "n"):
    for _ in range(3):
        kaywatch.record_llm(
            model="gpt-5", seconds=0.5, input_tokens=10, output_tokens=4
        )
assert kaywatch.flush(10)
"""
TRACED = """
import kaywatch
from opentelemetry.sdk.trace import TracerProvider
from pocketflow import Flow, Node

class Pay(Node):
    def exec(self, prepared):
        raise TimeoutError("the bank")

kaywatch.instrument(service="shop")
with TracerProvider().get_tracer("shop").start_as_current_span("request") as span:
    try:
        Flow(start=Pay()).run({})
    except TimeoutError:
        pass
assert kaywatch.flush(10)
print(f"{span.get_span_context().trace_id:032x}")
"""


@pytest.fixture
def backend() -> Iterator[Backend]:
    result = Backend()
    with result.serve():
        yield result


@contextlib.contextmanager
def agent_that_exports(port: int, **keys: str) -> Iterator[Agent]:
    values = {"url": f"http://127.0.0.1:{port}/v1/metrics", "name": "otel", **keys}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    text = "\n".join(["[[export.otlp]]", 'interval = "1s"', *lines])
    with new_agent() as agent:
        config = agent.folder / "kaywatch.toml"
        config.write_text(f'{text}\nresource = {{ team = "search" }}\n')
        agent.options = ("--config", str(config))
        yield agent.start()


def executions(backend: Backend) -> dict[str, float]:
    return {n: p.data.as_double for n, p in backend.latest(EXECUTIONS).items()}


def quantile(point: Any, q: float) -> float:
    """Return the upper bound of the bucket with a quantile."""
    base = 2.0**2.0**-point.scale
    rank = math.ceil(q * point.count) - point.zero_count
    for index, count in enumerate(point.positive.bucket_counts, point.positive.offset):
        rank -= count
        if rank <= 0:
            return float(base ** (index + 1))
    raise AssertionError("no such quantile")


def test_counts_and_quantiles_are_ours(backend: Backend) -> None:
    port = free_port()
    with (
        collector(backend.url, port),
        agent_that_exports(port, gen_ai_names="both") as agent,
    ):
        agent.run(f"{RECORD}\nrecord(1, 3_000)\nassert kaywatch.flush(10)")
        agent.run(LLM)
        trace_id = agent.run(TRACED).strip()
        totals = counts(range(1, 2), 3_000)
        until(lambda: totals.items() <= executions(backend).items(), "the totals")
        tokens = "gen_ai.client.inference.usage.input_tokens"
        until(lambda: backend.latest(tokens), "the calls of models")

        for node, values in expected(1, 3_000).items():
            values.sort()
            point = backend.latest(DURATIONS)[node]
            assert point.data.count == len(values)
            assert point.data.sum == pytest.approx(math.fsum(values))
            assert point.temporality == pb.AGGREGATION_TEMPORALITY_CUMULATIVE
            assert 0 < point.data.start_time_unix_nano < point.data.time_unix_nano
            assert len(point.data.positive.bucket_counts) <= 160
            growth = 2.0**2.0**-point.data.scale
            for q in (0.5, 0.95, 0.99):
                exact = values[math.ceil(q * len(values)) - 1]
                assert 1 <= quantile(point.data, q) / exact <= growth * BUCKET
        failed = until(lambda: backend.latest(DURATIONS).get("Pay"), "the failure")
        (exemplar,) = failed.data.exemplars
        assert exemplar.trace_id.hex() == trace_id
        assert [each.key for each in exemplar.filtered_attributes] == ["run"]
        check_names(backend)
        assert metrics(agent, "kaywatch_otlp_dropped_total") == {}
        assert agent.get("/health")["stages"]["otlp otel"]["problem"] == ""


def check_names(backend: Backend) -> None:
    """Check OpenTelemetry's names of model calls."""
    for name in (
        "kaygraph_llm_duration_seconds",
        "gen_ai.client.operation.duration",
        "gen_ai.client.inference.duration",
    ):
        duration = backend.latest(name)["n"]
        assert (duration.service, duration.data.count) == ("writing", 3)
        assert duration.data.sum == 1.5
    assert duration.labels["gen_ai.request.model"] == "gpt-5"
    assert duration.labels["gen_ai.operation.name"] == "chat"
    usage = backend.latest("gen_ai.client.inference.usage.output_tokens")["n"]
    assert (usage.data.count, usage.data.sum) == (3, 12)
    old = [p for n, p in backend.points if n == "gen_ai.client.token.usage"]
    sums = {p.labels["gen_ai.token.type"]: p.data.sum for p in old}
    assert sums == {"input": 30, "output": 12}


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_kills_of_agent_and_collector_lose_nothing(
    backend: Backend, temporality: str
) -> None:
    port = free_port()

    def sent() -> dict[str, float]:
        is_delta = temporality == "delta"
        return backend.total(EXECUTIONS) if is_delta else executions(backend)

    with agent_that_exports(port, temporality=temporality) as agent:
        with collector(backend.url, port):
            agent.run(f"{RECORD}\nrecord(2, 500)\nassert kaywatch.flush(10)")
            until(lambda: sent() == counts(range(2, 3), 500), "the first totals")
        agent.run(f"{RECORD}\nrecord(3, 500)\nassert kaywatch.flush(10)")
        spool = Path(f"{agent.store}.otlp", "otel")
        until(lambda: len(list(spool.glob("*.unsent"))) >= 2, "snapshots wait")
        agent.stop(signal.SIGKILL)
        agent.start()
        stage = until(
            lambda: agent.get("/health")["stages"].get("otlp otel", {}).get("problem"),
            "the outage is on /health",
        )
        assert "refused" in stage
        with collector(backend.url, port):
            until(lambda: sent() == counts(range(2, 4), 500), "all totals")
