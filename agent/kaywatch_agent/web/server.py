"""The HTTP server: requests in, answers out; what they say is made elsewhere.

Strategy: in the loop, a request's parameters are checked and a Reading is taken; the
answer is made from it by a pure function in a thread of a small pool, and sent in
slices. So no answer, however large, holds up the socket that clients push to.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from kaywatch_agent.aggregate.aggregator import View
from kaywatch_agent.aggregate.clients import Client
from kaywatch_agent.errors import StartError
from kaywatch_agent.feed import Feed
from kaywatch_agent.health import Health
from kaywatch_agent.rules.picture import Picture
from kaywatch_agent.telemetry import Telemetry
from kaywatch_agent.web import schema
from kaywatch_agent.web.alerts import row
from kaywatch_agent.web.bodies import read_body, refuse_other_sites
from kaywatch_agent.web.events import Events
from kaywatch_agent.web.lists import describe, peaks
from kaywatch_agent.web.notifications import Post
from kaywatch_agent.web.parameters import EventsQuery, parse
from kaywatch_agent.web.problems import Problem, nearest, not_durable
from kaywatch_agent.web.reading import Letters, Reading
from kaywatch_agent.web.reply import Reply, as_json, refusal, send
from kaywatch_agent.web.routes import ROUTES, Route
from kaywatch_agent.web.silences import Desk
from kaywatch_agent.web.stream import Snapshots, Streams

__all__ = ["HttpConfig", "Source", "WebServer"]

# Two threads: each may hold the interpreter for its switch interval of 5 ms, so that
# the loop waits 10 ms for its turn, and not the 160 ms of asyncio's default pool.
THREADS: Final = 2

# Requests that wait for a thread; more are refused with 503 rather than piled up.
MAX_WAITING: Final = 64

# Describing a client takes some 5 us, so the loop is held for 1 ms at a time.
CLIENTS_AT_ONCE: Final = 200

# Encoding an alert takes some 30 us. Of a storm, the rest is a gap in the events' ids.
TURNS_AT_ONCE: Final = 500

MAX_PORT: Final = 65_535

# Bytes of a request's first line. Four names of 200 characters, each of which may take
# 12 when percent-encoded, are 9.6 kB; a longer line is refused, and not in JSON.
MAX_LINE: Final = 32 * 1024

# For what is being answered when the agent stops.
SHUTDOWN_SECONDS: Final = 1.0

log = structlog.get_logger("kaywatch.agent")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclasses.dataclass(frozen=True)
class HttpConfig:
    """Where HTTP is served (`[http]`).

    Attributes:
        listen: `host:port`; port 0 takes a free one. An IPv6 host is in brackets.
    """

    listen: str = "127.0.0.1:9477"

    def __post_init__(self) -> None:
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isascii() or not port.isdigit():
            raise ValueError(
                f'listen = "{self.listen}": expected host:port, as "127.0.0.1:9477"'
            )
        if int(port) > MAX_PORT:
            raise ValueError(f"listen: port {port} is over {MAX_PORT}")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


class Source(Protocol):
    """What this stage needs of the agent; called in the loop only."""

    @property
    def health(self) -> Health:
        """The stages' readiness."""

    @property
    def feed(self) -> Feed:
        """Single events, for those who listen."""

    def view(self) -> View:
        """Return a picture of everything aggregated."""

    def clients(self) -> Iterable[Client]:
        """Return the clients known."""

    def clock(self) -> float:
        """Return Unix seconds."""

    async def kept(self) -> str:
        """Wait until all that was changed is durable; return why it isn't, if so."""

    @property
    def alerting(self) -> Desk:
        """Alerts and silences."""

    @property
    def delivery(self) -> Post:
        """Messages and receivers."""


