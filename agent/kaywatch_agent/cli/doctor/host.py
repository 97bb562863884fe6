"""Checks of the host: processes, limits, and the systemd service."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from kaywatch_agent.cli.doctor.context import SERVICE, SOCKET, CheckContext, user_name
from kaywatch_agent.cli.doctor.result import (
    CheckResults,
    ok,
    problem,
    unchecked,
    warning,
)
from kaywatch_agent.cli.service import installer
from kaywatch_agent.errors import AgentError, StartError
from kaywatch_agent.units import quantity

# The agent reads memory and CPU of each process every few seconds; a younger client may
# have no sample yet.
SAMPLED_SECONDS: Final = 10.0
HIDEPID: Final = re.compile(r"hidepid=(invisible|noaccess|ptraceable|[124])")
NAMESPACE_FIX: Final = (
    "share a pid namespace (Docker: --pid=host; Kubernetes: shareProcessNamespace or"
    " hostPID)"
)

# A client takes a connection and a pidfd. The rest is for HTTP, the store, and files
# that are open for a moment.
FILES_PER_CLIENT: Final = 2
FILES_RESERVED: Final = 512
FEW_CLIENTS: Final = 256

CGROUPS: Final = Path("/sys/fs/cgroup")
NO_LIMIT: Final = 2**60  # cgroups v1 report almost 2**63 for "no limit"

# The exposure of our unit by `systemd-analyze security`, which ranges from 0 to 10.
EXPOSURE: Final = 1.5


# -- processes -----------------------------------------------------------------------


def check_listener(context: CheckContext) -> CheckResults:
    """Check which process listens on the socket."""
    owner = context.listener
    if isinstance(owner, OSError):
        yield unchecked("which process listens", "cannot connect to the socket")
    elif context.systemd_listens:
        yield unchecked(
            "which process listens", "systemd listens, and starts the agent"
        )
    elif owner.pid == 0:
        yield warning(
            "the agent is in another pid namespace, as in a container",
            f"{NAMESPACE_FIX}; otherwise the agent cannot identify processes",
        )
    else:
        yield ok(f"the agent is process {owner.pid} of {user_name(owner.uid)}")


def check_client_identities(context: CheckContext) -> CheckResults:
    """Check that the agent identifies local clients by their pid and user."""
    clients = _local_clients(context)
    if context.clients is None:
        return
    if not clients:
        yield unchecked("whether clients are identified", "no client is connected")
        return
    if foreign := [client for client in clients if _is_foreign(context, client)]:
        names = ", ".join(sorted({client["service"] for client in foreign}))
        yield problem(
            f"{len(foreign)} of {len(clients)} clients are in another pid namespace, as"
            f" in a container ({names}): their memory, CPU and deaths are unknown",
            NAMESPACE_FIX,
        )
        return
    yield ok(f"{len(clients)} connected, each identified by its pid")


def check_process_metrics(context: CheckContext) -> CheckResults:
    """Check that the agent can read memory and CPU of local clients."""
    sampled = [
        client
        for client in _local_clients(context)
        if _is_sampled(context, client) and not _is_foreign(context, client)
    ]
    unread = [client for client in sampled if client["memory_mb"] is None]
    hidden = _hidepid_fix(context)
    if unread:
        names = ", ".join(sorted({client["service"] for client in unread}))
        yield problem(
            f"the agent cannot read memory and CPU of {len(unread)} of {len(sampled)}"
            f" processes ({names})",
            hidden
            or "run the agent as their user or root, in the host's pid namespace",
        )
    elif hidden:
        yield warning("the agent may not see processes of other users", hidden)
    elif sampled:
        yield ok(f"memory and CPU of {len(sampled)} processes are read")
    elif context.health is not None:
        yield ok("the agent can read memory and CPU of other processes")


def _local_clients(context: CheckContext) -> list[dict[str, Any]]:
    """Return the clients that are connected to the socket."""
    return [client for client in context.connected if not client["via"]]


def _is_sampled(context: CheckContext, client: Mapping[str, Any]) -> bool:
    """Return whether the agent had time to read a client's memory and CPU."""
    now = context.health["timestamp"] if context.health else 0.0
    return bool(now - client["since"] > SAMPLED_SECONDS)


