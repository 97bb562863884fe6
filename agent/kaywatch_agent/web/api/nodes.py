"""Statistics of nodes: of a single node, and of the nodes of a list or the export."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Annotated, Any, Final, Literal

from msgspec import Meta
from msgspec.structs import asdict

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats, SeriesGroups
from kaywatch_agent.model.bounds import Count, Moment, Name, Rate, Seconds
from kaywatch_agent.model.series import Kind, Labels, SeriesKey
from kaywatch_agent.web.api.limits import NodeThresholds
from kaywatch_agent.web.api.parameters import ScopeQuery
from kaywatch_agent.web.api.schema import (
    EventAccount,
    Outcomes,
    ResponseBody,
    WindowSeconds,
)
from kaywatch_agent.web.problems import Problem, not_found
from kaywatch_agent.web.series_filter import SeriesFilter
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = ["NodeSummary", "node_stats", "outcomes_of", "summarize_nodes"]

# Custom metrics with keys of their own: those of KayGraph's page, and our client's.
DATA_SIZE: Final = "data_size"
PROCESSING_RATE: Final = "processing_rate"
MEMORY: Final = "memory_mb"
RETRIED_ERRORS: Final = "retried_errors"
OWN_KEYS: Final = {
    Kind.OBSERVE: frozenset({DATA_SIZE, PROCESSING_RATE, MEMORY}),
    Kind.COUNT: frozenset({RETRIED_ERRORS}),
}

CUSTOM_KINDS: Final[dict[Kind, Literal["observe", "count", "gauge"]]] = {
    Kind.OBSERVE: "observe",
    Kind.COUNT: "count",
    Kind.GAUGE: "gauge",
}


class NodeStatsQuery(ScopeQuery, frozen=True, kw_only=True):
    """One node, and optionally one service and graph."""

    node: Annotated[Name, Meta(min_length=1, description="The node, percent-encoded.")]


class NodeSummary(ResponseBody):
    """Statistics of one node over all matching services and graphs.

    `retry_rate` is the share of attempts that were retries. `completeness` is the share
    of the events of its services' clients that arrived. `min_success_rate` is the
    strictest threshold of the rules that apply to it. `wait` is the time between
    attempts. The averages by phase, and `total_items` (the items of a batch
    node), are null if no execution has them.
    """

    node: str
    services: tuple[str, ...]
    graphs: tuple[str, ...]
    window: WindowSeconds | None
    total_executions: Count
    success_rate: Rate | None
    min_success_rate: Rate | None
    avg_execution_time: Seconds | None
    min_execution_time: Seconds | None
    max_execution_time: Seconds | None
    total_retries: Count
    avg_prep_time: Seconds | None
    avg_exec_time: Seconds | None
    avg_wait_time: Seconds | None
    avg_post_time: Seconds | None
    total_items: Count | None
    p50_execution_time: Seconds | None
    p90_execution_time: Seconds | None
    p95_execution_time: Seconds | None
    p99_execution_time: Seconds | None
    outcomes: Outcomes
    error_rate: Rate | None
    retry_rate: Rate | None
    actions: dict[str, int]
    error_breakdown: dict[str, int]
    avg_data_size: float | None
    max_data_size: float | None
    min_data_size: float | None
    avg_processing_rate: float | None
    max_processing_rate: float | None
    peak_memory_mb: float | None
    last_execution: Moment | None
    completeness: Rate | None


class ErrorCount(ResponseBody):
    """The number of errors of one type from one phase of a node."""

    type: str
    phase: str
    count: Count


class CustomMetric(ResponseBody):
    """A custom metric of one node with one set of labels."""

    name: str
    kind: Literal["observe", "count", "gauge"]
    labels: dict[str, str]
    count: Count
    sum: float | None
    avg: float | None
    min: float | None
    max: float | None
    last: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class NodeStats(NodeSummary):
    """All statistics of one node."""

    errors: list[ErrorCount]
    retried_errors: dict[str, int]
    custom: list[CustomMetric]
    account: EventAccount


def node_stats(snapshot: AgentSnapshot, query: NodeStatsQuery) -> NodeStats:
    """Return all statistics of one node.

    Raises:
        Problem: 404 for an unknown node.
    """
    matches = _filter(query, query.node)
    window = Window(snapshot, query.window, query.end, matches=matches)
    nodes = summarize_nodes(snapshot, window, query, {query.node})
    if not nodes:
        raise _unknown_node(snapshot, query)
    return NodeStats(
        **asdict(nodes[0]),
        errors=_errors(snapshot, window, query),
        retried_errors=_retried_errors(snapshot, window, query),
        custom=_custom_metrics(snapshot, window, query),
        account=EventAccount.of(window.completeness.of(nodes[0].services)),
    )


def summarize_nodes(
    snapshot: AgentSnapshot,
    window: Window,
    query: ScopeQuery,
    names: Collection[str] | None = None,
) -> list[NodeSummary]:
    """Return the statistics of all matching nodes, or of some, by name."""
    matches = _filter(query, names)
    places = dict(_places(snapshot, matches))
    groups = snapshot.groups([Kind.NODE], _node_of, places, matches)
    stats = window.stats(groups)
    columns = _executions(stats) | _counts(snapshot, stats)
    columns |= _page_metrics(snapshot, window, query, groups)
    peaks = columns["peak_memory_mb"]
    thresholds = NodeThresholds(snapshot.rules.values())
    nodes = []
    for name, group in groups.items():
        services, graphs = places[name]
        # What the application measures itself precedes the memory of its whole process.
        if peaks[group] is None:
            peaks[group] = snapshot.memory_mb(services)
        nodes.append(
            NodeSummary(
                node=name,
                services=services,
                graphs=graphs,
                window=window.seconds,
                min_success_rate=thresholds.find(
                    {"service": service, "graph": graph, "node": name}
                    for service in services
                    for graph in graphs
                ).min_success_rate,
                completeness=window.completeness.of(services).ratio,
                **{key: column[group] for key, column in columns.items()},
            )
        )
    return nodes


def outcomes_of(stats: GroupStats) -> list[Outcomes]:
    """Return the number of executions with each outcome, by group."""
    names = [outcome.name.lower() for outcome in Outcome]
    return [
        Outcomes(**dict(zip(names, counts, strict=True)))
        for counts in zip(*stats.outcomes().T.tolist(), strict=True)
    ]


# -- inside --------------------------------------------------------------------------


def _filter(query: ScopeQuery, node: str | Collection[str] | None) -> SeriesFilter:
    return SeriesFilter(service=query.service, graph=query.graph, node=node)


def _node_of(key: SeriesKey) -> str:
    return key.node


def _executions(stats: GroupStats) -> dict[str, list[Any]]:
    """Return the keys of NodeSummary that come from executions, by group."""
    p50, p90, p95, p99 = stats.quantiles(0.5, 0.9, 0.95, 0.99)
    ends = zip(stats.executions.tolist(), stats.last_time.tolist(), strict=True)
    phases = stats.phases()
    return {
        "total_executions": stats.executions.tolist(),
        "success_rate": stats.success_rates(),
        "avg_execution_time": stats.averages(),
        "min_execution_time": stats.leasts(),
        "max_execution_time": stats.mosts(),
        "total_retries": stats.retries().tolist(),
        "avg_prep_time": phases.average("prep"),
        "avg_exec_time": phases.average("exec"),
        "avg_wait_time": phases.average("wait"),
        "avg_post_time": phases.average("post"),
        "total_items": phases.item_counts(),
        "p50_execution_time": p50,
        "p90_execution_time": p90,
        "p95_execution_time": p95,
        "p99_execution_time": p99,
        "outcomes": outcomes_of(stats),
        "error_rate": stats.error_rates(),
        "retry_rate": stats.retry_rates(),
        "last_execution": [time if count else None for count, time in ends],
    }


def _counts(snapshot: AgentSnapshot, stats: GroupStats) -> dict[str, list[Any]]:
    """Return the keys that count by name: actions, and types of errors."""
    registry = snapshot.view.registry
    actions: list[dict[str, int]] = [{} for _ in range(len(stats))]
    errors: list[dict[str, int]] = [{} for _ in range(len(stats))]
    for group, number, count in stats.counted(Dimension.ACTION):
        actions[group][registry.actions.values[number]] = count
    for group, number, count in stats.counted(Dimension.ERROR):
        # One type may come from several phases; only the details contain the phase.
        name = registry.errors.values[number].type
        errors[group][name] = errors[group].get(name, 0) + count
    return {
        "actions": [_sort_by_count(counts) for counts in actions],
        "error_breakdown": [_sort_by_count(counts) for counts in errors],
    }


def _page_metrics(
    snapshot: AgentSnapshot, window: Window, query: ScopeQuery, nodes: SeriesGroups[str]
) -> dict[str, list[Any]]:
    """Return the keys that come from the page's custom metrics."""
    matches = _filter(query, nodes.names)

    def observed(metric: str) -> GroupStats:
        def name(key: SeriesKey) -> str | None:
            return key.node if key.metric == metric else None

        groups = snapshot.groups([Kind.OBSERVE], name, nodes.names, matches)
        return window.stats(groups, ())

    sizes, rates = observed(DATA_SIZE), observed(PROCESSING_RATE)
    return {
        "avg_data_size": sizes.averages(),
        "max_data_size": sizes.mosts(),
        "min_data_size": sizes.leasts(),
        "avg_processing_rate": rates.averages(),
        "max_processing_rate": rates.mosts(),
        "peak_memory_mb": observed(MEMORY).mosts(),
    }


