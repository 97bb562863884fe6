"""How `kaywatch top` looks: lines of one width, made from figures alone.

Strategy: each column has a rank, and columns are taken by rank for as long as they
fit. What is left over goes to the names, which are cut in the middle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from kaywatch_agent.cli.screens import clean, known
from kaywatch_agent.cli.top.state import Found, Row, rows
from kaywatch_agent.units import MIB, duration, money, percent, size

__all__ = ["SORTS", "Choice", "Shown", "frame", "middle", "snapshot"]

GAP: Final = 2
MARK: Final = "!"
KEYS: Final = (
    ("n", "name"),
    ("r", "rate"),
    ("e", "errors"),
    ("l", "latency"),
    ("c", "cost"),
    ("w", "window"),
    ("?", "help"),
    ("q", "quit"),
)
HELP: Final = (
    ("n", "sort by name"),
    ("r", "sort by rate"),
    ("e", "sort by errors: the share of executions that failed"),
    ("l", "sort by latency: p95"),
    ("t", "sort by retries"),
    ("f", "sort by what is in flight, the oldest first"),
    ("c", "sort by cost, where language models are called"),
    ("", "the same key again turns the order round"),
    ("w, W", "a longer window, a shorter one"),
    ("arrows, j, k", "scroll; page up, page down, home, end"),
    ("? or escape", "leave this help"),
    ("q", "quit"),
    ("", ""),
    (MARK, "over 5 % errors, or in flight for 10 s and ten times its p95"),
    ("in flight", "how many are under way, and how long the first of them is"),
    ("retries", "attempts after the first, in the window"),
)


def _least(value: float | None) -> float:
    return -1.0 if value is None else value


# The largest first, but for names; equal ones by name.
SORTS: Final[dict[str, Callable[[Row], float]]] = {
    "name": lambda _: 0.0,
    "rate": lambda row: -row.rate,
    "errors": lambda row: -_least(row.errors),
    "latency": lambda row: -_least(row.p95),
    "retries": lambda row: -row.retries,
    "flight": lambda row: -_least(row.oldest),
    "cost": lambda row: -_least(row.cost),
}


@dataclass
class Choice:
    """What the one who looks has chosen."""

    sort: str = "errors"
    turned: bool = False  # the other way round
    top: int = 0  # the first row that is seen
    last: int = 0  # the most that can be
    help: bool = False


class Shown(NamedTuple):
    """What there is to show.

    Attributes:
        url: the agent's.
        found: what it said last.
        rate: events a second, where it is known.
        problem: why there is nothing newer.
    """

    url: str
    found: Found
    rate: float | None = None
    problem: str = ""


class _Column(NamedTuple):
    """One column: its name, its cells, and how much it matters."""

    name: str
    cell: Callable[[Row], Text]
    rank: int
    sort: str = ""
    left: bool = False
    least: int = 0  # of a column that can be cut, else 0
    usual: int = 0  # so that columns don't move with each figure


def frame(shown: Shown, choice: Choice, width: int, height: int) -> list[Text]:
    """Return as many lines as there are, all of them full."""
    head = _head(shown, width)
    foot = [_keys(choice, width)]
    room = max(1, height - len(head) - len(foot) - 2)
    if choice.help:
        body = [Text(""), *_help()][: room + 2]
    else:
        body = _nodes(shown, choice, width, room)
    body += [Text("")] * (height - len(head) - len(foot) - len(body))
    return [_fit(line, width) for line in [*head, *body, *foot][:height]]


def snapshot(shown: Shown, choice: Choice, width: int) -> list[Text]:
    """Return everything, without what is for keys."""
    lines = [*_head(shown, width), *_nodes(shown, choice, width, None)]
    for line in lines:
        line.rstrip()
    return lines


# -- around the table ------------------------------------------------------------------


def _head(shown: Shown, width: int) -> list[Text]:
    found, health = shown.found, shown.found.health
    clock = time.strftime("%H:%M:%S", time.localtime(found.taken))
    if shown.problem:
        says = f"kaywatch at {shown.url}: gone since {clock}, looking for it"
        first = Text(set_cell_size(clean(says), width), "bold white on red")
    else:
        status = health["status"]
        first = Text.assemble(
            f"kaywatch {health['version']} at {clean(shown.url)}: ",
            (status, {"healthy": "green"}.get(status, "bold red")),
            f", up {duration(health['uptime'])}",
        )
        first.truncate(width, overflow="ellipsis")
        if cell_len(first.plain) + GAP + len(clock) <= width:
            first.append(clock.rjust(width - cell_len(first.plain)), "dim")
    lines = [first, Text("   ").join(_vitals(shown))]
    if found.llm["totals"]["calls"]:
        lines.append(_models(found))
    for name, stage in health["stages"].items():
        if stage["problem"]:
            lines.append(Text(clean(f"{name}: {stage['problem']}"), "bold red"))
    return [*lines, Text("")]


def _vitals(shown: Shown) -> list[Text]:
    found, health = shown.found, shown.found.health
    states = [client["state"] for client in found.clients]
    here, died = states.count("connected"), states.count("died")
    clients = Text(_count(here, "client"))
    if died:
        clients.append(f", {died:,} died", "red")
    events = (
        _count(health["events"], "event")
        if shown.rate is None
        else f"{shown.rate:,.0f} events/s"
    )
    parts = [clients, Text(events), _complete(found)]
    for name, key in (("agent", "memory_mb"), ("store", "store_mb")):
        if health[key] is not None:
            parts.append(Text(f"{name} {size(health[key] * MIB)}"))
    return parts


def _complete(found: Found) -> Text:
    events = sum(client["events"] for client in found.clients)
    recorded = sum(client["recorded"] for client in found.clients)
    share = min(1.0, events / recorded) if recorded else None
    style = "bold red" if share is not None and share < 1 else ""
    return Text(f"{known(share, percent)} complete", style)


def _models(found: Found) -> Text:
    totals = found.llm["totals"]
    unpriced = totals["unpriced_calls"] or totals["calls_without_usage"]
    more = "+?" if unpriced else ""
    return Text.assemble(
        f"models: {_count(totals['calls'], 'call')}, ",
        (f"{totals['errors']:,} failed", "yellow" if totals["errors"] else ""),
        f", {money(totals['cost_usd'])}{more}",
        f", of it {money(totals['wasted_cost_usd'])} wasted",
    )


def _keys(choice: Choice, width: int) -> Text:
    line = Text(" ")
    for key, name in KEYS:
        part = Text.assemble((key, "bold cyan"), " ", name)
        if choice.sort == name:
            part.stylize("reverse")
        if cell_len(line.plain) + cell_len(part.plain) + GAP <= width:
            line = line + part + Text(" " * GAP)
    return line


def _help() -> list[Text]:
    return [
        Text.assemble("  ", (key.ljust(14), "bold cyan"), words) for key, words in HELP
    ]


# -- the table -------------------------------------------------------------------------


def _nodes(shown: Shown, choice: Choice, width: int, room: int | None) -> list[Text]:
    found = shown.found
    made = _sorted(rows(found), choice)
    room = len(made) if room is None else room
    choice.last = max(0, len(made) - room)
    choice.top = min(choice.top, choice.last)
    seen = made[choice.top : choice.top + room]
    title = _title(found, choice, len(seen), len(made))
    if not made:
        hint = "Nothing ran." if found.clients else "No client yet."
        return [title, Text(hint)]
    columns = _chosen(_columns(found), made, choice.sort, width - 2)
    widths = _widths(columns, made, width - 2)
    lines = [title, _header(columns, widths, choice)]
    return lines + [_line(columns, widths, row) for row in seen]


def _sorted(made: list[Row], choice: Choice) -> list[Row]:
    by_name = sorted(made, key=lambda row: row.node)
    found = sorted(by_name, key=SORTS[choice.sort])
    return found[::-1] if choice.turned else found


def _title(found: Found, choice: Choice, seen: int, there: int) -> Text:
    asked = found.asked
    filters = {"service": asked.service, "graph": asked.graph}
    words = [f"{k} {v}" for k, v in filters.items() if v is not None]
    words += [f"node {', '.join(asked.nodes)}"] if asked.nodes else []
    said = clean(", ".join([f"Nodes, last {asked.window}", *words]))
    title = Text.assemble((said, "bold"))
    if seen < there:
        title.append(f"   {choice.top + 1} to {choice.top + seen} of {there}", "dim")
    return title


def _columns(found: Found) -> list[_Column]:
    """Return all columns that have something to say, from left to right."""
    columns = [
        _Column("node", _node, 0, "name", left=True, least=12),
        _Column("graph", lambda row: Text(row.graph), 11, left=True, least=8),
        _Column("rate/s", lambda row: Text(_rate(row.rate)), 1, "rate", usual=6),
        _Column("ok", lambda row: Text(known(row.ok, percent)), 7, usual=5),
        _Column("errors", _errors, 2, "errors"),
        _Column("retries", lambda row: Text(f"{row.retries:,}"), 9, "retries"),
        _Column("p50", lambda row: Text(_time(row.p50)), 8, usual=7),
        _Column("p95", lambda row: Text(_time(row.p95)), 3, "latency", usual=7),
        _Column("in flight", _in_flight, 4, "flight", usual=10),
        _Column("cost", lambda row: Text(_cost(row)), 6, "cost", usual=7),
        _Column("last failure", _failure, 5, left=True, least=16),
    ]
    unused = set()
    if not found.llm["totals"]["calls"]:
        unused.add("cost")
    if not found.failures:
        unused.add("last failure")
    return [column for column in columns if column.name not in unused]


def _chosen(
    columns: list[_Column], made: Sequence[Row], sort: str, width: int
) -> list[_Column]:
    """Return the columns that fit, the most important first to be taken."""

    def rank(column: _Column) -> int:
        # What is sorted by has to be seen.
        return 0 if column.sort == sort else column.rank

    chosen: set[str] = set()
    left = width + GAP
    for column in sorted(columns, key=rank):
        needed = GAP + (column.least or _natural(column, made))
        if needed <= left:
            chosen.add(column.name)
            left -= needed
    return [column for column in columns if column.name in chosen]


def _widths(columns: list[_Column], made: Sequence[Row], width: int) -> list[int]:
    """Return how wide each is: names share what the figures leave."""
    natural = [_natural(column, made) for column in columns]
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


def _natural(column: _Column, made: Sequence[Row]) -> int:
    cells = (cell_len(column.cell(row).plain) for row in made)
    return max(cell_len(column.name), column.usual, *cells)


def _header(columns: list[_Column], widths: list[int], choice: Choice) -> Text:
    line = Text("  ")
    for column, width in zip(columns, widths, strict=True):
        style = "bold underline" if column.sort == choice.sort else "bold"
        line.append_text(_cell(Text(column.name, style), width, column.left))
    return line


def _line(columns: list[_Column], widths: list[int], row: Row) -> Text:
    line = Text.assemble((f"{MARK} " if row.sick else "  ", "bold red"))
    for column, width in zip(columns, widths, strict=True):
        line.append_text(_cell(column.cell(row), width, column.left))
    return line


def _cell(text: Text, width: int, left: bool) -> Text:
    if cell_len(text.plain) > width:
        text = Text(middle(text.plain, width), text.style)
    pad = " " * (width - cell_len(text.plain))
    # Assembled, since what is appended to a text takes on its style.
    return Text.assemble(*((text, pad) if left else (pad, text)), " " * GAP)


def middle(text: str, width: int) -> str:
    """Return a text cut in the middle: what tells names apart is often at an end."""
    if cell_len(text) <= width:
        return text
    front = set_cell_size(text, (width - 1) // 2)
    back = text[::-1]
    back = set_cell_size(back, width - 1 - cell_len(front))[::-1]
    return f"{front}…{back}" if width > 1 else "…"[:width]


def _fit(line: Text, width: int) -> Text:
    line.truncate(width, overflow="crop", pad=True)
    return line


# -- cells -----------------------------------------------------------------------------


def _node(row: Row) -> Text:
    return Text(row.node, "bold red" if row.sick else "")


def _errors(row: Row) -> Text:
    style = "bold red" if row.sick and not row.stuck else "yellow"
    return Text(known(row.errors, percent), style if row.errors else "")


def _in_flight(row: Row) -> Text:
    if not row.in_flight:
        return Text("-", "dim")
    age = "" if row.oldest is None else f", {duration(row.oldest)}"
    return Text(f"{row.in_flight:,}{age}", "bold red" if row.stuck else "")


def _time(seconds: float | None) -> str:
    return known(seconds, duration)


def _failure(row: Row) -> Text:
    if row.failed_ago is None:
        return Text("")
    return Text(f"{duration(round(row.failed_ago), parts=1):>4} {row.failure}", "dim")


def _cost(row: Row) -> str:
    return "-" if row.cost is None else money(row.cost)


def _rate(rate: float) -> str:
    """Return a rate with three digits, or all of its whole ones."""
    return f"{rate:,.0f}" if rate >= 99.95 else f"{rate:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
