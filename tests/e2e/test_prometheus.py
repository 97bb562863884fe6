"""A real Prometheus that scrapes native histograms from a real agent."""

from __future__ import annotations

import math
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agents import DEADLINE, Agent, free_port, new_agent, until
from tests.e2e.test_peers import push_from_here
from tests.prometheus import NATIVE, Prometheus, running_prometheus

from kaywatch import wire

DURATIONS = "kaygraph_node_duration_seconds"
EXECUTIONS = "kaygraph_node_executions_total"
BUCKET = 2 ** (1 / 32)  # the growth of buckets: both answers are in the same one

RECORD = """
import os, random, sys, time
import kaywatch
from kaywatch._process import process
from kaywatch.wire import Outcome

def record(seed, times):
    chance = random.Random(seed)
    for _ in range(times):
        node = chance.choice(["draft", "review", "publish"])
        seconds = chance.lognormvariate(-3, 1.5)
        failed = chance.random() < 0.1
        process.recorder.series("writing", node).record(
            seconds,
            Outcome.ERROR if failed else Outcome.OK,
            chance.randrange(1, 4),
            "" if failed else chance.choice(["default", "again"]),
            ("ValueError", "exec") if failed else None,
        )
        kaywatch.count("spent", 0.1)

def record_until(stop):
    seed = 0
    while not os.path.exists(stop):
        record(seed, 20)
        seed += 1
        time.sleep(0.05)
    assert kaywatch.flush(60)
    print(seed)
"""
ROUND = 20  # executions for each seed of `record_until`
FLOW = """
import kaywatch
kaywatch.instrument(service="shop")
from pocketflow import Flow, Node

class Ship(Node):
    def exec(self, _):
        raise ValueError("no stock")

for _ in range(2):
    try:
        kaywatch.name(Flow(start=Ship()), "orders").run({})
    except ValueError:
        pass
assert kaywatch.flush(10)
"""


@pytest.fixture
def agent() -> Iterator[Agent]:
    """An agent whose port stays the same when it is started again."""
    with new_agent() as result:
        result.options = ("--http", f"127.0.0.1:{free_port()}")
        yield result.start()


@pytest.fixture
def prometheus(agent: Agent, tmp_path: Path) -> Iterator[Prometheus]:
    target = agent.url.removeprefix("http://")
    with running_prometheus(tmp_path, [target], NATIVE) as server:
        yield server


def scraped(prometheus: Prometheus, name: str, **labels: str) -> float | None:
    """Return the last value of one series."""
    pairs = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return prometheus.value(f"{name}{{{pairs}}}")


def expected(seed: int, times: int) -> dict[str, list[float]]:
    """Return the durations by node that `record` of RECORD records."""
    chance, durations = random.Random(seed), dict[str, list[float]]()
    for _ in range(times):
        node = chance.choice(["draft", "review", "publish"])
        durations.setdefault(node, []).append(chance.lognormvariate(-3, 1.5))
        failed = chance.random() < 0.1
        chance.randrange(1, 4)
        if not failed:
            chance.choice(["default", "again"])
    return durations


def test_quantiles_and_counts_are_those_of_the_agent(
    agent: Agent, prometheus: Prometheus
) -> None:
    agent.run(f"{RECORD}\nrecord(1, 3_000)\nassert kaywatch.flush(10)")
    agent.run(f"{RECORD}\nrecord(2, 3_000)\nassert kaywatch.flush(10)")
    ours, theirs = expected(1, 3_000), expected(2, 3_000)

    for node in ours:
        values = sorted(ours[node] + theirs[node])
        wait_scraped(prometheus, node, len(values))
        statistics = agent.node(node)
        assert statistics["total_executions"] == len(values)
        select = f'{DURATIONS}{{node="{node}"}}'
        assert prometheus.value(f"histogram_count({select})") == len(values)
        total = prometheus.value(f"histogram_sum({select})")
        assert total == pytest.approx(math.fsum(values))
        for name, q in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
            exact = values[math.ceil(q * len(values)) - 1]
            quantile = prometheus.value(f"histogram_quantile({q}, {select})")
            assert quantile is not None
            for other in (statistics[f"{name}_execution_time"], exact):
                assert 1 / BUCKET <= quantile / other <= BUCKET, (node, name)


def wait_scraped(prometheus: Prometheus, node: str, executions: int) -> None:
    until(
        lambda: scraped(prometheus, EXECUTIONS, node=node) == executions,
        f"Prometheus has {executions} executions of {node}",
    )


def wait_more(prometheus: Prometheus, expression: str) -> None:
    before = prometheus.value(expression) or 0
    until(lambda: (prometheus.value(expression) or 0) > before, "Prometheus sees more")