def _places(
    snapshot: AgentSnapshot, matches: SeriesFilter
) -> Iterator[tuple[str, tuple[tuple[str, ...], tuple[str, ...]]]]:
    """Yield each matching node, by name, with its services and its graphs."""
    # Tuples, not lists: thousands of containers that the garbage collector has to
    # examine are a pause of 30 ms, for the event loop as well.
    pairs = {
        (key.node, key.service, key.graph)
        for key in snapshot.series(Kind.NODE, matches=matches)
    }
    for name, places in groupby(sorted(pairs), key=itemgetter(0)):
        _, services, graphs = zip(*places, strict=True)
        yield name, (tuple(sorted({*services})), tuple(sorted({*graphs})))


def _errors(
    snapshot: AgentSnapshot, window: Window, query: NodeStatsQuery
) -> list[ErrorCount]:
    matches = _filter(query, query.node)
    groups = snapshot.groups([Kind.NODE], _node_of, matches=matches)
    stats = window.stats(groups, {Dimension.ERROR})
    values = snapshot.view.registry.errors.values
    errors = [
        ErrorCount(type=values[n].type, phase=values[n].phase, count=count)
        for _, n, count in stats.counted(Dimension.ERROR)
    ]
    return sorted(errors, key=lambda error: (-error.count, error.type, error.phase))


