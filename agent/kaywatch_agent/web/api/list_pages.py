"""Pages of a list: an order, and a cursor that says after which item a page begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from msgspec import Meta

from kaywatch_agent.aggregate.group_stats import Numbers
from kaywatch_agent.model.bounds import Name

__all__ = ["Cursor", "ListPage", "NextCursor", "PageSize", "page_of"]

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


class ListPage(NamedTuple):
    """The names of one page in their order, and the cursor of the next page."""

    names: list[str]
    next: str | None


def page_of(
    names: Sequence[str],
    figures: Numbers | None,
    limit: int | None,
    cursor: str | None,
) -> ListPage:
    """Return one page of a list.

    An item that changes its place between two requests may be missing or on both pages;
    in the order of names, none ever is.

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
