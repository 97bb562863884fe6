"""Whether the agent's systemd service runs as it should, and how it is sandboxed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kaywatch_agent.doctor.finding import Findings, ok, problem, unchecked, warning
from kaywatch_agent.doctor.ground import Ground

__all__ = ["CHECKS"]

UNIT: Final = "kaywatch.service"
SECONDS: Final = 8.0

# systemd-analyze security counts from 0 to 10, and what we ship is at most this.
EXPOSURE: Final = 1.5

PROPERTIES: Final = (
    *("LoadState", "ActiveState", "SubState", "Result", "NRestarts", "Type"),
    *("WatchdogUSec", "NeedDaemonReload", "UnitFileState"),
)


def unit(_: Ground) -> Findings:
    """It is installed, runs, and is watched."""
    if not Path("/run/systemd/system").is_dir():
        yield unchecked("the service", "this machine wasn't started by systemd")
        return
    found = _properties()
    if found.get("LoadState") != "loaded":
        yield unchecked(f"there is no {UNIT}", "the agent is started by other means")
        return
    yield from _state(found)
    if found.get("NeedDaemonReload") == "yes":
        yield warning(
            f"{UNIT} changed since systemd read it", "systemctl daemon-reload"
        )
    if found.get("Type", "").startswith("notify"):
        yield ok("systemd is told when it serves")
    else:
        yield warning(
            f"Type={found.get('Type')}: systemd doesn't know when it serves",
            "Type=notify in its unit",
        )
    if found.get("WatchdogUSec", "0") in ("0", "infinity"):
        yield warning(
            "no watchdog: an agent that hangs is not restarted",
            "WatchdogSec=30s in its unit",
        )
    else:
        yield ok(f"restarted when it hangs for {found['WatchdogUSec']}")


def sandbox(_: Ground) -> Findings:
    """It can do no more than it has to."""
    if not Path("/run/systemd/system").is_dir():
        return
    if _properties().get("LoadState") != "loaded":
        return
    said = _said("systemd-analyze", "security", "--no-pager", UNIT).splitlines()
    words = said[-1].rpartition(": ")[2].split() if said else []
    try:
        exposure = float(words[0])
    except (IndexError, ValueError):
        yield unchecked("its sandbox", "systemd-analyze doesn't say")
        return
    text = f"exposure {exposure:g} of 10 (systemd-analyze security {UNIT})"
    if exposure > EXPOSURE:
        yield warning(text, "the units in deploy/systemd have at most 1.5")
    else:
        yield ok(text)


def _state(found: Mapping[str, str]) -> Findings:
    state = f"{found.get('ActiveState')} ({found.get('SubState')})"
    if found.get("ActiveState") == "active":
        yield ok(f"{UNIT} is {state}")
    else:
        yield problem(
            f"{UNIT} is {state}, last result {found.get('Result')}",
            "systemctl start kaywatch; journalctl -u kaywatch says why it ended",
        )
    restarts = found.get("NRestarts", "0")
    if restarts not in ("0", ""):
        yield warning(
            f"systemd has restarted it {restarts} times",
            "journalctl -u kaywatch says why; systemctl reset-failed kaywatch",
        )
    if found.get("UnitFileState") == "disabled":
        yield warning("it doesn't start with the machine", "systemctl enable kaywatch")


def _properties() -> dict[str, str]:
    text = _said("systemctl", "show", f"--property={','.join(PROPERTIES)}", UNIT)
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _said(*command: str) -> str:
    """Return what a command printed; nothing if it failed."""
    found = shutil.which(command[0])
    if found is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603
            [found, *command[1:]],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


CHECKS: Final = (unit, sandbox)
