"""Prints the tables of `kaywatch status` and `kaywatch stats`, 80 columns or wider."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kaywatch_agent.cli.shared_names import NAME_FIX, describe_shared_names
from kaywatch_agent.units import MIB, duration, money, percent, size

__all__ = [
    "Json",
    "ShortText",
    "clean",
    "console",
    "count_failing",
    "count_hidden",
    "format_agent",
    "is_failing",
    "or_dash",
    "plain_table",
    "shorten",
    "show_nodes",
    "show_status",
]

Json = Mapping[str, Any]

_COLOURS: Final = {
    "healthy": "green",
    "degraded": "yellow",
    "unhealthy": "bold red",
    "connected": "green",
    "disconnected": "yellow",
    "ended": "dim",
    "died": "red",
}
MAX_LISTED_CLIENTS: Final = 15


def console() -> Console:
    """Return a console that does not interpret names such as `[Load]` or `:x:`."""
    return Console(markup=False, highlight=False, emoji=False)


def show_status(
    url: str,
    health: Json,
    clients: Sequence[Json],
    nodes: Sequence[Json],
    models: Sequence[Json],
    completeness: Json,
    *graph_parts: RenderableType,
) -> None:
    """Print the agent's health, its clients, graphs, nodes and language models."""
    out = console()
    out.print(format_agent(url, health))
    for name, stage in health["stages"].items():
        if stage.get("problem"):
            out.print(f"  {name}: {stage['problem']}")
    out.print()
    _show_clients(out, clients)
    out.print()
    if completeness["services"]:
        _show_completeness(out, completeness, clients)
        out.print()
    for part in graph_parts:
        out.print(part)
    show_nodes(out, nodes, "Nodes, last 5 minutes")
    if shared := describe_shared_names(nodes):
        for line in shared:
            out.print(clean(f"  {line}"))
        out.print(clean(f"  fix: {NAME_FIX}"))
    if models:
        out.print()
        _show_models(out, models)


def format_agent(url: str, health: Json) -> Text:
    """Return the version, address, health and uptime of the agent."""
    return Text.assemble(
        f"kaywatch {health['version']} at {clean(url)}: ",
        _add_colour(health["status"]),
        f", up {duration(health['uptime'])}",
    )


def _show_clients(out: Console, clients: Sequence[Json]) -> None:
    if not clients:
        out.print("No client yet. Start an application with `kaywatch run -- COMMAND`.")
        return
    table = plain_table(
        *("service", "pid", "state", "events", "complete", "memory"),
        shortened=("service",),
    )
    latest = sorted(clients, key=lambda client: -client["last_seen"])
    for client in latest[:MAX_LISTED_CLIENTS]:
        memory = client["memory_mb"]
        table.add_row(
            ShortText(clean(client["service"])),
            str(client["pid"] or "-"),
            _add_colour(client["state"]),
            f"{client['events']:,}",
            or_dash(client["completeness"], percent),
            size(memory * MIB) if memory else "-",
        )
    out.print("Clients", style="bold")
    out.print(table)
    more = len(clients) - MAX_LISTED_CLIENTS
    if more > 0:
        out.print(f"  and {more} more: kaywatch status --json")
    for client in clients:
        if client["state"] == "died" and client["in_flight"]:
            nodes = ", ".join(execution["node"] for execution in client["in_flight"])
            out.print(clean(f"  pid {client['pid']} died with {nodes} in flight"))


def _show_completeness(
    out: Console, completeness: Json, clients: Sequence[Json]
) -> None:
    """Print the share of events that arrived, and the losses with their reasons."""
    total = completeness["total"]
    title = Text("Completeness", "bold").append(", last 24 hours: ", "not bold")
    colour = "yellow" if total["dropped"] or total["deaths"] else ""
    text = _summarize_completeness(total, clients)
    out.print(title.append(text, f"not bold {colour}"))
    for name, service in completeness["services"].items():
        if losses := _list_losses(service):
            out.print(clean(f"  {name}: {', '.join(losses)}"))
    # Missing events of a connected client are under way.
    lossy = [
        client
        for client in clients
        if client["dropped"]
        or client["unknown_seconds"]
        or (client["missing"] and client["state"] != "connected")
    ]
    for client in lossy[:MAX_LISTED_CLIENTS]:
        losses = _list_losses(client)
        if client["missing"] and client["state"] != "connected":
            losses.append(f"{client['missing']:,} never arrived")
        if client["unknown_seconds"]:
            losses.append(f"died, {_describe_unknown(client)}")
        pid = client["pid"] or "-"
        out.print(clean(f"  {client['service']} pid {pid}: {', '.join(losses)}"))
    more = len(lossy) - MAX_LISTED_CLIENTS
    if more > 0:
        out.print(f"  and {more} more clients: kaywatch status --json")


def _summarize_completeness(total: Json, clients: Sequence[Json]) -> str:
    """Return how many events arrived: `all` if all processes ended in order."""
    dropped = sum(total["dropped"].values())
    events = f"{total['received'] + dropped:,} events arrived"
    if dropped or total["deaths"]:
        text = f"{or_dash(total['ratio'], percent)} of {events}"
        return f"{text}, {_describe_unknown(total)}" if total["deaths"] else text
    if all(client["state"] == "ended" for client in clients):
        return f"all of {events}"
    return f"{events}, none were lost so far"


def _describe_unknown(source: Json) -> str:
    return f"at most {duration(source['unknown_seconds'])} unknown"


