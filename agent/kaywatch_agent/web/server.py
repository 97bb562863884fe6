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
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from kaywatch_agent.errors import ConfigError, StartError
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.runtime.metrics import MetricsRegistry
from kaywatch_agent.runtime.sockets import SocketFile
from kaywatch_agent.web.api import schema
from kaywatch_agent.web.api.alerts import row
from kaywatch_agent.web.api.events import Events
from kaywatch_agent.web.api.lists import describe, peaks
from kaywatch_agent.web.api.parameters import EventsQuery, parse
from kaywatch_agent.web.config import HttpConfig, is_loopback
from kaywatch_agent.web.guard.bodies import read_body
from kaywatch_agent.web.guard.connections import (
    KEEPALIVE_SECONDS,
    LINGER_SECONDS,
    Connection,
    Doorway,
    HttpMetrics,
)
from kaywatch_agent.web.guard.gate import HEADERS, Gate
from kaywatch_agent.web.guard.tls import Tls
from kaywatch_agent.web.pages.page import PAGE_POLICY
from kaywatch_agent.web.problems import Problem, nearest, not_durable
from kaywatch_agent.web.reading import Letters, Reading
from kaywatch_agent.web.reply import Reply, as_json, refusal, send
from kaywatch_agent.web.routes import ROUTES, Route
from kaywatch_agent.web.stream import Snapshots, Streams
from kaywatch_agent.web.view import AgentView

__all__ = ["HttpConfig", "WebServer", "check"]

# Two threads: each may hold the interpreter for its switch interval of 5 ms, so that
# the loop waits 10 ms for its turn, and not the 160 ms of asyncio's default pool.
THREADS: Final = 2

# Requests that wait for a thread; more are refused with 503 rather than piled up.
MAX_WAITING: Final = 64

# Describing a client takes some 5 us, so the loop is held for 1 ms at a time.
CLIENTS_AT_ONCE: Final = 200

# Encoding an alert takes some 30 us. Of a storm, the rest is a gap in the events' ids.
TURNS_AT_ONCE: Final = 500

# Bytes of a request's first line. Four names of 200 characters, each of which may take
# 12 when percent-encoded, are 9.6 kB; a longer line is refused.
MAX_LINE: Final = 32 * 1024

# Of a head: browsers send some 20 fields, the longest of which are cookies that were
# set by something else on the same host.
MAX_FIELDS: Final = 64
MAX_FIELD: Final = 8 * 1024

# Bytes of a body that are read ahead; MAX_BODY is all that is ever asked for.
READ_AHEAD: Final = 64 * 1024


EXPECTATION_FAILED: Final = 417

# Connections that wait to be accepted.
BACKLOG: Final = 128
HANDSHAKE_SECONDS: Final = 10.0

