"""Renders the screen of `kaywatch top` from the agent's answers.

Strategy: each column has a rank. As many columns are shown as fit, the lowest ranks
first. rich aligns them, and gives the rest of the width to names.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Final, NamedTuple

from rich.cells import cell_len
from rich.console import (
    ConsoleDimensions,
    Group,
    RenderableType,
)
from rich.layout import Layout
from rich.table import Table
from rich.text import Text

from kaywatch_agent.cli.graph_tables import graph_table
from kaywatch_agent.cli.tables import (
    Json,
    ShortText,
    clean,
    format_agent,
    or_dash,
)
from kaywatch_agent.cli.top.state import (
    Answers,
    NodeRow,
    node_rows,
)
from kaywatch_agent.units import MIB, duration, money, percent, size

__all__ = [
    "SORTS",
    "SORT_KEYS",
    "Display",
    "ViewOptions",
    "render_list",
    "render_screen",
]

GAP: Final = 2

# One graph is shown for every eight lines of the screen, so that most of it is left for
# nodes.
LINES_PER_GRAPH: Final = 8
MARK: Final = "!"

KEYS: Final = (
    *(("n", "name"), ("r", "rate"), ("e", "errors"), ("l", "latency"), ("c", "cost")),
    *(("w", "window"), ("?", "help"), ("q", "quit")),
)
HELP: Final = (
    ("n", "sort by name"),
    ("r", "sort by rate"),
    ("e", "sort by errors: the share that failed, fallbacks included"),
    ("l", "sort by latency: p95"),
    ("t", "sort by retries"),
    ("f", "sort by the age of the oldest execution in flight"),
    ("c", "sort by cost of language models"),
    ("", "press the same key again to reverse the order"),
    ("w, W", "show a longer window, a shorter one"),
    ("arrows, j, k", "scroll; also page up, page down, home, end"),
    ("? or escape", "close this help"),
    ("q", "quit"),
    ("", ""),
    (MARK, "more failures than a rule allows, or stuck by the rule `stuck`"),
    ("hidden", "failed executions that a fallback or on_error answered"),
    ("in flight", "how many executions are in progress, and the age of the oldest"),
    ("retries", "attempts after the first, in the window"),
)


@dataclass
class ViewOptions:
    """The user's choices, and the position of the list."""

    sort: str = "errors"
    reverse: bool = False
    first_row: int = 0  # the index of the first visible row
    max_first_row: int = 0  # the largest value of `first_row`
    page_rows: int = 1  # the rows that a page down scrolls
    help: bool = False


class Display(NamedTuple):
    """The data to show.

    Attributes:
        url: where the agent serves HTTP.
        answers: the last answers that it gave.
        rate: events per second; None if it is not known yet.
        problem: why the last request failed; empty if it succeeded.
    """

    url: str
    answers: Answers
    rate: float | None = None
    problem: str = ""


class NodeColumn(NamedTuple):
    """One column.

    Attributes:
        name: the header.
        rank: columns with the lowest ranks are chosen first.
        min_width: the least width, which keeps columns in place when figures change.
            Names are shortened to this width before other columns are left out.
        sort: its name as a value of `--sort`; empty if rows cannot be sorted by it.
        key: the key on the keyboard that sorts by it.
        field: the field of `NodeRow` that rows are sorted by, the largest value first.
        is_name: whether the column is aligned to the left, and can be shortened.
    """

    name: str
    rank: int
    min_width: int = 0
    sort: str = ""
    key: str = ""
    field: str = ""
    is_name: bool = False


COLUMNS: Final = (
    NodeColumn("  node", 0, 14, "name", "n", is_name=True),
    NodeColumn("graph", 11, 12, is_name=True),
    NodeColumn("service", 12, 12, is_name=True),
    NodeColumn("rate/s", 1, 6, "rate", "r", "rate"),
    NodeColumn("ok", 9, 5),
    NodeColumn("errors", 2, 6, "errors", "e", "failing"),
    NodeColumn("hidden", 8, 6),
    NodeColumn("retries", 10, 7, "retries", "t", "retries"),
    NodeColumn("p50", 9, 7),
    NodeColumn("p95", 3, 7, "latency", "l", "p95"),
    NodeColumn("in flight", 4, 10, "flight", "f", "oldest"),
    NodeColumn("cost", 7, 7, "cost", "c", "cost"),
    NodeColumn("last failure", 5, 17, is_name=True),
)
SORTS: Final = {column.sort: column for column in COLUMNS if column.sort}
SORT_KEYS: Final = {column.key: column.sort for column in COLUMNS if column.sort}