def _retried_errors(
    snapshot: AgentSnapshot, window: Window, query: NodeStatsQuery
) -> dict[str, int]:
    """Return the number of errors that a retry answered, by type."""
    matches = _filter(query, query.node)

    def type_of(key: SeriesKey) -> str | None:
        is_retried = key.metric == RETRIED_ERRORS
        return dict(key.labels).get("type", "") if is_retried else None

    groups = snapshot.groups([Kind.COUNT], type_of, matches=matches)
    counts = window.stats(groups, ()).executions.tolist()
    types = {kind: counts[group] for kind, group in groups.items() if counts[group]}
    return _sort_by_count(types)


def _custom_metrics(
    snapshot: AgentSnapshot, window: Window, query: NodeStatsQuery
) -> list[CustomMetric]:
    matches = _filter(query, query.node)

    def name(key: SeriesKey) -> tuple[str, Kind, Labels] | None:
        has_own_key = key.metric in OWN_KEYS.get(key.kind, ())
        return None if has_own_key else (key.metric, key.kind, key.labels)

    groups = snapshot.groups(CUSTOM_KINDS, name, matches=matches)
    stats = window.stats(groups, {Dimension.HISTOGRAM})
    columns = _distributions(stats)
    return [
        CustomMetric(
            name=metric,
            kind=CUSTOM_KINDS[kind],
            labels=dict(labels),
            **{key: column[n] for key, column in columns.items()},
        )
        for (metric, kind, labels), n in sorted(groups.items())
    ]


def _distributions(stats: GroupStats) -> dict[str, list[Any]]:
    """Return the keys of CustomMetric that come from its values, by group."""
    p50, p95, p99 = stats.quantiles(0.5, 0.95, 0.99)
    return {
        "count": stats.executions.tolist(),
        "sum": stats.sums(),
        "avg": stats.averages(),
        "min": stats.leasts(),
        "max": stats.mosts(),
        "last": stats.lasts(),
        "p50": p50,
        "p95": p95,
        "p99": p99,
    }


def _sort_by_count(counts: dict[str, int]) -> dict[str, int]:
    """Return counts, the largest first."""
    # Most nodes have one action, and a page may have thousands of nodes.
    if len(counts) < 2:
        return counts
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _unknown_node(snapshot: AgentSnapshot, query: NodeStatsQuery) -> Problem:
    scope = "".join(
        f" in {kind} {value!r}"
        for kind, value in (("graph", query.graph), ("service", query.service))
        if value is not None
    )
    keys = snapshot.series(Kind.NODE, matches=_filter(query, None))
    nodes = {key.node for key in keys}
    return not_found("node", query.node, nodes, "/api/v1/nodes", scope)
