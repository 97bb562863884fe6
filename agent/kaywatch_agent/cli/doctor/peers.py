"""Whether the agent knows who pushes, and can read what their processes use."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any, Final

from kaywatch_agent.cli.doctor import who
from kaywatch_agent.cli.doctor.finding import Findings, ok, problem, unchecked, warning
from kaywatch_agent.cli.doctor.ground import Ground

__all__ = ["CHECKS"]

# The agent looks at each process every few seconds.
SAMPLED_SECONDS: Final = 10.0

HIDDEN: Final = re.compile(r"hidepid=(invisible|noaccess|ptraceable|[124])")


def listener(ground: Ground) -> Findings:
    """Who listens, by the kernel's word."""
    found = ground.listener
    if found is None:
        yield unchecked("who listens", "nobody who could be connected to")
    elif found.pid == 1:
        # Until the agent has listened on it, too.
        yield unchecked("who listens", "systemd does: the agent is about to start")
    elif found.pid == 0:
        yield warning(
            "the agent is in another pid namespace, as in a container",
            "start it with the host's (docker: --pid=host), or it knows no process",
        )
    else:
        yield ok(f"the agent is process {found.pid} of {who.user(found.uid)}")


def identities(ground: Ground) -> Findings:
    """The processes that the agent names are there, and are whose it says."""
    clients = _local(ground)
    if clients is None:
        return
    if not clients:
        yield unchecked(
            "whether the agent sees truly who pushes", "nobody is connected now"
        )
        return
    if any(not client["pid"] for client in clients):
        yield problem(
            "the agent sees processes without a pid: they are in another namespace",
            "share the host's pid namespace (docker: --pid=host)",
        )
        return
    for client in clients:
        owner = _owner(client["pid"])
        said = client.get("uid")
        if owner is None:
            yield warning(
                f"{client['service']}: there is no process {client['pid']} here",
                "it ended this moment, or pid namespaces differ",
            )
        elif said is not None and said != owner:
            yield problem(
                f"process {client['pid']} is of {who.user(owner)}, and the agent says"
                f" {who.user(said)}",
                "please report it",
            )
    yield ok(f"{len(clients)} connected, each by its true pid")


def memory(ground: Ground) -> Findings:
    """The agent can read what the processes use."""
    clients = _local(ground) or []
    now = ground.health["timestamp"] if ground.health else 0.0
    old = [c for c in clients if now - c["times"]["since"] > SAMPLED_SECONDS]
    blind = [client for client in old if client["memory_mb"] is None]
    hidden = _hidden(ground)
    if blind:
        names = ", ".join(sorted({client["service"] for client in blind}))
        yield problem(
            f"the agent can't read memory and CPU of {len(blind)} of {len(old)}"
            f" processes ({names})",
            hidden or "run it as their user or as root, in the host's pid namespace",
        )
    elif hidden:
        yield warning("the agent may not see processes of other users", hidden)
    elif old:
        yield ok(f"memory and CPU of {len(old)} processes are read")
    elif ground.health is not None:
        yield ok("nothing keeps the agent from reading memory and CPU of others")


def _local(ground: Ground) -> list[dict[str, Any]] | None:
    """Return those who are connected from this host."""
    if ground.clients is None:
        return None
    here = socket.gethostname()
    return [
        client
        for client in ground.clients
        if client["state"] == "connected"
        and client["host"] == here
        and not client["via"]
    ]


def _owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _hidden(ground: Ground) -> str:
    """Return what hides processes from the agent; empty for nothing."""
    found = ground.process
    if found is None or found.uid == 0:
        return ""
    for place in (f"/proc/{found.pid}/mountinfo", "/proc/self/mountinfo"):
        try:
            mounts = Path(place).read_text(encoding="utf-8")
        except OSError:
            continue
        proc = [line for line in mounts.splitlines() if " /proc " in line]
        option = HIDDEN.search(proc[-1]) if proc else None
        if option is None:
            return ""
        return (
            f"/proc is mounted with {option[0]}: for a service, no ProtectProc= in its"
            " unit; for the host, mount /proc without it, or with gid= of the agent's"
            " group"
        )
    return ""


CHECKS: Final = (listener, identities, memory)