def render_screen(
    display: Display, options: ViewOptions, dimensions: ConsoleDimensions
) -> RenderableType:
    """Return the screen for a terminal of a size."""
    width, height = dimensions
    head = _render_head(display)
    body: list[RenderableType] = ["", *_render_help()]
    if not options.help:
        graphs = _render_graphs(display.answers, height // LINES_PER_GRAPH)
        taken = len(head) + sum(_count_lines(part) for part in graphs)
        options.page_rows = max(1, height - taken - 5)
        room = max(1, height - taken - 3)
        body = [*graphs, *_render_nodes(display.answers, options, width, room)]
    screen = Layout()
    screen.split_column(
        Layout(Group(*head), size=len(head)),
        Layout(Group(*body)),
        Layout(_render_keys(options), size=1),
    )
    return screen


def render_list(display: Display, options: ViewOptions, width: int) -> RenderableType:
    """Return the agent's state and all nodes, to be printed once."""
    graphs = _render_graphs(display.answers, sys.maxsize)
    nodes = _render_nodes(display.answers, options, width, sys.maxsize)
    return Group(*_render_head(display), *graphs, *nodes)


# -- around the table ----------------------------------------------------------------


def _render_head(display: Display) -> list[RenderableType]:
    answers, health = display.answers, display.answers.health
    clock = time.strftime("%H:%M:%S", time.localtime(answers.time))
    first: RenderableType
    if display.problem:
        text = f"kaywatch at {display.url}: no answer since {clock}, reconnecting"
        first = Text(clean(text), "bold white on red")
    else:
        first = Table.grid(expand=True, padding=(0, GAP, 0, 0))
        first.add_column(ratio=1, no_wrap=True)
        first.add_column(no_wrap=True)
        first.add_row(format_agent(display.url, health), Text(clock, "dim"))
    head = [first, Text("   ").join(_render_agent(display))]
    if answers.llm["totals"]["calls"]:
        head.append(_render_llm_costs(answers.llm["totals"]))
    for name, stage in health["stages"].items():
        if stage["problem"]:
            head.append(Text(clean(f"{name}: {stage['problem']}"), "bold red"))
    return [*head, ""]


def _render_agent(display: Display) -> list[Text]:
    clients, health = display.answers.clients, display.answers.health
    states = [client["state"] for client in clients]
    first = Text(_format_count(states.count("connected"), "client"))
    if died := states.count("died"):
        first.append(f", {died:,} died", "red")
    events = _format_count(health["events"], "event")
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
        Text(f"{or_dash(share, percent)} complete", style),
        *memory,
    ]


def _render_llm_costs(totals: Json) -> Text:
    unpriced = totals["unpriced_calls"] or totals["calls_without_usage"]
    return Text.assemble(
        f"models: {_format_count(totals['calls'], 'call')}, ",
        (f"{totals['errors']:,} failed", "yellow" if totals["errors"] else ""),
        f", {money(totals['cost_usd'])}{'+?' if unpriced else ''}",
        f", {money(totals['wasted_cost_usd'])} wasted",
    )


def _render_keys(options: ViewOptions) -> Text:
    keys = [
        Text.assemble(
            (key, "bold cyan"), f" {name}", style="reverse" * (name == options.sort)
        )
        for key, name in KEYS
    ]
    return Text(" ") + Text(" " * GAP).join(keys)


def _render_help() -> list[Text]:
    return [
        Text.assemble("  ", (key.ljust(14), "bold cyan"), text) for key, text in HELP
    ]


# -- graphs --------------------------------------------------------------------------


def _render_graphs(answers: Answers, limit: int) -> list[RenderableType]:
    """Return at most `limit` graphs with runs, and the run to look at first."""
    graphs = [g for g in answers.graphs if g["total_executions"]]
    graphs.sort(key=lambda g: (g["success_rate"] or 0.0, -g["total_executions"]))
    if not graphs or not limit or answers.query.nodes:
        return []
    title = Text(f"Graphs, last {answers.query.window}", "bold")
    if limit < len(graphs):
        title.append(f"   {limit} of {len(graphs)}", "not bold dim")
    parts: list[RenderableType] = [title, graph_table(graphs[:limit])]
    if answers.runs:
        parts.append(_render_run(answers))
    return [*parts, ""]


def _render_run(answers: Answers) -> Text:
    """Return how many runs are in progress, and the first in trouble or the oldest."""
    run, now = answers.runs[0], answers.health["timestamp"]
    age = f", {duration(max(0.0, now - run['start']))} old" if run["start"] else ""
    trouble = f", {', '.join(run['trouble'])}" if run["trouble"] else ""
    text = (
        f"{_format_count(len(answers.runs), 'run')} in progress; {run['graph']} at"
        f" {run['node']}: {_format_count(run['visits'], 'visit')}{age}{trouble}"
    )
    return Text(clean(text), "bold red" if trouble else "", no_wrap=True)


def _count_lines(part: RenderableType) -> int:
    # The header of a table of graphs has two lines.
    return part.row_count + 2 if isinstance(part, Table) else 1


# -- the table of nodes --------------------------------------------------------------


