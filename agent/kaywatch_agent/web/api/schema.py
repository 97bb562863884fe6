"""The answers' shapes: what is encoded, and what the OpenAPI document is made from.

Times are in seconds, rates from 0 to 1, moments in Unix seconds; null where there is
nothing to say, such as the average of no executions.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from kaywatch_agent.model.bounds import Count, Moment, Rate, Seconds
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import FailureRecord, TopologyRecord

__all__ = [
    "Account",
    "ClientAnswer",
    "ClientList",
    "CompletenessAnswer",
    "CustomMetric",
    "EndCount",
    "Error",
    "ErrorAnswer",
    "ErrorCount",
    "Export",
    "FailureList",
    "GraphFigures",
    "GraphList",
    "GraphStats",
    "HealthAnswer",
    "NodeFigures",
    "NodeList",
    "NodePerformance",
    "NodeStats",
    "Outcomes",
    "QueryAnswer",
    "StageAnswer",
]

Span = Annotated[
    int, Meta(ge=1, description="seconds looked back on; null: since first seen")
]


class Body(Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What all shapes share: every key is always there, and there are no others."""


class Error(Body):
    """What was wrong, and what to do about it."""

    code: str
    message: str
    hint: str


class ErrorAnswer(Body):
    """The body of every answer that isn't a success."""

    error: Error


class Outcomes(Body):
    """How many executions, or runs, had each outcome."""

    ok: Count
    error: Count
    suppressed: Count
    fallback: Count
    cancelled: Count


class Account(Body):
    """What became of the events that clients of some services recorded.

    `received` are in the figures, `dropped` are those that were lost, by reason, and
    `ratio` is the share that arrived. Of those received, `late` were too old for a
    window when they came, so that only the totals since first seen have them;
    `overflow` are counted under `__other__`, beyond the caps on names.
    """

    received: Count
    dropped: dict[str, int]
    late: Count
    overflow: Count
    ratio: Rate | None


class CompletenessAnswer(Body):
    """What became of all events, in sum and by service."""

    timestamp: Moment
    window: Span | None
    total: Account
    services: dict[str, Account]


class NodeFigures(Body):
    """Figures of one node, over all the services and graphs that were asked for.

    `retry_rate` is the share of attempts that were retries. `completeness` is what
    arrived of what the clients of its services say they recorded. Of the averages by
    phase, `wait` is the time between attempts; they and `total_items`, those that a
    batch worked on, are null where no execution tells them.
    """

    node: str
    services: tuple[str, ...]
    graphs: tuple[str, ...]
    window: Span | None
    total_executions: Count
    success_rate: Rate | None
    avg_execution_time: Seconds | None
    min_execution_time: Seconds | None
    max_execution_time: Seconds | None
    total_retries: Count
    avg_prep_time: Seconds | None
    avg_exec_time: Seconds | None
    avg_wait_time: Seconds | None
    avg_post_time: Seconds | None
    total_items: Count | None
    p50_execution_time: Seconds | None
    p90_execution_time: Seconds | None
    p95_execution_time: Seconds | None
    p99_execution_time: Seconds | None
    outcomes: Outcomes
    error_rate: Rate | None
    retry_rate: Rate | None
    actions: dict[str, int]
    error_breakdown: dict[str, int]
    avg_data_size: float | None
    max_data_size: float | None
    min_data_size: float | None
    avg_processing_rate: float | None
    max_processing_rate: float | None
    peak_memory_mb: float | None
    last_execution: Moment | None
    completeness: Rate | None


class ErrorCount(Body):
    """How often one class of error came from one phase of a node."""

    type: str
    phase: str
    count: Count


class CustomMetric(Body):
    """A custom metric as recorded by one node; with labels, one set of them."""

    name: str
    kind: Literal["observe", "count", "gauge"]
    labels: dict[str, str]
    count: Count
    sum: float | None
    avg: float | None
    min: float | None
    max: float | None
    last: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class NodeStats(NodeFigures):
    """All that is known of one node."""

    errors: list[ErrorCount]
    custom: list[CustomMetric]
    account: Account


