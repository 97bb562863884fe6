"""Measure the time from a breach to its webhook; compare with Prometheus.

The agent, and a Prometheus with an Alertmanager, get the same gauge at the same moment,
at a random point of their intervals, and have no delays configured. Prometheus scrapes
and evaluates once a second; the Alertmanager waits for one second, its minimum.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import random
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.request import urlopen

from tests.agents import Agent, free_port, running_agent, until
from tests.bench.bench_http import probe_health
from tests.bench.load import known_series_load
from tests.bench.report import OURS, Figure, Promise, Row, missing_figure, summarize
from tests.bench.rounds import Effort, interleave, next_line, report_progress
from tests.servers import find

EPISODES = 200
PEER = "Prometheus and Alertmanager"

OUR_RULES = """
[alerting]
group_wait = "0"
group_interval = "0"
[[rule]]
name = "level"
metric = "custom.level.last"
op = ">"
value = 0.5
window = "1m"
per = ["service"]
for = "0"
keep_firing_for = "0"
cooldown = "0"
[receiver.hook]
type = "webhook"
url = "{url}/ours"
rate = "100/s"
"""

DRIVER = """
import kaywatch, sys
for line in sys.stdin:
    kaywatch.gauge("level", float(line))
    print("set", flush=True)
"""

# Each node exceeds its threshold as soon as it runs.
MANY_ALERTS_RULES = """
[alerting]
max_alerts_per_rule = 20000
thresholds = { success_rate_min = false, error_rate_max = false, \
avg_execution_time_max = false, memory_usage_max = false }
[[rule]]
name = "busy"
metric = "executions"
op = ">"
value = 0
window = "1m"
per = ["service", "graph", "node"]
for = "0"
min_executions = 0
"""
ALERTS = 10_000
LOAD_SECONDS = 15
EVALUATIONS = ("rule_evaluations_total", "rule_evaluation_seconds_total")

PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
alerting:
  alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]}}]
scrape_configs:
  - job_name: level
    static_configs: [{{targets: ["127.0.0.1:{gauge}"]}}]
"""
RULES = """
groups: [{name: g, rules: [{alert: level, expr: level > 0.5}]}]
"""
ALERTMANAGER = """
route: {{receiver: hook, group_wait: 1s, group_interval: 1s, repeat_interval: 1h}}
receivers: [{{name: hook, webhook_configs: [{{url: "{url}/theirs"}}]}}]
"""


class GaugeServer:
    """Serves a gauge to scrape, and records when webhook requests arrive."""

    def __init__(self) -> None:
        self.level = 0.0
        self.heard: dict[tuple[str, str], float] = {}
        world = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(f"level {world.level}\n".encode())

            def do_POST(self) -> None:
                now = time.monotonic()
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                world.heard.setdefault((self.path, body["status"]), now)
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def run_peers(folder: Path, world: GaugeServer) -> Iterator[bool]:
    """Run Prometheus and Alertmanager; yield whether they are installed."""
    programs = [find(name) for name in ("prometheus", "prometheus-alertmanager")]
    if None in programs:
        yield False
        return
    ports = {"prometheus": free_port(), "alertmanager": free_port()}
    (folder / "rules.yml").write_text(RULES)
    (folder / "prometheus.yml").write_text(
        PROMETHEUS.format(rules=folder / "rules.yml", gauge=world.port, **ports)
    )
    (folder / "alertmanager.yml").write_text(ALERTMANAGER.format(url=world.url))
    commands = (
        [
            str(programs[0]),
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/tsdb",
            f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
        ],
        [
            str(programs[1]),
            f"--config.file={folder}/alertmanager.yml",
            f"--storage.path={folder}/alertmanager",
            f"--web.listen-address=127.0.0.1:{ports['alertmanager']}",
            "--cluster.listen-address=",
        ],
    )
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        for port in ports.values():
            until(lambda port=port: is_ready(port), "it is ready", 30)
        yield True
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(20)


