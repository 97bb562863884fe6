"""Create many active series, in the data types of the agent's stages."""

from __future__ import annotations

import numpy as np

from kaywatch_agent.aggregate.bucket import Bucket
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.model.series import Columns, ErrorKey, Kind, PhaseColumns, SeriesKey

__all__ = ["fill_registry", "letters", "make_bucket", "make_columns", "make_phases"]


def fill_registry(series: int, services: int = 5, graphs: int = 200) -> Registry:
    """Return a registry of nodes in services and graphs, an action and an error."""
    names = Registry(Limits())
    for n in range(series):
        key = SeriesKey(
            Kind.NODE,
            f"service-{n % services}",
            f"graph-{letters(n % graphs)}",
            f"node-{letters(n)}",
        )
        names.row(key, f"process-{n % 5}")
    assert not names.overflow
    names.actions.number("default")
    names.errors.number(ErrorKey("ValueError", "exec"))
    return names


def letters(number: int) -> str:
    """Return a number in letters: digits in names would be folded."""
    return str(number).translate(str.maketrans("0123456789", "abcdefghij"))


def make_columns(series: int, per_series: int, now: float) -> Columns:
    """Return `each` executions of every series: 1 of 100 failed, 1 of 10 retried."""
    random = np.random.default_rng(1)
    size = series * per_series
    failed = random.random(size) < 0.01
    return Columns(
        np.tile(np.arange(series), per_series),
        np.full(size, now),
        random.lognormal(-2, 1, size),
        failed.astype(np.uint8),
        1 + (random.random(size) < 0.1).astype(np.int64),
        np.where(failed, 0, 1),
        failed.astype(np.int64),
    )


def make_phases(events: Columns) -> PhaseColumns:
    """Return phases of all executions, as of an instrumented framework."""
    tenth = (events.value * 0.1).astype(np.float32)
    none = np.zeros(len(events.row), np.uint32)
    return PhaseColumns(*events[:3], tenth, 8 * tenth, 0 * tenth, none)


def make_bucket(series: int, per_series: int, now: float) -> Bucket:
    """Return the bucket that the aggregation creates from such executions."""
    events = make_columns(series, per_series, now)
    return reduce(events, make_phases(events))
