"""Statistics of graphs: the list, one graph, and the export."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import asdict

from kaywatch.wire import EndReason, Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats, SeriesGroups
from kaywatch_agent.model.bounds import Count, Moment, Name, Rate, Seconds
from kaywatch_agent.model.records import TopologyRecord
from kaywatch_agent.model.series import OTHER, EndPoint, Kind, SeriesKey
from kaywatch_agent.web.api.figures import PlaceGroups, costs_of
from kaywatch_agent.web.api.nodes import NodeSummary, outcomes_of, summarize_nodes
from kaywatch_agent.web.api.parameters import EndText, ScopeQuery, Service, WindowText
from kaywatch_agent.web.api.schema import (
    EventAccount,
    Outcomes,
    ResponseBody,
    WindowSeconds,
)
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.series_filter import SeriesFilter
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = [
    "NODE_DIMENSIONS",
    "GraphSummary",
    "export",
    "graph_places",
    "graph_stats",
    "summarize_graphs",
    "union_of",
]


# What a summary of a graph contains of its nodes.
NODE_DIMENSIONS: Final = frozenset({Dimension.OUTCOME, Dimension.ACTION})


class GraphStatsQuery(Struct, frozen=True, kw_only=True):
    """One graph, and optionally one service."""

    graph: Annotated[
        Name, Meta(min_length=1, description="The graph, percent-encoded.")
    ]
    window: WindowText | None = None
    end: EndText | None = None
    service: Service | None = None


class NodePerformance(ResponseBody):
    """A node's executions within a graph."""

    executions: Count
    avg_time: Seconds | None
    min_time: Seconds | None
    max_time: Seconds | None


class GraphSummary(ResponseBody):
    """Statistics of one graph over all matching services.

    The keys of `transition_counts` are like `pay->failed`: a node and the action it
    returned. `failure_points` counts errors by the node that raised them. `visits` is
    the number of nodes that its runs visited. The costs, in US dollars, are null
    without calls of a model; `wasted_cost_usd` is that of failed attempts. `retries`
    and `fallbacks` are those of its nodes. `dead_ends` is the number of runs that ended
    at an action without an edge. `never_run` are the nodes of the topology without an
    execution that ended in the window; null if that is unknown.
    """

    graph: str
    services: list[str]
    window: WindowSeconds | None
    status: Literal["ok", "no_executions"]
    total_executions: Count
    success_rate: Rate | None
    avg_execution_time: Seconds | None
    total_time: Seconds | None
    p50_execution_time: Seconds | None
    p95_execution_time: Seconds | None
    p99_execution_time: Seconds | None
    max_execution_time: Seconds | None
    outcomes: Outcomes
    retries: Count
    fallbacks: Count
    dead_ends: Count
    never_run: list[str] | None
    visits: Count
    avg_visits: Annotated[float, Meta(ge=0)] | None
    cost_usd: Annotated[float, Meta(ge=0)] | None
    wasted_cost_usd: Annotated[float, Meta(ge=0)] | None
    node_performance: dict[str, NodePerformance]
    transition_counts: dict[str, int]
    failure_points: dict[str, int]
    completeness: Rate | None


class EndCount(ResponseBody):
    """The number of runs that ended at a node, with an action, for a reason.

    `available` are the actions that have an edge from the node, if its action had
    none; null for other reasons, and if the edges are unknown.
    """

    reason: str
    node: str
    action: str
    count: Count
    available: list[str] | None


class GraphStats(GraphSummary):
    """All statistics of one graph."""

    ends: list[EndCount]
    topology: TopologyRecord | None
    account: EventAccount


class Export(ResponseBody):
    """All nodes and graphs by name, in the form of KayGraph's MetricsExporter."""

    timestamp: Moment
    nodes: dict[str, NodeSummary]
    graphs: dict[str, GraphSummary]


def graph_stats(snapshot: AgentSnapshot, query: GraphStatsQuery) -> GraphStats:
    """Return everything that is known of one graph.

    Raises:
        Problem: 404 for an unknown graph.
    """
    matches = SeriesFilter(service=query.service, graph=query.graph)
    window = Window(snapshot, query.window, query.end, matches=matches)
    places = graph_places(snapshot, query.service, query.graph)
    graphs = summarize_graphs(snapshot, window, window, query.service, places)
    if not graphs:
        scope = f" in service {query.service!r}" if query.service else ""
        graph_names = {graph for graph, _ in graph_places(snapshot, query.service)}
        raise not_found("graph", query.graph, graph_names, "/api/v1/graphs", scope)
    topology = _topologies(snapshot, query.service).get(query.graph)
    return GraphStats(
        **asdict(graphs[0]),
        ends=_ends(snapshot, window, query, topology),
        topology=topology,
        account=EventAccount.of(window.completeness.of(graphs[0].services)),
    )


