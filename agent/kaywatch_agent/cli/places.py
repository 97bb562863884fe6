"""Fetches statistics of nodes and graphs, separately for each service and graph.

Strategy: the agent's lists combine the same name in several services or graphs. Only
these names are requested again, once for each service and graph that has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaywatch.query import fetch

__all__ = ["NodePlace", "fetch_graphs", "fetch_nodes", "place_of"]

# The service, graph and node of an execution.
NodePlace = tuple[str, str, str]

Query = Mapping[str, str | None]
Entry = dict[str, Any]


def fetch_nodes(url: str, query: Query) -> list[Entry]:
    """Return the statistics of nodes, each of one service and graph.

    Raises:
        KaywatchError: the agent does not answer, or rejects the request.
    """
    combined = fetch("/api/v1/nodes", query, url)["nodes"]
    shared = [n for n in combined if len(n["services"]) * len(n["graphs"]) > 1]
    names = {node["node"] for node in shared}
    nodes = [node for node in combined if node["node"] not in names]
    places = {(s, g) for n in shared for s in n["services"] for g in n["graphs"]}
    for service, graph in sorted(places):
        scope = {**query, "service": service, "graph": graph}
        found = fetch("/api/v1/nodes", scope, url)["nodes"]
        nodes += [node for node in found if node["node"] in names]
    return sorted(nodes, key=place_of)


def fetch_graphs(url: str, query: Query) -> list[Entry]:
    """Return the statistics of graphs, each of one service, with its runs in progress.

    `never_reached` are the nodes that were never executed, whatever the window.

    Raises:
        KaywatchError: the agent does not answer, or rejects the request.
    """
    graphs: list[Entry] = []
    ever = {_graph_key(g): g for g in _graphs(url, {**query, "window": None})}
    for graph in _graphs(url, query):
        known = ever.get(_graph_key(graph), graph)
        # If the graph has never run, it is normal that no node was reached.
        missing = known["never_run"] if known["total_executions"] else []
        graphs.append({**graph, "never_reached": missing or []})
    return sorted(graphs, key=_graph_key)


def place_of(node: Mapping[str, Any]) -> NodePlace:
    """Return where a node is; several services or graphs are joined."""
    return ", ".join(node["services"]), ", ".join(node["graphs"]), node["node"]


# -- inside --------------------------------------------------------------------------


def _graphs(url: str, query: Query) -> list[Entry]:
    combined = fetch("/api/v1/graphs", query, url)["graphs"]
    shared = [graph for graph in combined if len(graph["services"]) > 1]
    names = {graph["graph"] for graph in shared}
    graphs = [graph for graph in combined if graph["graph"] not in names]
    for service in sorted({name for graph in shared for name in graph["services"]}):
        found = fetch("/api/v1/graphs", {**query, "service": service}, url)["graphs"]
        graphs += [graph for graph in found if graph["graph"] in names]
    return graphs


def _graph_key(graph: Entry) -> tuple[str, str]:
    return ", ".join(graph["services"]), graph["graph"]
