"""Real losses, as a user sees them: counted by reason, and permanent."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import pytest
from tests import forks
from tests.agents import DEADLINE, Agent, running_agent, until

from kaywatch import wire

LOSE = """
import json, os, sys
import kaywatch
from kaywatch._process import process

kaywatch.configure(buffer_bytes=1_000_000, service="lossy")
record = process.recorder.series("g", "busy").record
for _ in range(60):
    for _ in range(5_000):
        record(0.001)
    kaywatch.flush(0.01)
print("full", flush=True)
sys.stdin.readline()
assert kaywatch.flush(20)
record(0.001)  # with what the last batches pushed out of the buffer
assert kaywatch.flush(20)
print(json.dumps(kaywatch.client_stats()), flush=True)
sys.stdin.readline()
"""


def status(agent: Agent) -> list[str]:
    env = {**agent.environment, "COLUMNS": "100"}
    done = forks.run(agent.python, "status", env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def accounts(agent: Agent) -> dict[str, Any]:
    response: dict[str, Any] = agent.get("/api/v1/completeness")["services"]
    return response


def test_losses_of_a_full_buffer_stay_visible_beside_the_statistics(
    agent: Agent,
) -> None:
    agent.stop()  # so that recorded events must wait
    child = agent.spawn(LOSE)
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == "full\n"
    agent.start()
    child.stdin.write("\n")
    child.stdin.flush()
    stats = json.loads(child.stdout.readline())
    lost = sum(stats["dropped"].values())
    assert lost > 100_000

    (client,) = agent.clients()
    assert client["recorded"] == 300_001
    assert client["events"] == 300_001 - lost
    assert client["dropped"] == stats["dropped"]
    assert client["missing"] == 0
    account = accounts(agent)["lossy"]
    assert account["received"] == agent.executions()["busy"] == 300_001 - lost
    assert account["dropped"] == stats["dropped"]
    assert (
        account["ratio"] == client["completeness"] == pytest.approx(1 - lost / 300_001)
    )
    busy = agent.node("busy", window="5m")
    assert busy["account"] == account
    assert busy["completeness"] == account["ratio"]

    output = status(agent)
    (line,) = (line for line in output if line.startswith("Completeness"))
    assert "of 300,001 events arrived" in line
    assert f"  lossy: lost {lost:,} (buffer_full {lost:,})" in output
    assert any(f"lossy pid {client['pid']}: lost {lost:,}" in line for line in output)

    child.stdin.close()
    child.wait(DEADLINE)
    agent.stop()
    agent.start()
    assert accounts(agent)["lossy"] == account
    assert agent.node("busy", window="5m")["account"] == account
    (again,) = agent.clients()
    keys = ("recorded", "events", "dropped", "late", "overflow", "missing")
    assert {key: again[key] for key in keys} == {key: client[key] for key in keys}
    assert f"  lossy: lost {lost:,} (buffer_full {lost:,})" in status(agent)


def test_late_and_folded_events_are_named_and_survive_a_restart(
    installed: str, tmp_path: Any
) -> None:
    config = tmp_path / "kaywatch.toml"
    config.write_text("[limits]\nseries_per_client = 3\n")
    with running_agent(installed, "--config", str(config)) as agent:
        rows = [{"graph": "g", "node": f"n{n}", "seconds": 1} for n in range(10)]
        rows += [{"graph": "g", "node": "n0", "seconds": 1, "end": time.time() - 7_200}]
        batch = wire.batch(
            client=os.urandom(16),
            seq=1,
            sent=time.time(),
            service="odd",
            recorded=11,
            sections={"events": rows},
        )
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(agent.socket)
            link.sendall(wire.frame(batch))
            until(
                lambda: sum(agent.executions().values()) == 11, "the batch is committed"
            )
        account = accounts(agent)["odd"]
        assert account == {
            "received": 11,
            "dropped": {},
            "late": 1,
            "overflow": 7,
            "deaths": 0,
            "unknown_seconds": 0.0,
            "ratio": 1.0,
        }
        line = "  odd: 1 too late for a window, 7 counted in __other__"
        output = status(agent)
        assert line in output
        arrived = "last 24 hours: 10 events arrived, none were lost so far"
        assert f"Completeness, {arrived}" in output
        (client,) = agent.clients()
        assert (client["late"], client["overflow"], client["missing"]) == (1, 7, 0)

        agent.stop()
        agent.start("--config", str(config))
        assert accounts(agent)["odd"] == account
        (again,) = agent.clients()
        assert (again["late"], again["overflow"]) == (1, 7)
        assert line in status(agent)


@pytest.mark.parametrize("window", ["1m", "24h"])
def test_a_quiet_agent_has_nothing_to_complain_of(agent: Agent, window: str) -> None:
    assert not any(line.startswith("Completeness") for line in status(agent))
    assert agent.get("/api/v1/completeness", window=window)["services"] == {}
