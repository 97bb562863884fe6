"""Answers that list: clients, failures, and the stages' health."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import asdict

from kaywatch_agent.model.client import Client
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.units import MIB
from kaywatch_agent.web.api import schema
from kaywatch_agent.web.api.parameters import (
    ClientsQuery,
    CompletenessQuery,
    FailuresQuery,
    window_seconds,
)
from kaywatch_agent.web.reading import Reading, Window, account

__all__ = ["client_list", "completeness", "describe", "failure_list", "health", "peaks"]


def peaks(clients: Iterable[Client]) -> dict[str, int]:
    """Return the largest peak RSS of each service's clients, in bytes."""
    found: dict[str, int] = {}
    for client in clients:
        found[client.service] = max(found.get(client.service, 0), client.peak_rss_bytes)
    return found


def describe(client: Client) -> schema.ClientAnswer:
    """Return a picture of a client, which goes on changing."""
    sample = client.sample
    return schema.ClientAnswer(
        **asdict(client),
        completeness=client.completeness,
        missing=client.missing,
        memory_mb=None if sample is None else sample.rss_bytes / MIB,
        peak_memory_mb=client.peak_rss_bytes / MIB or None,
    )


def client_list(reading: Reading, query: ClientsQuery) -> schema.ClientList:
    """Return the clients that match, by service and process."""
    found = [
        client
        for client in reading.clients
        if query.state in (None, client.state)
        and query.service in (None, client.service)
    ]
    found.sort(key=lambda client: (client.service, client.pid, client.id))
    return schema.ClientList(
        timestamp=reading.now, socket=reading.socket, clients=found
    )


def completeness(
    reading: Reading, query: CompletenessQuery
) -> schema.CompletenessAnswer:
    """Return what became of all events, in sum and by service."""
    window = Window(reading, window_seconds(query.window))
    found = window.completeness
    names = [n for n in sorted(found.services) if query.service in (None, n)]
    return schema.CompletenessAnswer(
        timestamp=reading.now,
        window=window.seconds,
        total=account(found.of(names)),
        services={name: account(found.of([name])) for name in names},
    )


def failure_list(reading: Reading, query: FailuresQuery) -> schema.FailureList:
    """Return the latest failures that match, the newest first."""
    found = [
        failure
        for failure in reading.view.failures
        if query.service in (None, failure.service)
        and query.graph in (None, failure.graph)
        and query.node in (None, failure.node)
        and query.type in (None, failure.type)
    ]
    # Of several at the same time, the one that came last is the newest.
    found.reverse()
    found.sort(key=lambda failure: -failure.time)
    return schema.FailureList(
        matching=len(found),
        failures=found[: query.limit],
    )


def health(reading: Reading) -> schema.HealthAnswer:
    """Return the stages' readiness, and what the agent itself takes."""
    own = {metric.name: values.get((), 0.0) for metric, values in reading.own}
    return schema.HealthAnswer(
        status=reading.health.status.value,
        timestamp=reading.now,
        version=reading.version,
        uptime=max(0.0, reading.now - reading.started),
        since=reading.view.since,
        events=int(own.get("kaywatch_events_total", 0)),
        memory_mb=_megabytes(own.get("kaywatch_process_resident_memory_bytes", 0)),
        alerts_firing=reading.alerts.get(AlertState.FIRING, 0)
        + reading.alerts.get(AlertState.RECOVERING, 0),
        store_mb=_megabytes(own.get("kaywatch_store_bytes", 0)),
        stages={
            name: schema.StageAnswer(
                status=stage.status.value,
                ready=stage.ready,
                age=stage.age,
                within=stage.within,
                problem=stage.problem,
            )
            for name, stage in reading.health.stages.items()
        },
    )


# -- inside --------------------------------------------------------------------------


def _megabytes(size: float) -> float | None:
    """Return bytes in MiB; 0 is what isn't measured."""
    return size / MIB or None
