"""`kaywatch serve` imports what an agent needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.agents import DEADLINE, kill_at_end

# What only a command, a configured receiver or broker, or an application needs.
UNUSED = {
    "aiomqtt",
    "aiosmtplib",
    "apprise",
    "greenlet._greenlet",
    "kaywatch._instrument.frameworks",
    "kaywatch._llm.calls",
    "kaywatch_agent.capture.record",
    "kaywatch_agent.cli.tables",
    "kaywatch_agent.cli.top.top",
    "paho.mqtt.client",
    "pygments",
    "re2._re2",
    "rich.console",
    "unittest",
}


def test_an_agent_imports_no_module_of_other_commands(tmp_path: Path) -> None:
    arguments = ["--store", ":memory:", "--http", "127.0.0.1:0"]
    command = [sys.executable, "-X", "importtime", "-m", "kaywatch_agent", "serve"]
    modules = set()
    process = subprocess.Popen(
        [*command, *arguments, "--socket", str(tmp_path / "ingest.sock")],
        stderr=subprocess.PIPE,
        text=True,
    )
    with kill_at_end(process) as agent:
        assert agent.stderr is not None
        for line in agent.stderr:
            if '"event": "serving"' in line:
                agent.terminate()
            modules.add(line.rpartition("|")[2].strip())
        assert agent.wait(DEADLINE) == 0

    assert "kaywatch_agent.app" in modules
    # Failed attempts, such as that of `rich`, are listed too.
    assert not modules & UNUSED
