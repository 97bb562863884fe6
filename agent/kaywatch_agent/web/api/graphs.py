"""Answers about graphs: the list, one graph's figures, and the export."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from kaywatch.wire import EndReason, Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats, SeriesGroups
from kaywatch_agent.model.records import TopologyRecord
from kaywatch_agent.model.series import OTHER, EndPoint, Kind, SeriesKey
from kaywatch_agent.web.api import schema
from kaywatch_agent.web.api.nodes import node_figures, outcomes_of
from kaywatch_agent.web.api.parameters import (
    ExportQuery,
    GraphsQuery,
    GraphStatsQuery,
    window_seconds,
)
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.reading import Reading, Window, account, matching

__all__ = ["export", "graph_list", "graph_stats"]


def graph_list(reading: Reading, query: GraphsQuery) -> schema.GraphList:
    """Return the figures of all graphs that match, by name."""
    window = _window(reading, query.window)
    graphs = _graph_figures(reading, window, query.service, query.graph)
    services = {service for graph in graphs for service in graph.services}
    return schema.GraphList(
        timestamp=reading.now,
        window=window.seconds,
        graphs=graphs,
        account=account(window.completeness.of(services)),
    )


def graph_stats(reading: Reading, query: GraphStatsQuery) -> schema.GraphStats:
    """Return all that is known of one graph.

    Raises:
        Problem: 404 for a graph that hasn't been seen.
    """
    window = _window(reading, query.window)
    found = _graph_figures(reading, window, query.service, query.graph)
    if not found:
        narrowed = f" in service {query.service!r}" if query.service else ""
        known = {graph for graph, _ in _places(reading, query.service, None)}
        raise not_found("graph", query.graph, known, "/api/v1/graphs", narrowed)
    plain = {name: getattr(found[0], name) for name in found[0].__struct_fields__}
    topology = _topology(reading, query)
    return schema.GraphStats(
        **plain,
        ends=_ends(reading, window, query, topology),
        never_run=_never_run(topology, found[0].node_performance),
        topology=topology,
        account=account(window.completeness.of(found[0].services)),
    )


def export(reading: Reading, query: ExportQuery) -> schema.Export:
    """Return everything in the form of KayGraph's exporter."""
    window = _window(reading, query.window)
    graphs = _graph_figures(reading, window, query.service, query.graph)
    return schema.Export(
        timestamp=reading.now,
        nodes={node.node: node for node in node_figures(reading, window, query)},
        graphs={graph.graph: graph for graph in graphs},
    )


# -- inside --------------------------------------------------------------------------


def _window(reading: Reading, text: str | None) -> Window:
    return Window(reading, window_seconds(text))


def _places(
    reading: Reading, service: str | None, graph: str | None
) -> set[tuple[str, str]]:
    """Return the (graph, service) pairs that match, from runs, nodes and wirings."""
    seen = {(key.graph, key.service) for key in reading.of(Kind.RUN, Kind.NODE)}
    seen.update((name, owner) for owner, name in reading.view.topologies)
    return {
        (name, owner)
        for name, owner in seen
        if name and graph in (None, name) and service in (None, owner)
    }


def _graph_figures(
    reading: Reading, window: Window, service: str | None, graph: str | None
) -> list[schema.GraphFigures]:
    places = _places(reading, service, graph)
    services: dict[str, list[str]] = defaultdict(list)
    for name, owner in sorted(places):
        services[name].append(owner)

    def run(key: SeriesKey) -> str | None:
        return key.graph if (key.graph, key.service) in places else None

    # A graph of which no run has ended is listed too.
    groups = reading.groups([Kind.RUN], run, services)
    columns = _runs(window.figures(groups))
    nodes = _Nodes(reading, window, places)
    return [
        schema.GraphFigures(
            graph=name,
            services=services[name],
            window=window.seconds,
            completeness=window.completeness.of(services[name]).ratio,
            node_performance=nodes.performance[name],
            transition_counts=nodes.transitions[name],
            failure_points=nodes.failures[name],
            **{key: column[group] for key, column in columns.items()},
        )
        for name, group in groups.items()
    ]


