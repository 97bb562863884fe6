"""Requests and their responses: the endpoints as an aiohttp application.

Strategy: on the event loop, a request's parameters are validated and a snapshot is
taken. A pure function in a worker thread builds the response from it, which is sent in
slices. So no response, however large, delays the socket to which clients push.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final, cast

import structlog
from aiohttp import web
from msgspec import Struct

from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.runtime.metrics import MetricsRegistry
from kaywatch_agent.web.api import clients, events
from kaywatch_agent.web.api.parameters import parse
from kaywatch_agent.web.api.schema import ClientDetails
from kaywatch_agent.web.block_merger import BlockMerger
from kaywatch_agent.web.config import HttpConfig
from kaywatch_agent.web.day_before import DayBefore
from kaywatch_agent.web.endpoint import Endpoint
from kaywatch_agent.web.event_memory import EventMemory
from kaywatch_agent.web.feeds import LiveFeeds
from kaywatch_agent.web.guard.access import SECURITY_HEADERS, AccessControl
from kaywatch_agent.web.guard.bodies import read_body
from kaywatch_agent.web.guard.connections import HttpConnection, HttpMetrics
from kaywatch_agent.web.pages.dashboard import PAGE_POLICY
from kaywatch_agent.web.problems import Problem, closest, not_durable
from kaywatch_agent.web.responses import (
    EncodedResponse,
    error_response,
    json_response,
    send,
)
from kaywatch_agent.web.routes import ENDPOINTS, LIVE_STREAM
from kaywatch_agent.web.series_memory import SeriesMemory
from kaywatch_agent.web.shared_results import SharedResults
from kaywatch_agent.web.snapshot import AgentSnapshot, ClientActivity
from kaywatch_agent.web.stream import Streams
from kaywatch_agent.web.view import AgentView
from kaywatch_agent.web.workers import WorkerThreads

__all__ = ["WebApplication"]

# Describing a client takes some 5 us, so that the loop is held for 1 ms at a time.
CLIENTS_AT_ONCE: Final = 200

log = structlog.get_logger("kaywatch.agent")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebApplication:
    """Responds to requests with the data of an agent.

    Attributes:
        metrics: of the HTTP server.
        access: decides which requests are allowed.
        streams: the open event streams.
        feeds: send changes to readers at each tick.
        workers: build responses.
    """

    def __init__(
        self, agent: AgentView, registry: MetricsRegistry, version: str
    ) -> None:
        self._agent = agent
        self._registry = registry
        self._version = version
        self.metrics = HttpMetrics()
        self.access = AccessControl(HttpConfig())
        self.classic_histograms = False
        self.streams = Streams(HttpConfig().streams)
        self.metrics.streams.set_function(lambda: len(self.streams))
        self.workers = WorkerThreads()
        # What outlives a snapshot.
        self._memories: dict[str, Any] = {
            "day_before": DayBefore(),
            "shared": SharedResults(),
            "event_memory": EventMemory(),
            "series_memory": SeriesMemory(),
        }
        self.feeds = LiveFeeds(self.snapshot, self.workers)
        self._blocks = BlockMerger(self.workers)

    def publish(self) -> None:
        """Send changes to readers; called after each tick."""
        self.feeds.publish()
        self._blocks.advance(self._agent.view().buckets)

    def build(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(middlewares=[self._middleware])
        for endpoint in ENDPOINTS:
            # A path parameter may contain anything; a slash is percent-encoded.
            path = endpoint.path.replace("}", ":[^/]+}")
            handler = self._handler(endpoint)
            if endpoint.method == "GET":
                application.router.add_get(path, handler)
            else:
                application.router.add_route(endpoint.method, path, handler)
        application.on_response_prepare.append(self._prepare)
        return application

    # -- endpoints -------------------------------------------------------------------

    def _handler(self, endpoint: Endpoint) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            query = parse(endpoint.parameters, request.match_info, request.query)
            if endpoint.events:
                return await self._stream(endpoint, request, query)
            argument = query
            if endpoint.change is not None:
                body = await read_body(request, endpoint.body)
                argument = endpoint.change(self._agent, query, body)
                if endpoint.durable:
                    await self._wait_durable(argument)
            return await send(request, await self._respond(endpoint, request, argument))

        return handle

    async def _wait_durable(self, result: Struct) -> None:
        """Wait until a change is durable."""
        if reason := await self._agent.wait_durable():
            raise not_durable(reason, getattr(result, "id", ""))

    async def _stream(
        self, endpoint: Endpoint, request: web.Request, query: Any
    ) -> web.StreamResponse:
        if endpoint is LIVE_STREAM:
            opening = self.feeds.subscribe(query.window)
        else:
            first = await self._first_event(endpoint, query)
            opening = events.subscribe(self._agent.event_stream, query, first)
        with opening as subscription:
            return await self.streams.serve(request, subscription, query.limit)

    async def _first_event(self, endpoint: Endpoint, query: Any) -> bytes:
        build = partial(_build, endpoint, self.snapshot(), query)
        response = await self.workers.run(build)
        return b"".join(response.chunks)

    async def _respond(
        self, endpoint: Endpoint, request: web.Request, argument: Any
    ) -> EncodedResponse:
        details: dict[str, Any] = {
            "accept": ",".join(request.headers.getall("Accept", ())),
            "gzip": _accepts_gzip(request),
            "classic_histograms": self.classic_histograms,
        }
        if endpoint.needs_clients:
            details["clients"] = await self._describe_clients()
        if endpoint.needs_messages:
            details["messages"] = self._agent.delivery.messages()
            details["receivers"] = tuple(self._agent.delivery.receivers())
        build = partial(_build, endpoint, self.snapshot(**details), argument)
        return build() if endpoint.inline else await self.workers.run(build)

    async def _describe_clients(self) -> tuple[ClientDetails, ...]:
        """Describe all clients, while other tasks run in between."""
        agent_clients = list(self._agent.clients)
        described: list[ClientDetails] = []
        for start in range(0, len(agent_clients), CLIENTS_AT_ONCE):
            described += map(
                clients.describe, agent_clients[start : start + CLIENTS_AT_ONCE]
            )
            await asyncio.sleep(0)
        return tuple(described)

    def snapshot(self, **details: Any) -> AgentSnapshot:
        """Return a snapshot of everything that a response may need."""
        agent = self._agent
        now = agent.clock()
        agent_clients = list(agent.clients)
        return AgentSnapshot(
            now=now,
            started=agent.health.started,
            version=self._version,
            # Before the agent's own metrics, which it updates.
            view=agent.view(),
            health=agent.health.status(now),
            usage=agent.usage(),
            socket=agent.socket(),
            peak_memory=_peak_memory(agent_clients),
            client_states=Counter(client.state.value for client in agent_clients),
            activities=tuple(map(_activity, filter(_is_active, agent_clients))),
            own_metrics=tuple(self._registry.collect()),
            backtest=agent.backtest,
            **self._memories,
            rules=agent.alerting.engine.settings.rules,
            alerts=agent.alerting.snapshot,
            alert_states=agent.alerting.counts,
            **details,
        )

    # -- every request ---------------------------------------------------------------

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """Check access, turn exceptions into error responses, and count requests."""
        connection = cast(HttpConnection, request.protocol)
        connection.begin_request()
        try:
            response = await self._check_request(request, handler)
        finally:
            connection.end_request()
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else "other"
        status = str(response.status)
        self.metrics.requests.labels(path, status).add()
        return response

    async def _check_request(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        try:
            self.access.check(request)
            return await handler(request)
        except Problem as error:
            problem = error
        except web.HTTPException as error:
            problem = _translate(request, error)
        except Exception:
            log.exception("request failed", method=request.method, path=request.path)
            problem = Problem(
                500,
                "internal",
                "internal error",
                "the agent's log has the details; please report it",
            )
        self.metrics.refused.labels(problem.code).add()
        response = error_response(problem)
        if problem.code in ("malformed", "http_version"):
            # It is unknown where the next request would begin.
            response.force_close()
        return response

    async def _prepare(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = f"kaywatch/{self._version}"
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        if response.status == web.HTTPExpectationFailed.status_code:
            # aiohttp sends this response before our middleware runs.
            self.metrics.refused.labels("expectation").add()
        if response.content_type == "text/html":
            response.headers["Content-Security-Policy"] = PAGE_POLICY


def _build(
    endpoint: Endpoint, snapshot: AgentSnapshot, argument: Any
) -> EncodedResponse:
    response = endpoint.respond(snapshot, argument)
    if not isinstance(response, EncodedResponse):
        failed = endpoint.is_failure is not None and endpoint.is_failure(response)
        response = json_response(response, 503 if failed else 200)
    return response.compress() if snapshot.gzip else response


def _is_active(client: Client) -> bool:
    is_connected = client.state is ClientState.CONNECTED
    return is_connected and bool(client.in_flight or client.loops)


def _activity(client: Client) -> ClientActivity:
    return ClientActivity(
        client.id,
        client.service,
        client.host,
        client.pid,
        client.in_flight,
        client.loops,
    )


def _peak_memory(known: Iterable[Client]) -> dict[str, int]:
    """Return the largest peak RSS of each service's clients, in bytes."""
    peaks: dict[str, int] = {}
    for client in known:
        peaks[client.service] = max(peaks.get(client.service, 0), client.peak_rss_bytes)
    return peaks


def _accepts_gzip(request: web.Request) -> bool:
    for item in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, quality = item.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return quality.strip("0.") != "" or not quality
    return False


def _translate(request: web.Request, error: web.HTTPException) -> Problem:
    """Return aiohttp's exception as a problem."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        return Problem(
            405,
            "method_not_allowed",
            f"{request.path} does not support {request.method}",
            f"use {allow}",
            {"Allow": allow},
        )
    if error.status == 404:
        similar = closest(request.path, [endpoint.path for endpoint in ENDPOINTS])
        hint = f"{similar} /openapi.json describes all paths".strip()
        return Problem(
            404, "unknown_path", f"unknown path {request.path[:200]!r}", hint
        )
    return Problem(error.status, "http", error.reason)
