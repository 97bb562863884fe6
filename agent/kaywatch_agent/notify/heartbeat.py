"""Pings a URL while all is well, so that someone else notices when we are gone.

As healthchecks.io takes it, and others: the URL itself, and `/fail` after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config import HeartbeatConfig
from kaywatch_agent.notify.http import Http, NoAnswer
from kaywatch_agent.runtime.metrics import Counter, Metrics
from kaywatch_agent.units import parse_duration

__all__ = ["Heartbeat", "HeartbeatMetrics"]

LEAST_SECONDS: Final = 1.0

log = structlog.get_logger("kaywatch.notify")


class HeartbeatMetrics(Metrics):
    """What is counted of pings."""

    pings = Counter(
        "kaywatch_heartbeats_total",
        "Pings of the heartbeat's URL, by result.",
        labels=("result",),
    )


class Heartbeat:
    """One URL, pinged at an interval."""

    def __init__(
        self,
        config: HeartbeatConfig,
        http: Http,
        healthy: Callable[[], bool],
        metrics: HeartbeatMetrics,
    ) -> None:
        """Ping nothing yet.

        Args:
            config: the section.
            http: what sends.
            healthy: whether rules are evaluated and events are taken in.
            metrics: counts pings, also over a reload.
        """
        self.problem = ""  # of the last ping
        self._interval = max(LEAST_SECONDS, parse_duration(config.interval))
        self._fail = config.fail
        self._target = config.target()
        self._http = http
        self._healthy = healthy
        self._metrics = metrics

    async def run(self) -> None:
        """Ping at every interval, until cancelled; end at once if there is no URL."""
        while self._target is not None:
            await self.ping()
            await asyncio.sleep(self._interval)

    async def ping(self) -> None:
        """Ping once, as things are."""
        healthy = self._healthy()
        if self._target is None or not (healthy or self._fail):
            return
        try:
            url = self._target.read()
            if not healthy:
                address, mark, query = url.partition("?")
                url = f"{address.rstrip('/')}/fail{mark}{query}"
            answer = await self._http.post(url, b"", {})
            fine = 200 <= answer.status < 300
            problem = "" if fine else f"HTTP {answer.status}"
        except (NoAnswer, ConfigError) as error:
            problem = str(error)
        if problem and problem != self.problem:
            log.warning("the heartbeat's URL does not answer", error=problem)
        self.problem = problem
        result = "error" if problem else "ok" if healthy else "fail"
        self._metrics.pings.labels(result).add()
