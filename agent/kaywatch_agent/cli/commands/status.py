"""`kaywatch status` and `kaywatch stats`: the agent's figures."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import click
from rich.console import RenderableType
from rich.text import Text

from kaywatch.errors import AgentRefused
from kaywatch.query import fetch
from kaywatch_agent.cli import graph_tables, tables
from kaywatch_agent.cli.commands import options, output
from kaywatch_agent.cli.help import epilog
from kaywatch_agent.cli.node_view import show_node
from kaywatch_agent.cli.places import fetch_graphs, fetch_nodes

__all__ = ["stats", "status"]

WINDOW: Final = {"window": "5m"}


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
        rules = fetch("/api/v1/rules", url=url)["rules"]
        answers = {"health": health, **clients, **export, "llm": llm, "rules": rules}
        output.print_json({**answers, "completeness": completeness})
    else:
        nodes = fetch_nodes(url, WINDOW)
        models = fetch("/api/v1/llm", WINDOW, url)["models"]
        tables.show_status(
            *(url, health, clients["clients"], nodes, models, completeness),
            *_graph_parts(url, health["timestamp"]),
        )
        alerts = fetch("/api/v1/alerts", {"limit": 1}, url)
        _show_rules(fetch("/api/v1/rules", url=url)["rules"], alerts["same_cause"])
    # A degraded agent is not a failure: it still counts and notifies.
    if health["status"] == "unhealthy":
        raise click.exceptions.Exit(1)


@click.command(
    epilog=epilog(
        "kaywatch stats Draft",
        "kaywatch stats SupportDesk",
        "kaywatch stats Draft --window 15m --graph SupportDesk",
        exits="1 the node or graph is unknown, or the agent does not answer.",
    )
)
@click.argument("name")
@options.window(default=None)
@options.filters("graph", "service")
@options.agent
def stats(name: str, url: str, as_json: bool, **query: str | None) -> None:
    """Show all statistics of the node or graph NAME.

    `kaywatch status` lists the names. If a node and a graph have the same name, the
    node is shown. Nodes with the same name in several graphs or services are combined.
    """
    path = quote(name, safe="", errors="surrogateescape")
    try:
        result = fetch(f"/api/v1/nodes/{path}/stats", query, url)
    except AgentRefused as refused:
        if refused.status != 404 or query.get("graph") is not None:
            raise
        result = _graph_stats(path, query, url, refused)
        output.print_result(result, as_json, graph_tables.show_graph)
    else:
        output.print_result(result, as_json, show_node)


# -- inside --------------------------------------------------------------------------


def _graph_stats(
    path: str, query: dict[str, str | None], url: str, no_node: AgentRefused
) -> output.Json:
    """Return the statistics of a graph; raise the node's error for an unknown graph."""
    scope = {key: value for key, value in query.items() if key != "graph"}
    try:
        stats: output.Json = fetch(f"/api/v1/graphs/{path}/stats", scope, url)
    except AgentRefused as refused:
        raise (no_node if refused.status == 404 else refused) from None
    return stats


def _graph_parts(url: str, now: float) -> list[RenderableType]:
    """Return the tables of graphs and of runs in progress; nothing without graphs."""
    graphs = fetch_graphs(url, WINDOW)
    if not graphs:
        return []
    parts: list[RenderableType] = [
        Text("Graphs, last 5 minutes", "bold"),
        graph_tables.graph_table(graphs),
    ]
    for graph in graphs:
        if missing := graph["never_reached"]:
            text = f"  {graph['graph']}: never reached: {', '.join(missing)}"
            parts.append(Text(tables.clean(text)))
    runs = fetch("/api/v1/runs", {**WINDOW, "limit": 1}, url)["in_progress"]
    if runs:
        title = f"\nRuns in progress: {len(runs):,}"
        if len(runs) > graph_tables.MAX_RUNS:
            title += f", the {graph_tables.MAX_RUNS} to look at first"
        parts += [Text(title, "bold"), graph_tables.runs_table(runs, now)]
    return [*parts, ""]


def _show_rules(rules: list[output.Json], same_cause: int) -> None:
    """Show how many alerts fire, and which rules have too little data for a result."""
    firing = sum(rule["states"].get("firing", 0) for rule in rules)
    firing += sum(rule["states"].get("recovering", 0) for rule in rules)
    firing = max(0, firing - same_cause)
    verb = "fires" if firing == 1 else "fire"
    more = f" ({same_cause:,} more for the same causes)" if same_cause else ""
    rules_text = output.plural(len(rules), "rule")
    click.echo(f"\nAlerts: {firing:,} {verb}{more}; {rules_text}")
    waiting = [
        rule["rule"]
        for rule in rules
        if rule["groups"] and rule["without_data"] == rule["groups"]
    ]
    if waiting:
        output.print_wrapped(
            f"no data, or too little: {', '.join(waiting)}; `kaywatch why RULE` shows"
            " what it needs"
        )
