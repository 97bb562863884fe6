"""The commands and the code of the README and the docs, run as they are printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from tests import forks
from tests.agents import (
    DEADLINE,
    Agent,
    free_port,
    kill_at_end,
    running_agent,
    until,
)
from tests.docs.test_help import examples, show_help

from kaywatch.errors import QueryError
from kaywatch.query import fetch
from kaywatch_agent.cli.main import kaywatch

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = (ROOT / "docs" / "commands.md").read_text()
PYTHON = (ROOT / "docs" / "python.md").read_text()
HTTP = (ROOT / "docs" / "http.md").read_text()
CURLS = re.findall(r"^\$ (curl .*)$", HTTP, re.MULTILINE)
SNIPPETS = re.findall(
    r"^```python\n(.*?)^```", README + PYTHON, re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def busy(installed: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent to which the demo's application pushes."""
    counts = tmp_path_factory.mktemp("counts") / "counts.json"
    with running_agent(installed) as agent:
        agent.start_process(
            installed, "-m", "kaywatch_agent.cli.demo.workload", f"--counts={counts}"
        )
        until(lambda: agent.executions().get("Refund", 0) > 5, "the demo runs")
        yield agent


def test_every_kind_of_response_has_an_example() -> None:
    assert len(CURLS) >= 10
    assert len(SNIPPETS) == 3


def test_the_readme_s_first_alert_works_as_printed(
    installed: str, tmp_path: Path
) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "kaywatch.toml").write_text(example)
    secret = tmp_path / "slack-url"
    secret.touch(0o600)
    secret.write_text("https://hooks.slack.com/services/T0/B0/x" + 20 * "y")

    checked = subprocess.run(
        [installed, "-m", "kaywatch_agent", "check", "--config", "kaywatch.toml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "warning" not in checked.stdout + checked.stderr


@pytest.mark.parametrize("command", CURLS)
def test_a_curl_works_as_printed(busy: Agent, command: str) -> None:
    here = command.replace("http://127.0.0.1:9477", busy.url)
    assert here != command
    done = subprocess.run(
        [*shlex.split(here), "--fail", "--max-time", "20"],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout
    if not re.search("/metrics|/live|/events", command):
        assert "error" not in json.loads(done.stdout)


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_snippet_runs(busy: Agent, code: str) -> None:
    busy.run(code)


def test_every_command_is_documented_with_its_options() -> None:
    listed = re.findall(
        r"^\| `kaywatch (\w+)[^`]*` \| (.*) \|$", COMMANDS, re.MULTILINE
    )

    context = click.Context(kaywatch)
    assert {name for name, _ in listed} == set(kaywatch.list_commands(context))
    for name, text in listed:
        command = kaywatch.get_command(context, name)
        assert command is not None
        known = {option for each in command.params for option in each.opts}
        assert set(re.findall(r"`(--[a-z-]+)", text)) <= known


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["status"], "Nodes, last 5 minutes"),
        (["status", "--json"], '"clients"'),
        (["stats", "Draft"], "success rate"),
        (["stats", "Draft"], "%, exec "),
        (["stats", "Draft", "--window", "5m", "--json"], '"total_executions"'),
        (["stats", "Triage", "--graph", "SupportDesk"], "question"),
        (["top", "--once"], "Refund"),
        (["top"], "Nodes, last 5m"),
        (["tail", "--node", "Triage", "--limit", "1"], " Triage "),
        (["tail", "--limit", "1", "--json"], '"event": "execution"'),
        (["check"], "valid"),
        (["--help"], "serve"),
        (["--version"], "kaywatch, version"),
    ],
)
def test_a_command_prints_its_documented_output(
    busy: Agent, arguments: list[str], shown: str
) -> None:
    env = {**busy.environment, "COLUMNS": "80"}
    done = forks.run(busy.python, *arguments, env=env)

    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    if "--json" not in arguments and "tail" not in arguments:
        assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["stats", "Draf"], 1, "did you mean 'Draft'"),
        (["stats", "Draft", "--window", "5x"], 2, 'invalid duration "5x"'),
        (["stats", "Draft", "--url", "http://127.0.0.1:1"], 1, "kaywatch serve"),
        (["stats", "Draft", "--url", "nowhere"], 1, "KAYWATCH_URL"),
        (["stats", "Draft", "--url", "http://127.0.0.1:99999"], 1, "KAYWATCH_URL"),
        (["tail", "--url", "http://[::1"], 1, "KAYWATCH_URL"),
        (["silence", "expire", "x"], 1, "kaywatch: unknown silence 'x'"),
        (["stats"], 2, "NAME"),
        (["sats"], 2, "sats"),
        (["serve", "--http", "here"], 2, "host:port"),
        (["check", "--config", "/nonexistent.toml"], 78, "/nonexistent.toml"),
        (["serve", "--config", "/nonexistent.toml"], 78, "/nonexistent.toml"),
        (
            ["serve", "--http", "127.0.0.1:0", "--store", ":memory:"]
            + ["--socket", "/tmp/" + "x" * 120],
            1,
            "at most 107",
        ),
    ],
)
def test_a_users_mistake_gets_one_clear_line(
    busy: Agent, arguments: list[str], code: int, message: str
) -> None:
    done = forks.run(busy.python, *arguments, env=busy.environment)

    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_ends_by_itself_with_equal_figures(installed: str) -> None:
    done = subprocess.run(
        [installed, "-m", "kaywatch_agent", "demo", "--seconds", "3"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "figures are equal" in done.stdout
    assert "DIFFERENT" not in done.stdout


def test_the_demo_chooses_a_free_port_instead_of_port_0(installed: str) -> None:
    done = run_briefly(installed, "127.0.0.1:0")

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r"http://127\.0\.0\.1:[1-9]\d+/ shows ", done.stdout)


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        ("here", 2, "expected HOST:PORT"),
        ("unix:/tmp/demo.sock", 2, "expected HOST:PORT"),
        ("127.0.0.1:{port}", 1, "address already in use; choose another address"),
        ("0.0.0.0:{port}", 1, "other hosts can reach 0.0.0.0"),
        ("invalid.invalid:0", 1, "cannot listen on invalid.invalid"),
    ],
)
def test_the_demo_says_why_it_cannot_use_an_address(
    installed: str, address: str, code: int, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_briefly(installed, address.format(port=port))

    assert done.returncode == code, done.stdout + done.stderr
    assert message in done.stderr


def run_briefly(python: str, address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "kaywatch_agent", "demo", "--seconds", "1", "--http", address],
        capture_output=True,
        text=True,
        timeout=60,
    )


