"""Prints all statistics of one node, for `kaywatch stats NODE`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table

from kaywatch_agent.cli.tables import ShortText, clean, console, or_dash, plain_table
from kaywatch_agent.units import MIB, duration, money, percent, size

__all__ = ["show_node"]

Json = Mapping[str, Any]

# The custom metrics of calls of language models, which have lines of their own.
_MODEL_PREFIX: Final = "llm_"


def show_node(stats: Json) -> None:
    """Print all statistics of one node."""
    out = console()
    window = stats["window"]
    since = f"last {duration(window)}" if window else "since first seen"
    graphs = ", ".join(name or "(no graph)" for name in stats["graphs"])
    out.print(clean(f"{stats['node']} in {graphs}, {since}"))
    table = Table.grid(padding=(0, 3))
    for label, value in _list_fields(stats):
        table.add_row("  " + label, clean(value))
    out.print(table)
    if own := [m for m in stats["custom"] if not m["name"].startswith(_MODEL_PREFIX)]:
        out.print()
        out.print(_custom_table(own))


def _list_fields(stats: Json) -> list[tuple[str, str]]:
    fields = [
        ("executions", f"{stats['total_executions']:,}"),
        ("success rate", or_dash(stats["success_rate"], percent)),
        ("retries", f"{stats['total_retries']:,}"),
    ]
    fields += [
        (name, or_dash(stats[f"{name}_execution_time"], duration))
        for name in ("avg", "min", "p50", "p95", "p99", "max")
    ]
    if stats["avg_exec_time"] is not None:
        fields.append(("time", _format_phases(stats)))
    if stats["total_items"]:
        fields.append(("items", f"{stats['total_items']:,}"))
    for name in ("outcomes", "actions", "error_breakdown", "retried_errors"):
        counts = {key: n for key, n in stats[name].items() if n}
        if counts:
            text = ", ".join(f"{key} {n:,}" for key, n in counts.items())
            fields.append((name.replace("_", " "), text))
    fields += _list_model_fields(stats["custom"])
    if stats["peak_memory_mb"]:
        fields.append(("peak memory", size(stats["peak_memory_mb"] * MIB)))
    last = stats["last_execution"]
    if last:
        fields.append(("last execution", f"{duration(time.time() - last)} ago"))
    fields.append(("completeness", or_dash(stats["completeness"], percent)))
    return fields


def _format_phases(stats: Json) -> str:
    """Return the share of each phase in the time of a node."""
    names = ("prep", "exec", "wait", "post")
    times = {name: stats[f"avg_{name}_time"] for name in names}
    total = sum(times.values()) or 1.0
    return ", ".join(
        f"{name} {100 * time / total:.0f} %" for name, time in times.items()
    )


def _list_model_fields(metrics: Sequence[Json]) -> list[tuple[str, str]]:
    """Return the calls, tokens and cost of language models; nothing without calls."""
    sums: dict[str, float] = {}
    for metric in metrics:
        name = metric["name"].removeprefix(_MODEL_PREFIX)
        if metric["kind"] == "count":
            sums[name] = sums.get(name, 0.0) + (metric["sum"] or 0.0)
    if not sums.get("calls"):
        return []
    tokens = [
        f"{sums.get(f'{way}_tokens', 0.0):,.0f} {text}"
        for way, text in (("input", "in"), ("output", "out"))
    ]
    failed = f", {sums['errors']:,.0f} failed" if sums.get("errors") else ""
    cost = money(sums.get("cost_usd", 0.0))
    if wasted := sums.get("wasted_cost_usd"):
        cost += f", {money(wasted)} wasted on failed attempts"
    return [
        ("model calls", f"{sums['calls']:,.0f}{failed}"),
        ("tokens", ", ".join(tokens)),
        ("cost", cost),
    ]


def _custom_table(metrics: Sequence[Json]) -> Table:
    table = plain_table(
        *("custom metric", "kind", "count", "sum", "avg", "p95", "last"),
        words=("kind",),
        shortened=("custom metric",),
    )
    for metric in metrics:
        labels = ", ".join(f"{k}={v}" for k, v in metric["labels"].items())
        name = f"{metric['name']} {{{labels}}}" if labels else metric["name"]
        table.add_row(
            ShortText(clean(name)),
            metric["kind"],
            f"{metric['count']:,}",
            *(
                or_dash(metric[key], lambda n: f"{n:,.6g}")
                for key in ("sum", "avg", "p95", "last")
            ),
        )
    return table
