"""Many series that are busy all the time, as the agent's stages hold them."""

from __future__ import annotations

import numpy as np

from kaywatch_agent.aggregate.bucket import Bucket, reduce
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.model.series import Columns, ErrorKey, Kind, PhaseColumns, SeriesKey

__all__ = ["bucket", "columns", "phases", "registry"]


def registry(series: int, services: int = 5, graphs: int = 200) -> Registry:
    """Return the names of nodes of services and graphs, and what they did."""
    found = Registry(Limits())
    for n in range(series):
        key = SeriesKey(
            Kind.NODE, f"service-{n % services}", f"graph-{n % graphs}", f"node-{n}"
        )
        found.row(key, f"process-{n % 5}")
    assert not found.overflow_count
    found.actions.number("default")
    found.errors.number(ErrorKey("ValueError", "exec"))
    return found


def columns(series: int, each: int, now: float) -> Columns:
    """Return `each` executions of every series: 1 of 100 failed, 1 of 10 retried."""
    random = np.random.default_rng(1)
    size = series * each
    failed = random.random(size) < 0.01
    return Columns(
        np.tile(np.arange(series), each),
        np.full(size, now),
        random.lognormal(-2, 1, size),
        failed.astype(np.uint8),
        1 + (random.random(size) < 0.1).astype(np.int64),
        np.where(failed, 0, 1),
        failed.astype(np.int64),
    )


def phases(events: Columns) -> PhaseColumns:
    """Return phases of all of them, as an instrumented framework's nodes have."""
    tenth = (events.value * 0.1).astype(np.float32)
    none = np.zeros(len(events.row), np.uint32)
    return PhaseColumns(*events[:3], tenth, 8 * tenth, 0 * tenth, none)


def bucket(series: int, each: int, now: float) -> Bucket:
    """Return what the aggregation makes of such executions."""
    events = columns(series, each, now)
    return reduce(events, phases(events))
