"""Calls back shortly before this process ends in an orderly way.

Strategy: `atexit` covers a return, `sys.exit` and an unhandled exception. Python has no
hook for the other orderly ends, so the functions that cause them are wrapped: children
of multiprocessing, billiard and RQ end with `os._exit`, reloaders replace the process
with `os.exec*`, and uvicorn sends the signal that stopped it to itself once more.
`kaywatch._send.self_pipe` covers a SIGTERM from outside.
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

__all__ = ["call_before_exit"]

Callback = Callable[[], object]

# Signals that request an end of the process, and end it by default. Signals of crashes,
# such as SIGABRT, and SIGKILL do not lead to an orderly end.
STOP_SIGNALS: Final = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}
)


def call_before_exit(callback: Callback) -> None:
    """Call `callback()` before each orderly end, and before failed attempts at one."""
    atexit.register(callback)
    for name in ("_exit", "execv", "execve"):
        _wrap(os, name, callback, lambda *_: True)
    _wrap(os, "kill", callback, _ends_this_process)
    _wrap(os, "killpg", callback, _ends_this_group)
    _wrap(signal, "raise_signal", callback, _is_deadly)
    _wrap(signal, "pthread_kill", callback, lambda _, number: _is_deadly(number))


def _wrap(
    module: ModuleType, name: str, callback: Callback, is_end: Callable[..., bool]
) -> None:
    """Make a function of a module call back first if `is_end(*arguments)`."""
    original: Any = getattr(module, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _check(is_end, *args, *kwargs.values()):
            callback()
        return original(*args, **kwargs)

    # The attribute is replaced where pickle looks it up, too.
    for owner in (module, sys.modules[original.__module__]):
        setattr(owner, name, call)


def _check(is_end: Callable[..., bool], *args: Any) -> bool:
    try:
        return is_end(*args)
    except Exception:  # noqa: BLE001 - of invalid arguments: the original's to raise
        return False


def _ends_this_process(pid: int, number: int) -> bool:
    return pid in {0, os.getpid()} and _is_deadly(number)


def _ends_this_group(group: int, number: int) -> bool:
    return group in {0, os.getpgrp()} and _is_deadly(number)


def _is_deadly(number: int) -> bool:
    return number in STOP_SIGNALS and signal.getsignal(number) is signal.SIG_DFL