def is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def measure_episodes(agent: Agent, count: int) -> dict[str, list[float]]:
    """Return the milliseconds from breach to webhook of each episode, by system."""
    result: dict[str, list[float]] = {}
    chance = random.Random(1)
    with (
        tempfile.TemporaryDirectory(prefix="kw-") as name,
        contextlib.closing(GaugeServer()) as world,
        run_peers(Path(name), world) as there,
    ):
        config = Path(name) / "kaywatch.toml"
        config.write_text(OUR_RULES.format(url=world.url))
        agent.stop()
        agent.start("--config", str(config))
        driver = agent.spawn(DRIVER)
        paths = {"/ours": OURS} | ({"/theirs": PEER} if there else {})
        result = {who: [] for who in paths.values()}
        set_level(driver, world, 0.0)
        for episode in range(count):
            report_progress(f"episode {episode + 1} of {count}")
            for level, status in ((1.0, "firing"), (0.0, "resolved")):
                time.sleep(chance.random())
                world.heard.clear()
                started = time.monotonic()
                set_level(driver, world, level)
                expected = {(path, status) for path in paths}
                until(
                    lambda expected=expected: expected <= world.heard.keys(), status, 60
                )
                if level:
                    for path, who in paths.items():
                        took = world.heard[path, status] - started
                        result[who].append(took * 1e3)
        assert driver.stdin is not None
        driver.stdin.close()
        driver.wait(20)
    return result


def set_level(driver: subprocess.Popen[str], world: GaugeServer, level: float) -> None:
    """Set the gauge for both systems at the same moment."""
    assert driver.stdin is not None
    driver.stdin.write(f"{level}\n")
    driver.stdin.flush()
    world.level = level
    next_line(driver, 10)


def measure_firing_alerts(alerts: int, seconds: int) -> dict[str, float]:
    """Measure evaluations while many alerts fire and all series are active.

    Return the average duration of an evaluation, which runs in a thread, and the
    slowest response of the event loop, both in milliseconds.
    """
    with (
        running_agent(fork=False) as agent,
        tempfile.TemporaryDirectory(prefix="kw-") as name,
    ):
        config = Path(name) / "kaywatch.toml"
        config.write_text(MANY_ALERTS_RULES)
        agent.stop()
        agent.start("--config", str(config))
        with known_series_load(agent, alerts) as push:
            until(lambda: count_firing(agent) == alerts, "all alerts fire", 60)
            before = {what: agent_metric(agent, what) for what in EVALUATIONS}
            with probe_health(agent, seconds) as answers:
                push(seconds)
            count, took = (
                agent_metric(agent, what) - before[what] for what in EVALUATIONS
            )
            assert count_firing(agent) == alerts
    return {"evaluation": took / max(count, 1) * 1e3, "longest": answers["longest"]}


def count_firing(agent: Agent) -> float:
    return agent_metric(agent, 'alerts{state="firing"}')


def agent_metric(agent: Agent, name: str) -> float:
    """Return one of the agent's own metrics."""
    with urlopen(f"{agent.url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    (result,) = [line for line in lines if line.startswith(f"kaywatch_{name} ")]
    return float(result.rpartition(" ")[2])


def firing_rows(effort: Effort) -> list[Row]:
    """Return the rows of many firing alerts."""
    alerts = effort.whole(ALERTS, 50)
    what = f"{alerts:,} firing alerts"
    measurements = interleave(
        effort.rounds,
        {
            what: partial(
                measure_firing_alerts,
                alerts,
                effort.of(LOAD_SECONDS, effort.whole(5, 1)),
            )
        },
    )[what]
    return [
        Row(
            f"{what}: one evaluation, in a thread",
            "ms",
            summarize(OURS, [each["evaluation"] for each in measurements]),
        ),
        Row(
            f"{what}: longest stall of the event loop",
            "ms",
            summarize(OURS, [each["longest"] for each in measurements]),
            Promise(50),
        ),
    ]


def percentile(who: str, took: list[float], percent: int) -> Figure:
    """Return a percentile, with the minimum and maximum."""
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return Figure(who, cuts[percent - 1], min(took), max(took), len(took))


def measure(effort: Effort, count: int = EPISODES) -> list[Row]:
    """Return the rows of the latency and of many firing alerts."""
    with running_agent(fork=False) as agent:
        outcome = measure_episodes(agent, effort.of(count, 3))
    others = [who for who in outcome if who != OURS]
    missing = () if others else (missing_figure(PEER, "not installed"),)
    return [
        Row(
            f"time from breach to webhook, p{percent}",
            "ms",
            percentile(OURS, outcome[OURS], percent),
            Promise(3_000) if percent == 99 else None,
            (*(percentile(who, outcome[who], percent) for who in others), *missing),
        )
        for percent in (50, 99)
    ] + firing_rows(effort)
