"""Checks of the host: processes, limits, the systemd service, and the environment."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kaywatch._instrument.frameworks import FRAMEWORKS, SDKS
from kaywatch._process import parse_tags, settings_from_environment
from kaywatch._send import broker as brokers
from kaywatch._send.connecting import check_usable
from kaywatch.errors import ConfigurationError
from kaywatch_agent.cli.doctor.context import (
    SERVICE,
    SOCKET,
    CheckContext,
    user_name,
)
from kaywatch_agent.cli.doctor.network import broker_reached
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

# The agent reads memory and CPU of each process every few seconds.
SAMPLED_SECONDS: Final = 10.0
HIDEPID: Final = re.compile(r"hidepid=(invisible|noaccess|ptraceable|[124])")
NAMESPACE_FIX: Final = "share the host's pid namespace (docker: --pid=host)"

# A client costs the agent a connection and a handle on its process; the rest is for
# HTTP, the store, and short-lived files.
FILES_PER_CLIENT: Final = 2
FILES_RESERVED: Final = 512
FEW_CLIENTS: Final = 256

CGROUPS: Final = Path("/sys/fs/cgroup")
NO_LIMIT: Final = 2**60  # control groups of version 1 have a few bytes less than 2**63

# The exposure of our unit; systemd-analyze security counts from 0 to 10.
EXPOSURE: Final = 1.5


# -- processes -----------------------------------------------------------------------


def listener(context: CheckContext) -> CheckResults:
    """Check which process listens on the socket."""
    owner = context.listener
    if isinstance(owner, OSError):
        yield unchecked("which process listens", "the socket cannot be connected to")
    elif owner.pid == 1:
        # Until the agent has listened on it as well.
        yield unchecked("which process listens", "systemd does, and starts the agent")
    elif owner.pid == 0:
        yield warning(
            "the agent is in another pid namespace, as in a container",
            f"{NAMESPACE_FIX}; without it the agent can identify no process",
        )
    else:
        yield ok(f"the agent is process {owner.pid} of {user_name(owner.uid)}")


def identities(context: CheckContext) -> CheckResults:
    """Check that the agent identifies local clients by their pid and user."""
    clients = _local(context)
    if context.clients is None:
        return
    if not clients:
        yield unchecked("whether clients are identified", "no client is connected")
        return
    if not all(client["pid"] for client in clients):
        yield problem(
            "clients without a pid: they are in another pid namespace", NAMESPACE_FIX
        )
        return
    for client in clients:
        pid, reported = client["pid"], client.get("uid")
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            yield warning(
                f"{client['service']}: there is no process {pid} here",
                "it has just ended, or pid namespaces differ",
            )
            continue
        if reported not in (None, uid):
            yield problem(
                f"process {pid} belongs to {user_name(uid)}, but the agent reports"
                f" {user_name(reported)}",
                "please report this",
            )
    yield ok(f"{len(clients)} connected, each identified by its pid")


def process_memory(context: CheckContext) -> CheckResults:
    """Check that the agent can read memory and CPU of local clients."""
    now = context.health["timestamp"] if context.health else 0.0
    sampled = [
        client for client in _local(context) if now - client["since"] > SAMPLED_SECONDS
    ]
    unread = [client for client in sampled if client["memory_mb"] is None]
    hidden = _hidepid(context)
    if unread:
        names = ", ".join(sorted({client["service"] for client in unread}))
        yield problem(
            f"the agent cannot read memory and CPU of {len(unread)} of {len(sampled)}"
            f" processes ({names})",
            hidden or "run it as their user or as root, in the host's pid namespace",
        )
    elif hidden:
        yield warning("the agent may not see processes of other users", hidden)
    elif sampled:
        yield ok(f"memory and CPU of {len(sampled)} processes are read")
    elif context.health is not None:
        yield ok("the agent can read memory and CPU of other processes")


def _local(context: CheckContext) -> list[dict[str, Any]]:
    """Return the clients that are connected from this host."""
    host = socket.gethostname()
    return [c for c in context.connected if c["host"] == host and not c["via"]]


def _hidepid(context: CheckContext) -> str:
    """Return how to show processes to the agent; empty if none are hidden."""
    agent = context.process
    if agent is None or agent.uid == 0:
        return ""
    mounts = _read(f"/proc/{agent.pid}/mountinfo") or _read("/proc/self/mountinfo")
    proc = [line for line in mounts.splitlines() if " /proc " in line]
    option = HIDEPID.search(proc[-1]) if proc else None
    if option is None:
        return ""
    return (
        f"/proc is mounted with {option[0]}: remove ProtectProc= from the unit of a"
        " service; on the host, remount /proc without it, or with gid= of the agent's"
        " group"
    )


# -- limits --------------------------------------------------------------------------


def open_files(context: CheckContext) -> CheckResults:
    """Check that the agent can open enough files for its clients."""
    limits = _read(f"/proc/{_pid(context)}/limits")
    if not limits:
        yield unchecked("the limit on open files", "run as its user or as root")
        return
    limit = re.search(r"^Max open files +(\d+)", limits, re.MULTILINE)
    if limit is None:
        yield ok("open files are not limited")
        return
    room = max(0, (int(limit[1]) - FILES_RESERVED) // FILES_PER_CLIENT)
    text = f"{int(limit[1]):,} open files are allowed, enough for {room:,} clients"
    if room < max(FEW_CLIENTS, len(context.clients or ()) * 5 // 4):
        yield warning(text, "set LimitNOFILE=65536 in its unit, or use ulimit -n")
    else:
        yield ok(text)


def memory_limit(context: CheckContext) -> CheckResults:
    """Check that the control group of the agent leaves it enough memory."""
    group = _control_group(_pid(context))
    used = _number(group, r"\d+", "memory.current", "memory.usage_in_bytes")
    if used is None:
        yield unchecked("the memory limit", "no control group counts its memory")
        return
    fix = "raise MemoryMax= in its unit, or lower limits.series"
    killed = _number(group, r"oom_kill (\d+)", "memory.events", "memory.oom_control")
    if killed:
        yield problem(f"{killed} processes of {group.name} ran out of memory", fix)
    limit = _number(group, r"\d+", "memory.max", "memory.limit_in_bytes")
    if limit is None or limit > NO_LIMIT:
        yield ok("no control group limits its memory")
        return
    share = f"{quantity(used, 'bytes')} of {quantity(limit, 'bytes')}"
    text = f"{share} of {group.name} are used"
    # The kernel caches files as long as there is room.
    yield warning(text, fix) if used > 0.9 * limit else ok(text)


def _control_group(pid: int) -> Path:
    """Return where the kernel shows the control group of a process; see cgroups(7)."""
    groups = _read(f"/proc/{pid}/cgroup")
    first = re.search(r"^\d+:(?:\w+,)*memory(?:,\w+)*:/(.*)$", groups, re.MULTILINE)
    if first is not None:
        return CGROUPS / "memory" / first[1]
    second = re.search(r"^0::/(.*)$", groups, re.MULTILINE)
    return CGROUPS / (second[1] if second is not None else "")


def _number(group: Path, pattern: str, *names: str) -> int | None:
    """Return a number from the file of version 2, or else of version 1."""
    text = next(filter(None, (_read(group / name) for name in names)), "")
    found = re.search(rf"^{pattern}", text, re.MULTILINE)
    return int(found[found.lastindex or 0]) if found else None


def _pid(context: CheckContext) -> int:
    """Return the agent's pid, or this process's: their limits are usually alike."""
    return context.process.pid if context.process is not None else os.getpid()


def _read(path: str | Path) -> str:
    """Return the text of a file of the kernel; empty if it cannot be read."""
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

# When a property of the unit is a warning, which one, and how to fix it.
UNIT_WARNINGS: Final[tuple[tuple[Callable[[Properties], bool], str, str], ...]] = (
    (
        lambda unit: unit["NRestarts"] != "0",
        "systemd has restarted it {NRestarts} times",
        "see journalctl -u kaywatch; then {systemctl} reset-failed kaywatch",
    ),
    (
        lambda unit: unit["UnitFileState"] == "disabled",
        "it does not start at boot",
        "{systemctl} enable kaywatch",
    ),
    (
        lambda unit: unit["NeedDaemonReload"] == "yes",
        "its unit has changed since systemd read it",
        "{systemctl} daemon-reload",
    ),
    (
        lambda unit: not unit["Type"].startswith("notify"),
        "Type={Type}: systemd does not know when it is ready",
        "set Type=notify in its unit",
    ),
    (
        lambda unit: unit["WatchdogUSec"] in ("0", "infinity"),
        "no watchdog: an agent that hangs is not restarted",
        "set WatchdogSec=30s in its unit",
    ),
)


def unit(context: CheckContext) -> CheckResults:
    """Check that the service is installed, runs, and is supervised."""
    manager = context.manager
    if not os.path.isdir("/run/systemd/system"):
        yield unchecked("the service", "this host was not started by systemd")
        return
    if manager is None:
        yield unchecked("no service", "`kaywatch service install` installs it")
        return
    try:
        found = manager.properties(SERVICE, *PROPERTIES)
        holder = manager.properties(SOCKET, "ActiveState")["ActiveState"]
    except StartError as error:
        yield unchecked("the state of the service", str(error))
        return
    systemctl = "systemctl --user" if manager.user else "systemctl"
    state = f"{SERVICE} is {found['ActiveState']} ({found['SubState']})"
    if found["ActiveState"] == "active":
        yield ok(state)
    else:
        yield problem(
            f"{state}, last result {found['Result']}",
            f"{systemctl} start kaywatch; journalctl -u kaywatch shows why it ended",
        )
    yield from _unit_results(found, systemctl)
    if holder == "active":
        yield ok("systemd holds the socket: clients can connect during a restart")


def _unit_results(found: Properties, systemctl: str) -> CheckResults:
    for applies, text, fix in UNIT_WARNINGS:
        if applies(found):
            yield warning(text.format(**found), fix.format(systemctl=systemctl))
    if found["Type"].startswith("notify"):
        yield ok("systemd is notified when it is ready")
    if found["WatchdogUSec"] not in ("0", "infinity"):
        yield ok(f"restarted when it hangs for {found['WatchdogUSec']}")
    for path in found["DropInPaths"].split():
        yield ok(f"{path} is a drop-in")


def unit_files(context: CheckContext) -> CheckResults:
    """Check that the units are those that this installation would write."""
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
            "`kaywatch service install` rewrites it; put your own changes into"
            " drop-ins (systemctl edit)",
        )
    if not differing:
        yield ok(f"{len(files)} files are up to date")


def sandbox(context: CheckContext) -> CheckResults:
    """Check that the service has no more rights than it needs."""
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
        yield warning(text, f"the unit alone has {EXPOSURE}: check the drop-ins")
    else:
        yield ok(text)


# -- an application's environment ----------------------------------------------------


def recording(_: CheckContext) -> CheckResults:
    """Check that the environment does not disable the client."""
    if settings_from_environment().enabled:
        yield ok("applications record their executions")
    else:
        value = os.environ.get("KAYGRAPH_COLLECT_METRICS")
        yield warning(
            f"KAYGRAPH_COLLECT_METRICS={value}: applications record nothing",
            "unset it, or set it to true",
        )


def endpoint(context: CheckContext) -> CheckResults:
    """Check that applications push to where the agent is."""
    value = os.environ.get("KAYWATCH_ENDPOINT")
    if not value:
        return
    try:
        check_usable(value)
        if urlsplit(value).scheme in brokers.SCHEMES:
            broker = brokers.from_environment(value)
            yield from broker_reached(f"KAYWATCH_ENDPOINT ({broker.url})", broker)
            return
    except ConfigurationError as error:
        yield problem(f"KAYWATCH_ENDPOINT: {error}", "correct or unset it")
        return
    if os.path.exists(urlsplit(value).path):
        yield ok(f"KAYWATCH_ENDPOINT={value}")
    else:
        yield problem(
            f"KAYWATCH_ENDPOINT={value}: no such file",
            f"set it to unix://{context.config.ingest.path}, or unset it",
        )


def variables(_: CheckContext) -> CheckResults:
    """Check the other variables that the client reads."""
    invalid = parse_tags(os.environ.get("KAYWATCH_TAGS", ""))[1]
    if invalid:
        yield warning(
            f"KAYWATCH_TAGS: {', '.join(invalid)} is ignored", "write key=value,..."
        )
    prices = os.environ.get("KAYWATCH_PRICES")
    if prices and not Path(prices).is_file():
        yield problem(f"KAYWATCH_PRICES={prices}: no such file", "correct or unset it")


def frameworks(_: CheckContext) -> CheckResults:
    """Check that a framework that can be monitored is installed."""
    python = f"in this Python ({sys.prefix})"
    if installed := _installed(FRAMEWORKS):
        yield ok(f"{installed} {python}")
    else:
        yield unchecked(
            f"neither {' nor '.join(FRAMEWORKS)} is installed {python}",
            "an application's own environment has to be checked there",
        )
    if installed := _installed(SDKS):
        yield ok(f"calls of language models are recorded: {installed}")


def _installed(modules: Iterable[str]) -> str:
    """Return the modules that can be imported, with versions. None is imported."""
    found = []
    for name in modules:
        try:
            if importlib.util.find_spec(name) is None:
                continue
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} of an unknown version")
        except (ImportError, ValueError):
            continue
    return ", ".join(found)