def export(snapshot: AgentSnapshot, query: ScopeQuery) -> Export:
    """Return all nodes and graphs in the form of KayGraph's exporter."""
    matches = SeriesFilter(service=query.service, graph=query.graph)
    window = Window(snapshot, query.window, query.end, matches=matches)
    places = graph_places(snapshot, query.service, query.graph)
    graphs = summarize_graphs(snapshot, window, window, query.service, places)
    nodes = summarize_nodes(snapshot, window, query)
    return Export(
        timestamp=snapshot.now,
        nodes={node.node: node for node in nodes},
        graphs={graph.graph: graph for graph in graphs},
    )


def graph_places(
    snapshot: AgentSnapshot, service: str | None, graph: str | None = None
) -> set[tuple[str, str]]:
    """Return the matching (graph, service) of runs, nodes and topologies."""

    def of_series() -> frozenset[tuple[str, str]]:
        keys = snapshot.series(Kind.RUN, Kind.NODE)
        return frozenset((key.graph, key.service) for key in keys)

    known = snapshot.remember("graph places", of_series)
    topologies = ((name, owner) for owner, name in snapshot.view.topologies)
    return {
        (name, owner)
        for name, owner in chain(known, topologies)
        if name and graph in (None, name) and service in (None, owner)
    }


def summarize_graphs(
    snapshot: AgentSnapshot,
    window: Window,
    node_window: Window,
    service: str | None,
    places: set[tuple[str, str]],
) -> list[GraphSummary]:
    """Return the statistics of graphs by name.

    Args:
        snapshot: has the series.
        window: includes the runs of the graphs, and the calls of models.
        node_window: the same period with the nodes, with at least `NODE_DIMENSIONS`.
        service: the only service whose topologies count; None for all.
        places: the graphs, each with its services. The same name in another service
            must not match.
    """
    services: dict[str, list[str]] = defaultdict(list)
    for name, owner in sorted(places):
        services[name].append(owner)

    def run(key: SeriesKey) -> str | None:
        return key.graph if (key.graph, key.service) in places else None

    # All graphs are named in advance, so that those without an ended run are listed.
    graphs = PlaceGroups(snapshot, Kind.RUN, run, services)
    columns = _columns(snapshot, window, graphs)
    nodes = _NodesByGraph(snapshot, node_window, places)
    topologies = _topologies(snapshot, service)
    return [
        GraphSummary(
            graph=name,
            services=services[name],
            window=window.seconds,
            completeness=window.completeness.of(services[name]).ratio,
            node_performance=nodes.performance[name],
            transition_counts=nodes.transitions[name],
            failure_points=nodes.failures[name],
            retries=nodes.retries[name],
            fallbacks=nodes.fallbacks[name],
            never_run=_never_run(topologies.get(name), nodes.performance[name]),
            **{key: column[group] for key, column in columns.items()},
        )
        for name, group in graphs.groups.items()
    ]


# -- inside --------------------------------------------------------------------------


def _columns(
    snapshot: AgentSnapshot, window: Window, graphs: PlaceGroups[str]
) -> dict[str, list[Any]]:
    """Return the keys that come from runs and calls of models, by group."""
    stats = window.stats(graphs.groups)
    dead_ends = {"dead_ends": _dead_ends(snapshot, stats)}
    return _runs(stats) | costs_of(window, graphs) | dead_ends


def _runs(stats: GroupStats) -> dict[str, list[Any]]:
    """Return the keys that come from runs, by group."""
    p50, p95, p99 = stats.quantiles(0.5, 0.95, 0.99)
    runs, visits = stats.executions.tolist(), stats.attempts.tolist()
    return {
        "status": ["ok" if count else "no_executions" for count in runs],
        "total_executions": runs,
        "success_rate": stats.success_rates(),
        "avg_execution_time": stats.averages(),
        "total_time": stats.sums(),
        "p50_execution_time": p50,
        "p95_execution_time": p95,
        "p99_execution_time": p99,
        "max_execution_time": stats.mosts(),
        "outcomes": outcomes_of(stats),
        "visits": visits,
        "avg_visits": [
            seen / count if count else None
            for seen, count in zip(visits, runs, strict=True)
        ],
    }


def _dead_ends(snapshot: AgentSnapshot, stats: GroupStats) -> list[int]:
    """Return the number of runs that ended at an action without an edge, by group."""
    values = snapshot.view.registry.ends.values
    counts = [0] * len(stats)
    for group, number, count in stats.counted(Dimension.ACTION):
        if values[number].reason == EndReason.UNMATCHED_ACTION:
            counts[group] += count
    return counts


