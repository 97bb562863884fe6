"""What this process uses, for an agent that can't look after it from outside."""

from __future__ import annotations

import os

__all__ = ["usage"]


def usage() -> dict[str, float]:
    """Return the resident memory in bytes, if known, and CPU seconds so far."""
    times = os.times()
    used: dict[str, float] = {"cpu": times.user + times.system}
    try:
        # proc(5): the second field of statm is the resident set, in pages.
        with open("/proc/self/statm", "rb") as statm:
            pages = int(statm.read().split()[1])
        used["rss"] = pages * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        pass  # no Linux
    return used
