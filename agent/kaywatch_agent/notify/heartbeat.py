"""Pings a URL while the agent is healthy, so that its absence is noticed elsewhere.

As healthchecks.io and others expect it: the URL itself, or `/fail` below it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config import HeartbeatConfig
from kaywatch_agent.notify.http import HttpClient, NoResponse
from kaywatch_agent.notify.metrics import HeartbeatMetrics
from kaywatch_agent.notify.result import judge_status
from kaywatch_agent.units import parse_duration

__all__ = ["Heartbeat"]


log = structlog.get_logger("kaywatch.notify")


class Heartbeat:
    """Pings one URL at an interval."""

    def __init__(
        self,
        config: HeartbeatConfig,
        http: HttpClient,
        healthy: Callable[[], bool],
        metrics: HeartbeatMetrics,
    ) -> None:
        """Ping nothing yet.

        Args:
            config: the section of the configuration.
            http: sends the pings.
            healthy: returns whether rules are evaluated and events are processed.
            metrics: counts pings, over reloads as well.
        """
        self.error = ""  # of the last ping
        self._interval = parse_duration(config.interval)
        self._fail = config.fail
        self._url = config.url
        self._method = config.method
        self._options = config.request_options()
        self._http = http
        self._healthy = healthy
        self._metrics = metrics

    async def run(self) -> None:
        """Ping at every interval until cancelled; return at once if there is no URL."""
        while self._url is not None:
            await self.ping()
            await asyncio.sleep(self._interval)

    async def ping(self) -> None:
        """Ping once, with the current health."""
        healthy = self._healthy()
        if self._url is None or not (healthy or self._fail):
            return
        try:
            url = self._url.read()
            if not healthy:
                address, mark, query = url.partition("?")
                url = f"{address.rstrip('/')}/fail{mark}{query}"
            response = await self._http.post(
                url, b"", options=self._options, method=self._method
            )
            error = judge_status(response.status, response.headers, "", now=0.0).error
        except (NoResponse, ConfigError) as failure:
            error = str(failure)
        if error and error != self.error:
            log.warning("heartbeat failed", error=error)
        self.error = error
        result = "error" if error else "ok" if healthy else "fail"
        self._metrics.pings.labels(result).add()
