"""Pages of a list: the order of its items, and the cursor after which a page begins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Final, NamedTuple

from msgspec import Meta

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.group_stats import GroupStats, Numbers
from kaywatch_agent.model.bounds import Name

__all__ = [
    "SORT_FIGURES",
    "Cursor",
    "ListPage",
    "NextCursor",
    "PageSize",
    "page_of",
    "read_page",
]

PageSize = Annotated[
    int,
    Meta(
        ge=1,
        le=10_000,
        description="The length of a page. Without it: everything.",
        examples=[100],
    ),
]
Cursor = Annotated[
    Name,
    Meta(
        description="The `next` of the page before, which is the name of its last item."
        " Without it: the first page.",
    ),
]
NextCursor = Annotated[
    Name,
    Meta(description="The `cursor` of the next page; null on the last one."),
]


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


class ListPage(NamedTuple):
    """The names of one page in their order, and the cursor of the next page."""

    names: list[str]
    next: str | None


def read_page(
    names: Sequence[str],
    sort: str,
    limit: int | None,
    cursor: str | None,
    stats: Callable[[Collection[Dimension]], GroupStats],
) -> ListPage:
    """Return one page of a list, with only the statistics that its order needs.

    Args:
        names: of all items, each once.
        sort: one of `SORT_FIGURES`; anything else sorts by name.
        limit: as of `page_of`.
        cursor: as of `page_of`.
        stats: returns some dimensions of all items, in the order of the names.

    Raises:
        KeyError: as of `page_of`.
    """
    figures = None
    if sort in SORT_FIGURES:
        dimensions, figure = SORT_FIGURES[sort]
        figures = figure(stats(dimensions))
    return page_of(names, figures, limit, cursor)


def page_of(
    names: Sequence[str],
    figures: Numbers | None,
    limit: int | None,
    cursor: str | None,
) -> ListPage:
    """Return one page of a list.

    If an item changes its place between two requests, it may be on both pages, or on
    none. This cannot happen in the order of names.

    Args:
        names: of all items, each once.
        figures: of all items, to sort by, the largest first; None to sort by name.
        limit: the length of the page; None for everything.
        cursor: the name after which the page begins; None for the first page. It need
            not be one of the names if these are the order.

    Raises:
        KeyError: the cursor is not one of the names, and their figures are the order.
    """
    # Without a figure last. With the same figure, by name.
    values = {} if figures is None else dict(zip(names, figures, strict=True))

    def place(name: str) -> tuple[bool, float, str]:
        figure = values[name] if values else 0.0
        return (True, 0.0, name) if figure is None else (False, -figure, name)

    ordered = sorted(names, key=place)
    if cursor is not None:
        after = place(cursor)
        ordered = [name for name in ordered if place(name) > after]
    page = ordered[:limit]
    return ListPage(page, page[-1] if len(page) < len(ordered) else None)
