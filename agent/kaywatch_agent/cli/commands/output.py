"""Output that several commands share: JSON, tables, wrapped text and progress."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Self

import click
from rich.text import Text

from kaywatch_agent.cli.tables import Json, ShortText, clean, console, plain_table
from kaywatch_agent.units import plural, quantity

__all__ = [
    "Json", "ProgressLine", "add_colour", "format_alert_state", "format_delivery",
    "format_labels", "format_limit", "format_place", "format_utc_time", "plural",
    "print_json", "print_message_body", "print_result", "print_table", "print_wrapped",
]  # fmt: skip

Column = Callable[[Any], str | Text]

WIDTH: Final = 80
PROGRESS_SECONDS: Final = 0.5
SMTP_ACCEPTED: Final = 250  # a reply code of SMTP, not a status of HTTP

COLOURS: Final = {
    "firing": "red", "pending": "yellow", "recovering": "yellow", "ok": "green",
    "critical": "red", "error": "red",
}  # fmt: skip

_SUPERSEDED: Final = {
    "resolved": "the alert resolved before anyone was notified",
    "replaced": "a later message includes its content",
    "overflow": "too many messages were pending",
}

# Labels whose values are clear without the name.
PLAIN: Final = ("service", "graph", "node", "action", "host")
# Labels that locate an alert; others only classify it.
PLACE: Final = ("service", "host", "pid", "graph", "node", "action", "model")


def print_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))


def print_result(result: Any, as_json: bool, render: Callable[[Any], object]) -> None:
    """Print a result as JSON, or have `render` show it."""
    if as_json:
        print_json(result)
    else:
        render(result)


def print_message_body(body: object) -> None:
    """Print the body of a notification as indented JSON."""
    # Receivers show characters beyond ASCII unescaped, and so does this preview.
    text = json.dumps(body, indent=2, ensure_ascii=False)
    # The JSON stays that of the message: a terminal would not show a space that does
    # not break, or a control character.
    text = "".join(
        json.dumps(one)[1:-1] if one != "\n" and not one.isprintable() else one
        for one in text
    )
    for line in textwrap.indent(text, " " * 8).splitlines():
        click.echo(clean(line))


def print_table(
    columns: Mapping[str, Column],
    rows: Iterable[Any],
    shortened: Collection[str] = (),
    **layout: Any,
) -> None:
    """Print a table.

    Args:
        columns: by title, the function that returns a row's cell.
        rows: one line each.
        shortened: the columns with names, which make room for the figures.
        layout: see `tables.plain_table`.
    """
    table = plain_table(*columns, shortened=shortened, **layout)
    for row in rows:
        cells: list[str | Text] = []
        for title, column in columns.items():
            cell = column(row)
            if isinstance(cell, str):
                cell = clean(cell)
                cell = ShortText(cell) if title in shortened else cell
            cells.append(cell)
        table.add_row(*cells)
    console().print(table)


def print_wrapped(text: str, indent: str = "  ") -> None:
    """Print a text, indented, wrapped with a hanging indent."""
    out = console()
    # The width of a pipe is unknown, and scripts should get the same lines everywhere.
    width = min(out.width, WIDTH) if out.is_terminal else WIDTH
    line = indent + clean(text.rstrip())
    # `textwrap` collapses the blanks that align columns, so short lines bypass it.
    lines = [line]
    if len(line) > width:
        # A figure and its "%" stay on one line.
        line = line.replace(" %", "\xa0%")
        lines = textwrap.wrap(line, width, subsequent_indent=f"{indent}  ")
        lines = [line.replace("\xa0%", " %") for line in lines]
    for line in lines:
        # Wrapped already; rich would break long words such as URLs.
        out.print(line, soft_wrap=True)


def add_colour(word: str) -> Text:
    """Return a state or severity in its colour."""
    return Text(word, COLOURS.get(word, ""))


def format_alert_state(alert: Json) -> Text:
    """Return an alert's state in its colour; `ok` without data is `no data`."""
    if alert["state"] == "ok" and alert["reason"] == "no_data":
        return Text("no data", "dim")
    return add_colour(alert["state"])


def format_utc_time(at: float) -> str:
    """Return a time in UTC, with the date if it is not today's."""
    then, now = datetime.fromtimestamp(at, UTC), datetime.now(UTC)
    same_day = then.date() == now.date()
    return f"{then:%H:%M:%S}" if same_day else f"{then:%m-%d %H:%M:%S}"


def format_labels(labels: Json) -> str:
    """Return labels as a path: `checkout / pay`."""
    parts = [str(v) if k in PLAIN else f"{k} {v}" for k, v in labels.items() if v]
    return clean(" / ".join(parts)) or "all"


def format_place(alert: Json) -> str:
    """Return the labels that locate an alert, as a path."""
    labels = alert["labels"]
    return format_labels({k: labels[k] for k in PLACE if k in labels} or labels)


def format_limit(row: Json, unit: str) -> str:
    """Return a row's threshold with its unit, `-` for none."""
    return "-" if row["threshold"] is None else quantity(row["threshold"], unit)


def format_delivery(message: Json) -> str:
    """Return whether and when a message was delivered, and why not."""
    failed = message["attempts"]
    tries = f" after {plural(failed, 'failed attempt')}" if failed else ""
    error = f": {message['error']}" if message["error"] else ""
    match message["status"]:
        case "sent":
            protocol = "SMTP" if message["code"] == SMTP_ACCEPTED else "HTTP"
            code = f" ({protocol} {message['code']})" if message["code"] else ""
            return f"delivered at {format_utc_time(message['settled'])}{code}{tries}"
        case "pending":
            state = "pending"
            if message["behind"]:
                state += f" behind {message['behind']}"
            elif message["next_attempt"]:
                state += f", next attempt at {format_utc_time(message['next_attempt'])}"
            return f"{state}{tries}{error}"
        case "dead":
            at = format_utc_time(message["settled"])
            return f"given up at {at}, {message['reason']}{tries}{error}"
    return f"not sent: {_SUPERSEDED.get(message['reason'], message['reason'])}"


class ProgressLine:
    """One line on stderr, rewritten in place; silent if stderr is not a terminal."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            click.echo("\r" + " " * self._width + "\r", err=True, nl=False)

    def show(self, line: Callable[[], str]) -> None:
        """Show a line, unless one was shown a moment ago."""
        now = time.monotonic()
        # `line` is a function, because formatting each of thousands of steps takes
        # time.
        if sys.stderr.isatty() and now - self._shown >= PROGRESS_SECONDS:
            self._shown = now
            text = line()
            click.echo("\r" + text.ljust(self._width), err=True, nl=False)
            self._width = len(text)
