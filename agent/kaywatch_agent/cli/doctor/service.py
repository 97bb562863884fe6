"""Whether the agent's systemd service is as it should be, and how it is sandboxed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kaywatch_agent.cli.doctor.finding import Findings, ok, problem, unchecked, warning
from kaywatch_agent.cli.doctor.ground import SERVICE, SOCKET, Ground, under_systemd
from kaywatch_agent.cli.service import installing
from kaywatch_agent.cli.service.installing import Manager
from kaywatch_agent.errors import AgentError, StartError

__all__ = ["CHECKS"]

# systemd-analyze security counts from 0 to 10; what we ship has so much.
EXPOSURE: Final = 1.5

PROPERTIES: Final = (
    *("ActiveState", "SubState", "Result", "NRestarts", "Type", "WatchdogUSec"),
    *("NeedDaemonReload", "UnitFileState", "DropInPaths"),
)


def unit(_: Ground) -> Findings:
    """It is installed, runs, and is watched."""
    if not under_systemd():
        yield unchecked("the service", "this machine wasn't started by systemd")
        return
    manager = _manager()
    if manager is None:
        yield unchecked("there is no service", "`kaywatch service install` makes one")
        return
    try:
        found = manager.properties(SERVICE, *PROPERTIES)
        holding = manager.properties(SOCKET, "ActiveState")["ActiveState"]
    except StartError as error:
        yield unchecked("what systemd says of it", str(error))
        return
    yield from _state(found, "systemctl --user" if manager.user else "systemctl")
    yield from _watched(found)
    if holding == "active":
        yield ok("systemd holds the socket: no connect fails across a restart")


def files(_: Ground) -> Findings:
    """The units are those that this installation would write."""
    manager = _manager()
    asked = installing.asked_for(manager.folder) if manager is not None else None
    if manager is None:
        return
    if asked is None:
        yield unchecked("the units", "they were not written by `kaywatch service`")
        return
    try:
        planned = installing.plan(
            manager, installing.describe(manager, asked["config"], bool(asked["http"]))
        )
    except AgentError as error:
        yield warning(f"the units can't be made again: {error}", "mend that first")
        return
    other = [file for file in planned if file.found != file.text]
    for file in other:
        yield warning(
            f"{file.path}: {file.state}",
            "`kaywatch service install` writes it anew; changes of yours belong into"
            " drop-ins (systemctl edit)",
        )
    if not other:
        yield ok(f"{len(planned)} files are as they should be")


def sandbox(_: Ground) -> Findings:
    """It can do no more than it has to."""
    manager = _manager()
    if manager is None or manager.user:
        return
    try:
        exposure = float(manager.exposure().split()[0])
    except (StartError, ValueError, IndexError) as error:
        yield unchecked("its sandbox", f"systemd-analyze doesn't say ({error})")
        return
    text = f"exposure {exposure:g} of 10 (systemd-analyze security {SERVICE})"
    if exposure > EXPOSURE:
        yield warning(text, f"what we ship has {EXPOSURE}: which drop-in opens it?")
    else:
        yield ok(text)


def _manager() -> Manager | None:
    """Return who has the service: the machine, or else this user; None for nobody."""
    if not under_systemd():
        return None
    for manager in (Manager(), Manager(user=True)):
        try:
            state = manager.properties(SERVICE, "LoadState").get("LoadState")
        except StartError:
            continue  # no session of this user
        if state == "loaded":
            return manager
    return None


def _state(found: Mapping[str, str], systemctl: str) -> Findings:
    state = f"{SERVICE} is {found['ActiveState']} ({found['SubState']})"
    if found["ActiveState"] == "active":
        yield ok(state)
    else:
        yield problem(
            f"{state}, last result {found['Result']}",
            f"{systemctl} start kaywatch; journalctl -u kaywatch says why it ended",
        )
    if found["NRestarts"] != "0":
        yield warning(
            f"systemd has restarted it {found['NRestarts']} times",
            f"journalctl -u kaywatch says why; {systemctl} reset-failed kaywatch",
        )
    if found["UnitFileState"] == "disabled":
        yield warning(
            "it doesn't start with the machine", f"{systemctl} enable kaywatch"
        )
    if found["NeedDaemonReload"] == "yes":
        yield warning(
            "its unit has changed since systemd read it", f"{systemctl} daemon-reload"
        )
    for path in found["DropInPaths"].split():
        yield ok(f"{path} is a drop-in")


def _watched(found: Mapping[str, str]) -> Findings:
    if found["Type"].startswith("notify"):
        yield ok("systemd is told when it serves")
    else:
        yield warning(
            f"Type={found['Type']}: systemd doesn't know when it serves",
            "Type=notify in its unit",
        )
    if found["WatchdogUSec"] in ("0", "infinity"):
        yield warning(
            "no watchdog: an agent that hangs is not restarted",
            "WatchdogSec=30s in its unit",
        )
    else:
        yield ok(f"restarted when it hangs for {found['WatchdogUSec']}")


CHECKS: Final = (unit, files, sandbox)
