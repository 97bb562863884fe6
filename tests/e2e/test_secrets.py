"""Planted secrets are not found in responses, logs, the store or /proc."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests import forks
from tests.agents import Agent, free_port, until
from tests.certificates import certificate
from tests.servers import require

from kaywatch_agent.web.routes import ENDPOINTS

READ = "planted-read-token-0123456789"
ADMIN = "planted-admin-token-0123456789"
WEBHOOK = "planted-webhook-path"
SIGNING = "planted-signing-secret"
PASSWORD = "planted-password"
PAYLOAD = "planted-customer-payload"
KEY = "sk-planted0123456789abcdef"
PLANTED = (READ, ADMIN, WEBHOOK, SIGNING, PASSWORD, PAYLOAD, KEY)

APPLICATION = f"""
import kaywatch, sys
from pocketflow import Flow, Node

kaywatch.instrument(data_sizes=True)

class Pay(Node):
    def prep(self, shared):
        return shared["card"]
    def exec(self, card):
        raise ValueError(
            "no route to https://shop:{PASSWORD}@bank/?key={KEY} token={KEY}"
        )
    def exec_fallback(self, prep_res, exc):
        raise exc

for _ in range(30):
    try:
        Flow(start=Pay(max_retries=1)).run({{"card": "{PAYLOAD}"}})
    except ValueError:
        pass
assert kaywatch.flush(10)
"""


@pytest.fixture
def guarded(
    installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Agent]:
    """An agent with every kind of secret, in files and in its environment."""
    made = certificate(tmp_path)
    for name, value in (("read", READ), ("admin", ADMIN), ("sign", SIGNING)):
        (tmp_path / name).write_text(value + "\n")
        (tmp_path / name).chmod(0o600)
    hook = f"http://127.0.0.1:{free_port()}/{WEBHOOK}"
    config = tmp_path / "kaywatch.toml"
    config.write_text(
        f"""
[http]
read_tokens_file = "{tmp_path}/read"
admin_tokens_file = "{tmp_path}/admin"
tls_certificate_file = "{made.certificate}"
tls_key_file = "{made.key}"
[failures]
detail = "traceback"
[[rule]]
name = "fails"
metric = "error_rate"
op = ">"
value = 0.1
for = "0"
min_executions = 1
[receiver.hook]
type = "webhook"
url_env = "PLANTED_WEBHOOK"
secret_file = "{tmp_path}/sign"
signature = "github"
"""
    )
    monkeypatch.setenv("PLANTED_WEBHOOK", hook)
    monkeypatch.setenv("KAYWATCH_TOKEN_FILE", str(tmp_path / "admin"))
    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        agent = Agent(Path(folder), installed)
        try:
            yield agent.start("--config", str(config))
        finally:
            agent.close()


def fetch(agent: Agent, path: str, token: str = READ, method: str = "GET") -> bytes:
    """Return a response with its head and its body."""
    done = subprocess.run(
        [
            *(
                require("curl"),
                "--silent",
                "--include",
                "--max-time",
                "20",
                "-X",
                method,
            ),
            *("--cacert", os.environ["SSL_CERT_FILE"], "--config", "-", "--"),
            f"{agent.url}{path}",
        ],
        # Not on the command line, which every user can read.
        input=f'header = "Authorization: Bearer {token}"\n'
        'header = "Content-Type: application/json"\n',
        text=True,
        capture_output=True,
    )
    return done.stdout.encode()


def find_secrets(data: bytes | str) -> list[str]:
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    return [secret for secret in PLANTED if secret in text]


def test_planted_secrets_are_found_nowhere(guarded: Agent, tmp_path: Path) -> None:
    agent = guarded
    agent.run(APPLICATION, KAYWATCH_FAILURES="traceback")
    until(
        lambda: agent.get("/api/v1/alerts", state="firing")["matching"],
        "an alert about the failures",
    )
    until(
        lambda: agent.get("/api/v1/notifications")["notifications"],
        "a message about it",
    )
    (client, *_) = agent.clients()
    (alert, *_) = agent.get("/api/v1/alerts")["alerts"]
    names = {
        "node": "Pay",
        "graph": quote(agent.get("/api/v1/graphs")["graphs"][0]["graph"], safe=""),
        "id": alert["id"],
        "rule": alert["rule"],
        "receiver": "hook",
        "name": "main.js",
    }
    queries = {
        "/api/v1/query": "?metric=executions",
        "/api/v1/live": "?limit=1",
        "/api/v1/events": None,
    }
    answers: dict[str, bytes] = {}
    for route in ENDPOINTS:
        query = queries.get(route.path, "")
        if query is None:
            continue
        path = route.path.format_map(names) + query
        for token in (ADMIN, READ, "planted-read-token-that-is-wrong"):
            answer = fetch(agent, path, token, route.method)
            assert answer.startswith(b"HTTP/1.1 "), (path, answer)
            answers[f"{route.method} {path} {token}"] = answer
    assert {
        key: find_secrets(data) for key, data in answers.items() if find_secrets(data)
    } == {}
    failures = agent.get("/api/v1/failures")["failures"]
    assert failures[0]["message"].startswith(
        "no route to https://shop:[redacted]@bank/"
    )
    assert failures[0]["traceback"].endswith("in exec")

    for command in (["status"], ["stats", "Pay"], ["status", "--json"]):
        assert find_secrets(agent.command(*command)) == []
    # A valid reload, and an invalid one with a secret as the value of another key.
    assert agent.process is not None
    config = tmp_path / "kaywatch.toml"
    text = config.read_text()
    config.write_text(text + f'[receiver.two]\ntype = "webhook"\nurl = ["{WEBHOOK}"]\n')
    agent.process.send_signal(signal.SIGHUP)
    until(
        lambda: [m for m in agent.log if "not reloaded" in m["event"]],
        "the mistake is reported",
    )
    (tmp_path / "read").write_text(f"{READ} with words\n")
    until(
        lambda: (
            fetch(agent, "/health")
            and fetch(agent, "/api/v1/nodes")
            and [m for m in agent.log if m["event"] == "tokens not reloaded"]
        ),
        "the invalid token is reported",
    )
    assert find_secrets(json.dumps(agent.log)) == []

    process = agent.process.pid
    assert find_secrets(Path(f"/proc/{process}/cmdline").read_bytes()) == []
    # The store contains redacted messages only.
    agent.stop()
    for file in agent.folder.iterdir():
        with contextlib.suppress(OSError):
            assert find_secrets(file.read_bytes()) == [], file
    assert client["state"]


def test_a_wrong_configuration_does_not_quote_its_secrets(
    installed: str, tmp_path: Path
) -> None:
    config = tmp_path / "kaywatch.toml"
    cases: list[tuple[str, Any]] = [
        (f'[receiver.x]\ntype = "slack"\nwebhook_url = 5\nbot_token = "{WEBHOOK}"', 78),
        (f'[receiver.x]\ntype = "webhook"\nurl = "{WEBHOOK}"\nsecret = ["x"]', 78),
        (f'[receiver.x]\ntype = "webhook"\nurls = "http://h/{WEBHOOK}"', 78),
        (f'[http]\nread_tokens_file = "{tmp_path}/t"', 78),
    ]
    (tmp_path / "t").write_text(f"{READ} and more\n")
    for text, code in cases:
        config.write_text(text)
        done = forks.run(installed, "check", "--config", str(config))
        assert done.returncode == code, (text, done.stderr)
        assert find_secrets(done.stdout + done.stderr) == [], done.stderr
