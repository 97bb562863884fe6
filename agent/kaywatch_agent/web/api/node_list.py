"""The list of nodes, or a page of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

from msgspec import Meta

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats, Numbers
from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.model.series import Kind
from kaywatch_agent.web.api.list_pages import (
    Cursor,
    ListPage,
    NextCursor,
    PageSize,
    page_of,
)
from kaywatch_agent.web.api.nodes import NodeSummary, summarize_nodes
from kaywatch_agent.web.api.parameters import ScopeQuery
from kaywatch_agent.web.api.schema import EventAccount, ResponseBody, WindowSeconds
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.snapshot import AgentSnapshot, Window, matching

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


# The figures to sort by, and the dimensions that they need.
SORT_FIGURES: Final[
    dict[str, tuple[frozenset[Dimension], Callable[[GroupStats], Numbers]]]
] = {
    "total_executions": (frozenset(), lambda stats: stats.executions.tolist()),
    "error_rate": (frozenset({Dimension.OUTCOME}), GroupStats.error_rates),
    "retry_rate": (frozenset(), GroupStats.retry_rates),
    "avg_execution_time": (frozenset(), GroupStats.averages),
    "max_execution_time": (frozenset(), GroupStats.mosts),
    "p95_execution_time": (
        frozenset({Dimension.HISTOGRAM}),
        lambda stats: stats.quantiles(0.95)[0],
    ),
}


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
    matches = matching(service=query.service, graph=query.graph)
    keys = [key for key in snapshot.series(Kind.NODE) if matches(key)]
    names = sorted({key.node for key in keys})
    page = _page(snapshot, query, names)
    shown = frozenset(page.names)
    window = Window(
        snapshot,
        query.window,
        query.end,
        matches=lambda key: key.node in shown and matches(key),
    )
    nodes = summarize_nodes(snapshot, window, query, shown)
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
    figures = None
    if query.sort != "node":
        matches = matching(service=query.service, graph=query.graph)
        groups = snapshot.groups(
            [Kind.NODE], lambda key: key.node if matches(key) else None, names
        )
        dimensions, figure = SORT_FIGURES[query.sort]
        window = Window(snapshot, query.window, query.end, matches=matches)
        figures = figure(window.stats(groups, dimensions))
    try:
        return page_of(names, figures, query.limit, query.cursor)
    except KeyError:
        unknown = query.cursor or ""
        raise not_found("node", unknown, names, "/api/v1/nodes") from None