class WebServer:
    """Serves what a source knows."""

    def __init__(self, source: Source, telemetry: Telemetry, version: str) -> None:
        self._source = source
        self._telemetry = telemetry
        self._version = version
        self._waiting = 0
        self._pool: ThreadPoolExecutor | None = None
        self._runner: web.AppRunner | None = None
        self._streams = Streams(telemetry)
        (stream,) = (route for route in ROUTES if "snapshot" in route.events)
        self._snapshots = Snapshots(partial(self._first, stream, stream.parameters()))
        self._events = Events(source.feed, telemetry)

    async def start(
        self, host: str, port: int, held: Sequence[socket.socket] = ()
    ) -> tuple[str, int]:
        """Listen, and return the host and the actual port.

        Args:
            host: where to listen.
            port: 0 for a free one.
            held: sockets that listen already, to be used instead.

        Raises:
            StartError: if the address is not to be had.
        """
        self._pool = ThreadPoolExecutor(THREADS, "kaywatch-http")
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            logger=_quiet_logger(),
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
            max_line_size=MAX_LINE,
        )
        await self._runner.setup()
        sites: list[web.BaseSite] = [web.SockSite(self._runner, s) for s in held]
        try:
            for site in sites or [web.TCPSite(self._runner, host, port)]:
                await site.start()
        except (OSError, OverflowError) as error:
            await self.stop()
            raise StartError(
                f"http.listen: can't listen on {host}:{port}: {error}; choose another"
                " address with --http HOST:PORT"
            ) from None
        actual = self._runner.addresses[0]
        return actual[0], actual[1]

    async def stop(self) -> None:
        """End the streams, answer what has begun, and close. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await self._snapshots.close()
            await self._streams.close()
            await runner.cleanup()
        pool, self._pool = self._pool, None
        if pool is not None:
            # In a thread, since it waits for the answers that are being made.
            await asyncio.to_thread(pool.shutdown)

    def publish(self) -> None:
        """Send the present state to those who listen; called after each tick."""
        self._snapshots.publish()

    def turned(self, picture: Picture) -> None:
        """Tell those who listen of alerts that went from one state to another."""
        told = picture.instances[:TURNS_AT_ONCE]
        left_out = len(picture.instances) - len(told)
        self._snapshots.tell("alert", (row(picture, i) for i in told), left_out)

    # -- a request -------------------------------------------------------------------

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard])
        for route in ROUTES:
            # A name may hold anything but a slash, which comes percent-encoded.
            path = route.path.replace("}", ":[^/]+}")
            if route.method == "GET":
                application.router.add_get(path, self._handler(route))
            elif route.change is not None:
                changing = self._changing(route, route.change)
                application.router.add_route(route.method, path, changing)
        application.on_response_prepare.append(self._prepare)
        return application

    def _handler(self, route: Route) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            query = parse(route.parameters, request.match_info, request.query)
            if route.events:
                return await self._stream(route, request, query)
            return await send(request, await self._answer(route, request, query))

        return handle

    def _changing(
        self, route: Route, change: Callable[[Any, float, Any, Any], Struct]
    ) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            refuse_other_sites(request)
            query = parse(route.parameters, request.match_info, request.query)
            body = await read_body(request, route.body)
            source = self._source
            desk = getattr(source, route.desk)
            changed = change(desk, source.clock(), query, body)
            if problem := await source.kept():
                raise not_durable(problem, getattr(changed, "id", ""))
            return await send(request, await self._answer(route, request, changed))

        return handle

    async def _stream(
        self, route: Route, request: web.Request, query: Any
    ) -> web.StreamResponse:
        if isinstance(query, EventsQuery):
            opening = self._events.reader(query, await self._first(route, query))
        else:
            opening = self._snapshots.reader()
        with opening as reader:
            return await self._streams.serve(request, reader, query.limit)

    async def _answer(self, route: Route, request: web.Request, query: Any) -> Reply:
        described = await self._describe() if route.clients else ()
        reading = dataclasses.replace(
            self._read(),
            clients=described,
            letters=self._letters() if route.letters else Letters(),
            accept=",".join(request.headers.getall("Accept", ())),
            gzip=_takes_gzip(request),
        )
        make = partial(_make, route, reading, query)
        return make() if route.inline else await self._in_thread(make)

    def _letters(self) -> Letters:
        post = self._source.delivery
        return Letters(post.messages(), tuple(post.receivers()))

    async def _describe(self) -> tuple[schema.Client, ...]:
        """Describe all clients, with turns for others in between."""
        now = self._source.clock()
        clients = list(self._source.clients())
        found: list[schema.Client] = []
        for start in range(0, len(clients), CLIENTS_AT_ONCE):
            part = clients[start : start + CLIENTS_AT_ONCE]
            found += [describe(client, now) for client in part]
            await asyncio.sleep(0)
        return tuple(found)

    def _read(self) -> Reading:
        """Take a picture of everything that an answer may need."""
        source = self._source
        now = source.clock()
        clients = list(source.clients())
        return Reading(
            now=now,
            started=source.health.started,
            version=self._version,
            view=source.view(),  # before `own`: the source measures itself for it
            health=source.health.status(now),
            memory=peaks(clients),
            presence=Counter(client.state.value for client in clients),
            own=tuple(self._telemetry.collect()),
            picture=source.alerting.picture,
            alerts=source.alerting.counts,
        )

    async def _first(self, route: Route, query: Any) -> bytes:
        """Return the data of a stream's first event."""
        make = partial(_make, route, self._read(), query)
        reply = await self._in_thread(make)
        return b"".join(reply.chunks)

    async def _in_thread(self, make: Callable[[], Reply]) -> Reply:
        if self._waiting >= MAX_WAITING or self._pool is None:
            raise Problem(
                503,
                "busy",
                f"{self._waiting} requests are waiting for their answer",
                "try again; ask for less, or less often",
                {"Retry-After": "1"},
            )
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, make)
        finally:
            self._waiting -= 1

    # -- around every request --------------------------------------------------------

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """Turn whatever goes wrong into an error answer, and count."""
        try:
            response = await handler(request)
        except Problem as problem:
            response = refusal(problem)
        except web.HTTPException as error:
            response = refusal(_translated(request, error))
        except Exception:
            log.exception("request failed", method=request.method, path=request.path)
            response = refusal(
                Problem(
                    500,
                    "internal",
                    "the agent failed to answer",
                    "its log has more; please report it",
                )
            )
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else "other"
        status = str(response.status)
        self._telemetry.add("kaywatch_http_requests_total", 1, path, status)
        return response

    async def _prepare(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = f"kaywatch/{self._version}"
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"


def _quiet_logger() -> logging.Logger:
    """Return aiohttp's log without what isn't HTTP: that is answered with 400."""
    logger = logging.getLogger("kaywatch.agent.http")
    logger.filters = [_is_ours]
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


def _make(route: Route, reading: Reading, query: Any) -> Reply:
    answer = route.answer(reading, query)
    reply = answer if isinstance(answer, Reply) else as_json(answer)
    return reply.compressed() if reading.gzip else reply


def _takes_gzip(request: web.Request) -> bool:
    for item in request.headers.get("Accept-Encoding", "").lower().split(","):
        coding, _, quality = item.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return quality.strip("0.") != "" or not quality
    return False


def _translated(request: web.Request, error: web.HTTPException) -> Problem:
    """Return what aiohttp raises in our words."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        return Problem(
            405,
            "method_not_allowed",
            f"{request.method} is not for {request.path}",
            f"use {allow}",
            {"Allow": allow},
        )
    if error.status == 404:
        near = nearest(request.path, [route.path for route in ROUTES])
        hint = f"{near} /openapi.json describes all paths".strip()
        return Problem(404, "unknown_path", f"no path {request.path[:200]!r}", hint)
    return Problem(error.status, "http", error.reason)
