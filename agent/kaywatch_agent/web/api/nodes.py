"""Answers about nodes: the list, one node's figures, and the export's nodes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Literal

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats, SeriesGroups
from kaywatch_agent.model.series import Kind, Labels, SeriesKey
from kaywatch_agent.web.api import schema
from kaywatch_agent.web.api.parameters import NodesQuery, NodeStatsQuery, window_seconds
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.reading import Matches, Reading, Window, account, matching

__all__ = ["node_figures", "node_list", "node_stats", "outcomes_of"]

# The custom metrics of KayGraph's monitoring page, which have keys of their own.
DATA_SIZE: Final = "data_size"
PROCESSING_RATE: Final = "processing_rate"
MEMORY: Final = "memory_mb"
PAGE: Final = frozenset({DATA_SIZE, PROCESSING_RATE, MEMORY})

CUSTOM_KINDS: Final[dict[Kind, Literal["observe", "count", "gauge"]]] = {
    Kind.OBSERVE: "observe",
    Kind.COUNT: "count",
    Kind.GAUGE: "gauge",
}


def node_list(reading: Reading, query: NodesQuery) -> schema.NodeList:
    """Return the figures of all nodes that match, by name."""
    window = _window(reading, query)
    nodes = node_figures(reading, window, query)
    services = {service for node in nodes for service in node.services}
    return schema.NodeList(
        timestamp=reading.now,
        window=window.seconds,
        nodes=nodes,
        account=account(window.completeness.of(services)),
    )


def node_stats(reading: Reading, query: NodeStatsQuery) -> schema.NodeStats:
    """Return all that is known of one node.

    Raises:
        Problem: 404 for a node that hasn't been seen.
    """
    window = _window(reading, query)
    found = node_figures(reading, window, query, query.node)
    if not found:
        raise _unknown(reading, query)
    # msgspec.structs.asdict would turn the nested ones into dicts as well.
    plain = {name: getattr(found[0], name) for name in found[0].__struct_fields__}
    return schema.NodeStats(
        **plain,
        errors=_errors(reading, window, query),
        custom=_custom(reading, window, query),
        account=account(window.completeness.of(found[0].services)),
    )


def node_figures(
    reading: Reading, window: Window, query: NodesQuery, node: str | None = None
) -> list[schema.NodeFigures]:
    """Return the figures of nodes, by name: of all that match, or of one."""
    matches = _matches(query, node)
    places = dict(_places(reading, matches))
    groups = reading.groups(
        [Kind.NODE], lambda key: key.node if matches(key) else None, places
    )
    figures = window.figures(groups)
    columns = _executions(figures) | _counts(reading, figures)
    columns |= _page(reading, window, query, groups)
    peaks = columns["peak_memory_mb"]
    found = []
    for name, group in groups.items():
        services, graphs = places[name]
        if peaks[group] is None:
            peaks[group] = reading.memory_mb(services)
        found.append(
            schema.NodeFigures(
                node=name,
                services=services,
                graphs=graphs,
                window=window.seconds,
                completeness=window.completeness.of(services).ratio,
                **{key: column[group] for key, column in columns.items()},
            )
        )
    return found


def outcomes_of(figures: GroupStats) -> list[schema.Outcomes]:
    """Return the outcomes of each group."""
    words = [outcome.name.lower() for outcome in Outcome]
    return [
        schema.Outcomes(**dict(zip(words, counts, strict=True)))
        for counts in zip(*figures.outcomes().T.tolist(), strict=True)
    ]


# -- inside --------------------------------------------------------------------------


def _window(reading: Reading, query: NodesQuery) -> Window:
    return Window(reading, window_seconds(query.window))


def _matches(query: NodesQuery, node: str | None) -> Matches:
    return matching(service=query.service, graph=query.graph, node=node)


def _executions(figures: GroupStats) -> dict[str, list[Any]]:
    """Return the keys of NodeFigures that come from executions, by group."""
    p50, p90, p95, p99 = figures.quantiles(0.5, 0.9, 0.95, 0.99)
    ran = zip(figures.executions.tolist(), figures.last_time.tolist(), strict=True)
    phases = figures.phases()
    return {
        "total_executions": figures.executions.tolist(),
        "success_rate": figures.success_rates(),
        "avg_execution_time": figures.averages(),
        "min_execution_time": figures.leasts(),
        "max_execution_time": figures.mosts(),
        "total_retries": figures.retries().tolist(),
        "avg_prep_time": phases.average("prep"),
        "avg_exec_time": phases.average("exec"),
        "avg_wait_time": phases.average("wait"),
        "avg_post_time": phases.average("post"),
        "total_items": phases.item_counts(),
        "p50_execution_time": p50,
        "p90_execution_time": p90,
        "p95_execution_time": p95,
        "p99_execution_time": p99,
        "outcomes": outcomes_of(figures),
        "error_rate": figures.error_rates(),
        "retry_rate": figures.retry_rates(),
        "last_execution": [time if n else None for n, time in ran],
    }


def _counts(reading: Reading, figures: GroupStats) -> dict[str, list[Any]]:
    """Return the keys that count by name: actions, and types of errors."""
    registry = reading.view.registry
    actions: list[dict[str, int]] = [{} for _ in range(len(figures))]
    errors: list[dict[str, int]] = [{} for _ in range(len(figures))]
    for group, number, count in figures.counted(Dimension.ACTION):
        actions[group][registry.actions.values[number]] = count
    for group, number, count in figures.counted(Dimension.ERROR):
        name = registry.errors.values[number].type
        errors[group][name] = errors[group].get(name, 0) + count
    return {
        "actions": [_by_count(counts) for counts in actions],
        "error_breakdown": [_by_count(counts) for counts in errors],
    }


def _page(
    reading: Reading, window: Window, query: NodesQuery, nodes: SeriesGroups[str]
) -> dict[str, list[Any]]:
    """Return the keys that come from the page's custom metrics."""
    known = set(nodes.names)
    matches = _matches(query, None)

    def observed(metric: str) -> GroupStats:
        def name(key: SeriesKey) -> str | None:
            mine = key.metric == metric and key.node in known and matches(key)
            return key.node if mine else None

        groups = reading.groups([Kind.OBSERVE], name, nodes.names)
        return window.figures(groups, ())

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
    reading: Reading, matches: Matches
) -> Iterator[tuple[str, tuple[tuple[str, ...], tuple[str, ...]]]]:
    """Yield each node that matches, by name, with its services and its graphs."""
    # Tuples, not lists: thousands of containers that the garbage collector has to
    # look at are a pause of 30 ms, for the loop as well.
    seen = {(k.node, k.service, k.graph) for k in reading.of(Kind.NODE) if matches(k)}
    for node, places in groupby(sorted(seen), key=itemgetter(0)):
        _, services, graphs = zip(*places, strict=True)
        yield node, (tuple(sorted({*services})), tuple(sorted({*graphs})))


