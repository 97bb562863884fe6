"""The topology of a graph: nodes and edges, with their figures from all runs."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from kaywatch.wire import EndReason
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, DAY
from kaywatch_agent.model.bounds import Count, Moment, Name, Rate, Seconds
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.web.api.figures import (
    DIMENSIONS,
    Figures,
    PlaceGroups,
    columns_of,
    figures_of,
)
from kaywatch_agent.web.api.graphs import union_of
from kaywatch_agent.web.api.limits import NodeThresholds, StrictestThresholds
from kaywatch_agent.web.api.parameters import EndText, Service, WindowText
from kaywatch_agent.web.api.runs import count_in_flight, list_in_progress
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.series_filter import SeriesFilter
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = ["topology"]

# With fewer executions in the day before the window, there are no usual values.
MIN_USUAL: Final = 100

Edge = tuple[str, str, str]  # node, action, next node


class TopologyQuery(Struct, frozen=True, kw_only=True):
    """One graph, and a period."""

    graph: Annotated[Name, Meta(min_length=1, description="The graph.")]
    service: Service | None = None
    window: WindowText | None = None
    end: EndText | None = None


class TopologyNode(Figures):
    """One node, with its figures.

    `is_wired`: it is part of the graph that the clients reported. `never_reached`: it
    was not executed since first seen, although the graph has run. `dead_ends` are runs
    that ended here at an action without an edge. `max_visits` is the most visits of one
    run that ended in the window, within the last hour; null if no run came back to it.
    The usual values are those of the 24 hours before the window; null with fewer than
    100 executions. `max_avg` and `min_success_rate` are the strictest thresholds of
    rules that apply to it. `subgraph` is the graph that runs inside it.
    """

    node: str
    in_flight: Count
    is_wired: bool
    never_reached: bool
    dead_ends: Count
    max_visits: Count | None
    usual_p95: Seconds | None
    usual_error_rate: Rate | None
    max_avg: Seconds | None
    min_success_rate: Rate | None
    subgraph: str | None


class TopologyEdge(ResponseBody):
    """An action of a node, and where it leads; `target` is null where runs end.

    `share` is its share of all actions that the source returned. `per_run` is how often
    a run takes it, on average over all runs that ended in the window.
    """

    source: str
    target: str | None
    action: str
    count: Count
    share: Rate | None
    is_back_edge: bool
    per_run: Annotated[float, Meta(ge=0)] | None


class TopologyResponse(ResponseBody):
    """A graph within a period.

    `service` is empty for several services. `hash` changes with the nodes and the edges
    that have a target, and with nothing else. `changed` is when the reported topology
    last changed, or was first reported; null if that is unknown.
    """

    timestamp: Moment
    service: str
    graph: str
    start: str
    hash: str
    period_start: Moment
    period_end: Moment
    runs: Count
    in_progress: Count
    nodes: list[TopologyNode]
    edges: list[TopologyEdge]
    changed: Moment | None


def topology(snapshot: AgentSnapshot, query: TopologyQuery) -> TopologyResponse:
    """Return a graph with the figures of its nodes and edges within a period.

    Raises:
        Problem: 404 for an unknown graph.
    """
    graph = _Graph(snapshot, query)
    if not graph.services:
        graphs = {key.graph for key in snapshot.series(Kind.RUN, Kind.NODE)}
        graphs.update(name for _, name in snapshot.view.topologies)
        raise not_found("graph", query.graph, graphs, "/api/v1/graphs")
    matches = SeriesFilter(service=query.service, graph=query.graph)
    window = Window(snapshot, query.window, query.end, matches=matches)
    runs = graph.run_stats(window)
    nodes = _nodes(snapshot, window, graph, runs)
    edges = _edges(graph, nodes.actions, int(runs.executions.sum()))
    started = list_in_progress(snapshot)
    return TopologyResponse(
        timestamp=snapshot.now,
        service=graph.services[0] if len(graph.services) == 1 else "",
        graph=query.graph,
        start=graph.start,
        hash=_hash(graph),
        period_start=max(0.0, window.start),
        period_end=window.end,
        runs=int(runs.executions.sum()),
        in_progress=sum(graph.includes(run.service, run.graph) for run in started),
        nodes=nodes.rows,
        edges=edges,
        changed=graph.changed,
    )


# -- inside --------------------------------------------------------------------------


class _Graph:
    """The structure of a graph since first seen, over all of its services.

    Attributes:
        services: the services that have it; none if it is unknown.
        nodes: the wired ones in their order, then the others that were executed.
        wired: the wired ones.
        executed: the nodes that were ever executed.
        edges: as reported.
        start: the first node; empty if unknown.
        changed: when the topology last changed; None if unknown.
    """

    def __init__(self, snapshot: AgentSnapshot, query: TopologyQuery) -> None:
        self._snapshot = snapshot
        self._query = query
        records = [
            record
            for (service, name), record in sorted(snapshot.view.topologies.items())
            if self.includes(service, name)
        ]
        keys = [
            key
            for key in snapshot.series(Kind.NODE, Kind.RUN)
            if self.includes(key.service, key.graph)
        ]
        union = union_of(query.graph, records)
        self._graphs = {(key.service, key.graph) for key in snapshot.series(Kind.RUN)}
        self._graphs.update(snapshot.view.topologies)
        self.services = sorted(
            {*(key.service for key in keys), *(one.service for one in records)}
        )
        self.executed = {key.node for key in keys if key.kind is Kind.NODE}
        self.wired = frozenset(union.nodes)
        # A stable order keeps the drawing of the page stable.
        self.nodes = list(dict.fromkeys((*union.nodes, *sorted(self.executed))))
        self.edges: Sequence[Edge] = union.edges
        self.start = union.start
        self.changed = max((r.changed for r in records), default=0.0) or None

    def includes(self, service: str, graph: str) -> bool:
        """Return whether a service's graph matches."""
        query = self._query
        return graph == query.graph and query.service in (None, service)

    def place(self, key: SeriesKey) -> tuple[str] | None:
        """Return the node of a series of this graph."""
        return (key.node,) if self.includes(key.service, key.graph) else None

    def labels(self, service: str, node: str) -> dict[str, str]:
        """Return the labels by which rules select a node."""
        return {"service": service, "graph": self._query.graph, "node": node}

    def run_stats(self, window: Window) -> GroupStats:
        """Return the statistics of the runs; of one group, or none."""
        groups = self._snapshot.groups(
            [Kind.RUN],
            lambda key: 0 if self.includes(key.service, key.graph) else None,
        )
        return window.stats(groups, {Dimension.ACTION})

    def subgraph(self, node: str) -> str | None:
        """Return the graph that runs inside a node, which has the name of the node."""
        is_graph = node != self._query.graph and any(
            (service, node) in self._graphs for service in self.services
        )
        return node if is_graph else None


