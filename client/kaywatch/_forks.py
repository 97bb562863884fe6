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

MAX_TRIES: Final = 10_000  # calls from within the fork hooks of other libraries

_pending_calls: Final[dict[int, object]] = {}


def call_after_return(frame: FrameType, call: Callable[[], None]) -> bool:
    """Call `call()` once the C function returns that `frame` has called.

    The frame is one of the main thread. This delays the start of a thread after
    `os.fork`: Python 3.12 and later count the threads after all hooks have run, and
    warn if there is more than one.

    Returns:
        Whether it will be called: not without ctypes, and not while Python 3.11 traces
        or profiles the process. It does not begin a function then while a call is
        pending, so that a call that adds itself again would never end.
    """
    is_traced = sys.gettrace() is not None or sys.getprofile() is not None
    if is_traced and sys.version_info < (3, 12):
        return False
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
        return True
    return False


def process_started() -> float:
    """Return the latest time at which this process can have been forked, as Unix time.

    The kernel reports the start with a precision of a clock tick, 10 ms. The CPU time
    used since the start is exact, and is less than the age of the process.
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