def _is_foreign(context: CheckContext, client: Mapping[str, Any]) -> bool:
    """Return whether a client is in another pid namespace than the agent.

    Its pid is then the one that it reports, of its own namespace. A container that
    shares the namespace has a host name of its own, too, but its memory can be read.
    """
    is_elsewhere = client["host"] != socket.gethostname() or not client["pid"]
    has_sample = client["memory_mb"] is not None
    return is_elsewhere and not has_sample and _is_sampled(context, client)


def _hidepid_fix(context: CheckContext) -> str:
    """Return the fix for a /proc that hides processes; empty if it hides none."""
    agent = context.process
    if agent is None or agent.uid == 0:
        return ""
    mounts = _read(f"/proc/{agent.pid}/mountinfo") or _read("/proc/self/mountinfo")
    proc = [line for line in mounts.splitlines() if " /proc " in line]
    option = HIDEPID.search(proc[-1]) if proc else None
    if option is None:
        return ""
    return (
        f"/proc is mounted with {option[0]}: remove ProtectProc= from the service's"
        " unit, or remount /proc without the option or with gid= of the agent's group"
    )


# -- limits --------------------------------------------------------------------------


def check_open_files(context: CheckContext) -> CheckResults:
    """Check that the agent can open enough files for its clients."""
    limits = _read(f"/proc/{_agent_pid(context)}/limits")
    if not limits:
        yield unchecked("the limit of open files", "run as the agent's user or as root")
        return
    limit = re.search(r"^Max open files +(\d+)", limits, re.MULTILINE)
    if limit is None:
        yield ok("open files are not limited")
        return
    room = max(0, (int(limit[1]) - FILES_RESERVED) // FILES_PER_CLIENT)
    text = f"{int(limit[1]):,} open files are allowed, enough for {room:,} clients"
    if room < max(FEW_CLIENTS, len(context.clients or ()) * 5 // 4):
        yield warning(
            text,
            "set LimitNOFILE=65536 in its unit, or start it after ulimit -n 65536",
        )
    else:
        yield ok(text)


def check_memory_limit(context: CheckContext) -> CheckResults:
    """Check that the control group of the agent leaves it enough memory."""
    group = _find_control_group(_agent_pid(context))
    used = _read_number(group, r"\d+", "memory.current", "memory.usage_in_bytes")
    if used is None:
        yield unchecked("the memory limit", "no control group accounts for its memory")
        return
    fix = "raise MemoryMax= in its unit, or lower limits.series"
    killed = _read_number(
        group, r"oom_kill (\d+)", "memory.events", "memory.oom_control"
    )
    if killed:
        yield problem(f"{killed} processes of {group.name} ran out of memory", fix)
    limit = _read_number(group, r"\d+", "memory.max", "memory.limit_in_bytes")
    if limit is None or limit > NO_LIMIT:
        yield ok("no control group limits its memory")
        return
    share = f"{quantity(used, 'bytes')} of {quantity(limit, 'bytes')}"
    text = f"{share} of {group.name} are used"
    # Below this share, most of the memory may be cached files, which the kernel drops
    # if necessary.
    yield warning(text, fix) if used > 0.9 * limit else ok(text)


def _find_control_group(pid: int) -> Path:
    """Return the folder of a process's control group; see cgroups(7)."""
    groups = _read(f"/proc/{pid}/cgroup")
    v1 = re.search(r"^\d+:(?:\w+,)*memory(?:,\w+)*:/(.*)$", groups, re.MULTILINE)
    if v1 is not None:
        return CGROUPS / "memory" / v1[1]
    v2 = re.search(r"^0::/(.*)$", groups, re.MULTILINE)
    return CGROUPS / (v2[1] if v2 is not None else "")


def _read_number(group: Path, pattern: str, *names: str) -> int | None:
    """Return a number from the file of cgroups v2, or else of v1."""
    text = next(filter(None, (_read(group / name) for name in names)), "")
    match = re.search(rf"^{pattern}", text, re.MULTILINE)
    return int(match[match.lastindex or 0]) if match else None


def _agent_pid(context: CheckContext) -> int:
    """Return the agent's pid, or this process's, whose limits are usually the same."""
    return context.process.pid if context.process is not None else os.getpid()


def _read(path: str | Path) -> str:
    """Return the text of a file in /proc or /sys; empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


# -- the systemd service -------------------------------------------------------------

Properties = Mapping[str, str]

PROPERTIES: Final = (
    *("ActiveState", "SubState", "Result", "NRestarts", "Type", "WatchdogUSec"),
    *("NeedDaemonReload", "UnitFileState", "DropInPaths"),
)

# A condition on the unit's properties, the warning, and its fix.
UNIT_WARNINGS: Final[tuple[tuple[Callable[[Properties], bool], str, str], ...]] = (
    (
        lambda unit: unit["NRestarts"] != "0",
        "systemd has restarted the service {NRestarts} times",
        "read journalctl -u kaywatch, then run {systemctl} reset-failed kaywatch",
    ),
    (
        lambda unit: unit["UnitFileState"] == "disabled",
        "the service does not start at boot",
        "{systemctl} enable kaywatch",
    ),
    (
        lambda unit: unit["NeedDaemonReload"] == "yes",
        "the unit was changed after systemd read it",
        "{systemctl} daemon-reload",
    ),
    (
        lambda unit: not unit["Type"].startswith("notify"),
        "Type={Type}: systemd does not know when the agent is ready",
        "set Type=notify in the unit",
    ),
    (
        lambda unit: unit["WatchdogUSec"] in ("0", "infinity"),
        "no watchdog: systemd does not restart an agent that hangs",
        "set WatchdogSec=30s in the unit",
    ),
)


def check_service_unit(context: CheckContext) -> CheckResults:
    """Check that the service is installed, runs, and is supervised."""
    manager = context.manager
    if not os.path.isdir("/run/systemd/system"):
        yield unchecked("the service", "this host does not run systemd")
        return
    if manager is None:
        yield unchecked("the service", "not installed; see `kaywatch service install`")
        return
    try:
        properties = manager.properties(SERVICE, *PROPERTIES)
        socket_state = manager.properties(SOCKET, "ActiveState")["ActiveState"]
    except StartError as error:
        yield unchecked("the state of the service", str(error))
        return
    systemctl = "systemctl --user" if manager.user else "systemctl"
    state = f"{SERVICE} is {properties['ActiveState']} ({properties['SubState']})"
    if properties["ActiveState"] == "active":
        yield ok(state)
    else:
        yield problem(
            f"{state}, last result {properties['Result']}",
            f"read journalctl -u kaywatch, then run {systemctl} start kaywatch",
        )
    yield from _check_properties(properties, systemctl)
    if socket_state == "active":
        yield ok("systemd listens on the socket: clients can connect during a restart")


def _check_properties(properties: Properties, systemctl: str) -> CheckResults:
    for applies, text, fix in UNIT_WARNINGS:
        if applies(properties):
            yield warning(text.format(**properties), fix.format(systemctl=systemctl))
    if properties["Type"].startswith("notify"):
        yield ok("systemd is notified when the agent is ready")
    if properties["WatchdogUSec"] not in ("0", "infinity"):
        yield ok(
            f"systemd restarts an agent that hangs for {properties['WatchdogUSec']}"
        )
    for path in properties["DropInPaths"].split():
        yield ok(f"{path} is a drop-in")


def check_service_files(context: CheckContext) -> CheckResults:
    """Check that the installed units are those of this version."""
    manager = context.manager
    if manager is None:
        return
    try:
        files = installer.replan_files(manager)
    except AgentError as error:
        yield warning(f"the units cannot be rewritten: {error}", "fix this first")
        return
    if files is None:
        yield unchecked("the units", "they were not written by `kaywatch service`")
        return
    differing = [file for file in files if file.installed != file.text]
    for file in differing:
        yield warning(
            f"{file.path}: {file.state}",
            "run `kaywatch service install`; put your own changes into drop-ins"
            " (systemctl edit)",
        )
    if not differing:
        yield ok(f"{len(files)} files are up to date")


def check_service_sandbox(context: CheckContext) -> CheckResults:
    """Check that the sandbox of the service is not weakened."""
    manager = context.manager
    if manager is None or manager.user:
        return
    try:
        exposure = float(manager.exposure().split()[0])
    except (StartError, ValueError, IndexError) as error:
        yield unchecked("its sandbox", f"systemd-analyze failed ({error})")
        return
    text = f"exposure {exposure:g} of 10 (systemd-analyze security {SERVICE})"
    if exposure > EXPOSURE:
        yield warning(text, f"the unit alone has {EXPOSURE}; check its drop-ins")
    else:
        yield ok(text)
