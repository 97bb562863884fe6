"""What `kaywatch top` shows: the agent's answers, and the rows made from them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kaywatch.query import fetch
from kaywatch_agent.cli.tables import clean
from kaywatch_agent.units import parse_duration

__all__ = ["Answers", "NodeRow", "Query", "ask", "covered", "rows"]

Json = Mapping[str, Any]

# The reference page's threshold for an alert.
HIGH_ERROR_RATE: Final = 0.05

# An execution in progress for as long, and for as many times its node's p95, probably
# hangs.
STUCK_SECONDS: Final = 10.0
STUCK_TIMES: Final = 10.0

# Windows consist of whole buckets.
BUCKET_SECONDS: Final = 10

MAX_FAILURES: Final = 1_000  # all that the agent keeps


class Query(NamedTuple):
    """Which figures to ask for."""

    window: str = "5m"
    service: str | None = None
    graph: str | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """The agent's answers to a query, and when they came, by our own clock."""

    query: Query
    health: Json
    clients: list[Json]
    nodes: list[Json]
    llm: Json
    failures: list[Json]
    time: float = field(default_factory=time.time)


class NodeRow(NamedTuple):
    """One node's row; None is not known."""

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


def ask(url: str, query: Query) -> Answers:
    """Return the agent's answers.

    Raises:
        KaywatchError: it does not answer, or refuses.
    """
    where = {"service": query.service, "graph": query.graph}
    within = {**where, "window": query.window}
    return Answers(
        query,
        fetch("/health", url=url),
        fetch("/api/v1/clients", {"service": query.service}, url)["clients"],
        fetch("/api/v1/nodes", within, url)["nodes"],
        fetch("/api/v1/llm", within, url),
        fetch("/api/v1/failures", {**where, "limit": MAX_FAILURES}, url)["failures"],
    )


def rows(answers: Answers) -> list[NodeRow]:
    """Return a row for each node that ran in the window, or is running."""
    flights = _flights(answers)
    costs: dict[str, float] = {}
    for one in answers.llm["nodes"]:
        costs[one["node"]] = costs.get(one["node"], 0.0) + one["cost_usd"]
    # The newest comes first, and replaces those after it.
    failures = {failure["node"]: failure for failure in reversed(answers.failures)}
    nodes = {node["node"]: node for node in answers.nodes}
    found = [
        _row(answers, name, node, flights.get(name, []), failures.get(name, {}))
        for name in {**nodes, **flights}
        if not answers.query.nodes or name in answers.query.nodes
        if (node := nodes.get(name, {})).get("total_executions") or name in flights
    ]
    return [row._replace(cost=costs.get(row.node)) for row in found]


def covered(answers: Answers) -> float:
    """Return how many seconds of the window the agent has figures for."""
    now, since = answers.health["timestamp"], answers.health["since"]
    first = (
        (now - parse_duration(answers.query.window)) // BUCKET_SECONDS * BUCKET_SECONDS
    )
    return max(1.0, float(now - max(first, since)))


def _row(
    answers: Answers, name: str, node: Json, flights: list[Json], failure: Json
) -> NodeRow:
    now = answers.health["timestamp"]
    graphs = node.get("graphs") or sorted({flight["graph"] for flight in flights})
    ages = [max(0.0, now - f["start"]) for f in flights if f["start"]]
    failed = failure.get("time")
    return NodeRow(
        node=clean(name),
        graph=clean(", ".join(graph or "-" for graph in graphs)),
        rate=node.get("total_executions", 0) / covered(answers),
        ok=node.get("success_rate"),
        errors=node.get("error_rate"),
        retries=node.get("total_retries", 0),
        p50=node.get("p50_execution_time"),
        p95=node.get("p95_execution_time"),
        in_flight=len(flights),
        oldest=max(ages, default=None),
        cost=None,
        failure=clean(failure.get("type", "")),
        failed_ago=None if failed is None else max(0.0, time.time() - failed),
    )


def _flights(answers: Answers) -> dict[str, list[Json]]:
    """Return by node the executions in flight in processes that live."""
    flights: dict[str, list[Json]] = {}
    for client in answers.clients:
        if client["state"] in ("connected", "disconnected"):
            for flight in client["in_flight"]:
                if answers.query.graph in (None, flight["graph"]):
                    flights.setdefault(flight["node"], []).append(flight)
    return flights
