"""What `kaywatch top` shows: figures fetched, and the rows that they make."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kaywatch.query import fetch
from kaywatch_agent.cli.screens import clean
from kaywatch_agent.units import parse_duration

__all__ = ["Asked", "Found", "Row", "ask", "rows", "span"]

Json = Mapping[str, Any]

# The reference page's threshold for an alert.
SICK_ERROR_RATE: Final = 0.05

# Under way for so long, and for so many times its p95: it hangs, most likely.
STUCK_SECONDS: Final = 10.0
STUCK_TIMES: Final = 10.0

# Windows are whole steps of the agent's.
STEP_SECONDS: Final = 10

# All that the agent keeps.
FAILURES: Final = 1_000


class Asked(NamedTuple):
    """Which figures."""

    window: str = "5m"
    service: str | None = None
    graph: str | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """The agent's answers, all of about the same moment.

    Attributes:
        asked: what was asked for.
        taken: when, by our own clock.
    """

    asked: Asked
    health: Json
    clients: list[Json]
    nodes: list[Json]
    llm: Json
    failures: list[Json]
    taken: float = field(default_factory=time.time)


class Row(NamedTuple):
    """One node's line; None is what isn't known."""

    node: str
    graph: str
    rate: float  # executions a second
    ok: float | None
    errors: float | None
    retries: int
    p50: float | None
    p95: float | None
    in_flight: int
    oldest: float | None  # seconds that the first of them takes already
    cost: float | None  # US dollars
    failure: str  # the last one's type
    failed_ago: float | None

    @property
    def stuck(self) -> bool:
        """Whether something takes far longer than usual."""
        usual = max(STUCK_SECONDS, STUCK_TIMES * (self.p95 or 0.0))
        return self.oldest is not None and self.oldest > usual

    @property
    def sick(self) -> bool:
        """Whether the eye should be drawn here."""
        return self.stuck or (self.errors or 0.0) > SICK_ERROR_RATE


def ask(url: str, asked: Asked) -> Found:
    """Return what an agent says.

    Raises:
        KaywatchError: it doesn't answer, or refuses.
    """
    where = {"service": asked.service, "graph": asked.graph}
    within = {**where, "window": asked.window}
    return Found(
        asked,
        fetch("/health", url=url),
        fetch("/api/v1/clients", {"service": asked.service}, url)["clients"],
        fetch("/api/v1/nodes", within, url)["nodes"],
        fetch("/api/v1/llm", within, url),
        fetch("/api/v1/failures", {**where, "limit": FAILURES}, url)["failures"],
    )


def rows(found: Found) -> list[Row]:
    """Return a row for each node that ran in the window, or is running."""
    flights = _flights(found)
    costs = _costs(found)
    failures: dict[str, Json] = {}
    for failure in found.failures:  # the newest first
        failures.setdefault(failure["node"], failure)
    nodes = {node["node"]: node for node in found.nodes}
    names = [
        name
        for name in {**nodes, **flights}
        if not found.asked.nodes or name in found.asked.nodes
    ]
    seconds = span(found)
    made = [
        _row(
            name,
            nodes.get(name, {}),
            flights.get(name, []),
            failures.get(name, {}),
            found.health["timestamp"],
        )
        for name in names
    ]
    return [
        row._replace(rate=row.rate / seconds, cost=costs.get(row.node))
        for row in made
        if row.rate or row.in_flight
    ]


def span(found: Found) -> float:
    """Return the seconds that the window holds: no more than there is."""
    now, since = found.health["timestamp"], found.health["since"]
    first = (now - parse_duration(found.asked.window)) // STEP_SECONDS * STEP_SECONDS
    return max(1.0, float(now - max(first, since)))


def _row(name: str, node: Json, flights: list[Json], failure: Json, now: float) -> Row:
    graphs = node.get("graphs") or sorted({flight["graph"] for flight in flights})
    ages = [max(0.0, now - f["start"]) for f in flights if f["start"]]
    failed = failure.get("time")
    return Row(
        node=clean(name),
        graph=clean(", ".join(graph or "-" for graph in graphs)),
        rate=node.get("total_executions", 0),
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


def _flights(found: Found) -> dict[str, list[Json]]:
    """Return by node what is under way in processes that live."""
    flights: dict[str, list[Json]] = {}
    for client in found.clients:
        if client["state"] not in ("connected", "disconnected"):
            continue
        for flight in client["in_flight"]:
            if found.asked.graph in (None, flight["graph"]):
                flights.setdefault(flight["node"], []).append(flight)
    return flights


def _costs(found: Found) -> dict[str, float]:
    costs: dict[str, float] = {}
    for node in found.llm["nodes"]:
        costs[node["node"]] = costs.get(node["node"], 0.0) + node["cost_usd"]
    return costs