def _list_losses(source: Json) -> list[str]:
    """Return the events of a service or client that are missing from its statistics."""
    losses = []
    if dropped := source["dropped"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items())
        losses.append(f"lost {sum(dropped.values()):,} ({reasons})")
    if source["late"]:
        losses.append(f"{source['late']:,} too late for a window")
    if source["overflow"]:
        losses.append(f"{source['overflow']:,} counted in __other__")
    return losses


def show_nodes(out: Console, nodes: Sequence[Json], title: str) -> None:
    """Print the most important statistics of each node, the unhealthy ones first."""
    active = [node for node in nodes if node["total_executions"]]
    names = ["node"]
    for name in ("graph", "service"):
        if len({tuple(node[f"{name}s"]) for node in active}) > 1:
            names.insert(0, name)
    table = plain_table(
        *names,
        *("count", "ok", "hidden", "avg", "p95", "max", "retries"),
        words=names,
        shortened=names,
    )
    for node in sorted(active, key=_by_health):
        place = {
            "service": ", ".join(node["services"]),
            "graph": ", ".join(graph or "-" for graph in node["graphs"]),
            "node": node["node"],
        }
        table.add_row(
            *(ShortText(clean(place[name])) for name in names), *_node_figures(node)
        )
    out.print(title, style="bold")
    out.print(table if table.row_count else "Nothing ran.")


def count_failing(node: Json) -> int:
    """Return how many executions failed, also those hidden by a fallback or on_error.

    A fallback means that all attempts failed, although its execution counts as a
    success.
    """
    outcomes = node["outcomes"]
    return int(outcomes["error"]) + count_hidden(node)


def is_failing(node: Json) -> bool:
    """Return whether fewer executions succeed than the rules for the node allow.

    Failures that a fallback or on_error hides count as failures. Without such a rule,
    the result is False.
    """
    lowest, executions = node["min_success_rate"], node["total_executions"]
    if lowest is None or not executions:
        return False
    return bool((executions - count_failing(node)) / executions < lowest)


def count_hidden(node: Json) -> int:
    """Return how many executions ended in a fallback or a suppressed error."""
    return int(node["outcomes"]["fallback"] + node["outcomes"]["suppressed"])


def _by_health(node: Json) -> tuple[float, str]:
    share = count_failing(node) / node["total_executions"]
    # A healthy node keeps its place when its figures change a little.
    return -share if is_failing(node) else 0.0, node["node"]


def _node_figures(node: Json) -> list[str | Text]:
    rate, hidden = node["success_rate"], count_hidden(node)
    lowest = node["min_success_rate"]
    low = None not in (rate, lowest) and rate < lowest
    return [
        f"{node['total_executions']:,}",
        Text(or_dash(rate, percent), "red" if low else ""),
        Text(f"{hidden:,}", "yellow" if hidden else ""),
        or_dash(node["avg_execution_time"], duration),
        or_dash(node["p95_execution_time"], duration),
        or_dash(node["max_execution_time"], duration),
        f"{node['total_retries']:,}",
    ]


def _show_models(out: Console, models: Sequence[Json]) -> None:
    table = plain_table(
        *("model", "calls", "errors", "tokens in", "out", "cost", "wasted", "p95"),
        shortened=("model",),
    )
    for model in models:
        # Marks a cost that does not include all calls.
        more = "+?" if model["unpriced_calls"] or model["calls_without_usage"] else ""
        table.add_row(
            ShortText(clean(model["model"])),
            f"{model['calls']:,}",
            Text(f"{model['errors']:,}", "red" if model["errors"] else ""),
            _format_count(model["input_tokens"]),
            _format_count(model["output_tokens"]),
            money(model["cost_usd"]) + more,
            money(model["wasted_cost_usd"]),
            or_dash(model["seconds"]["p95"], duration),
        )
    out.print("Language models, last 5 minutes", style="bold")
    out.print(table)


def or_dash(value: float | None, format: Callable[[float], str]) -> str:
    """Return a formatted value, or `-` if it is not known."""
    return "-" if value is None else format(value)


def clean(text: str) -> str:
    """Return a name or message in one line, without control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text)


def _format_count(count: int) -> str:
    """Return a count in at most five characters."""
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 10 * factor:
            return f"{count / factor:.0f}{unit}"
    return f"{count:,}"


class ShortText(Text):
    """A text that is shortened, instead of wrapped, where its column is narrow."""

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterable[Segment]:
        """Render the text in the width of the column."""
        self.plain = shorten(self.plain, options.max_width)
        return super().__rich_console__(console, options)


def shorten(text: str, width: int) -> str:
    """Return a text with its middle cut out: names often differ at their ends."""
    if cell_len(text) <= width:
        return text
    front = set_cell_size(text, (width - 1) // 2)
    back = text[::-1]
    back = set_cell_size(back, width - 1 - cell_len(front))[::-1]
    return f"{front}…{back}" if width > 1 else "…"[:width]


def _add_colour(state: str) -> Text:
    return Text(state, _COLOURS.get(state, ""))


def plain_table(
    *columns: str,
    words: Collection[str] = ("state",),
    ratios: Mapping[str, int] = MappingProxyType({}),
    wrapped: Collection[str] = (),
    shortened: Collection[str] = (),
) -> Table:
    """Return a table without borders.

    Args:
        columns: their titles.
        words: the columns besides the first that are aligned to the left.
        ratios: how flexible columns share the width.
        wrapped: the columns whose text is wrapped, and long words folded, not cut.
        shortened: the columns of `ShortText`, which make room for the others.
    """
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(
            name,
            justify="left" if number == 0 or name in words else "right",
            no_wrap=name not in wrapped and name not in shortened,
            overflow="fold" if name in wrapped else "ellipsis",
            ratio=ratios.get(name),
        )
    return table
