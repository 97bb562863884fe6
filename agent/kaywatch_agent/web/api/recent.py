"""The stream's snapshot: totals, health, and what ran in the last minute."""

from __future__ import annotations

from typing import Final

import numpy as np

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.model.series import Kind
from kaywatch_agent.web.api import live_shapes
from kaywatch_agent.web.api.lists import health
from kaywatch_agent.web.api.parameters import StreamQuery
from kaywatch_agent.web.reading import Reading, Window

__all__ = ["snapshot"]

RECENT_SECONDS: Final = 60

# Some 60 kB of JSON a second for each reader; all of them are in /api/v1/nodes.
MAX_NODES: Final = 500


def snapshot(reading: Reading, _: StreamQuery) -> live_shapes.Snapshot:
    """Return what is going on."""
    active, nodes = _recent(reading)
    return live_shapes.Snapshot(
        time=reading.now,
        health=health(reading),
        totals=_totals(reading),
        nodes_active=active,
        nodes=nodes,
    )


def _recent(reading: Reading) -> tuple[int, list[live_shapes.RecentNode]]:
    """Return how many nodes ran, and the busiest of them."""
    groups = reading.groups([Kind.NODE], lambda key: key.node)
    figures = Window(reading, RECENT_SECONDS).figures(
        groups, {Dimension.OUTCOME, Dimension.HISTOGRAM}
    )
    busiest = np.argsort(-figures.executions, kind="stable")
    active = int(np.count_nonzero(figures.executions))
    average, (p95,) = figures.averages(), figures.quantiles(0.95)
    success, retries = figures.success_rates(), figures.retries()
    errors = figures.outcomes()[:, Outcome.ERROR]
    return active, [
        live_shapes.RecentNode(
            node=groups.names[n],
            executions=int(figures.executions[n]),
            success_rate=success[n],
            avg=average[n],
            p95=p95[n],
            errors=int(errors[n]),
            retries=int(retries[n]),
        )
        for n in busiest[: min(active, MAX_NODES)].tolist()
    ]


def _totals(reading: Reading) -> live_shapes.Totals:
    window = Window(reading, None)
    kinds = (Kind.NODE, Kind.RUN)
    groups = reading.groups(kinds, lambda key: key.kind, kinds)
    figures = window.figures(groups, {Dimension.OUTCOME})
    return live_shapes.Totals(
        executions=int(figures.executions[0]),
        runs=int(figures.executions[1]),
        errors=int(figures.outcomes()[0, Outcome.ERROR]),
        retries=int(figures.retries()[0]),
        nodes=len({key.node for key in reading.of(Kind.NODE)}),
        graphs=len({key.graph for key in reading.of(*kinds) if key.graph}),
        clients=dict(reading.presence),
        completeness=window.completeness.of(window.completeness.services).ratio,
    )
