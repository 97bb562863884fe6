"""A real VictoriaMetrics without native histograms: scrape and remote write."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import DEADLINE, Agent, free_port, new_agent, until
from tests.e2e.test_peers import metrics
from tests.e2e.test_prometheus import (
    DURATIONS,
    EXECUTIONS,
    RECORD,
    ROUND,
    counts,
    expected,
)
from tests.e2e.test_remote_write import (
    agent_that_writes,
    health,
    unsent,
    wait_executions,
    write_url,
)
from tests.prometheus import VictoriaMetrics, running_victoria_metrics

BUCKET = 2.0  # the growth of classic buckets


@pytest.fixture
def victoria(tmp_path: Path) -> Iterator[VictoriaMetrics]:
    with running_victoria_metrics(tmp_path) as server:
        yield server


def check_distributions(server: VictoriaMetrics, seeds: range, times: int) -> None:
    """Compare counts, sums and quantiles with those of the recorded values."""
    durations: dict[str, list[float]] = {}
    for seed in seeds:
        for node, values in expected(seed, times).items():
            durations.setdefault(node, []).extend(values)
    for node, values in durations.items():
        values.sort()
        select = f'{{node="{node}"}}'
        bucket = f'{DURATIONS}_bucket{{node="{node}",le="+Inf"}}'
        until(lambda: server.value(bucket) == len(values), f"the counts of {node}")  # noqa: B023
        assert server.value(f"{DURATIONS}_count{select}") == len(values)
        total = server.value(f"{DURATIONS}_sum{select}")
        assert total == pytest.approx(math.fsum(values))
        for q in (0.5, 0.95, 0.99):
            exact = values[math.ceil(q * len(values)) - 1]
            quantile = server.value(
                f"histogram_quantile({q}, {DURATIONS}_bucket{select})"
            )
            assert quantile is not None
            assert 1 / BUCKET <= quantile / exact <= BUCKET, (node, q)


def note(agent: Agent) -> str:
    return str(agent.get("/health")["stages"]["remote write prom"]["note"])


def test_discarded_native_histograms_are_detected(victoria: VictoriaMetrics) -> None:
    """VictoriaMetrics answers 204 to them, and stores nothing."""
    with agent_that_writes(write_url(victoria)) as agent:
        agent.run(f"{RECORD}\nrecord(1, 2_000)\nassert kaywatch.flush(10)")
        wait_executions(victoria, counts(range(1, 2), 2_000))
        until(lambda: "discards them: classic ones are sent" in note(agent), "a note")
        check_distributions(victoria, range(1, 2), 2_000)
        assert health(agent) == ""
        native = metrics(agent, "kaywatch_remote_write_native_histograms")
        assert native == {'server="prom"': 0}
        dropped = metrics(agent, "kaywatch_remote_write_dropped_total")
        assert set(dropped) == {'server="prom",reason="native_discarded"'}
        assert any("discards" in line["event"] for line in agent.log)

        # A restart does not forget it: the series would begin again from zero.
        agent.stop(signal.SIGKILL)
        agent.start()
        agent.run(f"{RECORD}\nrecord(2, 2_000)\nassert kaywatch.flush(10)")
        wait_executions(victoria, counts(range(1, 3), 2_000))
        check_distributions(victoria, range(1, 3), 2_000)
        assert "discards them" in note(agent)
        # What was counted before classic histograms began is no increase.
        grown = victoria.value(f"sum(increase({DURATIONS}_count[1h]))")
        assert grown is not None and grown <= 4_000


def test_configured_native_histograms_that_are_discarded_are_a_problem(
    victoria: VictoriaMetrics,
) -> None:
    with agent_that_writes(write_url(victoria), histograms="native") as agent:
        agent.run(f"{RECORD}\nrecord(3, 100)\nassert kaywatch.flush(10)")
        until(lambda: 'set histograms = "classic"' in health(agent), "it is on /health")


def test_kills_and_an_outage_leave_exact_totals(victoria: VictoriaMetrics) -> None:
    with agent_that_writes(write_url(victoria), histograms="classic") as agent:
        stop = agent.folder / "stop"
        child = agent.spawn(f"{RECORD}\nrecord_until(sys.argv[1])", str(stop))
        until(lambda: victoria.query(EXECUTIONS), "VictoriaMetrics has a sample")
        agent.stop(signal.SIGKILL)
        agent.start()
        victoria.kill()
        until(lambda: len(unsent(agent)) >= 2, "snapshots wait")
        agent.stop(signal.SIGKILL)
        agent.start()
        victoria.start()
        until(lambda: not unsent(agent)[1:], "the snapshots are sent")
        stop.touch()
        rounds = int(child.communicate(timeout=DEADLINE)[0])
        assert child.returncode == 0

        wait_executions(victoria, counts(range(rounds), ROUND))
        check_distributions(victoria, range(rounds), ROUND)
        assert metrics(agent, "kaywatch_remote_write_dropped_total") == {}
        assert {v for _, v in victoria.query(f"resets({EXECUTIONS}[1h])")} == {0.0}


def test_scrape_over_kills_of_either_side(tmp_path: Path) -> None:
    with new_agent() as agent:
        agent.options = ("--http", f"127.0.0.1:{free_port()}")
        agent.start()
        target = agent.url.removeprefix("http://")
        with running_victoria_metrics(tmp_path, [target]) as victoria:
            for seed in (4, 5):
                agent.run(f"{RECORD}\nrecord({seed}, 1_000)\nassert kaywatch.flush(10)")
                agent.stop(signal.SIGKILL)
                agent.start()
                wait_executions(victoria, counts(range(4, seed + 1), 1_000))
                check_distributions(victoria, range(4, seed + 1), 1_000)
                victoria.kill()
                victoria.start()
