"""The shapes of what is streamed, as server-sent events; see `schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from kaywatch_agent.web.api.schema import (
    Body,
    Count,
    HealthAnswer,
    Moment,
    Rate,
    Seconds,
)

__all__ = [
    "Execution",
    "Listening",
    "Missed",
    "RecentNode",
    "Run",
    "Snapshot",
    "Totals",
]


class Totals(Body):
    """Sums over everything, since first seen."""

    executions: Count
    runs: Count
    errors: Count
    retries: Count
    nodes: Count
    graphs: Count
    clients: dict[str, int]
    completeness: Rate | None


class RecentNode(Body):
    """A node's last minute."""

    node: str
    executions: Count
    success_rate: Rate | None
    avg: Seconds | None
    p95: Seconds | None
    errors: Count
    retries: Count


class Snapshot(Body):
    """One event of the stream.

    `nodes` are those that ran in the last minute, the busiest first and at most 500;
    `nodes_active` is how many there were.
    """

    time: Moment
    health: HealthAnswer
    totals: Totals
    nodes_active: Count
    nodes: list[RecentNode]


class Listening(Body):
    """The first event of the events' stream; all that match come from here on."""

    time: Moment
    version: str
    rate: Annotated[int, Meta(ge=1, description="events a second at most")]


class Execution(Body):
    """One execution of a node, as it arrived.

    `type`, `phase` and `message` are of the exception, empty where there was none;
    `message` and `run` are known of failures of which the client sent details.
    """

    time: Moment
    service: str
    graph: str
    node: str
    outcome: Literal["ok", "error", "suppressed", "fallback", "cancelled"]
    seconds: Seconds
    attempts: Count
    action: str
    type: str
    phase: str
    message: str
    run: str
    pid: int
    client: str


class Run(Body):
    """One run of a graph, as it arrived: where and why it ended."""

    time: Moment
    service: str
    graph: str
    outcome: Literal["ok", "error", "suppressed", "fallback", "cancelled"]
    seconds: Seconds
    reason: str
    node: str
    action: str
    visits: Count
    pid: int
    client: str


class Missed(Body):
    """How many matching events were left out since the last one that says so.

    `limited` are those over the rate, `slow` those that waited for a reader too long.
    """

    limited: Count
    slow: Count
