"""The data of `kaywatch top`: the agent's answers, and a row for each node."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kaywatch.query import fetch
from kaywatch_agent.cli.tables import Json, clean
from kaywatch_agent.units import parse_duration

__all__ = [
    "Answers",
    "NodeRow",
    "Query",
    "covered_seconds",
    "fetch_answers",
    "node_rows",
]

# The reference page's threshold for an alert.
HIGH_ERROR_RATE: Final = 0.05

# An execution that has been in flight for this long, and for this many times its node's
# p95, probably hangs.
STUCK_SECONDS: Final = 10.0
STUCK_TIMES: Final = 10.0

# Windows consist of whole buckets.
BUCKET_SECONDS: Final = 10

MAX_FAILURES: Final = 1_000  # the agent keeps no more


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
    nodes: list[Json]
    llm: Json
    failures: list[Json]
    time: float = field(default_factory=time.time)


class NodeRow(NamedTuple):
    """One node's row; None where a figure is not known."""

    node: str
    graph: str
    rate: float  # executions per second
    ok: float | None
    errors: float | None
    retries: int
    p50: float | None
    p95: float | None
    in_flight: int
    oldest: float | None  # age in seconds of the oldest execution in flight
    cost: float | None  # US dollars
    failure: str  # the type of the last one
    failed_ago: float | None

    @property
    def stuck(self) -> bool:
        """Whether an execution takes far longer than usual."""
        usual = max(STUCK_SECONDS, STUCK_TIMES * (self.p95 or 0.0))
        return self.oldest is not None and self.oldest > usual

    @property
    def unhealthy(self) -> bool:
        """Whether the row is highlighted."""
        return self.stuck or (self.errors or 0.0) > HIGH_ERROR_RATE


def fetch_answers(url: str, query: Query) -> Answers:
    """Return the agent's answers.

    Raises:
        KaywatchError: the agent does not answer, or rejects the request.
    """
    filters = {"service": query.service, "graph": query.graph}
    windowed = {**filters, "window": query.window}
    return Answers(
        query,
        fetch("/health", url=url),
        fetch("/api/v1/clients", {"service": query.service}, url)["clients"],
        fetch("/api/v1/nodes", windowed, url)["nodes"],
        fetch("/api/v1/llm", windowed, url),
        fetch("/api/v1/failures", {**filters, "limit": MAX_FAILURES}, url)["failures"],
    )


def node_rows(answers: Answers) -> list[NodeRow]:
    """Return a row for each node that ran in the window, or is in flight."""
    flights = _group_flights(answers)
    costs: dict[str, float] = {}
    for one in answers.llm["nodes"]:
        costs[one["node"]] = costs.get(one["node"], 0.0) + one["cost_usd"]
    # The agent lists the newest first; here it is the last, and stays.
    failures = {failure["node"]: failure for failure in reversed(answers.failures)}
    nodes = {node["node"]: node for node in answers.nodes}
    active = (name for name, node in nodes.items() if node["total_executions"])
    return [
        _make_row(
            *(answers, name, nodes.get(name, {}), flights.get(name, [])),
            *(failures.get(name, {}), costs.get(name)),
        )
        for name in dict.fromkeys([*active, *flights])
        if not answers.query.nodes or name in answers.query.nodes
    ]


def covered_seconds(answers: Answers) -> float:
    """Return how many seconds of the window the agent's data covers."""
    now, since = answers.health["timestamp"], answers.health["since"]
    first = (
        (now - parse_duration(answers.query.window)) // BUCKET_SECONDS * BUCKET_SECONDS
    )
    return max(1.0, float(now - max(first, since)))


def _make_row(
    answers: Answers,
    name: str,
    node: Json,
    flights: list[Json],
    failure: Json,
    cost: float | None,
) -> NodeRow:
    now = answers.health["timestamp"]
    graphs = node.get("graphs") or sorted({flight["graph"] for flight in flights})
    ages = [max(0.0, now - f["start"]) for f in flights if f["start"]]
    failed = failure.get("time")
    return NodeRow(
        node=clean(name),
        graph=clean(", ".join(graph or "-" for graph in graphs)),
        rate=node.get("total_executions", 0) / covered_seconds(answers),
        ok=node.get("success_rate"),
        errors=node.get("error_rate"),
        retries=node.get("total_retries", 0),
        p50=node.get("p50_execution_time"),
        p95=node.get("p95_execution_time"),
        in_flight=len(flights),
        oldest=max(ages, default=None),
        cost=cost,
        failure=clean(failure.get("type", "")),
        failed_ago=None if failed is None else max(0.0, time.time() - failed),
    )


def _group_flights(answers: Answers) -> dict[str, list[Json]]:
    """Return the executions in flight by node, without those of dead processes."""
    flights: dict[str, list[Json]] = {}
    for client in answers.clients:
        if client["state"] in ("connected", "disconnected"):
            for flight in client["in_flight"]:
                if answers.query.graph in (None, flight["graph"]):
                    flights.setdefault(flight["node"], []).append(flight)
    return flights
