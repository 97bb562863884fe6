"""The applications of examples/, run by the commands that their page prints."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from tests.agents import DEADLINE, Agent, free_port, new_agent, running_agent, until
from tests.brokers import run_broker
from tests.e2e.app_servers import BIN
from tests.mqtt import is_listening
from tests.servers import require

EXAMPLES = Path(__file__).parents[2] / "examples"
LINES = [
    line
    for block in re.findall(
        r"^```\n(.*?)^```",
        (EXAMPLES / "README.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    for line in block.splitlines()
]


@pytest.fixture
def agent(installed: str) -> Iterator[Agent]:
    with running_agent(installed) as agent:
        yield agent


def start(agent: Agent, file: str, **replacements: str) -> subprocess.Popen[str]:
    """Start the command of the page that has a word, with other values of its own."""
    (line,) = (line for line in LINES if file in shlex.split(line))
    for old, new in replacements.items():
        line = re.sub(rf"(?<!\S){old}([= ])\S+", rf"{old}\g<1>{new}", line)
    words = shlex.split(line)
    environment = dict(
        word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word)
    )
    program, *arguments = words[len(environment) :]
    found = BIN / program
    return agent.start_process(
        *(str(found) if found.exists() else require(program), *arguments),
        environment={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run(agent: Agent, file: str, **replacements: str) -> str:
    """Run a command of the page to its end; return its output."""
    process = start(agent, file, **replacements)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output
    return output


def test_every_example_is_on_the_page() -> None:
    applications = {file.name for file in EXAMPLES.iterdir() if file.is_file()}
    page = (EXAMPLES / "README.md").read_text()
    for name in applications - {"README.md"}:
        assert f"[{name}]({name})" in page or f"`{name}`" in page


def test_a_service_measures_its_streams(agent: Agent) -> None:
    port = free_port()
    server = start(agent, "fastapi_service:app", **{"--port": str(port)})
    url = f"http://127.0.0.1:{port}/answer?question=why"

    def is_listening() -> bool:
        assert server.poll() is None
        try:
            urlopen(f"http://127.0.0.1:{port}/docs", timeout=DEADLINE).close()
        except OSError:
            return False
        return True

    until(is_listening, "the service listens")
    for _ in range(3):
        with urlopen(url, timeout=DEADLINE) as answer:
            assert answer.read() == b"an answer of five words "
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=DEADLINE)

    assert agent.executions() == {"Retrieve": 3, "Answer": 3, "Answer.words": 3}
    # Five words take five times two milliseconds at least; the node does not wait.
    assert agent.node("Answer.words")["min_execution_time"] >= 0.01
    (client,) = agent.clients()
    assert (client["service"], client["state"]) == ("answers", "ended")


def test_a_worker_recycles_its_processes_and_loses_nothing(
    agent: Agent, tmp_path: Path
) -> None:
    socket = tmp_path / "redis.sock"
    agent.start_process(
        *(require("redis-server"), "--port", "0", "--unixsocket", str(socket)),
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    until(socket.exists, "Redis listens")
    broker = f"redis+socket://{socket}"
    worker = start(agent, "worker", BROKER=broker)

    run(agent, "celery_worker.py", BROKER=broker)
    until(lambda: agent.executions().get("Summarize") == 20, "all tasks are counted")
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=DEADLINE)

    assert agent.executions() == {"Summarize": 20}
    states = {client["state"] for client in agent.clients()}
    assert states == {"ended"}
    total = agent.get("/api/v1/completeness")["total"]
    assert total["ratio"] == 1


def test_a_batch_job_is_counted_when_it_has_ended(agent: Agent) -> None:
    output = run(agent, "nightly_batch.py")

    unclassified = int(output.split(", ")[1].split()[0])
    assert output.startswith("200 documents, ")
    assert agent.executions() == {"Read": 1, "Classify": 1, "Store": 1}
    classify = agent.node("Classify")
    assert classify["total_retries"] > 0
    custom = {metric["name"]: metric for metric in classify["custom"]}
    assert custom["document_length"]["count"] >= 200
    assert custom.get("unclassified", {"sum": 0})["sum"] == unclassified


def test_an_agent_s_loops_and_cost_are_shown(agent: Agent) -> None:
    run(agent, "tool_agent.py")

    graph = agent.get("/api/v1/graphs/ToolAgent/stats")
    assert graph["total_executions"] == 20
    visits = agent.executions()
    assert visits["Answer"] == 20
    assert visits["Decide"] == 20 + visits["Search"] + visits["Calculate"]
    assert graph["transition_counts"]["Decide->search"] == visits["Search"]


def test_a_shell_script_reports_its_time(installed: str, tmp_path: Path) -> None:
    require("mosquitto_pub")
    with run_broker() as broker, new_agent(installed) as agent:
        port = str(broker.access().port)
        config = tmp_path / "kaywatch.toml"
        config.write_text(
            f'[[ingest.mqtt]]\nurl = "mqtt://127.0.0.1:{port}/kaywatch"\n'
        )
        agent.start("--config", str(config))
        until(lambda: is_listening(agent), "it reads from the broker")

        run(agent, "backup.sh", BROKER_PORT=port)

        until(lambda: agent.executions() == {"backup": 1}, "the backup is counted")
        assert agent.node("backup")["success_rate"] == 1