def _errors(
    reading: Reading, window: Window, query: NodeStatsQuery
) -> list[schema.ErrorCount]:
    matches = _matches(query, query.node)
    groups = reading.groups([Kind.NODE], lambda key: key.node if matches(key) else None)
    values = reading.view.registry.errors.values
    found = [
        schema.ErrorCount(type=values[n].type, phase=values[n].phase, count=count)
        for _, n, count in window.figures(groups, {Dimension.ERROR}).counted(
            Dimension.ERROR
        )
    ]
    return sorted(found, key=lambda error: (-error.count, error.type, error.phase))


def _custom(
    reading: Reading, window: Window, query: NodeStatsQuery
) -> list[schema.CustomMetric]:
    matches = _matches(query, query.node)

    def name(key: SeriesKey) -> tuple[str, Kind, Labels] | None:
        page = key.kind is Kind.OBSERVE and key.metric in PAGE
        mine = matches(key) and not page
        return (key.metric, key.kind, key.labels) if mine else None

    groups = reading.groups(CUSTOM_KINDS, name)
    figures = window.figures(groups, {Dimension.HISTOGRAM})
    p50, p95, p99 = figures.quantiles(0.5, 0.95, 0.99)
    average, least, most = figures.averages(), figures.leasts(), figures.mosts()
    total, last = figures.sums(), figures.lasts()
    return [
        schema.CustomMetric(
            name=metric,
            kind=CUSTOM_KINDS[kind],
            labels=dict(labels),
            count=int(figures.executions[n]),
            sum=total[n],
            avg=average[n],
            min=least[n],
            max=most[n],
            last=last[n],
            p50=p50[n],
            p95=p95[n],
            p99=p99[n],
        )
        for (metric, kind, labels), n in sorted(groups.items())
    ]


def _by_count(counts: dict[str, int]) -> dict[str, int]:
    """Return counts, the largest first."""
    if len(counts) < 2:
        return counts
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _unknown(reading: Reading, query: NodeStatsQuery) -> Exception:
    narrowed = "".join(
        f" in {what} {value!r}"
        for what, value in (("graph", query.graph), ("service", query.service))
        if value is not None
    )
    matches = _matches(query, None)
    known = {key.node for key in reading.of(Kind.NODE) if matches(key)}
    return not_found("node", query.node, known, "/api/v1/nodes", narrowed)
