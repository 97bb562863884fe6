"""The list of nodes, or a page of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Annotated, Literal

from msgspec import Meta

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.model.series import Kind
from kaywatch_agent.web.api.list_pages import (
    Cursor,
    ListPage,
    NextCursor,
    PageSize,
    read_page,
)
from kaywatch_agent.web.api.nodes import NodeSummary, summarize_nodes
from kaywatch_agent.web.api.parameters import ScopeQuery
from kaywatch_agent.web.api.schema import EventAccount, ResponseBody, WindowSeconds
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.series_filter import SeriesFilter
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = ["list_nodes"]


class NodeListQuery(ScopeQuery, frozen=True, kw_only=True):
    """A service, a graph and a window, the order, and the page."""

    sort: Annotated[
        Literal[
            "node",
            "total_executions",
            "error_rate",
            "retry_rate",
            "avg_execution_time",
            "max_execution_time",
            "p95_execution_time",
        ],
        Meta(description="The order: by name, or the largest figures first."),
    ] = "node"
    limit: PageSize | None = None
    cursor: Cursor | None = None


class NodeList(ResponseBody):
    """The known nodes, or a page of them; `matching` ignores the limit."""

    timestamp: Moment
    window: WindowSeconds | None
    matching: Count
    next: NextCursor | None
    nodes: list[NodeSummary]
    account: EventAccount


def list_nodes(snapshot: AgentSnapshot, query: NodeListQuery) -> NodeList:
    """Return the statistics of all matching nodes, or of a page of them.

    Raises:
        Problem: 404 for a cursor that is not the name of a node.
    """
    matches = SeriesFilter(service=query.service, graph=query.graph)
    keys = list(snapshot.series(Kind.NODE, matches=matches))
    names = sorted({key.node for key in keys})
    page = _page(snapshot, query, names)
    shown = replace(matches, node=page.names)
    window = Window(snapshot, query.window, query.end, matches=shown)
    nodes = summarize_nodes(snapshot, window, query, page.names)
    place = {name: n for n, name in enumerate(page.names)}
    nodes.sort(key=lambda node: place[node.node])
    return NodeList(
        timestamp=snapshot.now,
        window=window.seconds,
        matching=len(names),
        next=page.next,
        nodes=nodes,
        account=EventAccount.of(window.completeness.of({key.service for key in keys})),
    )


# -- inside --------------------------------------------------------------------------


def _page(snapshot: AgentSnapshot, query: NodeListQuery, names: list[str]) -> ListPage:
    """Return the page of a query; `names` are those of all matching nodes, sorted."""

    def stats(dimensions: Collection[Dimension]) -> GroupStats:
        matches = SeriesFilter(
            kinds={Kind.NODE}, service=query.service, graph=query.graph
        )
        groups = snapshot.groups([Kind.NODE], lambda key: key.node, names, matches)
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
        raise not_found("node", unknown, names, "/api/v1/nodes") from None
