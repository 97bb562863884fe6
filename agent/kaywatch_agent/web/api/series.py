"""Answers about one metric over time: a point for each step of a range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.completeness import Completeness
from kaywatch_agent.aggregate.group_stats import GroupStats, Numbers
from kaywatch_agent.aggregate.view import BUCKET_SECONDS
from kaywatch_agent.model.series import Kind
from kaywatch_agent.units import parse_duration
from kaywatch_agent.web.api import schema
from kaywatch_agent.web.api.parameters import SeriesQuery
from kaywatch_agent.web.problems import Problem, not_found
from kaywatch_agent.web.reading import Reading, account, completeness, matching

__all__ = ["MAX_POINTS", "query"]

# As Prometheus's range queries: 60 s over a week or 1 h over a year.
MAX_POINTS: Final = 11_000
DEFAULT_POINTS: Final = 360
DEFAULT_SECONDS: Final = 3600.0


class _Measure(NamedTuple):
    """How a metric is taken from figures, one value per point.

    `counts` says that no events are a 0 rather than nothing to say.
    """

    unit: str
    value: Callable[[GroupStats], Numbers]
    kind: Kind = Kind.NODE
    facets: frozenset[Dimension] = frozenset()
    counts: bool = False


def _executions(figures: GroupStats) -> Numbers:
    return [float(count) for count in figures.executions.tolist()]


def _retries(figures: GroupStats) -> Numbers:
    return [float(count) for count in figures.retries().tolist()]


def _items(figures: GroupStats) -> Numbers:
    return [float(count) for count in figures.phases().items.tolist()]


def _phase(name: str) -> _Measure:
    return _Measure(
        "seconds",
        lambda figures: figures.phases().average(name),
        facets=frozenset({Dimension.PHASES}),
    )


def _quantile(wanted: float) -> _Measure:
    return _Measure(
        "seconds",
        lambda figures: figures.quantiles(wanted)[0],
        facets=frozenset({Dimension.HISTOGRAM}),
    )


_OUTCOME: Final = frozenset({Dimension.OUTCOME})

MEASURES: Final = {
    "executions": _Measure("executions", _executions, counts=True),
    "throughput": _Measure("executions per second", _executions, counts=True),
    "success_rate": _Measure("ratio", GroupStats.success_rates, facets=_OUTCOME),
    "error_rate": _Measure("ratio", GroupStats.error_rates, facets=_OUTCOME),
    "avg": _Measure("seconds", GroupStats.averages),
    "min": _Measure("seconds", GroupStats.leasts),
    "max": _Measure("seconds", GroupStats.mosts),
    "p50": _quantile(0.5),
    "p90": _quantile(0.9),
    "p95": _quantile(0.95),
    "p99": _quantile(0.99),
    "prep": _phase("prep"),
    "exec": _phase("exec"),
    "wait": _phase("wait"),
    "post": _phase("post"),
    "items": _Measure(
        "items", _items, facets=frozenset({Dimension.PHASES}), counts=True
    ),
    "retries": _Measure("retries", _retries, counts=True),
    "retry_rate": _Measure("ratio", GroupStats.retry_rates),
    "runs": _Measure("runs", _executions, Kind.RUN, counts=True),
}

# What a custom metric's points are: the average, the sum, or the last value.
CUSTOM: Final = {
    Kind.OBSERVE: _Measure("", GroupStats.averages, Kind.OBSERVE),
    Kind.COUNT: _Measure("", GroupStats.sums, Kind.COUNT, counts=True),
    Kind.GAUGE: _Measure("", GroupStats.lasts, Kind.GAUGE),
}


class _Span(NamedTuple):
    """A range of time in whole points: point n starts at first + n * step."""

    start: float
    end: float
    step: int
    first: int
    points: int


def query(reading: Reading, asked: SeriesQuery) -> schema.QueryAnswer:
    """Return one metric over time.

    Raises:
        Problem: 400 for a range that can't be; 404 for an unknown metric or name.
    """
    span = _span(asked, reading.now)
    measure = _measure(reading, asked)
    figures, complete = _figures(reading, asked, measure, span)
    values = measure.value(figures)
    if asked.metric == "throughput":
        values = [None if value is None else value / span.step for value in values]
    counts = figures.executions.tolist()
    points: list[tuple[float, float | None, int]] = []
    for n in range(span.points):
        time = float(span.first + n * span.step)
        said = counts[n] or (measure.counts and _watched(reading, time, span.step))
        points.append((time, values[n] if said else None, counts[n]))
    return schema.QueryAnswer(
        metric=asked.metric,
        unit=measure.unit,
        step=span.step,
        start=span.start,
        end=span.end,
        account=account(complete.of(_services(reading, asked, measure))),
        points=points,
    )


# -- inside --------------------------------------------------------------------------


def _span(asked: SeriesQuery, now: float) -> _Span:
    end = _moment(asked.end, now, now)
    start = _moment(asked.start, now, end - DEFAULT_SECONDS)
    if start >= end:
        raise Problem(
            400,
            "bad_range",
            f"start={start:.3f} is not before end={end:.3f}",
            "give start as Unix seconds or relative to now, such as -15m",
        )
    fitting = (
        math.ceil((end - start) / DEFAULT_POINTS / BUCKET_SECONDS) * BUCKET_SECONDS
    )
    step = _step(asked.step) if asked.step else max(BUCKET_SECONDS, fitting)
    first = math.floor(start / step) * step
    points = math.ceil((end - first) / step)
    if points > MAX_POINTS:
        raise Problem(
            400,
            "too_many_points",
            f"step={step}s makes {points} points; at most {MAX_POINTS} are given",
            f"use a step of {math.ceil((end - start) / MAX_POINTS / 10) * 10}s or more",
        )
    return _Span(start, end, step, first, points)


def _moment(text: str | None, now: float, default: float) -> float:
    if text is None:
        return default
    if text == "now":
        return now
    return now - parse_duration(text[1:]) if text[0] == "-" else float(text)


def _step(text: str) -> int:
    step = parse_duration(text)
    if step % BUCKET_SECONDS:
        raise Problem(
            400,
            "bad_parameter",
            f"step={text!r} can't be used",
            f"expected a multiple of {BUCKET_SECONDS}s, such as 10s, 5m or 1h",
        )
    return int(step)


def _measure(reading: Reading, asked: SeriesQuery) -> _Measure:
    known = MEASURES.get(asked.metric)
    if known is None:
        found = {key.metric: key.kind for key in reading.of(*CUSTOM)}
        if asked.metric not in found:
            names = [*MEASURES, *found]
            raise not_found("metric", asked.metric, names, "/openapi.json")
        known = CUSTOM[found[asked.metric]]
    if known.kind is Kind.RUN and asked.node is not None:
        raise Problem(
            400,
            "bad_parameter",
            f"node={asked.node!r} can't be used with metric={asked.metric!r}",
            "runs are of a graph; ask for executions of the node",
        )
    return known


def _services(reading: Reading, asked: SeriesQuery, measure: _Measure) -> set[str]:
    matches = matching(service=asked.service, graph=asked.graph, node=asked.node)
    return {key.service for key in reading.of(measure.kind) if matches(key)}


def _figures(
    reading: Reading, asked: SeriesQuery, measure: _Measure, span: _Span
) -> tuple[GroupStats, Completeness]:
    matches = matching(service=asked.service, graph=asked.graph, node=asked.node)
    metric = "" if asked.metric in MEASURES else asked.metric
    groups = reading.groups(
        [measure.kind],
        lambda key: 0 if key.metric == metric and matches(key) else None,
    )
    if not len(groups):
        _refuse_unknown(reading, asked)
    # Every series is in group 0, and a step's offset is its point.
    figures = GroupStats(groups.numbers, span.points, measure.facets)
    complete = completeness(reading)
    for begin, step in reading.view.between(span.first, span.end, span.step):
        point = (begin - span.first) // span.step
        if 0 <= point < span.points:
            figures.add(step, offset=point)
            complete.add(step)
    return figures, complete


def _refuse_unknown(reading: Reading, asked: SeriesQuery) -> None:
    """Tell a name that was never seen from a series that merely has no values."""
    for what, wanted in (
        ("service", asked.service),
        ("graph", asked.graph),
        ("node", asked.node),
    ):
        known = {getattr(key, what) for key in reading.keys}
        if wanted is not None and wanted not in known:
            where = "/api/v1/clients" if what == "service" else f"/api/v1/{what}s"
            raise not_found(what, wanted, known, where)


def _watched(reading: Reading, time: float, step: int) -> bool:
    """Whether the agent was there in a point's time, and still remembers it."""
    view = reading.view
    oldest = math.floor(
        max(view.since, reading.now - view.archive.kept_seconds) / BUCKET_SECONDS
    )
    return time + step > oldest * BUCKET_SECONDS and time <= reading.now
