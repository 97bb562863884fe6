"""The stream of snapshots: totals, health, and the nodes that ran lately."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.model.bounds import Count, Moment, Rate, Seconds
from kaywatch_agent.model.series import Kind
from kaywatch_agent.web.api.health import HealthResponse, health
from kaywatch_agent.web.api.parameters import AnyQuery
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.snapshot import AgentSnapshot, Window

__all__ = ["StreamSnapshot", "stream_snapshot"]

RECENT_SECONDS: Final = 60

# Some 60 kB of JSON per second and subscriber; /api/v1/nodes has all nodes.
MAX_NODES: Final = 500


class StreamQuery(Struct, frozen=True):
    """How many snapshots to send."""

    limit: (
        Annotated[int, Meta(ge=1, le=1_000_000, description="End after N snapshots.")]
        | None
    ) = None


class Totals(ResponseBody):
    """Sums over everything since first seen."""

    executions: Count
    runs: Count
    errors: Count
    retries: Count
    nodes: Count
    graphs: Count
    clients: dict[str, int]
    completeness: Rate | None


class RecentNode(ResponseBody):
    """A node's last minute."""

    node: str
    executions: Count
    success_rate: Rate | None
    avg: Seconds | None
    p95: Seconds | None
    errors: Count
    retries: Count


class StreamSnapshot(ResponseBody):
    """The data of a `snapshot` event.

    `nodes` are those with executions within the last minute, at most 500, those with
    most executions first; `nodes_active` counts all of them.
    """

    time: Moment
    health: HealthResponse
    totals: Totals
    nodes_active: Count
    nodes: list[RecentNode]


def stream_snapshot(snapshot: AgentSnapshot, _: StreamQuery) -> StreamSnapshot:
    """Return the present state."""
    active, nodes = _recent_nodes(snapshot)
    return StreamSnapshot(
        time=snapshot.now,
        health=health(snapshot, AnyQuery()),
        totals=_totals(snapshot),
        nodes_active=active,
        nodes=nodes,
    )


def _recent_nodes(snapshot: AgentSnapshot) -> tuple[int, list[RecentNode]]:
    """Return the number of active nodes, and those with most executions."""
    groups = snapshot.groups([Kind.NODE], lambda key: key.node)
    window = Window(snapshot, RECENT_SECONDS)
    stats = window.stats(groups, {Dimension.OUTCOME, Dimension.HISTOGRAM})
    order = np.argsort(-stats.executions, kind="stable")
    active = int(np.count_nonzero(stats.executions))
    average, (p95,) = stats.averages(), stats.quantiles(0.95)
    success, retries = stats.success_rates(), stats.retries()
    errors = stats.outcomes()[:, Outcome.ERROR]
    return active, [
        RecentNode(
            node=groups.names[n],
            executions=int(stats.executions[n]),
            success_rate=success[n],
            avg=average[n],
            p95=p95[n],
            errors=int(errors[n]),
            retries=int(retries[n]),
        )
        for n in order[: min(active, MAX_NODES)].tolist()
    ]


def _totals(snapshot: AgentSnapshot) -> Totals:
    window = Window(snapshot, None)
    kinds = (Kind.NODE, Kind.RUN)
    groups = snapshot.groups(kinds, lambda key: key.kind, kinds)
    stats = window.stats(groups, {Dimension.OUTCOME})
    return Totals(
        executions=int(stats.executions[0]),
        runs=int(stats.executions[1]),
        errors=int(stats.outcomes()[0, Outcome.ERROR]),
        retries=int(stats.retries()[0]),
        nodes=len({key.node for key in snapshot.series(Kind.NODE)}),
        graphs=len({key.graph for key in snapshot.series(*kinds) if key.graph}),
        clients=dict(snapshot.client_states),
        completeness=window.completeness.of(window.completeness.services).ratio,
    )
