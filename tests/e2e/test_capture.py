"""`kaywatch capture` and `kaywatch replay`: real agents, real clients, real files."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import forks
from tests.agent.protocol.samples import batch, executions, hello, rows
from tests.agents import DEADLINE, Agent, kill, running_agent, until

from kaywatch import wire
from kaywatch_agent.capture.file import (
    CaptureHeader,
    CaptureReader,
    CaptureRecord,
    CaptureWriter,
)

APPLICATION = """
import sys, time
import kaywatch
from pocketflow import Flow, Node

class Load(Node):
    def post(self, shared, prep, result):
        shared["n"] += 1
        return "more" if shared["n"] < 4 else "done"

class Pay(Node):
    def exec(self, _):
        if seed[0] % 3 == 0:
            raise ValueError("card of jane@example.com")
        if seed[0] % 3 == 1 and self.cur_retry == 0:
            raise TimeoutError
    def exec_fallback(self, _, error):
        if seed[0] % 5 == 0:
            raise error
        return "later"
    def post(self, shared, prep, result):
        return result or "paid"

seed = [int(sys.argv[1])]
kaywatch.instrument()
load, pay = Load(), Pay(max_retries=2)
load - "more" >> load
load - "done" >> pay
flow = Flow(start=load)
for n in range(40):
    seed[0] += 1
    try:
        flow.run({"n": 0})
    except ValueError:
        pass
    kaywatch.observe("size", n, kind="a b")
    time.sleep(0.01)
    if n == 20:
        kaywatch.flush(5)
