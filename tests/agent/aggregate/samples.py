"""Columns and buckets to aggregate, and a slow but obvious reference aggregation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tests.agent.aggregate.oracle import facts_of

from kaywatch_agent.aggregate import histogram
from kaywatch_agent.aggregate.bucket import Bucket, Dimension, PhaseSum
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.model.series import Columns, PhaseColumns


class Event(NamedTuple):
    row: int = 0
    time: float = 0.0
    value: float = 1.0
    outcome: int = 0
    attempts: int = 1
    action: int = 0
    error: int = 0
    phases: tuple[float, float, float, int] | None = None  # prep, exec, wait, items


def columns(events: Sequence[Event]) -> Columns:
    """Return events as columns."""
    rows = [event[:7] for event in events]
    parts = list(zip(*rows, strict=True)) if rows else [()] * 7
    types = (np.int64, float, float, np.uint8, np.int64, np.int64, np.int64)
    return Columns(*(np.array(p, t) for p, t in zip(parts, types, strict=True)))


def phases(events: Sequence[Event]) -> PhaseColumns | None:
    """Return the phases of the events with phases."""
    rows = [(e.row, e.time, e.value, *e.phases) for e in events if e.phases]
    if not rows:
        return None
    types = (np.int64, float, float, np.float32, np.float32, np.float32, np.uint32)
    parts = zip(zip(*rows, strict=True), types, strict=True)
    return PhaseColumns(*(np.array(part, kind) for part, kind in parts))


def bucket_of(events: Sequence[Event]) -> Bucket:
    """Return the bucket of events and their phases."""
    return reduce(columns(events), phases(events))


def make_columns(values: Any, row: int = 0) -> Columns:
    """Return columns of one series with these values, a second apart."""
    values = np.asarray(values, float)
    size = len(values)
    ones = np.ones(size, np.int64)
    return Columns(
        row * ones,
        np.arange(size, dtype=float),
        values,
        np.zeros(size, np.uint8),
        ones,
        0 * ones,
        0 * ones,
    )


def naive(events: Sequence[Event]) -> dict[int, dict[str, Any]]:
    """Aggregate events one by one."""
    result: dict[int, dict[str, Any]] = {}
    for event in events:
        of_row = result.setdefault(
            event.row,
            {
                "executions": 0,
                "attempts": 0,
                "total": 0.0,
                "least": math.inf,
                "most": -math.inf,
                "last_time": -math.inf,
                "last": None,
                Dimension.HISTOGRAM: Counter(),
                Dimension.OUTCOME: Counter(),
                Dimension.ACTION: Counter(),
                Dimension.ERROR: Counter(),
                Dimension.PHASES: Counter(),
            },
        )
        of_row["executions"] += 1
        of_row["attempts"] += event.attempts
        of_row["total"] += event.value
        of_row["least"] = min(of_row["least"], event.value)
        of_row["most"] = max(of_row["most"], event.value)
        if event.time >= of_row["last_time"]:
            of_row["last_time"] = event.time
            of_row["last"] = event.value
        code = int(histogram.codes(np.array([event.value]))[0])
        of_row[Dimension.HISTOGRAM][code] += 1
        for dimension, number in (
            (Dimension.OUTCOME, event.outcome),
            (Dimension.ACTION, event.action),
            (Dimension.ERROR, event.error),
        ):
            if number:
                of_row[dimension][number] += 1
        if event.phases is not None:
            of_row[Dimension.PHASES].update(_ticks(event.value, *event.phases))
    for of_row in result.values():
        of_row[Dimension.PHASES] = +of_row[Dimension.PHASES]  # without zeros
    return result


def _ticks(
    seconds: float, prep: float, exec: float, wait: float, items: int
) -> dict[int, int]:
    """Return what one execution adds to each PhaseSum, for times of whole 1/8 s."""
    post = max(0.0, seconds - prep - exec - wait)
    return {
        PhaseSum.EXECUTIONS: 1,
        PhaseSum.PREP: int(prep * 10**7),
        PhaseSum.EXEC: int(exec * 10**7),
        PhaseSum.WAIT: int(wait * 10**7),
        PhaseSum.POST: int(post * 10**7),
        PhaseSum.ITEMS: items,
    }


def to_naive(bucket: Bucket) -> dict[int, dict[str, Any]]:
    """Return a bucket in the form of `naive`."""
    result: dict[int, dict[str, Any]] = {}
    for at, row in enumerate(bucket.rows.tolist()):
        of_row: dict[Any, Any] = {
            name: getattr(bucket, name)[at].item()
            for name in (
                *("executions", "attempts", "total"),
                *("least", "most", "last_time", "last"),
            )
        }
        for dimension in Dimension:
            numbers, counts = facts_of(bucket, row, dimension)
            assert np.all(np.diff(numbers) > 0)
            of_row[dimension] = Counter(
                dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            )
        result[row] = of_row
    return result