class _Usual(NamedTuple):
    """The usual values of a node; None with too few executions."""

    usual_p95: float | None = None
    usual_error_rate: float | None = None


class _NodeTable(NamedTuple):
    """The nodes, and how often each action was returned, by node."""

    rows: list[TopologyNode]
    actions: Mapping[str, Mapping[str, int]]


def _nodes(
    snapshot: AgentSnapshot, window: Window, graph: _Graph, runs: GroupStats
) -> _NodeTable:
    places = PlaceGroups(snapshot, Kind.NODE, graph.place, [(n,) for n in graph.nodes])
    columns, stats = columns_of(window, places, DIMENSIONS | {Dimension.ACTION})
    figures = figures_of(columns)
    dead_ends = _count_dead_ends(snapshot, runs)
    usual = _usual(snapshot, window, places)
    in_flight = _in_flight(snapshot, graph)
    visits = _max_visits(snapshot, window, graph)
    limits = _limits(snapshot, graph)
    rows = [
        TopologyNode(
            **figures[n],
            node=node,
            in_flight=in_flight[node],
            is_wired=node in graph.wired,
            # Before the first run, every node would be reported.
            never_reached=bool(graph.executed) and node not in graph.executed,
            dead_ends=dead_ends[node],
            max_visits=visits.get(node),
            subgraph=graph.subgraph(node),
            **usual[n]._asdict(),
            **limits[n]._asdict(),
        )
        for n, node in enumerate(graph.nodes)
    ]
    return _NodeTable(rows, _count_actions(snapshot, graph, stats))


def _count_actions(
    snapshot: AgentSnapshot, graph: _Graph, stats: GroupStats
) -> Mapping[str, Mapping[str, int]]:
    """Return how often each action was returned, by node."""
    names = snapshot.view.registry.actions.values
    actions: dict[str, dict[str, int]] = defaultdict(dict)
    for group, number, count in stats.counted(Dimension.ACTION):
        actions[graph.nodes[group]][names[number]] = count
    return actions