assert kaywatch.flush(5)
"""


def run_command(agent: Agent, *arguments: object, code: int = 0) -> str:
    """Run a kaywatch command for an agent; return its output."""
    done = forks.run(agent.python, *map(str, arguments), env=agent.environment)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout if not code else done.stderr


def start_capture(agent: Agent, path: Path, *options: str) -> subprocess.Popen[str]:
    """Start a capture, and wait until it is recording."""
    process = agent.start_process(
        *(agent.python, "-m", "kaywatch_agent", "capture", str(path), *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(
        lambda: (path.exists() and path.stat().st_size) or process.poll() is not None,
        "the capture began",
    )
    return process


def end_capture(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """End a capture; return its summary."""
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (0, "")
    return out


def ends_connection(path: Path) -> bool:
    """Return whether a capture has all messages of a connection, and its end."""
    reader = CaptureReader(path)
    try:
        return any(record.message is None for record in reader)
    finally:
        reader.close()


def comparable_figures(agent: Agent) -> dict[str, Any]:
    """Return the export, without figures that differ between two runs."""
    export = agent.get("/api/v1/export")
    for kind in ("nodes", "graphs"):
        for result in export[kind].values():
            for key in list(result):
                if "time" in key or "memory" in key or key == "last_execution":
                    del result[key]
    del export["timestamp"]
    failures = agent.get("/api/v1/failures", limit="1000")["failures"]
    seen = sorted((f["node"], f["type"], f["message"], f["phase"]) for f in failures)
    return {**export, "failures": seen}


@pytest.fixture
def other(installed: str) -> Iterator[Agent]:
    """A second agent, to replay into."""
    with running_agent(installed) as agent:
        yield agent


@pytest.fixture
def captured(tmp_path: Path) -> Path:
    """A hand-written capture of 200 connections, each with a batch per second."""
    path = tmp_path / "many.kwcap"
    writer = CaptureWriter(path, CaptureHeader(1, 1_700_000_000.0, "0.1.0"))
    for second in range(3):
        for n in range(200):
            at, client = 1_700_000_000.0 + second + n / 200, n.to_bytes(16, "big")
            if not second:
                writer.add(
                    CaptureRecord(at, n, hello(client=client, service=f"s{n % 4}"))
                )
            message = batch(
                client=client,
                seq=second + 1,
                service=f"s{n % 4}",
                recorded=5 * (second + 1),
                sent=at,
                executions=executions(5, end=[at] * 5),
            )
            writer.add(CaptureRecord(at, n, message))
            if second == 2 and n % 2:
                writer.add(CaptureRecord(at, n, wire.bye(client, 3)))
                writer.add(CaptureRecord(at, n, None))
    writer.finish(1_700_000_003.0, 0)
    writer.close()
    return path


def test_a_replay_gives_the_figures_that_were_captured(
    agent: Agent, other: Agent, tmp_path: Path
) -> None:
    # Files without compression: tests/agent/capture/test_file.py, and others below.
    path = tmp_path / "work.kwcap.gz"
    capture = start_capture(agent, path)
    workers = [agent.spawn(APPLICATION, str(n)) for n in range(3)]
    assert [worker.wait(DEADLINE) for worker in workers] == [0, 0, 0]
    until(
        lambda: [c["state"] for c in agent.clients()] == ["ended"] * 3,
        "all have output goodbye",
    )
    output = end_capture(capture)
    events = sum(client["events"] for client in agent.clients())
    assert f" {events:,} events, " in output and "missed" not in output

    assert " acknowledged" in run_command(other, "replay", path, "--speed", "10")
    replayed = comparable_figures(other)
    assert replayed == comparable_figures(agent)
    assert set(replayed["nodes"]) == {"Load", "Pay"}
    assert replayed["nodes"]["Pay"]["outcomes"]["fallback"] > 0
    clients = other.clients()
    assert [c["state"] for c in clients] == ["ended"] * 3
    assert [c["completeness"] for c in clients] == [1.0] * 3
    assert {c["client"] for c in clients}.isdisjoint(
        c["client"] for c in agent.clients()
    )

    # A second replay counts again.
    before = other.executions()
    document = json.loads(
        run_command(other, "replay", path, "--speed", "max", "--json")
    )
    assert document["acknowledged"] == document["events"] == events
    assert other.executions() == {node: 2 * n for node, n in before.items()}
    # All replayed events have present times.
    recent = other.get("/api/v1/nodes", window="5m")["nodes"]
    assert {node["node"]: node["total_executions"] for node in recent} == (
        other.executions()
    )


def test_a_capture_of_hundreds_of_connections_is_replayed_over_as_many(
    agent: Agent, captured: Path
) -> None:
    document = json.loads(
        run_command(agent, "replay", captured, "--speed", "0", "--json")
    )
    assert document["connections"] == document["clients"] == 200
    assert document["events"] == document["acknowledged"] == 3_000
    assert document["messages"] == 900
    assert sum(agent.executions().values()) == 3_000
    clients = agent.clients()
    until(
        lambda: {c["state"] for c in agent.clients()} == {"ended"},
        "clients connected at the end of the capture did not die",
    )
    assert {c["completeness"] for c in clients} == {1.0}


def test_keep_times_leaves_the_captured_times(agent: Agent, captured: Path) -> None:
    run_command(agent, "replay", captured, "--speed", "max", "--keep-times")
    nodes = agent.get("/api/v1/nodes")["nodes"]
    latest = max(node["last_execution"] for node in nodes)
    assert latest == pytest.approx(1_700_000_003.0, abs=0.01)


def test_rows_without_a_number_are_counted_each_time(
    agent: Agent, tmp_path: Path
) -> None:
    path = tmp_path / "rows"
    writer = CaptureWriter(path, CaptureHeader(1, 1_700_000_000.0))
    row = {"graph": "g", "node": "backup", "seconds": 3}
    for n in range(4):
        writer.add(CaptureRecord(1_700_000_000.0, n // 2, rows(row, service="cron")))
    writer.close()
    for total in (4, 8):
        output = run_command(agent, "replay", path)
        assert "the capture is incomplete: the file was cut off" in output
        assert agent.executions() == {"backup": total}


def test_a_reconnected_client_keeps_its_order(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "back"
    writer = CaptureWriter(path, CaptureHeader(1, 1_700_000_000.0))
    for seq in range(1, 101):
        message = batch(seq=seq, recorded=seq, executions=executions(1))
        writer.add(CaptureRecord(1_700_000_000.0, seq // 2, message))
    writer.finish(1_700_000_001.0, 0)
    writer.close()
    run_command(agent, "replay", path, "--speed", "max")
    (client,) = agent.clients()
    assert (client["events"], client["duplicates"]) == (100, 0)


def test_info_needs_no_agent(agent: Agent, captured: Path) -> None:
    agent.stop()
    output = run_command(agent, "replay", "--info", captured)
    assert "captured by kaywatch 0.1.0" in output
    assert "from 2023-11-14 22:13:20 UTC, for 2.99s" in output
    assert "200 connections; messages: hello 200, batch 600, bye 100" in output
    (line,) = (line for line in output.splitlines() if line.startswith("s1 "))
    assert line.split() == ["s1", "50", "150", "750", "0", "0", "0"]
    document = json.loads(run_command(agent, "replay", "--info", "--json", captured))
    assert document["ended"] - document["started"] == pytest.approx(2.995)
    assert sum(one["executions"] for one in document["services"]) == 3_000


def test_a_killed_capture_replays_its_flushed_records(
    agent: Agent, other: Agent, tmp_path: Path
) -> None:
    path = tmp_path / "killed.kwcap.gz"
    capture = start_capture(agent, path)
    agent.run(APPLICATION, "1")
    until(lambda: ends_connection(path), "all messages are in the file")
    kill(capture)
    output = run_command(other, "replay", path, "--speed", "max")
    assert (
        "the capture is incomplete: the file was cut off while it was written" in output
    )
    assert comparable_figures(other)["nodes"] == comparable_figures(agent)["nodes"]


def test_a_capture_ends_at_its_time_or_size_limit(agent: Agent, tmp_path: Path) -> None:
    by_time = run_command(agent, "capture", tmp_path / "a", "--seconds", "0.3")
    assert "0 messages, 0 events" in by_time
    small = start_capture(agent, tmp_path / "b", "--max-size", "2kB")
    agent.run(APPLICATION, "1")
    assert small.wait(DEADLINE) == 0
    small.communicate()
    assert (tmp_path / "b").stat().st_size >= 2_000
    assert run_command(agent, "replay", tmp_path / "b", "--info")


def test_a_redacted_capture_keeps_the_figures_and_no_texts(
    agent: Agent, other: Agent, tmp_path: Path
) -> None:
    path = tmp_path / "redacted.kwcap"
    capture = start_capture(agent, path, "--redact")
    agent.run(APPLICATION, "1")
    end_capture(capture)
    content = path.read_bytes()
    assert b"jane@example.com" not in content and b"a b" not in content
    reader = CaptureReader(path)
    output = [wire.decode(record.message) for record in reader if record.message]
    reader.close()
    assert {one["host"] for one in output if "host" in one} == {"redacted"}
    assert b"ValueError" in content
    run_command(other, "replay", path, "--speed", "max")
    assert comparable_figures(other)["nodes"] == comparable_figures(agent)["nodes"]
    texts = {text for _, _, text, _ in comparable_figures(other)["failures"]}
    assert texts == {"redacted (24 characters)", ""}
    assert ", redacted" in run_command(other, "replay", path, "--info")


def test_a_stalled_capture_delays_no_client_and_reports_missed_messages(
    agent: Agent,
) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as observer,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
    ):
        observer.connect(agent.socket)
        observer.sendall(wire.frame(wire.capture()))
        client.connect(agent.socket)
        client.settimeout(DEADLINE)
        stream = client.makefile("rb")
        client.sendall(wire.frame(hello()))
        assert read_message(stream)["seq"] == 0
        # Some 30 MB: the observer's queue holds 16.
        pad = b"x" * 1_000_000
        for seq in range(1, 31):
            message = batch(seq=seq, executions=executions(1), pad=pad)
            client.sendall(wire.frame(message) + wire.frame(wire.flush(b"")))
        # An agent that waited for the observer would acknowledge nothing.
        while read_message(stream)["seq"] < 30:
            pass
        assert agent.executions() == {"pay": 30}

        observer.settimeout(DEADLINE)
        copies, missed, stream = 0, 0, observer.makefile("rb")
        while copies + missed < 61:  # the hello, and a flush with each batch
            copy = read_message(stream)
            copies += "message" in copy
            missed = copy.get("missed", 0)
        assert copies > 10 and missed > 5


def read_message(stream: Any) -> dict[str, Any]:
    size = int.from_bytes(stream.read(4), "big")
    return wire.decode(stream.read(size))


def test_a_replay_reports_that_the_agent_went_away(
    agent: Agent, captured: Path
) -> None:
    process = agent.start_process(
        *(agent.python, "-m", "kaywatch_agent", "replay", str(captured)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: len(agent.clients()) > 50, "the replay is under way")
    agent.stop(signal.SIGKILL)
    agent.start()
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    # The error depends on the connection that fails first.
    assert err.startswith(f"kaywatch: the agent at {agent.socket} ")
    assert "closed the connection, after " in err or "cannot be reached" in err
    assert "Another replay counts all of them again\n" in err
    assert "Traceback" not in err


def test_a_capture_is_readable_after_the_agent_went_away(
    agent: Agent, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    capture = start_capture(agent, path)
    agent.run(APPLICATION, "1")
    agent.stop()
    out, err = capture.communicate(timeout=DEADLINE)
    assert capture.returncode == 1
    problem = f"the agent at {agent.socket} closed the connection"
    assert f"the capture ended early: {problem}" in err
    assert "events" in out
    reader = CaptureReader(path)
    assert len(list(reader)) > 2 and not reader.problem
    reader.close()


def test_usage_errors_are_reported_and_change_nothing(
    agent: Agent, tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a capture")
    for option in ([], ["--info"]):
        err = run_command(agent, "replay", text, *option, code=1)
        assert err == (
            f"kaywatch: {text}: not a capture of kaywatch: it starts with b'not a ca'\n"
        )
    err = run_command(agent, "replay", tmp_path / "none", code=1)
    assert err == f"kaywatch: {tmp_path / 'none'}: No such file or directory\n"
    err = run_command(agent, "capture", text, code=1)
    assert err == f"kaywatch: {text} already exists; overwrite it with --force\n"
    assert text.read_text() == "not a capture"
    nobody = tmp_path / "nobody.sock"
    err = run_command(agent, "capture", tmp_path / "a", "--socket", nobody, code=1)
    assert "no agent listens there" in err
    assert not (tmp_path / "a").exists()
    for wrong in (
        ["capture"],
        ["capture", "a", "--max-size", "lots"],
        ["capture", "a", "--seconds", "0"],
        ["replay", text, "--speed", "-1"],
        ["replay", text, "--speed", "fast"],
    ):
        assert "Error: " in run_command(agent, *wrong, code=2)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_another_user_may_push_but_not_capture(agent: Agent) -> None:
    os.chmod(agent.socket, 0o666)
    os.chmod(agent.folder, 0o755)
    code = f"""
import os, socket
os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as s:
    s.connect({agent.socket!r})
    s.sendall({wire.frame(wire.capture())!r})
    print(s.recv(1000))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "only root and the agent's own user may capture" in done.stdout
