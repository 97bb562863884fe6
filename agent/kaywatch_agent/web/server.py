"""The HTTP server: listens on addresses, and starts and stops its components."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from kaywatch_agent.errors import ConfigError, StartError
from kaywatch_agent.runtime.metrics import MetricsRegistry
from kaywatch_agent.runtime.sockets import SocketFile
from kaywatch_agent.web.application import WebApplication
from kaywatch_agent.web.config import HttpConfig, is_loopback
from kaywatch_agent.web.guard.access import AccessControl
from kaywatch_agent.web.guard.connections import KEEPALIVE_SECONDS, ConnectionLimiter
from kaywatch_agent.web.guard.tls import Tls
from kaywatch_agent.web.view import AgentView

__all__ = ["WebServer"]

# Bytes of a request's first line. Four names of 200 characters, each of which takes up
# to 12 bytes when percent-encoded, are 9.6 kB.
MAX_LINE: Final = 32 * 1024

# Browsers send some 20 header fields. The longest are cookies that other programs on
# the same host have set.
MAX_FIELDS: Final = 64
MAX_FIELD: Final = 8 * 1024

# Bytes of a body that are read ahead; no endpoint reads more than MAX_BODY.
READ_AHEAD: Final = 64 * 1024

# How long an unread body is read before the connection is closed.
LINGER_SECONDS: Final = 1.0

# Connections that wait to be accepted.
BACKLOG: Final = 128
HANDSHAKE_SECONDS: Final = 10.0


class WebServer:
    """Serves an agent over HTTP.

    Attributes:
        application: responds to requests.
        metrics: of the HTTP server.
        limiter: limits connections; available once started.
    """

    limiter: ConnectionLimiter

    def __init__(
        self, agent: AgentView, registry: MetricsRegistry, version: str
    ) -> None:
        self.application = WebApplication(agent, registry, version)
        self.metrics = self.application.metrics
        self._runner: web.AppRunner | None = None
        self._listeners: list[asyncio.Server] = []
        self._socket_file: SocketFile | None = None
        self._tls: Tls | None = None

    async def start(
        self, config: HttpConfig, sockets: Sequence[socket.socket] = ()
    ) -> str:
        """Listen, and return the URL.

        Args:
            config: where to listen, and access rules.
            sockets: listening sockets to use instead.

        Raises:
            ConfigError: tokens or certificates cannot be read.
            StartError: the address cannot be used.
        """
        self.use(config)
        if config.tls:
            self._tls = Tls(config.tls_certificate_file, config.tls_key)
        self.application.workers.start()
        self._runner = web.AppRunner(self.application.build(), handle_signals=False)
        await self._runner.setup()
        self.limiter = self._connection_limiter(self._runner, config)
        try:
            self._listeners = await self._listen(config, sockets)
        except (OSError, OverflowError) as error:
            await self.stop()
            raise StartError(
                f"http.listen: cannot listen on {config.listen}: {error}; choose"
                " another address with --http HOST:PORT"
            ) from None
        return await self._serve(config)

    def use(self, config: HttpConfig) -> None:
        """Apply new access rules, and reload the certificate; connections stay open.

        Raises:
            ConfigError: the tokens cannot be read; nothing has changed.
        """
        self.application.access = AccessControl(config)
        self.application.streams.limit = config.streams
        self.application.classic_histograms = config.classic_histograms
        if self._tls is not None:
            self._tls.refresh(time.monotonic(), force=True)

    async def stop(self) -> None:
        """End the streams, finish requests in progress, and close. Idempotent."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        if self._socket_file is not None:
            self._socket_file.remove()
        runner, self._runner = self._runner, None
        if runner is not None:
            await self.application.feeds.close()
            await self.application.streams.close()
            await runner.cleanup()
        await self.application.workers.stop()

    def publish(self) -> None:
        """Send changes to subscribers; called after each tick."""
        self.application.publish()
        if self._tls is not None:
            self._tls.refresh(time.monotonic())

    # -- inside ----------------------------------------------------------------------

    def _connection_limiter(
        self, runner: web.AppRunner, config: HttpConfig
    ) -> ConnectionLimiter:
        return ConnectionLimiter(
            cast(web.Server, runner.server),
            self.metrics,
            config.connections,
            access_log=None,
            logger=_logger(),
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
            read_bufsize=READ_AHEAD,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
            auto_decompress=False,
        )

    async def _listen(
        self, config: HttpConfig, sockets: Sequence[socket.socket]
    ) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"start_serving": False, "backlog": BACKLOG}
        if self._tls is not None:
            options["ssl"] = self._tls.context
            options["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        if not sockets and not config.unix_path:
            return [await loop.create_server(self.limiter, *config.address, **options)]
        if not sockets:
            self._socket_file = SocketFile("http.listen", config.unix_path)
            sockets = [self._socket_file.bind(config.mode, config.group)]
        return [
            await loop.create_unix_server(self.limiter, sock=one, **options)
            if one.family == socket.AF_UNIX
            else await loop.create_server(self.limiter, sock=one, **options)
            for one in sockets
        ]

    async def _serve(self, config: HttpConfig) -> str:
        """Accept connections, once the real addresses are known to be allowed."""
        names = [
            one.getsockname() for server in self._listeners for one in server.sockets
        ]
        for name in names:
            try:
                if not isinstance(name, str) and not is_loopback(name[0]):
                    config.check_exposure(f"{name[0]}:{name[1]}")
            except ValueError as error:
                await self.stop()
                raise ConfigError("http", str(error)) from None
        for server in self._listeners:
            await server.start_serving()
        if isinstance(names[0], str):
            return f"unix:{names[0]}"
        scheme = "https" if config.tls else "http"
        host, port = names[0][:2]
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _logger() -> logging.Logger:
    """Return aiohttp's logger without invalid HTTP, which is answered with 400."""
    logger = logging.getLogger("kaywatch.agent.http")
    logger.filters = [_is_no_protocol_error]
    return logger


def _is_no_protocol_error(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)