def _count_dead_ends(snapshot: AgentSnapshot, runs: GroupStats) -> Counter[str]:
    """Return how many runs ended at an action without an edge, by node."""
    ends = snapshot.view.registry.ends.values
    counts: Counter[str] = Counter()
    for _, number, count in runs.counted(Dimension.ACTION):
        if ends[number].reason == EndReason.UNMATCHED_ACTION:
            counts[ends[number].node] += count
    return counts


def _limits(snapshot: AgentSnapshot, graph: _Graph) -> list[StrictestThresholds]:
    thresholds = NodeThresholds(snapshot.rules.values())
    return [
        thresholds.find([graph.labels(service, node) for service in graph.services])
        for node in graph.nodes
    ]


def _in_flight(snapshot: AgentSnapshot, graph: _Graph) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (service, name, node), count in count_in_flight(snapshot).items():
        if graph.includes(service, name):
            counts[node] += count
    return counts


def _max_visits(
    snapshot: AgentSnapshot, window: Window, graph: _Graph
) -> dict[str, int]:
    """Return the most visits of each node in one run that ended in the window."""
    most: dict[str, int] = {}
    for number, rows in snapshot.view.longest.items():
        if not window.start <= number * BUCKET_SECONDS < window.end:
            continue
        for row, visits in rows.items():
            key = snapshot.keys[row]
            if key.kind is Kind.NODE and graph.includes(key.service, key.graph):
                most[key.node] = max(most.get(key.node, 0), visits)
    return most


def _usual(
    snapshot: AgentSnapshot, window: Window, places: PlaceGroups[Any]
) -> list[_Usual]:
    """Return the usual values of the 24 hours before the window, by place."""
    start = window.start if window.seconds is not None else snapshot.now
    # Shared by all requests, because a day has 1,440 buckets to merge.
    before = snapshot.day_before.of(snapshot.view, start)
    stats = Window(snapshot, DAY, buckets=[before]).stats(places.groups, DIMENSIONS)
    (p95,) = stats.quantiles(0.95)
    enough = stats.executions >= MIN_USUAL
    rates = stats.error_rates()
    return [
        _Usual(p95[n], rates[n]) if is_known else _Usual()
        for n, is_known in enumerate(enough.tolist())
    ]


def _edges(
    graph: _Graph, actions: Mapping[str, Mapping[str, int]], runs: int
) -> list[TopologyEdge]:
    """Return the reported edges, then the actions that have none."""
    back = set(_back_edges(graph))
    wired = {(source, action) for source, action, _ in graph.edges}
    ends = [
        (source, action, None)
        for source in graph.nodes
        for action in sorted(actions.get(source, {}))
        if (source, action) not in wired
    ]
    edges = []
    for source, action, target in (*graph.edges, *ends):
        count = actions.get(source, {}).get(action, 0)
        total = sum(actions.get(source, {}).values())
        edges.append(
            TopologyEdge(
                source=source,
                target=target,
                action=action,
                count=count,
                share=count / total if total else None,
                is_back_edge=(source, action, target) in back,
                per_run=count / runs if runs else None,
            )
        )
    return edges


def _back_edges(graph: _Graph) -> Iterator[Edge]:
    """Yield the edges that lead back to a node on the way to their source.

    Strategy: depth first from the start, with a stack of our own, because a graph may
    be deeper than Python's.
    """
    ways: dict[str, list[Edge]] = defaultdict(list)
    for wired in graph.edges:
        ways[wired[0]].append(wired)
    seen: set[str] = set()
    for first in dict.fromkeys((graph.start, *graph.nodes)):
        if first in seen:
            continue
        # Nodes that cannot be reached from the start are searched as well.
        seen.add(first)
        path, stack = {first}, [(first, iter(ways[first]))]
        while stack:
            node, rest = stack[-1]
            edge: Edge | None = next(rest, None)
            if edge is None:
                stack.pop()
                path.discard(node)
            elif edge[2] in path:
                yield edge
            elif edge[2] not in seen:
                seen.add(edge[2])
                path.add(edge[2])
                stack.append((edge[2], iter(ways[edge[2]])))


def _hash(graph: _Graph) -> str:
    # Figures are not part of the hash: the page lays the graph out again when it
    # changes.
    parts = msgspec.json.encode((graph.start, graph.nodes, graph.edges))
    return hashlib.sha256(parts).hexdigest()[:16]
