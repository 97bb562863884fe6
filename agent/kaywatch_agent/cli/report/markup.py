"""HTML without a template: text is escaped, elements are values of `Markup`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["Markup", "chart", "element", "join", "table"]

WIDTH: Final = 120
HEIGHT: Final = 24


class Markup(str):
    """HTML that is not escaped again; any other string is escaped as text."""

    __slots__ = ()


def _escape(content: object) -> str:
    if isinstance(content, Markup):
        return content
    return html.escape("-" if content is None else str(content))


def join(parts: Iterable[object]) -> Markup:
    """Return the concatenation of texts and elements."""
    return Markup("".join(_escape(part) for part in parts))


def element(name: str, *content: object, **attributes: str) -> Markup:
    """Return an element; a trailing `_` of an attribute's name is removed."""
    attributes_text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{attributes_text}>{join(content)}</{name}>")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table; columns whose head starts with `#` are numbers.

    Whole numbers are shown with separators. Pass a number that is a name, such as a
    pid, as a string.
    """
    classes = ["number" if each.startswith("#") else "text" for each in head]
    cells = [
        element("th", each.lstrip("#"), class_=name, scope="col")
        for each, name in zip(head, classes, strict=True)
    ]
    body = [
        element(
            "tr",
            *(
                element(
                    "td", f"{cell:,}" if isinstance(cell, int) else cell, class_=name
                )
                for cell, name in zip(row, classes, strict=True)
            ),
        )
        for row in rows
    ]
    content = (element("thead", element("tr", *cells)), element("tbody", *body))
    return element("div", element("table", *content), class_="scroll")


def chart(label: str, points: Sequence[Sequence[float | None]]) -> Markup:
    """Return a small line chart that starts at 0, with gaps where data is missing.

    Args:
        label: describes the content of the chart.
        points: each with its time, its value, and the number of events.
    """
    values = [point[1] for point in points]
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    step = WIDTH / max(1, len(values) - 1)
    path, is_drawing = "", False
    for index, value in enumerate(values):
        if value is not None:
            # A single point would be invisible, so it is drawn as a short line.
            x, y = index * step, HEIGHT - 1 - value / top * (HEIGHT - 2)
            path += f"L{x:.1f} {y:.1f}" if is_drawing else f"M{x:.1f} {y:.1f}h.5"
        is_drawing = value is not None
    size = f"0 0 {WIDTH} {HEIGHT}"
    line = element("path", d=path)
    return element(
        "svg", line, viewBox=size, role="img", aria_label=label, class_="chart"
    )
