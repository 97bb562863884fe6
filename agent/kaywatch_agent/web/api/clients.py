"""Clients, their failures, and the completeness of their data."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import asdict

from kaywatch_agent.model.bounds import Count, Moment, Name
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.units import MIB
from kaywatch_agent.web.api.parameters import (
    EndText,
    Graph,
    Limit,
    Node,
    Service,
    WindowText,
)
from kaywatch_agent.web.api.schema import (
    ClientDetails,
    EventAccount,
    ResponseBody,
    WindowSeconds,
)
from kaywatch_agent.web.snapshot import AgentSnapshot, Window, period

__all__ = ["completeness", "describe", "list_clients", "list_failures"]


class ClientsQuery(Struct, frozen=True):
    """Filters of clients."""

    state: (
        Annotated[
            Literal["connected", "disconnected", "ended", "died"],
            Meta(description="Only clients in this state."),
        ]
        | None
    ) = None
    service: Service | None = None


class ClientList(ResponseBody):
    """Clients by service and pid; `socket` is the path that they push to."""

    timestamp: Moment
    socket: str
    clients: list[ClientDetails]


class CompletenessQuery(Struct, frozen=True):
    """A service and a window."""

    window: WindowText | None = None
    end: EndText | None = None
    service: Service | None = None


class CompletenessResponse(ResponseBody):
    """The number of received and lost events, in total and by service."""

    timestamp: Moment
    window: WindowSeconds | None
    total: EventAccount
    services: dict[str, EventAccount]


class FailuresQuery(Struct, frozen=True):
    """Filters of failures."""

    service: Service | None = None
    graph: Graph | None = None
    node: Node | None = None
    type: (
        Annotated[
            Name, Meta(description="Only this exception type.", examples=["KeyError"])
        ]
        | None
    ) = None
    window: WindowText | None = None
    end: EndText | None = None
    limit: Limit = 100


class FailureList(ResponseBody):
    """The latest failures, the newest first; `matching` ignores the limit."""

    matching: Count
    failures: list[FailureRecord]


def describe(client: Client) -> ClientDetails:
    """Return a copy of a client, with derived values."""
    sample = client.sample
    return ClientDetails(
        **asdict(client),
        completeness=client.completeness,
        missing=client.missing,
        memory_mb=None if sample is None else sample.rss_bytes / MIB,
        peak_memory_mb=client.peak_rss_bytes / MIB or None,
    )


def list_clients(snapshot: AgentSnapshot, query: ClientsQuery) -> ClientList:
    """Return the matching clients."""
    clients = [
        client
        for client in snapshot.clients
        if query.state in (None, client.state)
        and query.service in (None, client.service)
    ]
    # The id comes last; pids are reused, and are not unique across hosts.
    clients.sort(key=lambda client: (client.service, client.pid, client.id))
    return ClientList(timestamp=snapshot.now, socket=snapshot.socket, clients=clients)


def completeness(
    snapshot: AgentSnapshot, query: CompletenessQuery
) -> CompletenessResponse:
    """Return the number of received and lost events, in total and by service."""
    window = Window(snapshot, query.window, query.end)
    counts = window.completeness
    names = [n for n in sorted(counts.services) if query.service in (None, n)]
    return CompletenessResponse(
        timestamp=snapshot.now,
        window=window.seconds,
        total=EventAccount.of(counts.of(names)),
        services={name: EventAccount.of(counts.of([name])) for name in names},
    )


def list_failures(snapshot: AgentSnapshot, query: FailuresQuery) -> FailureList:
    """Return the latest matching failures, the newest first."""
    start, end = 0.0, math.inf
    if query.window is not None or query.end is not None:
        start, end = period(snapshot.view, query.window, query.end)
    failures = [
        failure
        for failure in snapshot.view.failures
        if start <= failure.time < end
        and query.service in (None, failure.service)
        and query.graph in (None, failure.graph)
        and query.node in (None, failure.node)
        and query.type in (None, failure.type)
    ]
    # Reversed before the stable sort: of failures with the same time, the one that
    # arrived last comes first.
    failures.reverse()
    failures.sort(key=lambda failure: -failure.time)
    return FailureList(matching=len(failures), failures=failures[: query.limit])
