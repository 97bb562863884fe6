"""A clock that starts in the past: sleeping takes no time until it has caught up.

So a process has an hour of history some seconds after its start. `start` is called
before kaywatch is imported, which keeps references to the functions of `time`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_real_time, _real_clock, _real_sleep = time.time, time.perf_counter, time.sleep
_behind = 0.0
_at_present: Callable[[], None] | None = None


def start(seconds: float) -> None:
    """Set the clocks of this process back."""
    global _behind
    _behind = seconds
    time.time = lambda: _real_time() - _behind
    time.perf_counter = lambda: _real_clock() - _behind


def sleep(seconds: float) -> None:
    """Sleep; in the past, only the clock goes on."""
    global _behind, _at_present
    skipped = min(seconds, _behind)
    _behind -= skipped
    if _behind == 0 and _at_present is not None:
        call, _at_present = _at_present, None
        call()
    if seconds > skipped:
        _real_sleep(seconds - skipped)


def at_present(call: Callable[[], None]) -> None:
    """Call a function once the clock has caught up, within that sleep."""
    global _at_present
    _at_present = call


def behind() -> float:
    """Return how many seconds the clock is behind."""
    return _behind
