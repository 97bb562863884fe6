"""HTTP connections: how many, and how long one may take to say what it wants.

Strategy: aiohttp reads requests, and this stands at its door. A connection has so long
for a whole head, from its first byte or, at the beginning, from when it was made; when
there are too many, the one that waits longest for a request goes, and where all are at
work the new one is told to come again.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics
from kaywatch_agent.web.guard.gate import HEADERS
from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.reply import refusal

__all__ = ["KEEPALIVE_SECONDS", "Connection", "Doorway", "HttpMetrics"]

# Longer than the 60 s for which proxies keep theirs.
KEEPALIVE_SECONDS: Final = 75.0

# A head comes in one packet, or a few; a mobile phone on a bad day takes seconds.
HEAD_SECONDS: Final = 10.0

# What is read of a body that nobody asked for, before the connection is closed.
LINGER_SECONDS: Final = 1.0

_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class HttpMetrics(Metrics):
    """What is counted of HTTP."""

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
    connections = Gauge("kaywatch_http_connections", "HTTP connections now.")
    streams = Gauge("kaywatch_stream_clients", "Open event streams.")


class Doorway:
    """Makes a Connection of each that comes; asyncio calls it."""

    def __init__(
        self, server: web.Server, metrics: HttpMetrics, limit: int, **options: Any
    ) -> None:
        """Let nobody in yet.

        Args:
            server: who handles requests.
            metrics: where refusals are counted.
            limit: connections at once.
            **options: for aiohttp's protocol.
        """
        self.head_seconds = HEAD_SECONDS
        self._server = server
        self._metrics = metrics
        self._limit = limit
        self._options = options
        self._inside: dict[Connection, None] = {}  # who waits longest is first
        metrics.connections.set_function(lambda: len(self._inside))

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self, self._server, self._options)

    def enter(self, connection: Connection) -> bool:
        """Count a connection in; return whether there is room for it."""
        if len(self._inside) >= self._limit:
            idle = next((known for known in self._inside if known.idle), None)
            if idle is None:
                self.count("too_many_connections")
                return False
            self.count("idle")
            idle.abort()
            self._inside.pop(idle, None)
        self.stay(connection)
        return True

    def stay(self, connection: Connection) -> None:
        """Put a connection at the end of those that wait."""
        self._inside.pop(connection, None)
        self._inside[connection] = None

    def leave(self, connection: Connection) -> None:
        """Count a connection out."""
        self._inside.pop(connection, None)

    def count(self, reason: str) -> None:
        """Count what was refused."""
        self._metrics.refused.labels(reason).add()


class Connection(web.RequestHandler):
    """One connection: aiohttp's, with a clock and a place in the queue."""

    __slots__ = ("_doorway", "_late", "_let_in", "_wire", "idle")

    def __init__(
        self, doorway: Doorway, server: web.Server, options: dict[str, Any]
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **options)
        self.idle = True  # no request is being answered
        self._doorway = doorway
        self._let_in = False
        self._late: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, if there is room."""
        self._wire = cast(asyncio.Transport, transport)
        self._let_in = self._doorway.enter(self)
        if not self._let_in:
            self._wire.write(_BUSY)
            self._wire.close()
            return
        super().connection_made(transport)
        self._await_head(self._doorway.head_seconds)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; the first of a request start its clock."""
        if not self._let_in:
            return
        if self.idle and self._keeps_alive:
            self._await_head(self._doorway.head_seconds)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        self._stop_clock()
        if self._let_in:
            self._let_in = False
            self._doorway.leave(self)
            super().connection_lost(exc)

    def begin(self) -> None:
        """A request has come, whose answer is being made."""
        self.idle = False
        self._stop_clock()

    def end(self) -> None:
        """It is answered, or there is nobody any more who waits for that."""
        if not self._let_in:
            return
        self.idle = True
        self._doorway.stay(self)
        self._await_head(KEEPALIVE_SECONDS)

    def abort(self) -> None:
        """Hang up, whatever is under way."""
        if self._wire is not None:
            self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, in our words, and hang up."""
        if isinstance(exc, ConnectionError):
            raise exc  # who asked has left: nobody is to be told, and no fault is ours
        # It stumbles itself over text that no UTF-8 can hold, in Expect.
        odd = status == 400 or isinstance(exc, UnicodeError)
        if not odd or request.writer.output_size:
            return super().handle_error(request, status, exc, message)
        problem = Problem(400, "malformed", "this is no HTTP that is understood here")
        if isinstance(exc, LineTooLong):
            problem = Problem(431, "header_too_large", "a line of the head is too long")
        self._doorway.count(problem.code)
        response = refusal(problem)
        response.headers.update(HEADERS)
        response.force_close()
        return response

    # -- inside ----------------------------------------------------------------------

    @property
    def _keeps_alive(self) -> bool:
        """Whether it waits for the first byte of another request."""
        clock = self._late
        if clock is None:
            return True
        left = clock.when() - asyncio.get_running_loop().time()
        return left > self._doorway.head_seconds

    def _await_head(self, seconds: float) -> None:
        self._stop_clock()
        loop = asyncio.get_running_loop()
        self._late = loop.call_later(seconds, self._too_late, seconds)

    def _too_late(self, seconds: float) -> None:
        self._late = None
        if seconds != KEEPALIVE_SECONDS:
            self._doorway.count("slow")
        self.abort()

    def _stop_clock(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
