"""The shapes of what is streamed, as server-sent events; see `schema`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from kaywatch_agent.model.bounds import Count, Moment, Rate, Seconds
from kaywatch_agent.web.api.schema import Body, HealthAnswer

__all__ = [
    "Listening",
    "Missed",
    "RecentNode",
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


class Missed(Body):
    """How many matching events were left out since the last one that says so.

    `limited` are those over the rate, `slow` those that waited for a reader too long.
    """

    limited: Count
    slow: Count
