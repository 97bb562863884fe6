"""Whether the machine lets the agent have what it needs: files, memory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from kaywatch_agent import units as quantities
from kaywatch_agent.cli.doctor.finding import Findings, ok, problem, unchecked, warning
from kaywatch_agent.cli.doctor.ground import Ground

__all__ = ["CHECKS"]

CGROUPS: Final = Path("/sys/fs/cgroup")

# The versions of control groups: the line of /proc/PID/cgroup, where groups are, and
# what is in which file.
VERSIONS: Final = (
    (
        r"^0::/(.*)$",
        CGROUPS,
        {
            "limit": ("memory.max", r"^(\d+)"),
            "used": ("memory.current", r"^(\d+)"),
            "killed": ("memory.events", r"^oom_kill (\d+)"),
        },
    ),
    (
        r"^\d+:(?:\w+,)*memory(?:,\w+)*:/(.*)$",
        CGROUPS / "memory",
        {
            "limit": ("memory.limit_in_bytes", r"^(\d+)"),
            "used": ("memory.usage_in_bytes", r"^(\d+)"),
            "killed": ("memory.oom_control", r"^oom_kill (\d+)"),
        },
    ),
)
NO_LIMIT: Final = 2**60  # of the first version; some bytes short of 2**63

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
    name = group.folder.name
    killed = group.number("killed")
    if killed:
        yield problem(
            f"{killed} processes of {name} were killed for want of memory",
            "raise MemoryMax= in its unit, or lower limits.series",
        )
    limit, used = group.number("limit"), group.number("used")
    if limit is None or limit > NO_LIMIT or used is None:
        yield ok("no control group limits its memory")
        return
    text = (
        f"{quantities.quantity(used, 'bytes')} of"
        f" {quantities.quantity(limit, 'bytes')} of {name} are used"
    )
    # Of files that were read the kernel keeps what there is room for.
    if used > 0.9 * limit:
        yield warning(text, "raise MemoryMax= in its unit, or lower limits.series")
    else:
        yield ok(text)


class _Group(NamedTuple):
    """A control group; see cgroups(7) for its two versions.

    Attributes:
        folder: where the kernel shows it.
        files: by what is asked for, the file and the pattern of the number in it.
    """

    folder: Path
    files: Mapping[str, tuple[str, str]]

    def number(self, what: str) -> int | None:
        """Return a number; None where there is none."""
        name, pattern = self.files[what]
        try:
            text = (self.folder / name).read_text(encoding="ascii")
        except OSError:
            return None
        found = re.search(pattern, text, re.MULTILINE)
        return int(found[1]) if found else None


def _pid(ground: Ground) -> int:
    """Return the agent's pid, or this one where it is not known: limits are alike."""
    found = ground.process
    return found.pid if found is not None and found.pid > 0 else os.getpid()


def _group(pid: int) -> _Group | None:
    """Return the control group of a process that counts its memory."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return None
    for line, folder, files in VERSIONS:
        found = re.search(line, text, re.MULTILINE)
        if found is not None:
            group = _Group(folder / found[1], files)
            if group.number("used") is not None:
                return group
    return None


CHECKS: Final = (files, memory)
