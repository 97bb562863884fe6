"""One metric over time: a point for each step of a range, in one or several series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Final, Literal, Protocol

import numpy as np
from msgspec import Meta, Struct

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.completeness import Completeness
from kaywatch_agent.aggregate.group_stats import (
    GroupStats,
    Numbers,
    SeriesGroups,
    few_rows,
)
from kaywatch_agent.model.bounds import Count, Moment, Name
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.web.api.measures import (
    CUSTOM,
    FACTS,
    MEASURES,
    Measure,
    rule_measure,
)
from kaywatch_agent.web.api.parameters import (
    Graph,
    MomentText,
    Node,
    Service,
)
from kaywatch_agent.web.api.ranges import (
    StepText,
    TimeRange,
    archived_points,
    recent_events,
    recent_points,
    time_range,
    was_watched,
)
from kaywatch_agent.web.api.schema import EventAccount, ResponseBody
from kaywatch_agent.web.problems import Problem, not_found
from kaywatch_agent.web.series_filter import SeriesFilter
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["check_names", "query_metric"]

# The maximum number of lines in one chart.
MAX_SERIES: Final = 50


class ScopedQuery(Protocol):
    """Names that a query selects series by; None for any."""

    @property
    def service(self) -> str | None: ...
    @property
    def graph(self) -> str | None: ...
    @property
    def node(self) -> str | None: ...


class MetricQuery(Struct, frozen=True):
    """One metric, and a range of time."""

    metric: Annotated[
        Name,
        Meta(
            description="Executions: executions, throughput, success_rate, error_rate,"
            " avg, min, max, p50, p90, p95, p99, retries, retry_rate. Runs: runs,"
            " run_success_rate, run_error_rate, run_avg, run_max, run_p50, run_p90,"
            " run_p95, run_p99. Calls of models: cost, wasted_cost, tokens, calls,"
            " call_errors, rate_limited, call_avg, call_p95, first_token_p50,"
            " first_token_p95. Also a metric of rules, computed for each step, such as"
            " llm_cost_per_hour or custom.NAME.p95; or the name of a custom metric.",
            examples=["p95"],
        ),
    ]
    graph: Graph | None = None
    node: Node | None = None
    service: Service | None = None
    model: (
        Annotated[Name, Meta(description="Only this model.", examples=["gpt-5"])] | None
    ) = None
    by: (
        Annotated[
            Literal["service", "graph", "node", "model", "outcome", "action", "error"],
            Meta(description="One series for each value, at most 50."),
        ]
        | None
    ) = None
    start: MomentText | None = None
    end: MomentText | None = None
    step: StepText | None = None


class QuerySeries(ResponseBody):
    """One line: its name is a value of `by`; empty for all events.

    Each point is [start of its step, value or null, number of events]. Events may still
    be added to the last step.
    """

    name: str
    points: list[tuple[float, float | None, int]]


class QueryResponse(ResponseBody):
    """One metric over time.

    `series` has one item, or one for each value of `by`, those with the most events
    since first seen first; `left_out` is the number of further values.
    """

    metric: str
    unit: str
    step: Count
    start: Moment
    end: Moment
    account: EventAccount
    series: list[QuerySeries]
    left_out: Count


def query_metric(snapshot: AgentSnapshot, query: MetricQuery) -> QueryResponse:
    """Return one metric over time.

    Raises:
        Problem: 400 for an invalid range; 404 for an unknown metric or name.
    """
    range = time_range(query.start, query.end, query.step, snapshot.now)
    measure = _measure(snapshot, query, range.step)
    groups = _groups(snapshot, query, measure)
    if not len(groups):
        # No series may mean a wrong name, or a right one without this metric.
        check_names(snapshot, query)
    names, left_out = _select_most_frequent(snapshot, groups)
    # Executions by outcome, action or error are counted within one series, so no group
    # for each value is needed.
    if query.by in FACTS:
        stats, completeness = _collect(snapshot, range, groups, [0], {FACTS[query.by]})
        table = _count_facts(snapshot, query.by, stats)
    else:
        chosen = names, measure.dimensions
        stats, completeness = _collect(snapshot, range, groups, *chosen)
        table = _table(query, measure, stats, range, [groups.names[n] for n in names])
    services = {key.service for key in _select_series(snapshot, query, measure)}
    return QueryResponse(
        metric=query.metric,
        unit=measure.unit,
        step=range.step,
        start=range.start,
        end=range.end,
        account=EventAccount.of(completeness.of(services)),
        series=[
            _series(snapshot, range, measure, name, *columns)
            for name, columns in table.items()
        ],
        left_out=left_out,
    )


# -- inside --------------------------------------------------------------------------


def _measure(snapshot: AgentSnapshot, query: MetricQuery, step: float) -> Measure:
    measure = MEASURES.get(query.metric)
    if measure is None:
        measure = rule_measure(query.metric, snapshot.view.registry, step)
    if measure is None:
        # Built-in names come first: an application's metric may be called `avg`.
        kinds = {key.metric: key.kind for key in snapshot.series(*CUSTOM)}
        if query.metric not in kinds:
            names = [*MEASURES, *kinds]
            raise not_found("metric", query.metric, names, "/openapi.json")
        measure = CUSTOM[kinds[query.metric]]
        measure = measure._replace(metrics=frozenset({query.metric}))
    if Kind.RUN in measure.kinds and query.node is not None:
        raise _not_with("node", query, "graphs have runs; query the node's executions")
    if query.by in FACTS and query.metric != "executions":
        hint = f"the executions have each {query.by}; query metric=executions"
        raise _not_with("by", query, hint)
    if measure.kinds <= {Kind.NODE, Kind.RUN}:
        for name in ("by", "model"):
            if getattr(query, name) is not None and "model" in (name, query.by):
                hint = "calls have models; query calls, cost, tokens or call_p95"
                raise _not_with(name, query, hint)
    return measure


def _not_with(parameter: str, query: MetricQuery, hint: str) -> Problem:
    value = getattr(query, parameter)
    message = f"{parameter}={value!r} cannot be combined with metric={query.metric!r}"
    return Problem(400, "bad_parameter", message, hint)


def _filter(query: MetricQuery) -> SeriesFilter:
    return SeriesFilter(service=query.service, graph=query.graph, node=query.node)


def _select_series(
    snapshot: AgentSnapshot, query: MetricQuery, measure: Measure
) -> Iterator[SeriesKey]:
    """Yield the series that the query selects, regardless of their metric."""
    return snapshot.series(*measure.kinds, matches=_filter(query))


def _groups(
    snapshot: AgentSnapshot, query: MetricQuery, measure: Measure
) -> SeriesGroups[str]:
    """Return the selected series by name: by the value of `by`, if it has one."""

    def name(key: SeriesKey) -> str | None:
        if key.metric not in measure.metrics:
            return None
        model = dict(key.labels).get("model")
        if query.model not in (None, model):
            return None
        if query.by == "model":
            return model
        if query.by is None or query.by in FACTS:
            return ""
        return str(getattr(key, query.by))

    return snapshot.groups(measure.kinds, name, matches=_filter(query))


def _select_most_frequent(
    snapshot: AgentSnapshot, groups: SeriesGroups[str]
) -> tuple[list[int], int]:
    """Return the groups with the most events since first seen, and how many more."""
    if not len(groups):
        return [], 0
    ever = GroupStats(groups.numbers, len(groups), ())
    ever.add(snapshot.view.totals)
    # Events since first seen decide, so that the lines do not change as the range
    # moves.
    order = np.argsort(-ever.executions, kind="stable").tolist()
    return order[:MAX_SERIES], max(0, len(order) - MAX_SERIES)


def _collect(
    snapshot: AgentSnapshot,
    range: TimeRange,
    groups: SeriesGroups[str],
    chosen: Sequence[int],
    dimensions: Collection[Dimension],
) -> tuple[GroupStats, Completeness]:
    """Return the statistics of each point of each chosen group, one after another."""
    # -1 leaves a series out; the last entry is for series without a group.
    starts = np.full(len(groups) + 1, -1)
    for n, group in enumerate(chosen):
        starts[group] = n * range.points
    numbers = starts[groups.numbers]
    stats = GroupStats(numbers, max(1, len(chosen)) * range.points, dimensions)
    completeness = snapshot.unaccounted()
    view, rows = snapshot.view, few_rows(numbers)
    # The offset of a bucket is the number of its point.
    for point, bucket in archived_points(view, range):
        stats.add(bucket, offset=point)
        completeness.add(bucket)
    stats.add_all(recent_points(view, range, rows, dimensions))
    # All series: a lost event has no known one.
    for _, sums in recent_events(snapshot, range):
        completeness.add_sums(sums)
    return stats, completeness


Columns = tuple[Numbers, list[int]]  # the value, and the number of events, by point


def _table(
    query: MetricQuery,
    measure: Measure,
    stats: GroupStats,
    range: TimeRange,
    names: Sequence[str],
) -> dict[str, Columns]:
    values, counts = measure.value(stats), stats.executions.tolist()
    if query.metric == "throughput":
        values = [None if value is None else value / range.step for value in values]
    size = range.points
    return {
        name: (values[n * size : (n + 1) * size], counts[n * size : (n + 1) * size])
        for n, name in enumerate(names or ([""] if query.by is None else []))
    }


def _count_facts(
    snapshot: AgentSnapshot, by: str | None, stats: GroupStats
) -> dict[str, Columns]:
    """Return the number of executions with each outcome, action or type of error."""
    registry = snapshot.view.registry
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(stats))
    if by == "outcome":
        for outcome, column in zip(Outcome, stats.outcomes().T.tolist(), strict=True):
            counts[outcome.name.lower()] = column
    elif by == "action":
        for point, number, count in stats.counted(Dimension.ACTION):
            counts[registry.actions.values[number]][point] += count
    else:
        for point, number, count in stats.counted(Dimension.ERROR):
            counts[registry.errors.values[number].type][point] += count
    order = sorted(counts, key=lambda name: -sum(counts[name]))[:MAX_SERIES]
    return {name: ([*map(float, counts[name])], counts[name]) for name in order}


def _series(
    snapshot: AgentSnapshot,
    range: TimeRange,
    measure: Measure,
    name: str,
    values: Numbers,
    counts: list[int],
) -> QuerySeries:
    points: list[tuple[float, float | None, int]] = []
    for n, (value, count) in enumerate(zip(values, counts, strict=True)):
        time = float(range.first + n * range.step)
        is_zero = measure.counts and was_watched(snapshot, time, range.step)
        points.append((time, value if count or is_zero else None, count))
    return QuerySeries(name=name, points=points)


def check_names(snapshot: AgentSnapshot, query: ScopedQuery) -> None:
    """Raise 404 for an unknown name; a known series without values is not an error."""
    for kind, name in (
        ("service", query.service),
        ("graph", query.graph),
        ("node", query.node),
    ):
        names = {getattr(key, kind) for key in snapshot.keys}
        if name is not None and name not in names:
            path = "/api/v1/clients" if kind == "service" else f"/api/v1/{kind}s"
            raise not_found(kind, name, names, path)
