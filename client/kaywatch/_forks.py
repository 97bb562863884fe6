"""Prepares the process for a fork by Python or by C code, and cleans up after it."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["call_after_return", "process_started"]

MAX_TRIES: Final = 10_000  # other libraries' fork hooks may take their time

_pending_calls: Final[dict[int, object]] = {}


def call_after_return(frame: FrameType, call: Callable[[], None]) -> None:
    """Call as soon as the C function that `frame` of the main thread is in returns.

    For `os.fork`: Python 3.12 and later count the threads after all hooks have run, and
    warn if there is more than one. Without ctypes, the next event starts the thread.
    """
    tries = itertools.count()

    def interrupt(_: object) -> int:
        with contextlib.suppress(Exception):  # C code could not handle it
            if sys._getframe(1) is frame or next(tries) > MAX_TRIES:  # noqa: SLF001
                del _pending_calls[id(callback)]
                call()
            else:  # it interrupted a fork hook, ours or another library's
                ctypes.pythonapi.Py_AddPendingCall(callback, None)
        return 0

    with contextlib.suppress(ImportError, OSError, MemoryError):
        import ctypes

        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(interrupt)
        _pending_calls[id(callback)] = callback  # kept alive until it is called
        # https://docs.python.org/3/c-api/init.html#c.Py_AddPendingCall
        ctypes.pythonapi.Py_AddPendingCall(callback, None)


def process_started() -> float:
    """Return the latest time at which this process can have been forked, as Unix time.

    The kernel knows the start to a clock tick, 10 ms. The CPU time used since is exact,
    so a process that has only computed so far started that long ago.
    """
    now, used = time.time(), time.process_time()
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        # proc(5): field 22 of stat; the name in field 2 may contain spaces.
        with open("/proc/self/stat", "rb") as stat:
            ticks = int(stat.read().rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME)
        age -= (ticks + 1) / os.sysconf("SC_CLK_TCK")
        used = max(used, age)
    return now - used
