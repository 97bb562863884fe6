"""How `kaywatch top` looks: lines of one width, made from figures alone.

Strategy: each column has a rank, and columns are chosen by rank as long as they fit.
The space that is left is for names, which are cut in the middle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from kaywatch_agent.cli.tables import agent_line, clean, known
from kaywatch_agent.cli.top.state import Answers, Json, NodeRow, rows
from kaywatch_agent.units import MIB, duration, money, percent, size

__all__ = ["SORTS", "SORT_KEYS", "Display", "ViewOptions", "frame", "lines", "middle"]

GAP: Final = 2
MARK: Final = "!"
KEYS: Final = (
    *(("n", "name"), ("r", "rate"), ("e", "errors"), ("l", "latency"), ("c", "cost")),
    *(("w", "window"), ("?", "help"), ("q", "quit")),
)
HELP: Final = (
    ("n", "sort by name"),
    ("r", "sort by rate"),
    ("e", "sort by errors: the share of executions that failed"),
    ("l", "sort by latency: p95"),
    ("t", "sort by retries"),
    ("f", "sort by the age of the oldest execution in flight"),
    ("c", "sort by cost of language models"),
    ("", "the same key again reverses the order"),
    ("w, W", "a longer window, a shorter one"),
    ("arrows, j, k", "scroll; page up, page down, home, end"),
    ("? or escape", "leave this help"),
    ("q", "quit"),
    ("", ""),
    (MARK, "over 5 % errors, or in flight for 10 s and ten times the p95"),
    ("in flight", "how many executions are in progress, and the age of the oldest"),
    ("retries", "attempts after the first, in the window"),
)


@dataclass
class ViewOptions:
    """What the user chose, and how far the list can be scrolled."""

    sort: str = "errors"
    reverse: bool = False
    top: int = 0  # the first row that is shown
    last: int = 0  # the largest value of it
    page: int = 1  # rows that page down scrolls
    help: bool = False


class Display(NamedTuple):
    """What to show.

    Attributes:
        url: the agent's.
        answers: its last answers.
        rate: events per second, if known.
        problem: why there are no newer answers.
    """

    url: str
    answers: Answers
    rate: float | None = None
    problem: str = ""


class NodeColumn(NamedTuple):
    """One column: its name, its cells, how important it is, and how to sort by it."""

    name: str
    cell: Callable[[NodeRow], Text]
    rank: int
    sort: str = ""
    key: str = ""
    order: Callable[[NodeRow], float | None] = lambda _: 0.0  # the largest first
    left: bool = False
    least: int = 0  # the smallest width, if it can be cut
    usual: int = 0  # keeps columns in place when figures change


def frame(
    display: Display, options: ViewOptions, width: int, height: int
) -> list[Text]:
    """Return lines that fill a screen."""
    options.page = max(1, height - 8)
    head = _head(display, width)
    room = max(1, height - len(head) - 3)
    if options.help:
        body = [Text(""), *_help()][: room + 2]
    else:
        body = _nodes(display, options, width, room)
    body += [Text("")] * (height - len(head) - 1 - len(body))
    full = [*head, *body, _keys(options, width)][:height]
    for line in full:
        line.truncate(width, overflow="crop", pad=True)
    return full


def lines(display: Display, options: ViewOptions, width: int) -> list[Text]:
    """Return all nodes, without help on keys."""
    found = [*_head(display, width), *_nodes(display, options, width, None)]
    for line in found:
        line.rstrip()
    return found


# -- around the table ----------------------------------------------------------------


def _head(display: Display, width: int) -> list[Text]:
    answers, health = display.answers, display.answers.health
    clock = time.strftime("%H:%M:%S", time.localtime(answers.time))
    if display.problem:
        text = f"kaywatch at {display.url}: gone since {clock}, reconnecting"
        first = Text(set_cell_size(clean(text), width), "bold white on red")
    else:
        first = agent_line(display.url, health)
        first.truncate(width, overflow="ellipsis")
        if cell_len(first.plain) + GAP + len(clock) <= width:
            first.append(clock.rjust(width - cell_len(first.plain)), "dim")
    head = [first, Text("   ").join(_vitals(display))]
    if answers.llm["totals"]["calls"]:
        head.append(_models(answers.llm["totals"]))
    for name, stage in health["stages"].items():
        if stage["problem"]:
            head.append(Text(clean(f"{name}: {stage['problem']}"), "bold red"))
    return [*head, Text("")]


def _vitals(display: Display) -> list[Text]:
    clients, health = display.answers.clients, display.answers.health
    states = [client["state"] for client in clients]
    first = Text(_count(states.count("connected"), "client"))
    if died := states.count("died"):
        first.append(f", {died:,} died", "red")
    events = _count(health["events"], "event")
    if display.rate is not None:
        events = f"{display.rate:,.0f} events/s"
    recorded = sum(client["recorded"] for client in clients)
    received = sum(client["events"] for client in clients)
    share = min(1.0, received / recorded) if recorded else None
    style = "bold red" if share is not None and share < 1 else ""
    memory = [
        Text(f"{name} {size(health[key] * MIB)}")
        for name, key in (("agent", "memory_mb"), ("store", "store_mb"))
        if health[key] is not None
    ]
    return [
        first,
        Text(events),
        Text(f"{known(share, percent)} complete", style),
        *memory,
    ]


def _models(totals: Json) -> Text:
    unpriced = totals["unpriced_calls"] or totals["calls_without_usage"]
    return Text.assemble(
        f"models: {_count(totals['calls'], 'call')}, ",
        (f"{totals['errors']:,} failed", "yellow" if totals["errors"] else ""),
        f", {money(totals['cost_usd'])}{'+?' if unpriced else ''}",
        f", {money(totals['wasted_cost_usd'])} wasted",
    )


def _keys(options: ViewOptions, width: int) -> Text:
    line = Text(" ")
    for key, name in KEYS:
        part = Text.assemble((key, "bold cyan"), " ", name)
        if options.sort == name:
            part.stylize("reverse")
        if cell_len(line.plain) + cell_len(part.plain) + GAP <= width:
            line = line + part + Text(" " * GAP)
    return line


def _help() -> list[Text]:
    return [
        Text.assemble("  ", (key.ljust(14), "bold cyan"), text) for key, text in HELP
    ]


# -- cells ---------------------------------------------------------------------------


def _errors(row: NodeRow) -> Text:
    style = "bold red" if row.unhealthy and not row.stuck else "yellow"
    return Text(known(row.errors, percent), style if row.errors else "")


def _in_flight(row: NodeRow) -> Text:
    if not row.in_flight:
        return Text("-", "dim")
    age = "" if row.oldest is None else f", {duration(row.oldest)}"
    return Text(f"{row.in_flight:,}{age}", "bold red" if row.stuck else "")


def _failure(row: NodeRow) -> Text:
    if row.failed_ago is None:
        return Text("")
    ago = duration(round(row.failed_ago), parts=1)
    return Text(f"{ago:>4} {row.failure}", "dim")


def _rate(row: NodeRow) -> Text:
    """Return a rate with three digits, or all digits before the point."""
    return Text(f"{row.rate:,.0f}" if row.rate >= 99.95 else f"{row.rate:.3g}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


COLUMNS: Final = (
    NodeColumn(
        *("node", lambda row: Text(row.node, "bold red" if row.unhealthy else ""), 0),
        *("name", "n"),
        left=True,
        least=12,
    ),
    NodeColumn("graph", lambda row: Text(row.graph), 11, left=True, least=8),
    NodeColumn("rate/s", _rate, 1, "rate", "r", lambda row: row.rate, usual=6),
    NodeColumn("ok", lambda row: Text(known(row.ok, percent)), 7, usual=5),
    NodeColumn("errors", _errors, 2, "errors", "e", lambda row: row.errors),
    NodeColumn(
        *("retries", lambda row: Text(f"{row.retries:,}"), 9),
        *("retries", "t", lambda row: row.retries),
    ),
    NodeColumn("p50", lambda row: Text(known(row.p50, duration)), 8, usual=7),
    NodeColumn(
        *("p95", lambda row: Text(known(row.p95, duration)), 3),
        *("latency", "l", lambda row: row.p95),
        usual=7,
    ),
    NodeColumn(
        "in flight", _in_flight, 4, "flight", "f", lambda row: row.oldest, usual=10
    ),
    NodeColumn(
        *("cost", lambda row: Text(known(row.cost, money)), 6),
        *("cost", "c", lambda row: row.cost),
        usual=7,
    ),
    NodeColumn("last failure", _failure, 5, left=True, least=16),
)
SORTS: Final = {column.sort: column for column in COLUMNS if column.sort}
SORT_KEYS: Final = {column.key: column.sort for column in COLUMNS if column.sort}


# -- the table -----------------------------------------------------------------------


def _nodes(
    display: Display, options: ViewOptions, width: int, room: int | None
) -> list[Text]:
    answers = display.answers
    every = _sorted(rows(answers), options)
    room = len(every) if room is None else room
    options.last = max(0, len(every) - room)
    options.top = min(options.top, options.last)
    shown = every[options.top : options.top + room]
    title = _title(answers, options, len(shown), len(every))
    if not every:
        return [title, Text("Nothing ran." if answers.clients else "No client yet.")]
    columns = _chosen(answers, every, options.sort, width - 2)
    widths = _widths(columns, every, width - 2)
    styles = ["bold underline" if c.sort == options.sort else "bold" for c in columns]
    names = [Text(c.name, s) for c, s in zip(columns, styles, strict=True)]
    header = _line("", columns, widths, names)
    return [
        *(title, header),
        *(
            _line(MARK * row.unhealthy, columns, widths, [c.cell(row) for c in columns])
            for row in shown
        ),
    ]


def _sorted(every: list[NodeRow], options: ViewOptions) -> list[NodeRow]:
    """Return rows with the largest first, and equal ones by name."""

    def order(row: NodeRow) -> float:
        value = SORTS[options.sort].order(row)
        return 1.0 if value is None else -value

    found = sorted(sorted(every, key=lambda row: row.node), key=order)
    return found[::-1] if options.reverse else found


def _title(answers: Answers, options: ViewOptions, shown: int, every: int) -> Text:
    query = answers.query
    filters = {"service": query.service, "graph": query.graph}
    parts = [f"{name} {value}" for name, value in filters.items() if value is not None]
    parts += [f"node {', '.join(query.nodes)}"] if query.nodes else []
    title = Text(clean(", ".join([f"Nodes, last {query.window}", *parts])), "bold")
    if shown < every:
        first = options.top + 1
        title.append(f"   {first} to {options.top + shown} of {every}", "not bold dim")
    return title


def _chosen(
    answers: Answers, every: Sequence[NodeRow], sort: str, width: int
) -> list[NodeColumn]:
    """Return the columns that fit, and have content."""
    empty = {
        "cost": not answers.llm["totals"]["calls"],
        "last failure": not answers.failures,
    }
    columns = [column for column in COLUMNS if not empty.get(column.name)]
    chosen: set[str] = set()
    left = width + GAP
    # The column that rows are sorted by is always shown.
    for column in sorted(columns, key=lambda c: c.rank if c.sort != sort else 0):
        needed = GAP + (column.least or _natural(column, every))
        if needed <= left:
            chosen.add(column.name)
            left -= needed
    return [column for column in columns if column.name in chosen]


def _widths(
    columns: list[NodeColumn], every: Sequence[NodeRow], width: int
) -> list[int]:
    """Return the width of each column; names share what the figures leave."""
    natural = [_natural(column, every) for column in columns]
    widths = [
        min(column.least or wide, wide)
        for column, wide in zip(columns, natural, strict=True)
    ]
    left = width - sum(widths) - GAP * (len(columns) - 1)
    for n, wide in enumerate(natural):
        more = max(0, min(wide - widths[n], left))
        widths[n] += more
        left -= more
    return widths


def _natural(column: NodeColumn, every: Sequence[NodeRow]) -> int:
    cells = (cell_len(column.cell(row).plain) for row in every)
    return max(cell_len(column.name), column.usual, *cells)


def _line(
    mark: str, columns: list[NodeColumn], widths: list[int], cells: list[Text]
) -> Text:
    line = Text.assemble((mark.ljust(2), "bold red"))
    for column, width, cell in zip(columns, widths, cells, strict=True):
        text = Text(middle(cell.plain, width), cell.style)
        pad = " " * (width - cell_len(text.plain))
        # Assembled, as appended text takes over the style before it.
        parts = (text, pad) if column.left else (pad, text)
        line.append_text(Text.assemble(*parts, " " * GAP))
    return line


def middle(text: str, width: int) -> str:
    """Return a text cut in the middle: names often differ at their ends."""
    if cell_len(text) <= width:
        return text
    front = set_cell_size(text, (width - 1) // 2)
    back = text[::-1]
    back = set_cell_size(back, width - 1 - cell_len(front))[::-1]
    return f"{front}…{back}" if width > 1 else "…"[:width]
