"""Custom metrics: observe, count, gauge.

A value is attributed to the node in progress, by contextvar. Outside of any node it
belongs to the service alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kaywatch._process import process
from kaywatch._spans.spans import current_span
from kaywatch._tables import MAX_SERIES
from kaywatch.recorder import Series

__all__ = ["count", "gauge", "observe"]

MAX_WARNINGS: Final = 100  # names that are warned of, in case names are generated

_warned: set[str] = set()


def observe(name: str, value: float, **labels: str) -> None:
    """Record one value of a distribution, such as a size or a duration.

    The agent reports count, sum, min, max and quantiles. Never raises or blocks.

    Args:
        name: the metric's name, such as `data_size`; put the unit into it.
        value: a finite number.
        **labels: dimensions that split the metric, each with few values.

    Example:
        kaywatch.observe("answer_characters", 1834, model="large")
    """
    _add("observe", name, value, labels)


def count(name: str, value: float = 1, **labels: str) -> None:
    """Add `value`, by default 1, to a running sum. Never raises or blocks.

    A negative value is not recorded, and a warning is logged once for each name: a sum
    that can decrease is a `gauge`.

    Args:
        name: the metric's name.
        value: what to add.
        **labels: dimensions that split the metric, each with few values.

    Example:
        kaywatch.count("cache_hits", tier="memory")
    """
    if _is_negative(value):
        _warn_of_negative(name, value)
    else:
        _add("count", name, value, labels)


def gauge(name: str, value: float, **labels: str) -> None:
    """Set a metric to a value, which replaces the last one. Never raises or blocks.

    Args:
        name: the metric's name; put the unit into it.
        value: a finite number.
        **labels: dimensions that split the metric, each with few values.

    Example:
        kaywatch.gauge("queue_length", 12)
    """
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
        cached = points.get((kind, name))
        add = cached or _look_up(kind, name, span.series, labels)
        if cached is None and len(points) < MAX_SERIES:
            points[kind, name] = add
    add(value)


def _is_negative(value: object) -> bool:
    try:
        return bool(value < 0)  # type: ignore[operator]
    except Exception:  # noqa: BLE001 - of a type that we do not know
        return False  # the sender counts a value that is not a number as unpackable


def _warn_of_negative(name: str, value: float) -> None:
    if name not in _warned and len(_warned) < MAX_WARNINGS:
        _warned.add(name)
        import logging  # here, so that `import kaywatch` costs less

        logging.getLogger("kaywatch").warning(
            "kaywatch.count(%r, %r) is not recorded: a count cannot be negative;"
            " use kaywatch.gauge, or kaywatch.observe for a distribution",
            name,
            value,
        )


def _look_up(
    kind: str, name: str, series: Series | None, labels: dict[str, str]
) -> Callable[[float], None]:
    graph, node = (series.graph, series.node) if series is not None else ("", "")
    text = {key: str(value) for key, value in labels.items()}
    return process.recorder.point(kind, str(name), graph, node, text)
