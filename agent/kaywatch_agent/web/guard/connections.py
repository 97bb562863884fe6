"""Limits on HTTP connections: their number, and the time until a complete request head.

Strategy: aiohttp parses requests. A connection has a deadline for each complete head,
counted from its first byte, or for the first request from the connection's start. At
the maximum, the connection that has been idle longest is closed in favour of a new one;
if none is idle, the new one gets 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics
from kaywatch_agent.web.guard.access import SECURITY_HEADERS
from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.responses import error_response

__all__ = ["KEEPALIVE_SECONDS", "ConnectionLimiter", "HttpConnection", "HttpMetrics"]

# Longer than the 60 s for which proxies keep idle connections open.
KEEPALIVE_SECONDS: Final = 75.0

# A head arrives in one or a few packets; over a bad mobile network within seconds.
HEAD_SECONDS: Final = 10.0

_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class HttpMetrics(Metrics):
    """Metrics of the HTTP server."""

    requests = Counter(
        "kaywatch_http_requests_total",
        "HTTP requests answered, by path template and status.",
        labels=("path", "status"),
    )
    refused = Counter(
        "kaywatch_http_refused_total",
        "HTTP requests and connections refused, by the code of the error.",
        labels=("reason",),
    )
    connections = Gauge("kaywatch_http_connections", "Open HTTP connections.")
    streams = Gauge("kaywatch_stream_clients", "Open event streams.")


class ConnectionLimiter:
    """Creates the protocol of each new connection, and limits their number."""

    def __init__(
        self, server: web.Server, metrics: HttpMetrics, limit: int, **options: Any
    ) -> None:
        """Start without connections.

        Args:
            server: handles requests.
            metrics: where refusals are counted.
            limit: the maximum number of connections.
            **options: for aiohttp's protocol.
        """
        self.head_seconds = HEAD_SECONDS
        self._server = server
        self._metrics = metrics
        self._limit = limit
        self._options = options
        # Sorted by the end of the last request: the one that is idle longest is first.
        self._connections: dict[HttpConnection, None] = {}
        metrics.connections.set_function(lambda: len(self._connections))

    def __call__(self) -> HttpConnection:
        """Return the protocol of a new connection."""
        return HttpConnection(self, self._server, self._options)

    def admit(self, connection: HttpConnection) -> bool:
        """Add a connection; return whether there is room for it."""
        if len(self._connections) >= self._limit:
            idle = next(
                (candidate for candidate in self._connections if candidate.idle), None
            )
            if idle is None:
                self.count("too_many_connections")
                return False
            self.count("idle")
            idle.abort()
            self._connections.pop(idle, None)
        self.move_to_end(connection)
        return True

    def move_to_end(self, connection: HttpConnection) -> None:
        """Mark a connection as used most recently."""
        self._connections.pop(connection, None)
        self._connections[connection] = None

    def remove(self, connection: HttpConnection) -> None:
        """Remove a closed connection."""
        self._connections.pop(connection, None)

    def count(self, reason: str) -> None:
        """Count a refused request or connection."""
        self._metrics.refused.labels(reason).add()


class HttpConnection(web.RequestHandler):
    """aiohttp's protocol of one connection, with a deadline for each request head."""

    __slots__ = (
        "_admitted",
        "_deadline",
        "_limiter",
        "_raw_transport",
        "idle",
        "on_lost",
    )

    def __init__(
        self, limiter: ConnectionLimiter, server: web.Server, options: dict[str, Any]
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **options)
        self.idle = True  # no request is being answered
        self.on_lost: Callable[[], None] | None = None
        self._limiter = limiter
        self._admitted = False
        self._deadline: asyncio.TimerHandle | None = None
        self._raw_transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start reading, if there is room for the connection."""
        self._raw_transport = cast(asyncio.Transport, transport)
        self._admitted = self._limiter.admit(self)
        if not self._admitted:
            self._raw_transport.write(_BUSY)
            self._raw_transport.close()
            return
        super().connection_made(transport)
        self._set_deadline(self._limiter.head_seconds)

    def data_received(self, data: bytes) -> None:
        """Parse bytes; the first ones of a request start its deadline."""
        if not self._admitted:
            return
        if self.idle and self._awaits_first_byte:
            self._set_deadline(self._limiter.head_seconds)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remove the connection."""
        self._clear_deadline()
        if self._admitted:
            self._admitted = False
            self._limiter.remove(self)
            super().connection_lost(exc)
            # Without this, a handler would only notice when it writes.
            if self.on_lost is not None:
                self.on_lost()

    def begin_request(self) -> None:
        """Note that a request is complete and is being answered."""
        self.idle = False
        self._clear_deadline()

    def end_request(self) -> None:
        """Note that the request was answered, or that the client left before."""
        if not self._admitted:
            return
        self.idle = True
        self._limiter.move_to_end(self)
        self._set_deadline(KEEPALIVE_SECONDS)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._raw_transport is not None:
            self._raw_transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to invalid HTTP with our error format, and close the connection."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client left: no response is possible, and no log needed
        # aiohttp itself fails on an Expect header with text that is not UTF-8.
        malformed = status == 400 or isinstance(exc, UnicodeError)
        if not malformed or request.writer.output_size:
            return super().handle_error(request, status, exc, message)
        problem = Problem(400, "malformed", "the request is not valid HTTP")
        if isinstance(exc, LineTooLong):
            text = "a line of the request head is too long"
            problem = Problem(431, "header_too_large", text)
        self._limiter.count(problem.code)
        response = error_response(problem)
        response.headers.update(SECURITY_HEADERS)
        response.force_close()
        return response

    # -- inside ----------------------------------------------------------------------

    @property
    def _awaits_first_byte(self) -> bool:
        """Whether no byte of the next request has arrived: its deadline is far away."""
        deadline = self._deadline
        if deadline is None:
            return True
        remaining = deadline.when() - asyncio.get_running_loop().time()
        return remaining > self._limiter.head_seconds

    def _set_deadline(self, seconds: float) -> None:
        self._clear_deadline()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(seconds, self._expire, seconds)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self, seconds: float) -> None:
        self._deadline = None
        if seconds != KEEPALIVE_SECONDS:
            self._limiter.count("slow")
        self.abort()