# Commands whose `--help` examples all work while `make demo` is running.
SHOWN_BY_DEMO = (
    *("status", "top", "tail", "stats", "alerts", "why", "silence add"),
    *("silence list", "silence expire", "notify list", "notify test", "outbox list"),
    *("outbox retry", "outbox purge", "capture", "replay"),
)


@pytest.mark.timeout(300)
def test_every_example_works_beside_the_demo(installed: str, tmp_path: Path) -> None:
    with run_demo(installed) as url:
        for command in SHOWN_BY_DEMO:
            lines = examples(show_help(tuple(command.split())))
            pattern = rf"^(?:\| `|\$ )?(kaywatch {command}\b[^`#\n]*)"
            lines += re.findall(pattern, README + COMMANDS, re.MULTILINE)
            # Many commands are in both places.
            for example in dict.fromkeys(
                line.partition(" | ")[0].strip() for line in lines
            ):
                # Placeholders for the reader's own address or file cannot be run.
                if not re.search("--url|--socket|FILE", example):
                    run_example(example, installed, url, tmp_path)


def run_example(example: str, python: str, url: str, folder: Path) -> None:
    """Run a command as printed; one that does not end gets Ctrl-C after its output."""
    words = shlex.split(example)[1:]
    out, err = folder / "out", folder / "err"
    result, least = out, 1
    if words[0] == "capture":
        result, least = folder / words[1], 1_000
        result.unlink(missing_ok=True)
    with out.open("w") as stdout, err.open("w") as stderr:
        process = forks.start(
            *(python, *words),
            env={**os.environ, "KAYWATCH_URL": url},
            cwd=folder,
            stdout=stdout.fileno(),
            stderr=stderr.fileno(),
        )
        if words[0] in ("tail", "capture") and "--limit" not in words:
            until(
                lambda: process.poll() is not None or size(result) >= least,
                f"{example} has output",
            )
            process.send_signal(signal.SIGINT)
        code = process.wait(DEADLINE)
    assert code == 0, (example, out.read_text(), err.read_text())
    assert size(out) and not re.search("Traceback|Error: ", err.read_text()), example


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@contextmanager
def run_demo(python: str) -> Iterator[str]:
    """Start `kaywatch demo`; yield its URL once its alerts fire."""
    address = f"127.0.0.1:{free_port()}"
    url = f"http://{address}"
    demo = subprocess.Popen(
        [python, "-m", "kaywatch_agent", "demo", "--http", address],
        stdout=subprocess.DEVNULL,
    )

    def alerts() -> dict[str, str]:
        try:
            rows = fetch("/api/v1/alerts", url=url)["alerts"]
        except QueryError:
            return {}
        return {row["rule"]: row["state"] for row in rows}

    with kill_at_end(demo):
        try:
            until(lambda: alerts().get("Draft-is-slow") == "firing", "Draft is slow")
            until(lambda: "success_rate_min" in alerts(), "refunds fail")
            yield url
        finally:
            # The demo ends its own processes.
            demo.terminate()
            demo.wait(DEADLINE)


def test_stats_are_read_back_by_the_process_that_recorded(busy: Agent) -> None:
    printed = busy.run(
        "import kaywatch, json\n"
        "with kaywatch.execution('mine', 'own'): pass\n"
        "print(json.dumps([kaywatch.stats('own'), kaywatch.stats(graph='SupportDesk'),"
        " kaywatch.stats()]))"
    )

    own, graph, export = json.loads(printed)
    assert own["total_executions"] == 1
    assert graph["transition_counts"]["Triage->question"] > 0
    assert set(export) == {"timestamp", "nodes", "graphs"}
