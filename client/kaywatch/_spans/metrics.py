"""Custom metrics: observe, count, gauge.

A value is attributed to the node in progress, by contextvar. Outside of any node it
belongs to the service alone.
"""

from __future__ import annotations

from collections.abc import Callable

from kaywatch._process import process
from kaywatch._spans.spans import current_span
from kaywatch.recorder import Series

__all__ = ["count", "gauge", "observe"]


def observe(name: str, value: float, **labels: str) -> None:
    """Record one value of a distribution, such as a size or a duration.

    The agent reports count, sum, min, max and quantiles. Never raises or blocks.

    Args:
        name: the metric's name, such as `data_size`; put the unit into it.
        value: a finite number.
        **labels: dimensions that split the metric, each with few values.
    """
    _add("observe", name, value, labels)


def count(name: str, value: float = 1, **labels: str) -> None:
    """Add `value`, by default 1, to a running sum. Never raises or blocks."""
    _add("count", name, value, labels)


def gauge(name: str, value: float, **labels: str) -> None:
    """Set a metric to a value, which replaces the last one. Never raises or blocks."""
    _add("gauge", name, value, labels)


def _add(kind: str, name: str, value: float, labels: dict[str, str]) -> None:
    if not process.settings.enabled:
        return
    span = current_span.get()
    if labels or span is None:
        add = _look_up(kind, name, span.series if span else None, labels)
    else:
        # A node's metrics are cached on its series: one dict lookup.
        points = span.series.points
        add = points.get((kind, name)) or points.setdefault(
            (kind, name), _look_up(kind, name, span.series, labels)
        )
    add(value)


def _look_up(
    kind: str, name: str, series: Series | None, labels: dict[str, str]
) -> Callable[[float], None]:
    graph, node = (series.graph, series.node) if series is not None else ("", "")
    text = {key: str(value) for key, value in labels.items()}
    return process.recorder.point(kind, str(name), graph, node, text)
