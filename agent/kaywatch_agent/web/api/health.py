"""The health of the agent and of its stages."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from kaywatch_agent.model.bounds import Count, Moment, Seconds
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.runtime.health import Readiness, StageHealth
from kaywatch_agent.units import MIB
from kaywatch_agent.web.api.parameters import AnyQuery
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["HealthResponse", "health", "is_unhealthy"]


class HealthResponse(ResponseBody):
    """The health of the agent, and its use of resources."""

    status: Readiness
    timestamp: Moment
    version: str
    uptime: Seconds
    since: Annotated[
        float, Meta(description="Unix seconds; when counting began, in the store")
    ]
    events: Annotated[int, Meta(ge=0, description="accepted since then")]
    memory_mb: Annotated[float, Meta(ge=0, description="of the agent itself")]
    alerts_firing: Count
    store_mb: Annotated[float, Meta(ge=0, description="null without a store")] | None
    stages: dict[str, StageHealth]


def health(snapshot: AgentSnapshot, _: AnyQuery) -> HealthResponse:
    """Return the readiness of the stages, and the agent's use of resources."""
    alerts, usage = snapshot.alert_states, snapshot.usage
    return HealthResponse(
        status=snapshot.health.status,
        timestamp=snapshot.now,
        version=snapshot.version,
        # The clock may have been set back since the start.
        uptime=max(0.0, snapshot.now - snapshot.started),
        since=snapshot.view.since,
        events=usage.events,
        memory_mb=usage.memory_bytes / MIB,
        alerts_firing=alerts.get(AlertState.FIRING, 0)
        # A recovering alert has not resolved yet.
        + alerts.get(AlertState.RECOVERING, 0),
        store_mb=usage.store_bytes / MIB or None,
        stages=snapshot.health.stages,
    )


def is_unhealthy(response: HealthResponse) -> bool:
    """Return whether a stage has missed its deadline; the status is then 503."""
    return response.status is Readiness.UNHEALTHY
