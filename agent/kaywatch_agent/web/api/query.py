"""One metric over time: a point for each step of a range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.completeness import Completeness
from kaywatch_agent.aggregate.group_stats import GroupStats, Numbers
from kaywatch_agent.aggregate.view import BUCKET_SECONDS
from kaywatch_agent.model.bounds import Count, Moment, Name
from kaywatch_agent.model.series import Kind
from kaywatch_agent.units import parse_duration
from kaywatch_agent.web.api.parameters import (
    WINDOW_PATTERN,
    Graph,
    MomentText,
    Node,
    Service,
    moment_seconds,
)
from kaywatch_agent.web.api.schema import EventAccount, ResponseBody
from kaywatch_agent.web.problems import Problem, not_found
from kaywatch_agent.web.snapshot import AgentSnapshot, matching

__all__ = ["MAX_POINTS", "query_metric"]

# As in range queries of Prometheus: 60 s over a week or 1 h over a year.
MAX_POINTS: Final = 11_000
DEFAULT_POINTS: Final = 360
DEFAULT_SECONDS: Final = 3600.0


class MetricQuery(Struct, frozen=True):
    """One metric, and the points in time."""

    metric: Annotated[
        Name,
        Meta(
            description="executions, throughput, success_rate, error_rate, avg, min,"
            " max, p50, p90, p95, p99, retries, retry_rate, runs, or the name of a"
            " custom metric.",
            examples=["p95"],
        ),
    ]
    graph: Graph | None = None
    node: Node | None = None
    service: Service | None = None
    start: MomentText | None = None
    end: MomentText | None = None
    step: (
        Annotated[
            str,
            Meta(
                pattern=WINDOW_PATTERN,
                description="The distance of two points, a multiple of 10s; by default"
                f" such that there are at most {DEFAULT_POINTS}.",
                examples=["10s", "60", "5m"],
                extra={
                    "allowed": "a multiple of 10 seconds, such as 10, 30s, 5m or 1h"
                },
            ),
        ]
        | None
    ) = None


class QueryResponse(ResponseBody):
    """One metric over time.

    Each point is [start of its step, value or null, number of events]. Events may still
    be added to the last step.
    """

    metric: str
    unit: str
    step: Count
    start: Moment
    end: Moment
    account: EventAccount
    points: list[tuple[float, float | None, int]]


class _Measure(NamedTuple):
    """How a metric is computed from statistics, one value per point.

    Attributes:
        unit: of the values.
        value: computes the values.
        kind: the kind of series.
        dimensions: the dimensions that `value` needs.
        counts: whether the value of a point without events is 0 instead of null.
    """

    unit: str
    value: Callable[[GroupStats], Numbers]
    kind: Kind = Kind.NODE
    dimensions: frozenset[Dimension] = frozenset()
    counts: bool = False


def _executions(stats: GroupStats) -> Numbers:
    return [float(count) for count in stats.executions.tolist()]


def _retries(stats: GroupStats) -> Numbers:
    return [float(count) for count in stats.retries().tolist()]


def _items(stats: GroupStats) -> Numbers:
    return [float(count) for count in stats.phases().items.tolist()]


_PHASES: Final = frozenset({Dimension.PHASES})
_OUTCOME: Final = frozenset({Dimension.OUTCOME})


def _phase(name: str) -> _Measure:
    return _Measure(
        "seconds",
        lambda stats: stats.phases().average(name),
        dimensions=_PHASES,
    )


def _quantile(wanted: float) -> _Measure:
    return _Measure(
        "seconds",
        lambda stats: stats.quantiles(wanted)[0],
        dimensions=frozenset({Dimension.HISTOGRAM}),
    )


MEASURES: Final = {
    "executions": _Measure("executions", _executions, counts=True),
    "throughput": _Measure("executions per second", _executions, counts=True),
    "success_rate": _Measure("ratio", GroupStats.success_rates, dimensions=_OUTCOME),
    "error_rate": _Measure("ratio", GroupStats.error_rates, dimensions=_OUTCOME),
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
        "items", _items, dimensions=frozenset({Dimension.PHASES}), counts=True
    ),
    "retries": _Measure("retries", _retries, counts=True),
    "retry_rate": _Measure("ratio", GroupStats.retry_rates),
    "runs": _Measure("runs", _executions, Kind.RUN, counts=True),
}

# The value of a custom metric: the average, the sum, or the last value.
CUSTOM: Final = {
    Kind.OBSERVE: _Measure("", GroupStats.averages, Kind.OBSERVE),
    Kind.COUNT: _Measure("", GroupStats.sums, Kind.COUNT, counts=True),
    Kind.GAUGE: _Measure("", GroupStats.lasts, Kind.GAUGE),
}


class _Range(NamedTuple):
    """A period in whole steps: point n begins at first + n * step."""

    start: float
    end: float
    step: int
    first: int
    points: int


def query_metric(snapshot: AgentSnapshot, query: MetricQuery) -> QueryResponse:
    """Return one metric over time.

    Raises:
        Problem: 400 for an invalid range; 404 for an unknown metric or name.
    """
    range = _range(query, snapshot.now)
    measure = _measure(snapshot, query)
    stats, completeness = _stats(snapshot, query, measure, range)
    values = measure.value(stats)
    if query.metric == "throughput":
        values = [None if value is None else value / range.step for value in values]
    counts = stats.executions.tolist()
    points: list[tuple[float, float | None, int]] = []
    for n, (value, count) in enumerate(zip(values, counts, strict=True)):
        time = float(range.first + n * range.step)
        is_zero = measure.counts and _was_watched(snapshot, time, range.step)
        points.append((time, value if count or is_zero else None, count))
    services = _services(snapshot, query, measure)
    return QueryResponse(
        metric=query.metric,
        unit=measure.unit,
        step=range.step,
        start=range.start,
        end=range.end,
        account=EventAccount.of(completeness.of(services)),
        points=points,
    )


# -- inside --------------------------------------------------------------------------


def _range(query: MetricQuery, now: float) -> _Range:
    end = moment_seconds(query.end or "now", now)
    start = end - DEFAULT_SECONDS
    if query.start is not None:
        start = moment_seconds(query.start, now)
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
    step = _step(query.step) if query.step else max(BUCKET_SECONDS, fitting)
    first = math.floor(start / step) * step
    points = math.ceil((end - first) / step)
    if points > MAX_POINTS:
        raise Problem(
            400,
            "too_many_points",
            f"step={step}s results in {points} points; the maximum is {MAX_POINTS}",
            f"use a step of {math.ceil((end - start) / MAX_POINTS / 10) * 10}s or more",
        )
    return _Range(start, end, step, first, points)


def _step(text: str) -> int:
    step = parse_duration(text)
    if step % BUCKET_SECONDS:
        raise Problem(
            400,
            "bad_parameter",
            f"invalid step={text!r}",
            f"expected a multiple of {BUCKET_SECONDS}s, such as 10s, 5m or 1h",
        )
    return int(step)


def _measure(snapshot: AgentSnapshot, query: MetricQuery) -> _Measure:
    measure = MEASURES.get(query.metric)
    if measure is None:
        kinds = {key.metric: key.kind for key in snapshot.series(*CUSTOM)}
        if query.metric not in kinds:
            names = [*MEASURES, *kinds]
            raise not_found("metric", query.metric, names, "/openapi.json")
        measure = CUSTOM[kinds[query.metric]]
    if measure.kind is Kind.RUN and query.node is not None:
        raise Problem(
            400,
            "bad_parameter",
            f"node={query.node!r} cannot be combined with metric={query.metric!r}",
            "graphs have runs; query the executions of the node",
        )
    return measure


def _services(
    snapshot: AgentSnapshot, query: MetricQuery, measure: _Measure
) -> set[str]:
    matches = matching(service=query.service, graph=query.graph, node=query.node)
    return {key.service for key in snapshot.series(measure.kind) if matches(key)}


def _stats(
    snapshot: AgentSnapshot, query: MetricQuery, measure: _Measure, range: _Range
) -> tuple[GroupStats, Completeness]:
    matches = matching(service=query.service, graph=query.graph, node=query.node)
    metric = "" if query.metric in MEASURES else query.metric
    groups = snapshot.groups(
        [measure.kind],
        lambda key: 0 if key.metric == metric and matches(key) else None,
    )
    if not len(groups):
        _check_names(snapshot, query)
    # Every series is in group 0; the offset of a bucket is the number of its point.
    stats = GroupStats(groups.numbers, range.points, measure.dimensions)
    completeness = snapshot.unaccounted()
    for begin, bucket in snapshot.view.between(range.first, range.end, range.step):
        point = (begin - range.first) // range.step
        if 0 <= point < range.points:
            stats.add(bucket, offset=point)
            completeness.add(bucket)
    return stats, completeness


def _check_names(snapshot: AgentSnapshot, query: MetricQuery) -> None:
    """Raise 404 for an unknown name; a known series without values is no error."""
    for kind, name in (
        ("service", query.service),
        ("graph", query.graph),
        ("node", query.node),
    ):
        known = {getattr(key, kind) for key in snapshot.keys}
        if name is not None and name not in known:
            path = "/api/v1/clients" if kind == "service" else f"/api/v1/{kind}s"
            raise not_found(kind, name, known, path)


def _was_watched(snapshot: AgentSnapshot, time: float, step: int) -> bool:
    """Return whether the agent has data of a point's time, if there were events."""
    view = snapshot.view
    kept_since = max(view.since, snapshot.now - view.archive.kept_seconds)
    oldest = math.floor(kept_since / BUCKET_SECONDS)
    return time + step > oldest * BUCKET_SECONDS and time <= snapshot.now