def _render_nodes(
    answers: Answers, options: ViewOptions, width: int, height: int
) -> list[RenderableType]:
    """Return the title, and a table of at most `height` nodes."""
    rows = _sort_rows(node_rows(answers), options)
    options.max_first_row = max(0, len(rows) - height)
    options.first_row = min(options.first_row, options.max_first_row)
    shown = rows[options.first_row : options.first_row + height]
    title = _render_title(answers, options.first_row, len(shown), len(rows))
    if not rows:
        return [title, "Nothing ran." if answers.clients else "No client yet."]
    cells = [_render_cells(row) for row in shown]
    table = Table(box=None, pad_edge=False)
    columns = _choose_columns(answers, options.sort, cells, width)
    for column in columns:
        table.add_column(
            Text(column.name, "underline" if column.sort == options.sort else ""),
            justify="left" if column.is_name else "right",
            no_wrap=not column.is_name,
            min_width=0 if column.is_name else column.min_width,
        )
    for row in cells:
        table.add_row(*(row[column.name] for column in columns))
    return [title, table]


def _sort_rows(rows: list[NodeRow], options: ViewOptions) -> list[NodeRow]:
    """Return rows with the largest first, and equal ones by name."""
    field = SORTS[options.sort].field

    def order(row: NodeRow) -> tuple[float, str]:
        value = getattr(row, field) if field else 0.0
        return 1.0 if value is None else -value, row.node

    return sorted(rows, key=order, reverse=options.reverse)


def _render_title(answers: Answers, top: int, count: int, total: int) -> Text:
    query = answers.query
    filters = {"service": query.service, "graph": query.graph}
    parts = [f"{name} {value}" for name, value in filters.items() if value is not None]
    parts += [f"node {', '.join(query.nodes)}"] if query.nodes else []
    title = Text(clean(", ".join([f"Nodes, last {query.window}", *parts])), "bold")
    if count < total:
        title.append(f"   {top + 1} to {top + count} of {total}", "not bold dim")
    return title


def _choose_columns(
    answers: Answers, sort: str, cells: list[dict[str, ShortText]], width: int
) -> list[NodeColumn]:
    """Return the columns that have content, and fit."""
    empty = {
        "cost": not answers.llm["totals"]["calls"],
        "service": len({row["service"].plain for row in cells}) < 2,
        "hidden": all(row["hidden"].plain == "0" for row in cells),
        "last failure": not answers.failures,
    }
    columns = [column for column in COLUMNS if not empty.get(column.name)]
    places = [(row["  node"].plain, row["graph"].plain) for row in cells]
    # The column that rows are sorted by is always shown, and so are the columns that
    # distinguish nodes of the same name.
    always = {sort: 0} | ({"service": 1} if len({*places}) < len(places) else {})
    chosen = set()
    remaining = width + GAP
    for column in sorted(columns, key=lambda c: always.get(c.sort or c.name, c.rank)):
        name = column.name
        widest = max(cell_len(name), *(row[name].cell_len for row in cells))
        bound = min if column.is_name else max
        needed = GAP + bound(widest, column.min_width)
        if needed <= remaining:
            chosen.add(name)
            remaining -= needed
    return [column for column in columns if column.name in chosen]


def _render_cells(row: NodeRow) -> dict[str, ShortText]:
    """Return the cells by the names of their columns."""
    mark, alarm = (MARK, "bold red") if row.unhealthy else (" ", "")
    # Not a comma: `1, 985ms` would read as 1,985 ms.
    age = "" if row.oldest is None else f" ({duration(row.oldest)})"
    failure = ""
    if row.failed_ago is not None:
        failure = f"{duration(round(row.failed_ago), parts=1):>4} {row.failure}"
    texts = {
        "  node": f"{mark} {row.node}",
        "graph": row.graph,
        "service": row.service,
        "rate/s": _format_rate(row.rate),
        "ok": or_dash(row.ok, percent),
        "errors": or_dash(row.errors, percent),
        "hidden": f"{row.hidden:,}",
        "retries": f"{row.retries:,}",
        "p50": or_dash(row.p50, duration),
        "p95": or_dash(row.p95, duration),
        "in flight": f"{row.in_flight:,}{age}" if row.in_flight else "-",
        "cost": or_dash(row.cost, money),
        "last failure": failure,
    }
    styles = {
        "  node": alarm,
        "errors": _errors_style(row),
        "hidden": "yellow" if row.hidden else "",
        "in flight": alarm if row.stuck else "",
        "last failure": "dim",
    }
    return {name: ShortText(text, styles.get(name, "")) for name, text in texts.items()}


def _errors_style(row: NodeRow) -> str:
    if not row.errors:
        return ""
    return "bold red" if row.is_failing else "yellow"


def _format_rate(rate: float) -> str:
    """Return a rate with three digits, or all digits before the point."""
    return f"{rate:,.0f}" if rate >= 99.95 else f"{rate:.3g}"


def _format_count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