def test_every_outcome_and_action_is_counted_exactly(
    agent: Agent, prometheus: Prometheus
) -> None:
    agent.run(f"{RECORD}\nrecord(3, 2_000)\nassert kaywatch.flush(10)")
    for node, values in expected(3, 2_000).items():
        wait_scraped(prometheus, node, len(values))
        statistics = agent.node(node)
        for outcome in ("ok", "error", "cancelled", "suppressed", "fallback"):
            value = scraped(
                prometheus, "kaygraph_node_outcomes_total", node=node, outcome=outcome
            )
            assert value == statistics["outcomes"][outcome]
        select = f'node="{node}"'
        actions = prometheus.query(f"kaygraph_transitions_total{{{select}}}")
        by_action = {labels["action"]: value for labels, value in actions}
        assert by_action == statistics["actions"]
    # Native histograms take the place of classic buckets.
    assert prometheus.query(f"{DURATIONS}_bucket") == []


def test_a_killed_agent_never_counts_backwards(
    agent: Agent, prometheus: Prometheus
) -> None:
    """Nor does a stopped one, and in the end everything is counted once."""
    stop = agent.folder / "stop"
    child = agent.spawn(f"{RECORD}\nrecord_until(sys.argv[1])", str(stop))
    total = f"sum({EXECUTIONS})"
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        wait_more(prometheus, total)
        agent.stop(number)
        agent.start()
    wait_more(prometheus, total)
    stop.touch()
    rounds = int(child.communicate(timeout=DEADLINE)[0])
    assert child.returncode == 0

    for node, count in counts(range(rounds), ROUND).items():
        wait_scraped(prometheus, node, count)
        select = f'node="{node}"'
        assert prometheus.value(f"histogram_count({DURATIONS}{{{select}}})") == count
    spent = prometheus.value('kaygraph_count_total{metric="spent"}')
    assert spent == pytest.approx(rounds * ROUND / 10)
    assert_no_reset(prometheus)


def counts(seeds: range, times: int) -> dict[str, int]:
    """Return the executions by node that `record` of RECORD records."""
    result: dict[str, int] = {}
    for seed in seeds:
        for node, values in expected(seed, times).items():
            result[node] = result.get(node, 0) + len(values)
    return result


def assert_no_reset(prometheus: Prometheus) -> None:
    """Check that Prometheus saw no counter go back."""
    for counter in (
        f"{EXECUTIONS}[1h]",
        "kaygraph_transitions_total[1h]",
        "kaygraph_errors_total[1h]",
        # A sum of floats that a restart adds up in another order may be a bit lower.
        'kaygraph_count_total{metric="spent"}[1h]',
        f"histogram_count({DURATIONS})[1h:1s]",
        "kaywatch_series_received_total[1h]",
    ):
        samples = prometheus.query(f"resets({counter})")
        assert samples and {value for _, value in samples} == {0.0}, counter


def test_a_failure_is_an_exemplar_with_the_id_of_its_run(
    agent: Agent, prometheus: Prometheus
) -> None:
    agent.run(FLOW)

    def exemplars() -> list[dict[str, Any]]:
        found = prometheus.ask(
            "query_exemplars", query="kaygraph_errors_total", start="0", end="9e9"
        )
        return [each for series in found for each in series["exemplars"]]

    until(exemplars, "Prometheus has an exemplar")
    runs = {each["labels"]["run"] for each in exemplars()}
    failures = agent.get("/api/v1/failures")["failures"]
    assert runs and runs <= {failure["run"] for failure in failures}


def test_classic_buckets_beside_native_ones(agent: Agent, tmp_path: Path) -> None:
    """With them, exemplars of durations reach a Prometheus before version 2.51."""
    config = tmp_path / "kaywatch.toml"
    config.write_text("[http]\nclassic_histograms = true\n")
    agent.stop()
    agent.start("--config", str(config))
    place = {"graph": "orders", "node": "ship"}
    failure = {"type": "ValueError", "time": time.time(), "seconds": 0.25, "run": "r7"}
    message = wire.batch(
        client=bytes(16),
        seq=1,
        sent=time.time(),
        service="shop",
        recorded=1,
        sections={
            "events": [{**place, "seconds": 0.25, "outcome": "error"}],
            "failures": [{**place, **failure}],
        },
        drops={},
    )
    target = agent.url.removeprefix("http://")
    with running_prometheus(tmp_path, [target], NATIVE) as prometheus:
        _, link = push_from_here(agent.socket, message)
        link.close()
        select = f'{DURATIONS}{{node="ship"}}'
        count = f"histogram_count({select})"
        until(lambda: prometheus.value(count) == 1, "Prometheus has the histogram")
        (series,) = until(
            lambda: prometheus.ask(
                "query_exemplars", query=DURATIONS, start="0", end="9e9"
            ),
            "Prometheus has an exemplar",
        )
    (exemplar,) = series["exemplars"]
    assert (exemplar["labels"], exemplar["value"]) == ({"run": "r7"}, "0.25")
