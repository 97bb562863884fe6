"""The data of `kaywatch top`: the agent's answers, and a row for each node."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kaywatch.query import fetch
from kaywatch_agent.cli.places import (
    NodePlace,
    fetch_graphs,
    fetch_nodes,
    place_of,
)
from kaywatch_agent.cli.tables import (
    Json,
    clean,
    count_failing,
    count_hidden,
    is_failing,
)
from kaywatch_agent.units import parse_duration

__all__ = [
    "Answers",
    "NodeRow",
    "Query",
    "count_covered_seconds",
    "fetch_answers",
    "node_rows",
]

# Windows consist of whole buckets.
BUCKET_SECONDS: Final = 10

MAX_FAILURES: Final = 1_000  # as many as the agent keeps


class Query(NamedTuple):
    """The window and the filters."""

    window: str = "5m"
    service: str | None = None
    graph: str | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """The agent's answers to a query, and the local time when they came."""

    query: Query
    health: Json
    clients: list[Json]
    graphs: Sequence[Json]
    runs: Sequence[Json]
    nodes: Sequence[Json]
    costs: Mapping[NodePlace, float]
    llm: Json
    failures: list[Json]
    time: float = field(default_factory=time.time)


class NodeRow(NamedTuple):
    """One node's row; None where a figure is not known."""

    node: str
    graph: str
    service: str
    rate: float  # executions per second
    ok: float | None
    errors: float | None
    failing: float  # the share of failures, including those hidden by a fallback
    is_failing: bool  # whether it fails more often than its rules allow
    hidden: int  # executions that ended in a fallback or a suppressed error
    retries: int
    p50: float | None
    p95: float | None
    in_flight: int
    oldest: float | None  # age in seconds of the oldest execution in flight
    cost: float | None  # US dollars
    failure: str  # the type of the last failure
    failed_ago: float | None
    stuck: bool  # whether the rule `stuck` applies to it

    @property
    def unhealthy(self) -> bool:
        """Whether the row is highlighted."""
        return self.stuck or self.is_failing


def fetch_answers(url: str, query: Query) -> Answers:
    """Return the agent's answers.

    Raises:
        KaywatchError: the agent does not answer, or rejects the request.
    """
    filters = {"service": query.service, "graph": query.graph}
    windowed = {**filters, "window": query.window}
    llm = fetch("/api/v1/llm", windowed, url)
    return Answers(
        query=query,
        health=fetch("/health", url=url),
        clients=fetch("/api/v1/clients", {"service": query.service}, url)["clients"],
        graphs=fetch_graphs(url, windowed),
        runs=fetch("/api/v1/runs", {**windowed, "limit": 1}, url)["in_progress"],
        nodes=fetch_nodes(url, windowed),
        costs={_node_place(one): one["cost_usd"] for one in llm["nodes"]},
        llm=llm,
        failures=fetch("/api/v1/failures", {**filters, "limit": MAX_FAILURES}, url)[
            "failures"
        ],
    )


def node_rows(answers: Answers) -> list[NodeRow]:
    """Return a row for each node that ran in the window, or is in flight."""
    in_flight = _group_in_flight(answers)
    # The agent lists the newest failure first. In reversed order, it replaces the older
    # failures of its node.
    failures = {
        _node_place(failure): failure
        for failure in reversed(answers.failures)
        if failure["outcome"] != "ok"  # answered by a retry
    }
    nodes = {place_of(node): node for node in answers.nodes}
    active = (place for place, node in nodes.items() if node["total_executions"])
    return [
        _make_row(
            *(answers, place, nodes.get(place, {}), in_flight.get(place, [])),
            *(failures.get(place, {}), answers.costs.get(place)),
        )
        for place in dict.fromkeys([*active, *in_flight])
        if not answers.query.nodes or place[2] in answers.query.nodes
    ]


def count_covered_seconds(answers: Answers) -> float:
    """Return how many seconds of the window the agent's data covers."""
    now, since = answers.health["timestamp"], answers.health["since"]
    first = (
        (now - parse_duration(answers.query.window)) // BUCKET_SECONDS * BUCKET_SECONDS
    )
    return max(1.0, float(now - max(first, since)))


def _make_row(
    answers: Answers,
    place: NodePlace,
    node: Json,
    in_flight: list[Json],
    failure: Json,
    cost: float | None,
) -> NodeRow:
    now = answers.health["timestamp"]
    service, graph, name = place
    executions = node.get("total_executions", 0)
    ages = [max(0.0, now - f["start"]) for f in in_flight if f["start"]]
    failed = failure.get("time")
    return NodeRow(
        node=clean(name),
        graph=clean(graph or "-"),
        service=clean(service),
        rate=executions / count_covered_seconds(answers),
        ok=node.get("success_rate"),
        errors=node.get("error_rate"),
        failing=count_failing(node) / executions if executions else 0.0,
        is_failing=bool(node) and is_failing(node),
        hidden=count_hidden(node) if node else 0,
        retries=node.get("total_retries", 0),
        p50=node.get("p50_execution_time"),
        p95=node.get("p95_execution_time"),
        in_flight=len(in_flight),
        oldest=max(ages, default=None),
        cost=cost,
        failure=clean(failure.get("type", "")),
        failed_ago=None if failed is None else max(0.0, time.time() - failed),
        stuck=any(
            "stuck" in run["trouble"]
            for run in answers.runs
            if _node_place(run) == place
        ),
    )


def _node_place(row: Json) -> NodePlace:
    return row["service"], row["graph"], row["node"]


def _group_in_flight(answers: Answers) -> dict[NodePlace, list[Json]]:
    """Return the executions in flight by place, without those of dead processes."""
    in_flight: dict[NodePlace, list[Json]] = {}
    for client in answers.clients:
        if client["state"] in ("connected", "disconnected"):
            for flight in client["in_flight"]:
                if answers.query.graph in (None, flight["graph"]):
                    place = (client["service"], flight["graph"], flight["node"])
                    in_flight.setdefault(place, []).append(flight)
    return in_flight
