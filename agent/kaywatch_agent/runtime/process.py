"""The agent's process: its resource usage and limits."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from typing import Final

from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = [
    "ProcessMetrics",
    "raise_descriptors",
    "release_memory",
    "resident_bytes",
    "tune_allocator",
    "tune_threads",
]

# mallopt(3): numpy's temporaries of up to a few MB come from the heap, and freed memory
# is not returned each time. Otherwise, page faults were a third of the CPU under load
# (136 ns per event instead of 91).
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 16 * 1024 * 1024

# How long a thread keeps the interpreter while another one waits for it. A tick with
# 10,000 series waits some fifty times while a scrape is rendered, because each call of
# numpy releases the interpreter. With Python's 5 ms, it took twice as long.
SWITCH_SECONDS: Final = 0.000_5


class ProcessMetrics(Metrics):
    """The metrics of the agent's process."""

    build = Gauge(
        "kaywatch_build_info", "The running version; always 1.", labels=("version",)
    )
    started = Gauge("kaywatch_start_time_seconds", "When the agent started, Unix time.")
    memory = Gauge("kaywatch_process_resident_memory_bytes", "The agent's memory.")
    cpu = Counter("kaywatch_process_cpu_seconds_total", "CPU time that the agent used.")

    def __init__(self, version: str, started: float) -> None:
        super().__init__()
        self.build.labels(version).set(1)
        self.started.set(started)
        self.memory.set_function(resident_bytes)
        self.cpu.set_function(_cpu_seconds)


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    # proc(5): the second field of statm is the resident set, in pages.
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:  # there is no file descriptor left: its largest size, in kB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tune_allocator() -> None:
    """Keep glibc from returning memory that the next tick needs."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def release_memory() -> None:
    """Return what a start has freed to the system; it takes some 20 ms."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def tune_threads() -> None:
    """Let the event loop interrupt threads that build responses early."""
    sys.setswitchinterval(SWITCH_SECONDS)


def raise_descriptors() -> None:
    """Raise the limit of open files to its maximum: each client takes two.

    The low default is for programs that use select(2); see systemd.exec(5).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
