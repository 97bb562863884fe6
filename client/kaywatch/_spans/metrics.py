"""Custom metrics: observe, count, gauge.

Each is attributed to the node under way, by contextvar; outside any node it belongs
to the service alone.
"""

from __future__ import annotations

from collections.abc import Callable

from kaywatch._process import process
from kaywatch._spans.spans import current_span
from kaywatch.recorder import Series

__all__ = ["count", "gauge", "observe"]


def observe(name: str, value: float, **labels: str) -> None:
    """Record one value of a distribution, such as a size or a duration.

    The agent gives its count, sum, min, max and quantiles. Never raises or blocks.

    Args:
        name: the metric's name, such as `data_size`; put the unit into it.
        value: a finite number.
        **labels: a few words that split the metric; each with few values.
    """
    _add("observe", name, value, labels)


def count(name: str, value: float = 1, **labels: str) -> None:
    """Add `value`, by default 1, to a running sum. Never raises or blocks."""
    _add("count", name, value, labels)


def gauge(name: str, value: float, **labels: str) -> None:
    """Set a value of which the last one counts. Never raises or blocks."""
    _add("gauge", name, value, labels)


def _add(kind: str, name: str, value: float, labels: dict[str, str]) -> None:
    if not process.settings.enabled:
        return
    span = current_span.get()
    if labels or span is None:
        call = _look_up(kind, name, span.series if span else None, labels)
    else:
        # A node's metrics are cached on its series: one dict lookup.
        points = span.series.points
        found = points.get((kind, name))
        if found is None:
            found = points[kind, name] = _look_up(kind, name, span.series, labels)
        call = found
    call(value)


def _look_up(
    kind: str, name: str, series: Series | None, labels: dict[str, str]
) -> Callable[[float], None]:
    graph, node = (series.graph, series.node) if series is not None else ("", "")
    text = {key: str(value) for key, value in labels.items()}
    return process.recorder.point(kind, str(name), graph, node, text)
