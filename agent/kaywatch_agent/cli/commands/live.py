"""`kaywatch top` and `kaywatch tail`: live views in the terminal."""

from __future__ import annotations

from typing import Any

import click

from kaywatch.wire import Outcome
from kaywatch_agent.cli.commands import options
from kaywatch_agent.cli.help import epilog
from kaywatch_agent.cli.tables import console
from kaywatch_agent.cli.top import tail as tail_view
from kaywatch_agent.cli.top import top as top_view
from kaywatch_agent.cli.top.layout import SORTS
from kaywatch_agent.cli.top.state import Query

__all__ = ["tail", "top"]


@click.command(
    epilog=epilog(
        "kaywatch top",
        "kaywatch top --sort latency --window 1h --graph SupportDesk",
        "kaywatch top --once  # for scripts",
    )
)
@options.window(default="5m")
@click.option(
    "--sort",
    type=click.Choice(list(SORTS)),
    default="errors",
    show_default=True,
    help="Sort by name, or by a figure with the largest first.",
)
@options.filters("service", "graph")
@options.filters("node", repeatable=True)
@click.option(
    "--interval",
    metavar="DURATION",
    type=options.duration(0.2),
    default="1s",
    show_default=True,
    help="The time between two updates.",
)
@click.option("--once", is_flag=True, help="Print the nodes once, and exit.")
@options.agent
def top(
    url: str,
    as_json: bool,
    once: bool,
    interval: float,
    node: tuple[str, ...],
    sort: str,
    **filters: Any,
) -> None:
    """Show live statistics of nodes, the highest error rate first.

    Press q to quit, ? for help on keys. Without a terminal, the nodes are printed once.
    """
    query = Query(nodes=node, **filters)
    # A screen that redraws itself would fill a pipe with escape sequences.
    if once or as_json or not console().is_interactive:
        top_view.show(url, query, sort, as_json)
    else:
        top_view.run(url, query, sort, interval)


@click.command(
    epilog=epilog(
        "kaywatch tail --failures",
        "kaywatch tail --node Draft --node Send --slower-than 100ms",
        "kaywatch tail --runs --limit 10 --json | jq .",
    )
)
@click.option(
    "--failures",
    is_flag=True,
    help="Include only failures: error, suppressed by on_error, fallback.",
)
@options.filters("service", "graph", "node", repeatable=True)
@click.option(
    "--outcome",
    multiple=True,
    type=click.Choice([outcome.name.lower() for outcome in Outcome]),
    help="Include only this outcome; repeatable.",
)
@click.option(
    "--slower-than",
    type=options.duration(),
    metavar="DURATION",
    help="Include only executions and runs that took longer, such as 2s.",
)
@click.option("--runs", is_flag=True, help="Also print runs of graphs when they end.")
@click.option(
    "--rate",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=1000,
    show_default=True,
    help="Print at most N lines a second, and count the others.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N lines."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@options.url
def tail(url: str, as_json: bool, limit: int | None, **filters: Any) -> None:
    """Print a line for each execution as it ends. Press Ctrl-C to quit."""
    tail_view.run(url, filters, limit, as_json)