class NodeList(Body):
    """The nodes known, by name."""

    timestamp: Moment
    window: Span | None
    nodes: list[NodeFigures]
    account: Account


class NodePerformance(Body):
    """A node's executions within a graph."""

    executions: Count
    avg_time: Seconds | None
    min_time: Seconds | None
    max_time: Seconds | None


class GraphFigures(Body):
    """Figures of one graph, over all the services that were asked for.

    `transition_counts` has keys like `pay->failed`: a node and the action it ended
    with. `failure_points` has the nodes that an error left, and how often. `visits`
    are the nodes that its runs visited in all.
    """

    graph: str
    services: list[str]
    window: Span | None
    status: Literal["ok", "no_executions"]
    total_executions: Count
    success_rate: Rate | None
    avg_execution_time: Seconds | None
    total_time: Seconds | None
    p50_execution_time: Seconds | None
    p95_execution_time: Seconds | None
    p99_execution_time: Seconds | None
    outcomes: Outcomes
    visits: Count
    avg_visits: Annotated[float, Meta(ge=0)] | None
    node_performance: dict[str, NodePerformance]
    transition_counts: dict[str, int]
    failure_points: dict[str, int]
    completeness: Rate | None


class EndCount(Body):
    """How many runs ended at a node, with an action, for a reason.

    `available` are the actions that the node is wired for, where the one that it
    returned was none of them; null for other reasons, and where it isn't known.
    """

    reason: str
    node: str
    action: str
    count: Count
    available: list[str] | None


class GraphStats(GraphFigures):
    """All that is known of one graph.

    `never_run` are the nodes of the topology of which no execution has ended within
    the window; null where that can't be told.
    """

    ends: list[EndCount]
    never_run: list[str] | None
    topology: TopologyRecord | None
    account: Account


class GraphList(Body):
    """The graphs known, by name."""

    timestamp: Moment
    window: Span | None
    graphs: list[GraphFigures]
    account: Account


class Export(Body):
    """All nodes and graphs by name, as KayGraph's MetricsExporter gives them."""

    timestamp: Moment
    nodes: dict[str, NodeFigures]
    graphs: dict[str, GraphFigures]


class QueryAnswer(Body):
    """One metric over time.

    Each point is [start of its step, value or null, how many events it rests on]. The
    last step may still be filling.
    """

    metric: str
    unit: str
    step: Count
    start: Moment
    end: Moment
    account: Account
    points: list[tuple[float, float | None, int]]


class FailureList(Body):
    """The latest failures, the newest first; `matching` counts those cut by limit."""

    matching: Count
    failures: list[FailureRecord]


class ClientAnswer(Client, kw_only=True):
    """One process that sends, or that left lately.

    `missing` are events that it recorded and of which nothing is known: they are on
    their way, or were lost with the process.
    """

    completeness: Rate | None
    missing: Count
    memory_mb: float | None
    peak_memory_mb: float | None


class ClientList(Body):
    """The clients, by service and process; `socket` is where they push to, by path."""

    timestamp: Moment
    socket: str
    clients: list[ClientAnswer]


Status = Literal["healthy", "degraded", "unhealthy"]


class StageAnswer(Body):
    """One stage's readiness: `age` since its last word, which is due `within`."""

    status: Status
    ready: bool
    age: Seconds | None
    within: Seconds | None
    problem: str


class HealthAnswer(Body):
    """Whether the agent does its work."""

    status: Status
    timestamp: Moment
    version: str
    uptime: Seconds
    since: Annotated[
        float, Meta(description="Unix seconds; what is known began to be counted then")
    ]
    events: Annotated[int, Meta(ge=0, description="taken in since then")]
    memory_mb: Annotated[float, Meta(ge=0, description="of the agent itself")] | None
    alerts_firing: Count
    store_mb: Annotated[float, Meta(ge=0)] | None
    stages: dict[str, StageAnswer]
