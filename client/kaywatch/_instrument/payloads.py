"""Metrics that KayGraph's page measures by hand, on request: data sizes, rates, memory.

Strategy: the hooks of `_exec` are extended only when asked for, so that other
applications don't pay. As `after_exec` on that page, a measurement follows an `_exec`
that succeeded: `data_size` is the length in characters of the text of what `prep`
returned, `processing_rate` that length over the seconds since the node started, and
`memory_mb` the process's resident memory in MiB.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any, Final, NamedTuple

from kaywatch._spans.metrics import observe
from kaywatch._spans.spans import Span, current_span
from kaywatch._wrappers import Hooks, warn_once

__all__ = ["Measurements", "with_measurements"]

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MIB: Final = 1024 * 1024


class Measurements(NamedTuple):
    """The measurements to take at every node.

    Attributes:
        data_sizes: `data_size` and `processing_rate`; costs a `str()` of the payload.
        memory: `memory_mb`; costs some 10 us.
    """

    data_sizes: bool = False
    memory: bool = False


def with_measurements(hooks: Hooks[Span], enabled: Measurements) -> Hooks[Any]:
    """Extend the hooks of `_exec`; an execution is measured once, at its outermost."""

    def enter(node: Any, payload: Any) -> tuple[Span, bool, Any] | None:
        outer = current_span.get()
        is_first = outer is not None and not outer.exec_started
        span = hooks.enter(node, payload)
        return None if span is None else (span, is_first and span is outer, payload)

    def leave(
        state: tuple[Span, bool, Any], result: Any, error: BaseException | None
    ) -> None:
        span, is_outermost, payload = state
        hooks.leave(span, result, error)
        if is_outermost and error is None:
            _measure(span, enabled, payload)

    return Hooks(enter, leave)


def _measure(span: Span, enabled: Measurements, payload: Any) -> None:
    try:
        # An iterator is left alone: its text says nothing about its size.
        if enabled.data_sizes and not hasattr(type(payload), "__next__"):
            seconds = perf_counter() - span.started
            size = len(str(payload))
            observe("data_size", size)
            observe("processing_rate", size / seconds)
        if enabled.memory:
            observe("memory_mb", _resident_mib())
    except Exception:  # noqa: BLE001 - of a `__str__` of the application's, say
        warn_once(f"the payload of {span.series.node}")


def _resident_mib() -> float:
    # Opened each time: after a fork, an open file would still be the parent's.
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE_BYTES / _MIB
