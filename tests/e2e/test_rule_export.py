"""Exported rules in Prometheus and vmalert: the same faults fire as in the agent."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agents import DEADLINE, Agent, free_port, kill_at_end, new_agent, until
from tests.prometheus import NATIVE, Prometheus, VictoriaMetrics
from tests.servers import require

RULES = """
[defaults]
window = "5m"
for = "0"
keep_firing_for = "0"
min_executions = 10

[[rule]]
name = "failing"
metric = "success_rate"
op = "<"
value = 0.9
clear = 0.95
summary = "{node} succeeds in {value:.0%}"

[[rule]]
name = "busy"
metric = "executions"
op = ">"
value = 50

[[rule]]
name = "slow"
when = "latency_avg > 1 and latency_p95 > 1"

[[rule]]
name = "orders"
metric = "custom.orders.sum"
op = ">"
value = 4.5

[[rule]]
name = "sizes"
metric = "custom.size.p50"
op = ">"
value = 100
"""
RECORD = """
import kaywatch
from kaywatch._process import process
from kaywatch.wire import Outcome

def record(node, times, seconds, failed=0):
    series = process.recorder.series("shop", node)
    for n in range(times):
        error = ("ValueError", "exec") if n < failed else None
        outcome = Outcome.ERROR if error else Outcome.OK
        series.record(seconds, outcome, 1, "" if error else "default", error)
"""
HEALTHY = f"""{RECORD}
record("pay", 20, 0.125)
record("ship", 20, 0.125)
kaywatch.count("orders", 1)
kaywatch.observe("size", 10.0)
assert kaywatch.flush(10)
"""
FAULTY = f"""{RECORD}
record("pay", 20, 0.125, failed=10)
record("ship", 40, 2.0)
kaywatch.count("orders", 4)
for _ in range(9):
    kaywatch.observe("size", 1000.0)
assert kaywatch.flush(10)
"""

Alerts = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def agent() -> Iterator[Agent]:
    with new_agent() as agent:
        config = agent.folder / "kaywatch.toml"
        config.write_text(RULES)
        agent.options = ("--config", str(config))
        yield agent.start()


@pytest.fixture
def prometheus(agent: Agent, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the agent, and evaluates its rules."""
    server = Prometheus(tmp_path, [agent.url.removeprefix("http://")], NATIVE)
    file = tmp_path / "prometheus.yml"
    settings = json.loads(file.read_text())
    settings["global"]["evaluation_interval"] = "1s"
    settings["rule_files"] = ["kaywatch-rules.yml"]
    file.write_text(json.dumps(settings))
    export(agent, tmp_path / "kaywatch-rules.yml")
    try:
        server.start()
        yield server
    finally:
        server.kill()


def export(agent: Agent, file: Path, *options: str) -> None:
    config = agent.folder / "kaywatch.toml"
    output = agent.command("rules", "export", str(config), *options)
    # The reasons on stderr follow the file.
    text, _, _ = output.partition("\navg_execution_time_max: ")
    file.write_text(f"{text}\n")


def alerts_of_agent(agent: Agent) -> Alerts:
    return {
        key(alert["rule"], alert["labels"]): alert["value"]
        for alert in agent.get("/api/v1/alerts")["alerts"]
        if alert["state"] == "firing"
    }


def alerts_of_prometheus(prometheus: Prometheus) -> Alerts:
    return firing(prometheus.ask("alerts")["alerts"])


def firing(alerts: list[dict[str, Any]]) -> Alerts:
    return {
        key(alert["labels"]["alertname"], alert["labels"]): float(alert["value"])
        for alert in alerts
        if alert["state"] == "firing"
    }


def key(rule: str, labels: dict[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    own = {"service", "graph", "node"} & labels.keys()
    return rule, frozenset((name, labels[name]) for name in own if labels[name])


WEB = {"service": "web"}
PAY, SHIP = (WEB | {"graph": "shop", "node": name} for name in ("pay", "ship"))
EXPECTED = {
    key("failing", PAY): 0.75,
    key("busy", SHIP): 60,
    key("slow", SHIP): pytest.approx((20 * 0.125 + 40 * 2.0) / 60),
    key("orders", WEB): 5,
}
# Needs native histograms; the bound of its error is in docs/prometheus.md.
QUANTILE = {key("sizes", WEB): pytest.approx(1000, rel=0.022)}


def test_the_same_faults_fire_with_the_same_values(
    agent: Agent, prometheus: Prometheus
) -> None:
    agent.run(HEALTHY, KAYWATCH_SERVICE="web")
    until(
        lambda: prometheus.value("sum(kaygraph_node_executions_total)") == 40,
        "Prometheus has the healthy executions",
    )
    assert rules_of(prometheus) == {"ok"}
    assert alerts_of_agent(agent) == alerts_of_prometheus(prometheus) == {}

    agent.run(FAULTY, KAYWATCH_SERVICE="web")
    expected = {**EXPECTED, **QUANTILE}
    until(lambda: alerts_of_prometheus(prometheus) == expected, "Prometheus fires")
    until(lambda: alerts_of_agent(agent) == expected, "the agent fires")
    summaries = {
        alert["labels"]["alertname"]: alert["annotations"]["summary"]
        for alert in prometheus.ask("alerts")["alerts"]
    }
    assert summaries["failing"] == "pay succeeds in 75%"
    assert summaries["busy"] == "web / shop / ship: executions > 50 over 5m, now 60"


def test_vmalert_fires_with_them_too(agent: Agent, tmp_path: Path) -> None:
    """With classic histograms; the version in Debian lacks `keep_firing_for`."""
    rules = tmp_path / "kaywatch-rules.yml"
    export(agent, rules, "--histograms", "classic", "--no-keep-firing-for")
    target = agent.url.removeprefix("http://")
    # By default, it hides the samples of the last 30 s.
    server = VictoriaMetrics(tmp_path, [target], "-search.latencyOffset=1ms")
    port = free_port()
    command = [
        require("vmalert"),
        f"-rule={rules}",
        f"-datasource.url={server.url}",
        f"-remoteWrite.url={server.url}",
        "-notifier.url=http://127.0.0.1:9",  # nobody listens
        "-evaluationInterval=1s",
        f"-httpListenAddr=127.0.0.1:{port}",
    ]

    def alerts_of_vmalert() -> Alerts:
        try:
            url = f"http://127.0.0.1:{port}/api/v1/alerts"
            with urllib.request.urlopen(url, timeout=DEADLINE) as response:
                return firing(json.load(response)["data"]["alerts"] or [])
        except OSError:
            return {}

    try:
        server.start()
        with (tmp_path / "vmalert.log").open("wb") as log:
            vmalert = subprocess.Popen(command, stdout=log, stderr=log)
        with kill_at_end(vmalert):
            agent.run(HEALTHY, KAYWATCH_SERVICE="web")
            agent.run(FAULTY, KAYWATCH_SERVICE="web")
            until(lambda: alerts_of_vmalert() == EXPECTED, "vmalert fires")
            until(
                lambda: alerts_of_agent(agent) == {**EXPECTED, **QUANTILE},
                "the agent fires",
            )
    finally:
        server.kill()


def rules_of(prometheus: Prometheus) -> set[str]:
    """Return the health of all rules once each was evaluated."""

    def evaluated() -> list[dict[str, Any]]:
        groups = prometheus.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    return {rule["health"] for rule in until(evaluated, "all rules are evaluated")}