def _runs(figures: GroupStats) -> dict[str, list[Any]]:
    """Return the keys that come from runs, by group."""
    p50, p95, p99 = figures.quantiles(0.5, 0.95, 0.99)
    runs, visits = figures.executions.tolist(), figures.attempts.tolist()
    return {
        "status": ["ok" if count else "no_executions" for count in runs],
        "total_executions": runs,
        "success_rate": figures.success_rates(),
        "avg_execution_time": figures.averages(),
        "total_time": figures.sums(),
        "p50_execution_time": p50,
        "p95_execution_time": p95,
        "p99_execution_time": p99,
        "outcomes": outcomes_of(figures),
        "visits": visits,
        "avg_visits": [
            seen / count if count else None
            for seen, count in zip(visits, runs, strict=True)
        ],
    }


class _Nodes:
    """What the nodes of some graphs did, by graph."""

    def __init__(
        self, reading: Reading, window: Window, places: set[tuple[str, str]]
    ) -> None:
        def place(key: SeriesKey) -> tuple[str, str] | None:
            mine = (key.graph, key.service) in places
            return (key.graph, key.node) if mine else None

        performance: dict[str, dict[str, schema.NodePerformance]]
        performance = {name: {} for name, _ in places}
        self.performance = performance
        self.transitions: dict[str, dict[str, int]] = {name: {} for name, _ in places}
        self.failures: dict[str, dict[str, int]] = {name: {} for name, _ in places}
        groups = reading.groups([Kind.NODE], place)
        figures = window.figures(groups, {Dimension.OUTCOME, Dimension.ACTION})
        self._perform(groups, figures)
        actions = reading.view.registry.actions.values
        for group, number, count in figures.counted(Dimension.ACTION):
            graph, node = groups.names[group]
            self.transitions[graph][f"{node}->{actions[number]}"] = count

    def _perform(
        self, groups: SeriesGroups[tuple[str, str]], figures: GroupStats
    ) -> None:
        average, least, most = figures.averages(), figures.leasts(), figures.mosts()
        failed = figures.outcomes()[:, Outcome.ERROR].tolist()
        for (graph, node), n in sorted(groups.items()):
            executions = int(figures.executions[n])
            if not executions:
                continue
            self.performance[graph][node] = schema.NodePerformance(
                executions=executions,
                avg_time=average[n],
                min_time=least[n],
                max_time=most[n],
            )
            if failed[n]:
                self.failures[graph][node] = failed[n]


def _ends(
    reading: Reading,
    window: Window,
    query: GraphStatsQuery,
    topology: TopologyRecord | None,
) -> list[schema.EndCount]:
    matches = matching(service=query.service, graph=query.graph)
    groups = reading.groups([Kind.RUN], lambda key: key.graph if matches(key) else None)
    figures = window.figures(groups, {Dimension.ACTION})
    ends = reading.view.registry.ends.values
    found = [
        schema.EndCount(
            **ends[number]._asdict(),
            count=count,
            available=_available(ends[number], topology),
        )
        for _, number, count in figures.counted(Dimension.ACTION)
    ]
    return sorted(found, key=lambda end: (-end.count, end.reason, end.node))


def _available(end: EndPoint, topology: TopologyRecord | None) -> list[str] | None:
    """Return the actions that would have led on from an unmatched one."""
    if end.reason != EndReason.UNMATCHED_ACTION or topology is None:
        return None
    if end.node not in topology.nodes:
        return None
    actions = (action for node, action, _ in topology.edges if node == end.node)
    return list(dict.fromkeys(actions))


def _never_run(
    topology: TopologyRecord | None, ran: Mapping[str, object]
) -> list[str] | None:
    """Return the nodes that are wired and haven't run, in the topology's order."""
    # Some nodes may be among those counted under `__other__`.
    if topology is None or OTHER in ran:
        return None
    return [node for node in topology.nodes if node not in ran]


def _topology(reading: Reading, query: GraphStatsQuery) -> TopologyRecord | None:
    """Return a graph's wiring; that of several services is put together."""
    records = [
        record
        for (service, graph), record in sorted(reading.view.topologies.items())
        if graph == query.graph and query.service in (None, service)
    ]
    if not records:
        return None
    nodes = dict.fromkeys(node for record in records for node in record.nodes)
    edges = dict.fromkeys(edge for record in records for edge in record.edges)
    return TopologyRecord(
        service=records[0].service if len(records) == 1 else "",
        graph=query.graph,
        start=records[0].start,
        nodes=tuple(nodes),
        edges=tuple(edges),
    )
