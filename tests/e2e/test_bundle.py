"""`kaywatch bundle`: one file for support, which has no secrets."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path

from tests.agents import Agent, until

SECRETS = {
    "path": "planted-webhook-path",
    "signing": "planted-signing-secret",
    "routing": "0123456789abcdef0123456789abcdef",
    "password": "planted-password",
    "header": "planted-header-value",
    "message": "sk-planted0123456789abcdef",
    "comment": "planted-in-a-comment",
}
CONFIG = """
# {comment}
[receiver.hook]
type = "webhook"
url = "https://shop:{password}@127.0.0.1:9/{path}?key={path}"
signature = "github"
secret = "{signing}"
headers = {{ Authorization = "Basic {header}", "X-Api" = "{header}" }}
[receiver.pager]
type = "pagerduty"
routing_key = "{routing}"
[receiver.other]
type = "webhook"
url_file = "https://127.0.0.1:9/{path}"
[[ingest.mqtt]]
url = "mqtt://127.0.0.1:9/kaywatch"
username = "agent"
password = "{password}"
"""
FAIL = """
import kaywatch
for _ in range(3):
    try:
        with kaywatch.execution("shop", "pay"):
            raise ValueError("no answer: api_key={message}")
    except ValueError:
        pass
"""


def read(file: Path) -> dict[str, str]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_a_bundle_has_the_state_and_no_secrets(
    stopped_agent: Agent, tmp_path: Path
) -> None:
    config = tmp_path / "kaywatch.toml"
    config.write_text(CONFIG.format(**SECRETS))
    agent = stopped_agent.start("--config", str(config))
    agent.run(FAIL.format(**SECRETS))
    until(lambda: agent.executions() == {"pay": 3}, "the failures are counted")
    file = tmp_path / "bundle.zip"

    output = agent.command("bundle", "--config", str(config), "-o", str(file))

    assert output.rstrip().endswith(str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    files = read(file)
    for name, secret in SECRETS.items():
        for part, text in files.items():
            assert secret not in text, (name, part)
    # What is needed to find a mistake is there.
    tables = json.loads(files["configuration.json"])
    assert tables["receiver"]["hook"]["url"] == "https://127.0.0.1:9/[redacted]"
    assert tables["ingest"]["mqtt"][0]["username"] == "agent"
    assert "kaygraph_node_executions_total{" in files["metrics.txt"]
    assert json.loads(files["clients.json"])["clients"]
    assert json.loads(files["versions.json"])["packages"]["aiohttp"]
    assert {row["section"] for row in json.loads(files["doctor.json"])} > {"agent"}


def test_a_bundle_needs_no_agent_and_names_what_is_missing(
    stopped_agent: Agent, tmp_path: Path
) -> None:
    broken = tmp_path / "kaywatch.toml"
    broken.write_text('[http]\nlisten = "planted\n')
    file = tmp_path / "bundle.zip"

    output = stopped_agent.command(
        *("bundle", "--config", str(broken), "-o", str(file)),
        *("--url", "http://127.0.0.1:9"),
    )

    files = read(file)
    assert "doctor.json" in files
    assert "no agent answers" in files["health.json.missing.txt"]
    assert "without health.json" in output
    assert files["configuration.json.missing.txt"].startswith(str(broken))


def test_a_bundle_overwrites_nothing(stopped_agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "bundle.zip"
    file.write_text("mine")

    error = stopped_agent.command(
        *("bundle", "-o", str(file), "--url", "http://127.0.0.1:9"), code=1
    )

    assert "choose another file with --output" in error
    assert file.read_text() == "mine"
