"""Read the CPU time and memory of a process from the kernel."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cpu_seconds", "resident_mb"]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process's running threads, in nanosecond resolution.

    (/proc/PID/stat counts in steps of 10 ms.)
    """
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def resident_mb(pid: int | str = "self") -> float:
    """Return the resident memory of a process in MB, including shared libraries."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(pid)
