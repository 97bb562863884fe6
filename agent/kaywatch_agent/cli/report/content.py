"""Requests the content of a report from the agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from kaywatch.query import fetch

__all__ = ["MAX_ALERTS", "MAX_GRAPHS", "Content", "GraphContent", "gather"]

Json = dict[str, Any]
Points = Sequence[Sequence[float | None]]

# A graph takes four requests, an alert takes one.
MAX_GRAPHS: Final = 50
MAX_ALERTS: Final = 50
MAX_FAILURES: Final = 100

# The points of a small chart, and the least time between two of them.
POINTS: Final = 96
MIN_STEP_SECONDS: Final = 10


class GraphContent(NamedTuple):
    """A graph, its nodes, and their figures over time.

    Attributes:
        graph: its name; empty for executions outside any graph.
        stats: the graph in the response of `/api/v1/graphs`; empty outside any graph.
        nodes: its nodes in the response of `/api/v1/nodes`.
        runs: the number of runs over time.
        executions, p95: the executions and the latency over time, by node.
    """

    graph: str
    stats: Json
    nodes: list[Json]
    runs: Points
    executions: Mapping[str, Points]
    p95: Mapping[str, Points]


class Content(NamedTuple):
    """The content of a report: responses of the agent.

    Attributes:
        url: the agent's address.
        since: the length of the period in seconds.
        time: the end of the period, Unix seconds.
        graphs: the graphs with executions, the most runs first.
        graphs_left_out, alerts_left_out: how many exceeded the limit.
        alerts: the alerts, with their timeline and their context when they fired.
    """

    url: str
    since: float
    time: float
    health: Json
    completeness: Json
    graphs: list[GraphContent]
    graphs_left_out: int
    alerts: list[Json]
    alerts_left_out: int
    failures: Json
    llm: Json
    clients: list[Json]


def gather(url: str, since: float) -> Content:
    """Return the content of a report about the last `since` seconds.

    Raises:
        QueryError: the agent does not answer, or it rejects a request.
    """
    period = {"window": str(int(since))}
    listed = fetch("/api/v1/graphs", period, url)
    stats = {each["graph"]: each for each in listed["graphs"]}
    graphs = _list_active_graphs(url, period, stats)
    alerts = fetch("/api/v1/alerts", {"limit": "1000"}, url)
    fired = [
        each
        for each in alerts["alerts"]
        if each["state"] != "ok" or (each["ended"] or 0) > listed["timestamp"] - since
    ]
    return Content(
        url=url,
        since=since,
        time=listed["timestamp"],
        health=fetch("/health", url=url),
        completeness=fetch("/api/v1/completeness", period, url),
        graphs=[
            _fetch_graph(url, since, each, stats.get(each, {}))
            for each in graphs[:MAX_GRAPHS]
        ],
        graphs_left_out=max(0, len(graphs) - MAX_GRAPHS),
        alerts=list(_fetch_alerts(url, fired[:MAX_ALERTS])),
        alerts_left_out=max(0, len(fired) - MAX_ALERTS),
        failures=fetch("/api/v1/failures", {**period, "limit": str(MAX_FAILURES)}, url),
        llm=fetch("/api/v1/llm", period, url),
        clients=fetch("/api/v1/clients", url=url)["clients"],
    )


# -- inside --------------------------------------------------------------------------


def _list_active_graphs(
    url: str, period: Mapping[str, str], stats: Mapping[str, Json]
) -> list[str]:
    """Return the graphs with executions, even if none of their runs has ended."""
    nodes = fetch("/api/v1/nodes", period, url)["nodes"]
    active = {
        graph for each in nodes if each["total_executions"] for graph in each["graphs"]
    }

    def rank(graph: str) -> tuple[int, str]:
        return -stats.get(graph, {}).get("total_executions", 0), graph

    return sorted(active, key=rank)


def _fetch_graph(url: str, since: float, graph: str, stats: Json) -> GraphContent:
    nodes = fetch("/api/v1/nodes", {"window": str(int(since)), "graph": graph}, url)
    return GraphContent(
        graph=graph,
        stats=stats,
        nodes=[each for each in nodes["nodes"] if each["total_executions"]],
        runs=_fetch_series(url, since, graph, "runs").get("", ()) if stats else (),
        executions=_fetch_series(url, since, graph, "executions", by="node"),
        p95=_fetch_series(url, since, graph, "p95", by="node"),
    )


def _fetch_series(
    url: str, since: float, graph: str, metric: str, **by: str
) -> dict[str, Points]:
    """Return the points of a metric, by the name of the series."""
    step = max(1, round(since / POINTS / MIN_STEP_SECONDS)) * MIN_STEP_SECONDS
    query = {"metric": metric, "graph": graph, "start": f"-{int(since)}s", **by}
    result = fetch("/api/v1/query", {**query, "step": str(step)}, url)
    return {each["name"]: each["points"] for each in result["series"]}


def _fetch_alerts(url: str, alerts: Sequence[Json]) -> Iterator[Json]:
    for each in alerts:
        yield fetch(f"/api/v1/alerts/{quote(each['id'], safe='')}", url=url)
