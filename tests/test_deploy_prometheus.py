"""deploy/prometheus: valid for promtool, and working in a real Prometheus."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.agents import Agent, until
from tests.conftest import ROOT
from tests.metrics import declared_metrics
from tests.prometheus import NATIVE, Prometheus
from tests.servers import require

FOLDER = ROOT / "deploy" / "prometheus"


def test_promtool_finds_no_fault() -> None:
    for command in (
        ("check", "config", str(FOLDER / "prometheus.yml")),
        ("check", "rules", "--lint-fatal", str(FOLDER / "rules.yml")),
    ):
        done = subprocess.run(
            [require("promtool"), *command], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_the_rules_exists() -> None:
    names = set(re.findall(r"\bkaywatch_\w+", (FOLDER / "rules.yml").read_text()))
    ours = {*declared_metrics(), "kaywatch_series_dropped_total"}
    assert names and names <= ours


def test_prometheus_scrapes_an_agent_with_it(agent: Agent, tmp_path: Path) -> None:
    server = Prometheus(tmp_path, (), NATIVE)
    shutil.copy(FOLDER / "rules.yml", tmp_path)
    text = (FOLDER / "prometheus.yml").read_text()
    assert text.count("127.0.0.1:9477") == 1
    assert text.count("15s") == 2
    target = agent.url.removeprefix("http://")
    text = text.replace("127.0.0.1:9477", target).replace("15s", "1s")
    (tmp_path / "prometheus.yml").write_text(text)
    try:
        server.start()
        until(lambda: server.value('up{job="kaywatch"}') == 1, "a scrape")
        groups = until(lambda: server.ask("rules")["groups"], "the rules")
        rules = [rule for group in groups for rule in group["rules"]]
        until(
            lambda: all(
                rule["health"] == "ok"
                for group in server.ask("rules")["groups"]
                for rule in group["rules"]
            ),
            "each rule is evaluated",
        )
        assert len(rules) == 5
        assert server.ask("alerts")["alerts"] == []
    finally:
        server.kill()
