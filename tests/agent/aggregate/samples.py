"""Columns and steps to aggregate, and a slow and obvious aggregation beside ours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kaywatch_agent.aggregate import histogram
from kaywatch_agent.aggregate.step import Facet, Step, facts_of
from kaywatch_agent.model import Columns


class Event(NamedTuple):
    row: int = 0
    time: float = 0.0
    value: float = 1.0
    outcome: int = 0
    attempts: int = 1
    action: int = 0
    error: int = 0


def columns(events: Sequence[Event]) -> Columns:
    """Return events as columns."""
    parts = list(zip(*events, strict=True)) if events else [()] * 7
    types = (np.int64, float, float, np.uint8, np.int64, np.int64, np.int64)
    return Columns(*(np.array(p, t) for p, t in zip(parts, types, strict=True)))


def of_values(values: Any, row: int = 0) -> Columns:
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
    found: dict[int, dict[str, Any]] = {}
    for event in events:
        of_row = found.setdefault(
            event.row,
            {
                "executions": 0,
                "attempts": 0,
                "total": 0.0,
                "squares": 0.0,
                "least": math.inf,
                "most": -math.inf,
                "last_time": -math.inf,
                "last": None,
                Facet.HISTOGRAM: Counter(),
                Facet.OUTCOME: Counter(),
                Facet.ACTION: Counter(),
                Facet.ERROR: Counter(),
            },
        )
        of_row["executions"] += 1
        of_row["attempts"] += event.attempts
        of_row["total"] += event.value
        of_row["squares"] += event.value * event.value
        of_row["least"] = min(of_row["least"], event.value)
        of_row["most"] = max(of_row["most"], event.value)
        if event.time >= of_row["last_time"]:
            of_row["last_time"] = event.time
            of_row["last"] = event.value
        code = int(histogram.codes(np.array([event.value]))[0])
        of_row[Facet.HISTOGRAM][code] += 1
        for facet, number in (
            (Facet.OUTCOME, event.outcome),
            (Facet.ACTION, event.action),
            (Facet.ERROR, event.error),
        ):
            if number:
                of_row[facet][number] += 1
    return found


def shown(step: Step) -> dict[int, dict[str, Any]]:
    """Return a step in the form of `naive`."""
    found: dict[int, dict[str, Any]] = {}
    for at, row in enumerate(step.rows.tolist()):
        of_row: dict[Any, Any] = {
            name: getattr(step, name)[at].item()
            for name in (
                *("executions", "attempts", "total", "squares"),
                *("least", "most", "last_time", "last"),
            )
        }
        for facet in Facet:
            numbers, counts = facts_of(step, row, facet)
            assert np.all(np.diff(numbers) > 0)
            of_row[facet] = Counter(
                dict(zip(numbers.tolist(), counts.tolist(), strict=True))
            )
        found[row] = of_row
    return found