class _NodesByGraph:
    """Executions, transitions and errors of nodes, by graph and node.

    Attributes:
        retries, fallbacks: their number by graph.
    """

    def __init__(
        self, snapshot: AgentSnapshot, window: Window, places: set[tuple[str, str]]
    ) -> None:
        def place(key: SeriesKey) -> tuple[str, str] | None:
            included = (key.graph, key.service) in places
            return (key.graph, key.node) if included else None

        self.performance: dict[str, dict[str, NodePerformance]]
        self.performance = {name: {} for name, _ in places}
        self.transitions: dict[str, dict[str, int]] = {name: {} for name, _ in places}
        self.failures: dict[str, dict[str, int]] = {name: {} for name, _ in places}
        self.retries = dict.fromkeys(self.performance, 0)
        self.fallbacks = dict.fromkeys(self.performance, 0)
        matches = SeriesFilter(graph=self.performance)
        groups = snapshot.groups([Kind.NODE], place, matches=matches)
        stats = window.stats(groups, NODE_DIMENSIONS)
        self._add_performance(groups, stats)
        actions = snapshot.view.registry.actions.values
        for group, number, count in stats.counted(Dimension.ACTION):
            graph, node = groups.names[group]
            self.transitions[graph][f"{node}->{actions[number]}"] = count

    def _add_performance(
        self, groups: SeriesGroups[tuple[str, str]], stats: GroupStats
    ) -> None:
        average, least, most = stats.averages(), stats.leasts(), stats.mosts()
        outcomes = stats.outcomes()
        errors = outcomes[:, Outcome.ERROR].tolist()
        fallbacks = outcomes[:, Outcome.FALLBACK].tolist()
        retries = stats.retries().tolist()
        executions = stats.executions.tolist()
        for (graph, node), n in sorted(groups.items()):
            # The node was executed, but not in this window.
            if not executions[n]:
                continue
            self.performance[graph][node] = NodePerformance(
                executions=executions[n],
                avg_time=average[n],
                min_time=least[n],
                max_time=most[n],
            )
            self.retries[graph] += retries[n]
            self.fallbacks[graph] += fallbacks[n]
            if errors[n]:
                self.failures[graph][node] = errors[n]


def _ends(
    snapshot: AgentSnapshot,
    window: Window,
    query: GraphStatsQuery,
    topology: TopologyRecord | None,
) -> list[EndCount]:
    matches = SeriesFilter(service=query.service, graph=query.graph)
    groups = snapshot.groups([Kind.RUN], lambda key: key.graph, matches=matches)
    stats = window.stats(groups, {Dimension.ACTION})
    values = snapshot.view.registry.ends.values
    ends = [
        EndCount(
            **values[number]._asdict(),
            count=count,
            available=_available(values[number], topology),
        )
        for _, number, count in stats.counted(Dimension.ACTION)
    ]
    return sorted(ends, key=lambda end: (-end.count, end.reason, end.node))


def _available(end: EndPoint, topology: TopologyRecord | None) -> list[str] | None:
    """Return the actions that have an edge from the node of an unmatched action."""
    if end.reason != EndReason.UNMATCHED_ACTION or topology is None:
        return None
    # The topology may be older or newer than the run.
    if end.node not in topology.nodes:
        return None
    actions = (action for node, action, _ in topology.edges if node == end.node)
    return list(dict.fromkeys(actions))


def _never_run(
    topology: TopologyRecord | None, executed: Mapping[str, object]
) -> list[str] | None:
    """Return the nodes without executions, in the topology's order."""
    # Executions under `__other__` may be those of any node.
    if topology is None or OTHER in executed:
        return None
    return [node for node in topology.nodes if node not in executed]


def _topologies(
    snapshot: AgentSnapshot, service: str | None
) -> dict[str, TopologyRecord]:
    """Return the topologies by graph; the union of those of several services."""
    records: dict[str, list[TopologyRecord]] = defaultdict(list)
    for (owner, graph), record in sorted(snapshot.view.topologies.items()):
        if service in (None, owner):
            records[graph].append(record)
    return {graph: union_of(graph, parts) for graph, parts in records.items()}


def union_of(graph: str, records: Sequence[TopologyRecord]) -> TopologyRecord:
    """Return the topology of a graph over all services that have it."""
    nodes = dict.fromkeys(node for record in records for node in record.nodes)
    edges = dict.fromkeys(edge for record in records for edge in record.edges)
    return TopologyRecord(
        service=records[0].service if len(records) == 1 else "",
        graph=graph,
        # Services that share a graph almost always share its start, so any will do.
        start=records[0].start if records else "",
        nodes=tuple(nodes),
        edges=tuple(edges),
        since=min((record.since for record in records), default=0.0),
        changed=max((record.changed for record in records), default=0.0),
    )
