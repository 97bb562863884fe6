"""An agent keeps its state when it is restarted or killed, or loses its disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.agents import DEADLINE, Agent, until
from tests.metrics import declared_metrics

from kaywatch.errors import AgentRefused
from kaywatch.query import send
from kaywatch_agent.store.database import QUICK_BYTES

METRICS = declared_metrics()

RECORD = """
import kaywatch, os, sys, time
def record(node, times):
    for _ in range(times):
        with kaywatch.execution("g", node) as one:
            one.action = "next"
"""


def read_figures(agent: Agent) -> dict[str, Any]:
    """The responses that must be the same after a restart."""
    export = agent.get("/api/v1/export")
    for kind in ("nodes", "graphs"):
        for figures in export[kind].values():
            figures.pop("peak_memory_mb", None)
    del export["timestamp"]
    recent = agent.get("/api/v1/nodes", window="1h")["nodes"]
    for figures in recent:
        figures.pop("peak_memory_mb")
    (series,) = agent.get("/api/v1/query", metric="executions")["series"]
    return {
        **export,
        "recent": recent,
        "failures": agent.get("/api/v1/failures")["failures"],
        "points": [point for point in series["points"] if point[2]],
    }


def counters(agent: Agent) -> dict[str, float]:
    """The counters on /metrics, without those of the agent's own process."""
    text = subprocess.run(
        ["curl", "-s", "--fail", f"{agent.url}/metrics"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    result = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, value = line.rpartition(" ")
        family = name.partition("{")[0]
        is_reset = family in METRICS and not METRICS[family].durable
        counts = family.endswith(("_total", "_bucket", "_count"))
        if counts and not is_reset and not line.startswith("#"):
            result[name] = float(value)
    return result


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_changes_no_figure(agent: Agent, number: signal.Signals) -> None:
    agent.run(
        RECORD
        + """
record("pay", 300)
for n in range(3):
    try:
        with kaywatch.execution("g", "ship"):
            raise ValueError(n)
    except ValueError:
        pass
kaywatch.observe("size", 12.5, unit="kb")
assert kaywatch.flush(5)
"""
    )
    before, counted = read_figures(agent), counters(agent)
    agent.stop(number)
    agent.start()

    assert read_figures(agent) == before
    after = counters(agent)
    assert {name for name, value in counted.items() if value > after.get(name, 0)} == (
        set()
    )
    (restored,) = [line for line in agent.log if line["event"] == "restored"]
    assert restored["took_seconds"] < 5
    assert agent.get("/health")["stages"]["store"]["status"] == "healthy"


def test_a_client_outlasts_an_agent_that_is_killed(agent: Agent) -> None:
    child = agent.spawn(
        RECORD
        + """
for n in range(50):
    record("pay", 100)
    time.sleep(0.1)
print("recorded")
sys.stdin.readline()
"""
    )
    for _ in range(5):
        time.sleep(0.5)
        agent.stop(signal.SIGKILL)
        agent.start()
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "recorded\n"
    until(lambda: [c["pid"] for c in agent.clients()] == [child.pid], "it comes back")
    child.stdin.close()
    assert child.wait(DEADLINE) == 0
    until(lambda: agent.clients()[0]["state"] == "ended", "it said goodbye")

    assert agent.executions() == {"pay": 5000}
    (client,) = agent.clients()
    assert client["events"] == client["recorded"] == 5000
    assert client["dropped"] == {}


def test_a_client_that_died_without_an_agent_is_dead(agent: Agent) -> None:
    child = agent.spawn(
        RECORD + "record('n', 1); kaywatch.flush(); print('now'); time.sleep(60)"
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "now\n"
    agent.stop()
    child.kill()
    child.wait()
    agent.start()

    assert [client["state"] for client in agent.clients()] == ["died"]


def test_a_client_that_dies_before_reconnecting_is_dead(agent: Agent) -> None:
    child = agent.spawn(
        RECORD + "record('n', 1); kaywatch.flush(); print('now'); time.sleep(60)"
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "now\n"
    os.kill(child.pid, signal.SIGSTOP)
    agent.stop(signal.SIGKILL)
    agent.start()
    assert [client["state"] for client in agent.clients()] == ["disconnected"]
    child.kill()
    until(lambda: agent.clients()[0]["state"] == "died", "its death is noticed")


def refused_start(agent: Agent) -> str:
    """Start another agent on the same store; return its output."""
    return agent.command(
        *("serve", "--store", agent.store, "--http", "127.0.0.1:0"),
        *("--socket", str(agent.folder / "other.sock")),
        code=1,
    )


def test_a_second_agent_does_not_get_the_file(agent: Agent) -> None:
    for file in agent.folder.glob("*.lock"):
        file.unlink()
    refusal = refused_start(agent)

    assert f"another agent (pid {agent.process and agent.process.pid})" in refusal
    assert "Traceback" not in refusal
    agent.run(RECORD + "record('n', 1)")
    assert agent.get("/health")["status"] == "healthy"


def test_the_agent_waits_for_a_locked_file(agent: Agent) -> None:
    other = sqlite3.connect(agent.store, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    child = agent.spawn(
        RECORD + "record('n', 10); print(kaywatch.flush(1)); sys.stdin.readline()\n"
        "print(kaywatch.flush(20))"
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "False\n"
    health = until(
        lambda: (
            "locked" in (h := agent.get("/health"))["stages"]["store"]["problem"] and h
        ),
        "the store's problem is reported",
    )
    assert health["status"] == "degraded"
    assert agent.executions() == {"n": 10}  # received, but not acknowledged
    other.execute("ROLLBACK")
    other.close()
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "True\n"
    until(lambda: agent.get("/health")["status"] == "healthy", "it recovers")
    child.wait(DEADLINE)

    assert agent.executions() == {"n": 10}


def problem(agent: Agent) -> str:
    health = until(
        lambda: (h := agent.get("/health"))["status"] == "degraded" and h,
        "the next tick reports it",
    )
    return str(health["stages"]["store"]["problem"])


def test_a_damaged_file_is_moved_aside_and_reported(agent: Agent) -> None:
    agent.run(RECORD + "record('n', 10)")
    agent.stop()
    with open(agent.store, "r+b") as file:
        file.write(bytes(4096))
    agent.start()
    agent.run(RECORD + "record('m', 3)")

    assert agent.executions() == {"m": 3}
    assert "is zero) and moved to" in problem(agent)
    (aside,) = agent.folder.glob("*.damaged-*[0-9]")
    assert str(aside) in find_logged(agent, "the store's file has changed")["problem"]
    assert aside.read_bytes().startswith(bytes(4096))


def test_a_file_that_is_no_store_is_refused_in_one_line(stopped_agent: Agent) -> None:
    agent = stopped_agent
    notes = Path(agent.store)
    notes.write_bytes(b"some notes " * 1000)
    (line,) = refused_start(agent).strip().splitlines()

    assert "is not a database and was left unchanged; choose another path" in line
    assert notes.read_bytes() == b"some notes " * 1000
    assert list(agent.folder.glob("kaywatch.db*")) == [notes]


@pytest.mark.parametrize("accident", ["deleted", "zeroed"])
def test_a_store_that_is_lost_while_the_agent_runs_is_written_again(
    agent: Agent, accident: str
) -> None:
    agent.run(RECORD + "record('n', 10)")
    store = Path(agent.store)
    if accident == "deleted":
        for file in agent.folder.glob("kaywatch.db*"):
            file.unlink()
    else:
        with store.open("r+b") as file:
            file.write(bytes(store.stat().st_size))
    agent.run(RECORD + "record('n', 3)")
    assert "shown until the agent restarts" in problem(agent)
    assert agent.stop(signal.SIGKILL)
    agent.start()

    assert agent.executions() == {"n": 13}
    assert agent.get("/health")["status"] == "healthy"


def enlarge(agent: Agent) -> None:
    """Make the store so large that it is not checked at the start."""
    hour = int(time.time()) // 3600 * 3600
    with contextlib.closing(sqlite3.connect(agent.store)) as db, db:
        db.executemany(
            "INSERT INTO buckets VALUES (3600, ?, randomblob(1000000))",
            [(hour - 3600 * n,) for n in range(30, 60)],
        )
    with contextlib.closing(sqlite3.connect(agent.store)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert Path(agent.store).stat().st_size > QUICK_BYTES


def find_logged(agent: Agent, event: str) -> dict[str, Any]:
    result: dict[str, Any] = until(
        lambda: agent._find_logged(event), f"{event!r} is logged"
    )
    return result


def test_a_large_file_is_checked_beside_the_work(agent: Agent) -> None:
    agent.run(RECORD + "record('n', 10)")
    agent.stop()
    enlarge(agent)
    agent.start()

    assert find_logged(agent, "store checked")["took_seconds"] < 10
    health = agent.get("/health")
    assert health["status"] == "healthy"
    assert agent.executions() == {"n": 10}


def test_damage_in_the_middle_of_a_large_file_is_reported(agent: Agent) -> None:
    agent.run(RECORD + "record('n', 10)")
    agent.stop()
    enlarge(agent)
    with open(agent.store, "r+b") as file:
        file.seek(Path(agent.store).stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    agent.start()

    line = find_logged(agent, "the store's file has changed")
    assert "was damaged" in line["problem"]
    assert line["problem"] in problem(agent)
    # The new file begins with the state in memory.
    until(lambda: list(agent.folder.glob("*.damaged-*")), "the file is set aside")
    agent.run(RECORD + "record('n', 3)")
    assert agent.executions() == {"n": 13}
    agent.stop()
    agent.start()
    assert agent.executions() == {"n": 13}
    assert agent.get("/health")["status"] == "healthy"


def test_a_check_under_way_does_not_hold_up_the_end(agent: Agent) -> None:
    agent.stop()
    enlarge(agent)
    agent.start()
    started = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - started < 5


def test_memory_keeps_nothing(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.store = ":memory:"
    agent.start()
    agent.run(RECORD + "record('n', 10)")
    assert agent.executions() == {"n": 10}
    agent.stop()
    agent.start()

    assert agent.executions() == {}
    assert json.dumps(agent.get("/health"))


def test_a_request_reloads_the_configuration_or_returns_all_errors(
    stopped_agent: Agent, tmp_path: Path
) -> None:
    config = tmp_path / "kaywatch.toml"
    config.write_text("")
    agent = stopped_agent.start("--config", str(config))

    config.write_text("[limits]\nserie = 1\n[http]\nlisten = 5\n")
    with pytest.raises(AgentRefused) as refused:
        send("POST", "/-/reload", url=agent.url)
    assert refused.value.status == 400
    assert "did you mean series?" in str(refused.value)
    assert "http.listen" in str(refused.value)

    config.write_text("[limits]\nseries = 1\n")
    assert send("POST", "/-/reload", url=agent.url) == {"reloaded": True}
    agent.run(
        "import kaywatch\nfor node in 'abc':\n"
        "    with kaywatch.execution('shop', node): pass"
    )
    assert agent.executions() == {"a": 1, "__other__": 2}


def test_sighup_applies_all_of_a_configuration_or_nothing(
    stopped_agent: Agent, tmp_path: Path
) -> None:
    config = tmp_path / "kaywatch.toml"
    config.write_text("[limits]\nseries = 100\n")
    agent = stopped_agent.start("--config", str(config))
    assert agent.process is not None

    def reload(text: str, event: str) -> dict[str, Any]:
        assert agent.process is not None
        config.write_text(text)
        before = len(agent.log)
        agent.process.send_signal(signal.SIGHUP)
        return until(
            lambda: next((e for e in agent.log[before:] if e["event"] == event), None),
            event,
        )

    message = "configuration not reloaded"
    wrong = reload("[limits]\nseries = 1\nserie = 2\n", message)
    assert "did you mean series?" in wrong["problem"]
    wrong = reload("[limits]\nseries = 1\n[http]\nlisten = 5\n", message)
    assert "http.listen" in wrong["problem"]
    wrong = reload("[limits]\nseries = 1\n[store]\nsynchronous = 'normal'\n", message)
    assert "store.synchronous: cannot be changed" in wrong["problem"]
    child = agent.spawn(
        RECORD + "record('a', 1); kaywatch.flush(); print(1); sys.stdin.readline()\n"
        "record('b', 1); record('c', 1)"
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "1\n"
    reload("[limits]\nseries = 1\n[log]\nlevel = 'error'\n", "configuration reloaded")
    child.stdin.close()
    child.wait(DEADLINE)

    assert agent.executions() == {"a": 1, "__other__": 2}
