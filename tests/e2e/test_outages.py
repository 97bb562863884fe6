"""A client whose agent is absent for long, is replaced, or cannot be reached."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from tests import forks
from tests.agents import DEADLINE, Agent, running_agent, until

from kaywatch import wire

RECORD = """
import json, kaywatch, sys
def record(node, times, action="next"):
    for _ in range(times):
        with kaywatch.execution("g", node) as one:
            one.action = action
"""


@pytest.fixture
def agent(installed: str) -> Iterator[Agent]:
    with running_agent(installed) as result:
        yield result


def test_an_outage_beyond_the_buffer_drops_the_oldest_and_counts_them(
    agent: Agent,
) -> None:
    # An hour at 1,000 events per second against 32 MB, both scaled to a thirtieth.
    hours = """
kaywatch.configure(buffer_bytes=1_000_000)
for minute in range(60):
    record(f"minute{minute:02}", 2_000)
    kaywatch.flush(0)
print(json.dumps(kaywatch.client_stats()), flush=True)
sys.stdin.readline()
assert kaywatch.flush(10)
print(json.dumps(kaywatch.client_stats()), flush=True)
"""
    agent.stop()
    child = agent.spawn(RECORD + hours)
    assert child.stdout is not None and child.stdin is not None
    away = json.loads(child.stdout.readline())
    agent.start()
    child.stdin.write("\n")
    child.stdin.close()
    after = json.loads(child.stdout.readline())
    assert child.wait(DEADLINE) == 0

    assert away["buffer_bytes"] <= 1_000_000
    assert after["recorded"] == 120_000
    dropped = after["dropped"]["buffer_full"]
    assert 0 < dropped < 120_000
    counts = agent.executions()
    assert sum(counts.values()) + dropped == 120_000
    # The oldest batches are dropped as a whole, so at most one minute is incomplete.
    minutes = [counts.get(f"minute{n:02}", 0) for n in range(60)]
    assert minutes == sorted(minutes)
    assert minutes[-1] == 2_000
    (client,) = agent.clients()
    assert client["dropped"] == {"buffer_full": dropped}
    assert client["missing_batches"] == 0
    export = agent.get("/api/v1/nodes", window="1h")["nodes"]
    (completeness,) = {node["completeness"] for node in export}
    assert completeness == pytest.approx(1 - dropped / 120_000)


class Stranger:
    """An agent of a future version, which answers every message with an error."""

    def __init__(self, path: str) -> None:
        self.greeted = 0
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._path = path
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        answer = wire.error(wire.ErrorCode.UNSUPPORTED_VERSION, "I speak 2", None)
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection:
                    size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
                    hello = msgpack.unpackb(connection.recv(size, socket.MSG_WAITALL))
                    assert hello["type"] == "hello"
                    connection.sendall(wire.frame(answer))
                    self.greeted += 1
                    connection.recv(1)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        Path(self._path).unlink()
        self._thread.join(DEADLINE)


def test_an_agent_of_another_version_and_then_one_of_ours(agent: Agent) -> None:
    agent.stop()
    stranger = Stranger(agent.socket)
    child = agent.spawn(
        RECORD
        + """
record("before", 1000)
print("recorded", flush=True)
sys.stdin.readline()
record("after", 10)
sys.stdin.readline()
"""
    )
    assert child.stdout is not None and child.stdin is not None
    assert child.stdout.readline() == "recorded\n"
    until(lambda: stranger.greeted, "the client has met the stranger")
    stranger.close()
    agent.start()
    child.stdin.write("\n")
    child.stdin.flush()
    expected = {"before": 1000, "after": 10}
    until(lambda: agent.executions() == expected, "the client looks again")
    child.stdin.close()

    assert child.wait(DEADLINE) == 0


def test_an_overlong_socket_path_is_reported_and_harmless(
    agent: Agent, tmp_path: Path
) -> None:
    path = tmp_path / ("x" * 120) / "ingest.sock"
    output = agent.run(
        "import logging, sys; logging.basicConfig(stream=sys.stdout)\n"
        + RECORD
        + "record('pay', 10); kaywatch.flush(0.1); print('done')",
        KAYWATCH_ENDPOINT=f"unix://{path}",
    )

    assert "at most 107" in output
    assert output.endswith("done\n")


def test_a_file_where_the_socket_was_meant_to_be_is_left_alone(
    installed: str, tmp_path: Path
) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    done = forks.run(
        *(installed, "serve", "--socket", str(path)),
        *("--http", "127.0.0.1:0", "--store", ":memory:"),
    )

    assert done.returncode == 1
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_text() == "data"
