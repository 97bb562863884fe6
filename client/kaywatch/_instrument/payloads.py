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

from kaywatch._process import process
from kaywatch._spans.spans import PREP, Span, current_span
from kaywatch._wrappers import Function, seal, warn_once

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
        span = _started(self)
        result = wrapper(self, *args, **kwargs)
        if span is not None:
            _measure(span, measures, *args, **kwargs)
        return result

    async def waiting(self: Any, *args: Any, **kwargs: Any) -> Any:
        span = _started(self)
        result = await wrapper(self, *args, **kwargs)
        if span is not None:
            _measure(span, measures, *args, **kwargs)
        return result

    return seal(waiting if inspect.iscoroutinefunction(wrapper) else plain, original)


def _started(node: Any) -> Span | None:
    """Return the node's execution if this is its outermost `_exec`."""
    span = current_span.get()
    mine = span is not None and span.owner is node and span.phase == PREP
    return span if mine else None


def _measure(span: Span, measures: Measures, *given: Any, **named: Any) -> None:
    try:
        seconds = perf_counter() - span.started
        if measures.data_sizes:
            size = _size(next(iter((*given, *named.values())), None))
            if size is not None:
                _observe(span, "data_size", size)
                _observe(span, "processing_rate", size / seconds)
        if measures.memory:
            _observe(span, "memory_mb", _resident_mib())
    except Exception:  # noqa: BLE001 - of a `__str__` of the application's, say
        warn_once(f"the payload of {span.series.node}")


def _size(payload: Any) -> int | None:
    """Return the length of a payload's text, None for a stream: it says nothing."""
    return None if hasattr(type(payload), "__next__") else len(str(payload))


def _resident_mib() -> float:
    # Opened anew: after a fork an open one would still tell of the parent.
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE_BYTES / _MIB


def _observe(span: Span, name: str, value: float) -> None:
    points, key = span.series.points, ("observe", name)
    call = points.get(key)
    if call is None:
        series = span.series
        call = process.recorder.point("observe", name, series.graph, series.node)
        points[key] = call
    call(value)