log = structlog.get_logger("kaywatch.agent")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer:
    """Serves what a source knows."""

    def __init__(
        self, source: AgentView, registry: MetricsRegistry, version: str
    ) -> None:
        self._source = source
        self._registry = registry
        self.metrics = HttpMetrics()
        self._version = version
        self._waiting = 0
        self._pool: ThreadPoolExecutor | None = None
        self._runner: web.AppRunner | None = None
        self._listeners: list[asyncio.Server] = []
        self._socket_file: SocketFile | None = None
        self._tls: Tls | None = None
        self._gate = Gate(HttpConfig())
        self._streams = Streams()
        self.metrics.streams.set_function(lambda: len(self._streams))
        (stream,) = (route for route in ROUTES if "snapshot" in route.events)
        self._snapshots = Snapshots(partial(self._first, stream, stream.parameters()))
        self._events = Events(source.event_stream)

    async def start(
        self, config: HttpConfig, held: Sequence[socket.socket] = ()
    ) -> str:
        """Listen, and return the URL.

        Args:
            config: where to listen, and whom to let in.
            held: sockets that listen already, to be used instead.

        Raises:
            ConfigError: tokens or certificates can't be read.
            StartError: the address is not to be had.
        """
        self.use(config)
        if config.tls:
            self._tls = Tls(config.tls_certificate_file, config.tls_key)
        self._pool = ThreadPoolExecutor(THREADS, "kaywatch-http")
        self._runner = web.AppRunner(self._application(), handle_signals=False)
        await self._runner.setup()
        doorway = Doorway(
            cast(web.Server, self._runner.server),
            self.metrics,
            config.connections,
            access_log=None,
            logger=_quiet_logger(),
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
            read_bufsize=READ_AHEAD,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
            auto_decompress=False,
        )
        self.doorway = doorway
        try:
            self._listeners = await self._listen(config, doorway, held)
        except (OSError, OverflowError) as error:
            await self.stop()
            raise StartError(
                f"http.listen: can't listen on {config.listen}: {error}; choose another"
                " address with --http HOST:PORT"
            ) from None
        return await self._serve(config)

    async def _listen(
        self, config: HttpConfig, doorway: Doorway, held: Sequence[socket.socket]
    ) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        tls = self._tls
        how: dict[str, Any] = {"start_serving": False, "backlog": BACKLOG}
        how["ssl"] = tls.context if tls else None
        if tls:
            how["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        if not held and not config.unix_path:
            return [await loop.create_server(doorway, *config.address, **how)]
        if not held:
            self._socket_file = SocketFile("http.listen", config.unix_path)
            held = [self._socket_file.bind(config.mode, config.group)]
        return [
            await loop.create_unix_server(doorway, sock=one, **how)
            if one.family == socket.AF_UNIX
            else await loop.create_server(doorway, sock=one, **how)
            for one in held
        ]

    async def _serve(self, config: HttpConfig) -> str:
        """Let requests in, once it is known from where they can come."""
        scheme = "https" if config.tls else "http"
        names = [
            one.getsockname() for server in self._listeners for one in server.sockets
        ]
        for name in names:
            try:
                if not isinstance(name, str) and not is_loopback(name[0]):
                    config.refuse_exposure(f"{name[0]}:{name[1]}")
            except ValueError as error:
                await self.stop()
                raise ConfigError("http", str(error)) from None
        for server in self._listeners:
            await server.start_serving()
        if isinstance(names[0], str):
            return f"unix:{names[0]}"
        host, port = names[0][:2]
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def use(self, config: HttpConfig) -> None:
        """Let in whom a configuration names, and read the certificate again.

        Raises:
            ConfigError: the tokens can't be read; all is as before.
        """
        self._gate = Gate(config)
        self._streams.limit = config.streams
        if self._tls is not None:
            self._tls.look(time.monotonic(), force=True)

    async def stop(self) -> None:
        """End the streams, answer what has begun, and close. Idempotent."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        if self._socket_file is not None:
            self._socket_file.remove()
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
        if self._tls is not None:
            self._tls.look(time.monotonic())

    def turned(self, picture: AlertsSnapshot) -> None:
        """Tell those who listen of alerts that went from one state to another."""
        told = picture.alerts[:TURNS_AT_ONCE]
        left_out = len(picture.alerts) - len(told)
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
            query = parse(route.parameters, request.match_info, request.query)
            body = await read_body(request, route.body)
            source = self._source
            changed = change(route.desk(source), source.clock(), query, body)
            if problem := await source.wait_durable():
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

    async def _describe(self) -> tuple[schema.ClientAnswer, ...]:
        """Describe all clients, with turns for others in between."""
        clients = list(self._source.clients())
        found: list[schema.ClientAnswer] = []
        for start in range(0, len(clients), CLIENTS_AT_ONCE):
            part = clients[start : start + CLIENTS_AT_ONCE]
            found += map(describe, part)
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
            socket=source.socket(),
            view=source.view(),  # before `own`: the source measures itself for it
            health=source.health.status(now),
            memory=peaks(clients),
            presence=Counter(client.state.value for client in clients),
            own=tuple(self._registry.collect()),
            picture=source.alerting.snapshot,
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
        """Begin a request, turn what goes wrong into an error answer, and count."""
        connection = cast(Connection, request.protocol)
        connection.begin()
        try:
            response = await self._guarded(request, handler)
        finally:
            connection.end()
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else "other"
        status = str(response.status)
        self.metrics.requests.labels(path, status).add()
        return response

    async def _guarded(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        try:
            self._gate.check(request)
            return await handler(request)
        except Problem as found:
            problem = found
        except web.HTTPException as error:
            problem = _translated(request, error)
        except Exception:
            log.exception("request failed", method=request.method, path=request.path)
            problem = Problem(
                500,
                "internal",
                "the agent failed to answer",
                "its log has more; please report it",
            )
        self.metrics.refused.labels(problem.code).add()
        response = refusal(problem)
        if problem.code in ("malformed", "http_version"):
            # What comes after it may be anything.
            response.force_close()
        return response

    async def _prepare(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = f"kaywatch/{self._version}"
        response.headers.update(HEADERS)
        if response.status == EXPECTATION_FAILED:
            # aiohttp says so before anybody else is asked.
            self.metrics.refused.labels("expectation").add()
        if response.content_type == "text/html":
            response.headers["Content-Security-Policy"] = PAGE_POLICY


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


def check(config: HttpConfig) -> None:
    """Read tokens and certificates once, to complain before the start.

    Raises:
        ConfigError: they can't be used.
    """
    Gate(config)
    if config.tls:
        Tls(config.tls_certificate_file, config.tls_key)
