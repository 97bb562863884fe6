"""Prints graphs, their runs in progress, and all statistics of one graph."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from kaywatch_agent.cli.tables import (
    ShortText,
    clean,
    console,
    or_dash,
    plain_table,
)
from kaywatch_agent.units import duration, money, percent

__all__ = ["graph_table", "runs_table", "show_graph"]

Json = Mapping[str, Any]

MAX_RUNS: Final = 5
MAX_LISTED: Final = 20  # transitions, ends and nodes of one graph


def graph_table(graphs: Sequence[Json]) -> Table:
    """Return a table of graphs, as `fetch_graphs` returns them."""
    several = len({tuple(graph["services"]) for graph in graphs}) > 1
    # One column: the gap between two would be missing at 80 columns.
    title = "service / graph" if several else "graph"
    table = plain_table(
        title,
        *("runs", "ok", "dead\nends", "never\nreached", "longest\nrun"),
        *("retries", "fall-\nbacks", "cost"),
        shortened=(title,),
    )
    for graph in graphs:
        names = [*(graph["services"] if several else ()), graph["graph"]]
        table.add_row(ShortText(clean(" / ".join(names))), *_figures(graph))
    return table


def runs_table(runs: Sequence[Json], now: float) -> RenderableType:
    """Return a table of runs in progress: runs in trouble first, then the oldest."""
    table = plain_table(
        *("graph", "run", "node", "visits", "age", "trouble"),
        words=("run", "node", "trouble"),
        shortened=("graph", "run", "node"),
    )
    for run in runs[:MAX_RUNS]:
        start = run["start"]
        table.add_row(
            *(ShortText(clean(run[name])) for name in ("graph", "run", "node")),
            f"{run['visits']:,}",
            or_dash(max(0.0, now - start) if start else None, _age),
            Text(", ".join(run["trouble"]), "red"),
        )
    return table


def show_graph(stats: Json) -> None:
    """Print all statistics of one graph."""
    out = console()
    window = stats["window"]
    since = f"last {duration(window)}" if window else "since first seen"
    out.print(clean(f"{stats['graph']} in {', '.join(stats['services'])}, {since}"))
    table = Table.grid(padding=(0, 3))
    for label, value in _list_fields(stats):
        table.add_row("  " + label, clean(value))
    out.print(table)
    if stats["node_performance"]:
        out.print()
        out.print(_node_table(stats))
    if stats["transition_counts"]:
        out.print()
        out.print(_transition_table(stats["transition_counts"]))


# -- inside --------------------------------------------------------------------------


def _figures(graph: Json) -> list[str | Text]:
    failed = graph["outcomes"]["error"] > 0
    dead, missing = graph["dead_ends"], len(graph["never_reached"])
    return [
        f"{graph['total_executions']:,}",
        Text(or_dash(graph["success_rate"], percent), "red" if failed else ""),
        Text(f"{dead:,}", "red" if dead else ""),
        Text(f"{missing:,}", "yellow" if missing else ""),
        or_dash(graph["max_execution_time"], duration),
        f"{graph['retries']:,}",
        Text(f"{graph['fallbacks']:,}", "yellow" if graph["fallbacks"] else ""),
        or_dash(graph["cost_usd"], money),
    ]


def _age(seconds: float) -> str:
    return duration(round(seconds)) if seconds >= 1 else "< 1s"


def _list_fields(stats: Json) -> list[tuple[str, str]]:
    outcomes = {name: n for name, n in stats["outcomes"].items() if n}
    ends = [
        f"{end['reason'].replace('_', ' ')} at {end['node']}"
        f"{' -> ' + end['action'] if end['action'] else ''} {end['count']:,}"
        for end in stats["ends"][:MAX_LISTED]
    ]
    times = [
        (name, or_dash(stats[f"{name}_execution_time"], duration))
        for name in ("avg", "p50", "p95", "p99")
    ]
    return [
        ("runs", f"{stats['total_executions']:,}"),
        ("success rate", or_dash(stats["success_rate"], percent)),
        ("outcomes", ", ".join(f"{name} {n:,}" for name, n in outcomes.items()) or "-"),
        *times,
        ("longest run", or_dash(stats["max_execution_time"], duration)),
        ("visits", or_dash(stats["avg_visits"], lambda n: f"{n:.3g} per run")),
        ("retries", f"{stats['retries']:,}"),
        ("fallbacks", f"{stats['fallbacks']:,}"),
        ("dead ends", f"{stats['dead_ends']:,}"),
        ("not executed", _never_run(stats)),
        ("cost", or_dash(stats["cost_usd"], money)),
        ("wasted cost", or_dash(stats["wasted_cost_usd"], money)),
        ("ends", ", ".join(ends) or "-"),
        ("wiring changed", _changed(stats["topology"])),
        ("completeness", or_dash(stats["completeness"], percent)),
    ]


def _never_run(stats: Json) -> str:
    if stats["never_run"] is None:
        return "unknown: no client has sent the topology"
    return ", ".join(stats["never_run"]) or "none"


def _changed(topology: Json | None) -> str:
    if topology is None:
        return "-"
    return f"{duration(round(max(0.0, time.time() - topology['changed'])))} ago"


def _node_table(stats: Json) -> Table:
    table = plain_table(
        *("node", "count", "errors", "avg", "min", "max"), shortened=("node",)
    )
    for name, node in stats["node_performance"].items():
        table.add_row(
            ShortText(clean(name)),
            f"{node['executions']:,}",
            f"{stats['failure_points'].get(name, 0):,}",
            *(or_dash(node[f"{key}_time"], duration) for key in ("avg", "min", "max")),
        )
    return table


def _transition_table(counts: Json) -> Table:
    table = plain_table("transition", "count", "share", shortened=("transition",))
    totals: dict[str, int] = {}
    for name, count in counts.items():
        node = name.rpartition("->")[0]
        totals[node] = totals.get(node, 0) + count
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for name, count in ranked[:MAX_LISTED]:
        node, _, action = name.rpartition("->")
        share = percent(count / totals[node])
        table.add_row(ShortText(clean(f"{node} -> {action}")), f"{count:,}", share)
    return table
