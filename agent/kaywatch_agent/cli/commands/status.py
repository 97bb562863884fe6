"""`kaywatch status` and `kaywatch stats`: the agent's figures."""

from __future__ import annotations

from urllib.parse import quote

import click

from kaywatch.query import fetch
from kaywatch_agent.cli import tables
from kaywatch_agent.cli.commands import options, output
from kaywatch_agent.cli.help import epilog

__all__ = ["stats", "status"]


@click.command(
    epilog=epilog(
        "kaywatch status",
        "kaywatch status --url http://127.0.0.1:9500",
        "kaywatch status --json | jq .health.status",
        exits="1 the agent does not answer, or is unhealthy.",
    )
)
@options.agent
def status(url: str, as_json: bool) -> None:
    """Show the health of the agent, its clients and its nodes."""
    health = fetch("/health", url=url)
    clients = fetch("/api/v1/clients", url=url)
    completeness = fetch("/api/v1/completeness", {"window": "24h"}, url)
    if as_json:
        export = fetch("/api/v1/export", url=url)
        llm = fetch("/api/v1/llm", url=url)
        answers = {"health": health, **clients, **export, "llm": llm}
        output.print_json({**answers, "completeness": completeness})
    else:
        nodes = fetch("/api/v1/nodes", {"window": "5m"}, url)["nodes"]
        models = fetch("/api/v1/llm", {"window": "5m"}, url)["models"]
        tables.show_status(url, health, clients["clients"], nodes, models, completeness)
    if health["status"] == "unhealthy":
        raise click.exceptions.Exit(1)


@click.command(
    epilog=epilog(
        "kaywatch stats Draft",
        "kaywatch stats Draft --window 15m --graph SupportDesk",
        exits="1 there is no such node, or the agent does not answer.",
    )
)
@click.argument("node")
@options.window(default=None)
@options.filters("graph", "service")
@options.agent
def stats(node: str, url: str, as_json: bool, **query: str | None) -> None:
    """Show all statistics of NODE.

    NODE is a name in `kaywatch status`. Nodes with the same name in several graphs or
    services are combined.
    """
    result = fetch(f"/api/v1/nodes/{quote(node, safe='')}/stats", query, url)
    output.print_result(result, as_json, tables.show_node)
