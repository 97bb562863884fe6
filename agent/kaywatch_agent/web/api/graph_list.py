"""The list of graphs, or a page of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Annotated, Final, Literal

from msgspec import Meta

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.model.series import Kind
from kaywatch_agent.web.api.graphs import (
    NODE_DIMENSIONS,
    GraphSummary,
    graph_places,
    summarize_graphs,
)
from kaywatch_agent.web.api.list_pages import (
    Cursor,
    ListPage,
    NextCursor,
    PageSize,
    read_page,
)
from kaywatch_agent.web.api.parameters import ScopeQuery
from kaywatch_agent.web.api.schema import EventAccount, ResponseBody, WindowSeconds
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.series_filter import SeriesFilter
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = ["list_graphs"]

_NOT_NODES: Final = frozenset(Kind) - {Kind.NODE}


class GraphListQuery(ScopeQuery, frozen=True, kw_only=True):
    """A service, a graph and a window, the order, and the page."""

    sort: Annotated[
        Literal[
            "graph",
            "total_executions",
            "error_rate",
            "avg_execution_time",
            "max_execution_time",
            "p95_execution_time",
        ],
        Meta(description="The order: by name, or the largest figures first."),
    ] = "graph"
    limit: PageSize | None = None
    cursor: Cursor | None = None


class GraphList(ResponseBody):
    """The known graphs, or a page of them; `matching` ignores the limit."""

    timestamp: Moment
    window: WindowSeconds | None
    matching: Count
    next: NextCursor | None
    graphs: list[GraphSummary]
    account: EventAccount


def list_graphs(snapshot: AgentSnapshot, query: GraphListQuery) -> GraphList:
    """Return the statistics of all matching graphs, or of a page of them.

    Raises:
        Problem: 404 for a cursor that is not the name of a graph.
    """
    places = graph_places(snapshot, query.service, query.graph)
    names = sorted({graph for graph, _ in places})
    page = _page(snapshot, query, names)
    shown = frozenset(page.names)
    others = SeriesFilter(kinds=_NOT_NODES, service=query.service, graph=shown)
    window = Window(snapshot, query.window, query.end, matches=others)
    # Apart: nodes are most of the series, and most of their facts are not shown.
    nodes = window.of_series(replace(others, kinds={Kind.NODE}), NODE_DIMENSIONS)
    shown_places = {place for place in places if place[0] in shown}
    graphs = summarize_graphs(snapshot, window, nodes, query.service, shown_places)
    place = {name: n for n, name in enumerate(page.names)}
    graphs.sort(key=lambda graph: place[graph.graph])
    return GraphList(
        timestamp=snapshot.now,
        window=window.seconds,
        matching=len(names),
        next=page.next,
        graphs=graphs,
        account=EventAccount.of(
            window.completeness.of({service for _, service in places})
        ),
    )


# -- inside --------------------------------------------------------------------------


def _page(snapshot: AgentSnapshot, query: GraphListQuery, names: list[str]) -> ListPage:
    """Return the page of a query; `names` are those of all matching graphs, sorted."""

    def stats(dimensions: Collection[Dimension]) -> GroupStats:
        matches = SeriesFilter(
            kinds={Kind.RUN}, service=query.service, graph=query.graph
        )
        groups = snapshot.groups([Kind.RUN], lambda key: key.graph, names, matches)
        window = Window(
            snapshot,
            query.window,
            query.end,
            matches=matches,
            dimensions=dimensions,
        )
        return window.stats(groups, dimensions)

    try:
        return read_page(names, query.sort, query.limit, query.cursor, stats)
    except KeyError:
        unknown = query.cursor or ""
        raise not_found("graph", unknown, names, "/api/v1/graphs") from None
