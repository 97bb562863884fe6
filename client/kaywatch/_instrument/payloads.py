"""What KayGraph's page measures by hand, on request: data sizes, rates and memory.

Strategy: a second wrapper around `_exec`, which is there only when asked for, so that
nobody else pays. What a node's `prep` returned is measured once `_exec` has succeeded,
as `after_exec` does on the page: `data_size` is its text's length in characters,
`processing_rate` that length over the seconds since the node started, and `memory_mb`
the process's resident memory in MiB.
"""

from __future__ import annotations

import inspect
import os
from time import perf_counter
from typing import Any, Final, NamedTuple

from kaywatch._instrument.wrapping import Function, seal, trouble
from kaywatch._process import process
from kaywatch._spans.frames import PREP, Frame, current_frame

__all__ = ["Measures", "measured"]

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MIB: Final = 1024 * 1024


class Measures(NamedTuple):
    """What to measure of every node.

    Attributes:
        data_sizes: `data_size` and `processing_rate`; costs the payload's `str()`.
        memory: `memory_mb`; costs some 10 us.
    """

    data_sizes: bool = False
    memory: bool = False


def measured(wrapper: Function, original: Function, measures: Measures) -> Function:
    """Measure what goes through an `_exec` that is wrapped already."""

    def plain(self: Any, *args: Any, **kwargs: Any) -> Any:
        frame = _started(self)
        result = wrapper(self, *args, **kwargs)
        if frame is not None:
            _measure(frame, measures, *args, **kwargs)
        return result

    async def waiting(self: Any, *args: Any, **kwargs: Any) -> Any:
        frame = _started(self)
        result = await wrapper(self, *args, **kwargs)
        if frame is not None:
            _measure(frame, measures, *args, **kwargs)
        return result

    return seal(waiting if inspect.iscoroutinefunction(wrapper) else plain, original)


def _started(node: Any) -> Frame | None:
    """Return the node's execution if this is its outermost `_exec`."""
    frame = current_frame.get()
    mine = frame is not None and frame.owner is node and frame.phase == PREP
    return frame if mine else None


def _measure(frame: Frame, measures: Measures, *given: Any, **named: Any) -> None:
    try:
        seconds = perf_counter() - frame.started
        if measures.data_sizes:
            size = _size(next(iter((*given, *named.values())), None))
            if size is not None:
                _observe(frame, "data_size", size)
                _observe(frame, "processing_rate", size / seconds)
        if measures.memory:
            _observe(frame, "memory_mb", _resident_mib())
    except Exception:  # noqa: BLE001 - of a `__str__` of the application's, say
        trouble(f"the payload of {frame.series.node}")


def _size(payload: Any) -> int | None:
    """Return the length of a payload's text, None for a stream: it says nothing."""
    return None if hasattr(type(payload), "__next__") else len(str(payload))


def _resident_mib() -> float:
    # Opened anew: after a fork an open one would still tell of the parent.
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE_BYTES / _MIB


def _observe(frame: Frame, name: str, value: float) -> None:
    points, key = frame.series.points, ("observe", name)
    call = points.get(key)
    if call is None:
        series = frame.series
        call = process.recorder.point("observe", name, series.graph, series.node)
        points[key] = call
    call(value)
