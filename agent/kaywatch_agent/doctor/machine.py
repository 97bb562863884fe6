"""Whether the machine lets the agent have what it needs: files, memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from kaywatch_agent import quantities
from kaywatch_agent.doctor.finding import Findings, ok, problem, unchecked, warning
from kaywatch_agent.doctor.ground import Ground

__all__ = ["CHECKS"]

CGROUPS: Final = Path("/sys/fs/cgroup")

# A client costs the agent its connection and a handle on its process; the rest is for
# HTTP, the store, and what comes and goes.
FILES_EACH: Final = 2
FILES_KEPT: Final = 512
FEW_CLIENTS: Final = 256


def files(ground: Ground) -> Findings:
    """The agent may open a file for each client."""
    pid = _pid(ground)
    try:
        limits = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8")
    except OSError:
        yield unchecked("its limit on open files", "only its user and root may look")
        return
    found = re.search(r"^Max open files +(\d+|unlimited)", limits, re.MULTILINE)
    if found is None or found[1] == "unlimited":
        yield ok("there is no limit on open files")
        return
    limit = int(found[1])
    room = max(0, (limit - FILES_KEPT) // FILES_EACH)
    opened = len(ground.clients or ())
    text = f"{limit:,} open files are allowed, enough for some {room:,} clients"
    if room < max(FEW_CLIENTS, opened * 5 // 4):
        yield warning(text, "raise it: LimitNOFILE=65536 in its unit, or ulimit -n")
    else:
        yield ok(text)


def memory(ground: Ground) -> Findings:
    """Its control group leaves it the memory that it needs."""
    group = _group(_pid(ground))
    if group is None:
        yield unchecked("a limit on memory", "there is no control group to be seen")
        return
    killed = _number(group / "memory.events", r"^oom_kill (\d+)")
    if killed:
        yield problem(
            f"{killed} processes of {group.name} were killed for want of memory",
            "raise MemoryMax= in its unit, or lower limits.series",
        )
    limit = _number(group / "memory.max", r"^(\d+)")
    used = _number(group / "memory.current", r"^(\d+)")
    if limit is None:
        yield ok("no control group limits its memory")
    elif used is not None:
        text = (
            f"{quantities.quantity(used, 'bytes')} of"
            f" {quantities.quantity(limit, 'bytes')} of {group.name} are used"
        )
        # Of files that were read the kernel keeps what there is room for.
        if used > 0.9 * limit:
            yield warning(text, "raise MemoryMax= in its unit, or lower limits.series")
        else:
            yield ok(text)


def _pid(ground: Ground) -> int:
    """Return the agent's pid, or this one where it is not known: limits are alike."""
    found = ground.listener
    return found.pid if found is not None and found.pid > 1 else os.getpid()


def _group(pid: int) -> Path | None:
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^0::/(.*)$", text, re.MULTILINE)
    group = CGROUPS / found[1] if found else None
    return group if group is not None and (group / "memory.current").exists() else None


def _number(path: Path, pattern: str) -> int | None:
    try:
        found = re.search(pattern, path.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


CHECKS: Final = (files, memory)
