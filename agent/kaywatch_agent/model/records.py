"""Records that clients report besides columns of numbers: one struct per concept.

The same struct is decoded from the wire, aggregated, stored, returned over HTTP and
described in OpenAPI. A new field is declared here only, with its bounds and
description. A field with a default may be missing on the wire, and in a store that an
earlier version wrote.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from kaywatch.wire import Phase
from kaywatch_agent.model.bounds import (
    MAX_ATTEMPTS,
    MAX_COUNT,
    MAX_LIST,
    MAX_MESSAGE,
    MAX_PATH,
    MAX_TIME,
    MAX_TRACEBACK,
    Attempts,
    Count,
    Moment,
    Name,
    OutcomeName,
    Seconds,
)

__all__ = [
    "ExecutionRecord",
    "FailureRecord",
    "InFlight",
    "NodeRevisits",
    "ProcessSample",
    "RunRecord",
    "TraceId",
    "TopologyRecord",
]

RunId = Annotated[Name, Meta(description="id of the run; empty if unknown")]
RunStart = Annotated[
    float,
    Meta(ge=0, le=MAX_TIME, description="of its run, Unix seconds; 0 if unknown"),
]
TraceId = Annotated[
    Name, Meta(description="id of the application's trace; empty without one")
]
ErrorType = Annotated[Name, Meta(description="type of the exception")]


class FailureRecord(Struct, frozen=True, kw_only=True):
    """The details of one failed execution, whether or not its error was handled."""

    time: Annotated[Moment, Meta(description="when it ended, Unix seconds")]
    service: Name = ""
    graph: Name = ""
    node: Name
    type: ErrorType
    message: Annotated[str, Meta(max_length=MAX_MESSAGE)] = ""
    phase: Phase = Phase.NONE
    attempts: Attempts = 1
    outcome: OutcomeName = "error"
    run: RunId = ""
    client: Annotated[str, Meta(description="id of the client, in hexadecimal")] = ""
    traceback: Annotated[str, Meta(max_length=MAX_TRACEBACK)] = ""
    seconds: Annotated[
        float, Meta(ge=0, le=MAX_TIME, description="duration; 0 if unknown")
    ] = 0.0
    run_start: RunStart = 0.0
    visits: Annotated[
        int,
        Meta(
            ge=0, le=MAX_ATTEMPTS, description="node visits in its run, with this one"
        ),
    ] = 0
    path: Annotated[
        tuple[Name, ...],
        Meta(
            max_length=MAX_PATH,
            description="the nodes of these visits, in the order of the first ones",
        ),
    ] = ()
    path_visits: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=MAX_COUNT)], ...],
        Meta(
            max_length=MAX_PATH,
            description="the visits of each node of `path`; empty if once each",
        ),
    ] = ()
    trace_id: TraceId = ""


class TopologyRecord(Struct, frozen=True, kw_only=True):
    """The nodes and edges of a graph as clients last reported them."""

    service: Annotated[Name, Meta(description="empty for several services")] = ""
    graph: Name
    start: Annotated[Name, Meta(description="the first node; empty if unknown")] = ""
    nodes: Annotated[tuple[Name, ...], Meta(max_length=MAX_LIST)]
    edges: Annotated[
        tuple[tuple[Name, Name, Name], ...],
        Meta(max_length=MAX_LIST, description="each is [node, action, next node]"),
    ] = ()
    since: Annotated[
        float,
        Meta(ge=0, le=MAX_TIME, description="when it was first reported; 0 if unknown"),
    ] = 0.0
    changed: Annotated[
        float,
        Meta(ge=0, le=MAX_TIME, description="when it last changed; 0 if unknown"),
    ] = 0.0

    def has_shape_of(self, other: TopologyRecord) -> bool:
        """Return whether another one has the same nodes and edges."""
        shape = self.start, self.nodes, self.edges
        return shape == (other.start, other.nodes, other.edges)


class InFlight(Struct, frozen=True):
    """A node that was running when its client last reported it."""

    graph: Name
    node: Name
    start: Annotated[Moment, Meta(description="Unix seconds; 0 if unknown")]
    run: RunId
    visits: Annotated[
        int,
        Meta(ge=0, le=MAX_ATTEMPTS, description="earlier node visits in its run"),
    ] = 0
    run_start: RunStart = 0.0
    failed_attempts: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_ATTEMPTS,
            description="calls of exec in its run that failed in a row up to now",
        ),
    ] = 0
    cost_usd: Annotated[
        float,
        Meta(
            ge=0,
            le=MAX_COUNT,
            description="of the calls of models in its run, as far as it is known",
        ),
    ] = 0.0
    tokens: Annotated[
        float, Meta(ge=0, le=MAX_COUNT, description="number of their tokens")
    ] = 0.0
    unpriced_tokens: Annotated[
        float, Meta(ge=0, le=MAX_COUNT, description="of the calls without a price")
    ] = 0.0
    trace_id: TraceId = ""


class NodeRevisits(Struct, frozen=True):
    """How often one run visited a node that it returned to."""

    graph: Name
    node: Annotated[Name, Meta(description="empty for all nodes of the run together")]
    visits: Annotated[int, Meta(ge=0, le=MAX_COUNT)]
    run: RunId = ""
    cycle: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_COUNT,
            description="of the visits, those since the run last reached a new node",
        ),
    ] = 0


class ProcessSample(Struct, frozen=True, kw_only=True):
    """The resource usage of a client's process."""

    rss_bytes: Annotated[int, Meta(ge=0, le=MAX_COUNT)] = field(name="rss", default=0)
    cpu_seconds: Annotated[
        float,
        Meta(ge=0, le=MAX_TIME, description="user and system, since it started"),
    ] = field(name="cpu")


class ExecutionRecord(Struct, frozen=True, kw_only=True):
    """One execution of a node, as it arrived.

    `type`, `phase` and `message` describe the exception, and are empty without one.
    `message` and `run` are known if the client sent the failure's details.
    """

    time: Annotated[Moment, Meta(description="when it ended, Unix seconds")]
    service: str
    graph: str
    node: str
    outcome: OutcomeName
    seconds: Seconds
    attempts: Attempts
    action: str
    type: str
    phase: str
    message: str
    run: str
    pid: int
    client: str


class RunRecord(Struct, frozen=True, kw_only=True):
    """One run of a graph, as it arrived: where and why it ended."""

    time: Annotated[Moment, Meta(description="when it ended, Unix seconds")]
    service: str
    graph: str
    outcome: OutcomeName
    seconds: Seconds
    reason: str
    node: str
    action: str
    visits: Count
    pid: int
    client: str
