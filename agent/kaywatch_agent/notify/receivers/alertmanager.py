"""An Alertmanager, or a cluster of them: told what is, again and again.

It is no consumer of the outbox: what fires is sent every minute to every peer, and is
taken as ended if that stops. So a request that fails is made up for by the next one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import structlog

from kaywatch_agent.model.alerts import AlertDetails, ReceiverRecord
from kaywatch_agent.notify import formatting
from kaywatch_agent.notify.config import AlertmanagerConfig
from kaywatch_agent.notify.http import Http, NoAnswer, redacted
from kaywatch_agent.notify.outbox import OutboxMetrics
from kaywatch_agent.units import parse_duration, rfc3339

__all__ = ["Resender", "batches", "render", "safe_name"]

BATCH: Final = 256  # as Prometheus does
LIFETIMES: Final = 4  # resend intervals until an alert ends that isn't sent again

# An alert that a peer refuses is tried again after this; it may have been changed.
ASIDE_SECONDS: Final = 600.0

log = structlog.get_logger("kaywatch.notify")


class Resender:
    """Keeps an Alertmanager's peers informed."""

    def __init__(
        self,
        config: AlertmanagerConfig,
        http: Http,
        alerts: Callable[[str], Sequence[AlertDetails]],
        metrics: OutboxMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Send nothing yet.

        Args:
            config: the section.
            http: what sends.
            alerts: returns, for a receiver, what fires and, for 15 minutes, what ended.
            metrics: counts attempts.
            clock: Unix seconds.
        """
        self.name = config.name
        self.interval = parse_duration(config.resend_interval)
        self.problems = dict.fromkeys(config.urls, "")  # by peer; empty for none
        self._http = http
        self._alerts = alerts
        self._metrics = metrics
        self._clock = clock
        self._wake = asyncio.Event()
        self._aside: dict[tuple[str, str], float] = {}  # until when, by peer and alert

    def wake(self) -> None:
        """Send soon: something fired or ended."""
        self._wake.set()

    def record(self) -> ReceiverRecord:
        """Return how it does."""
        error = next(filter(None, self.problems.values()), "")
        return ReceiverRecord(
            name=self.name, type="alertmanager", up=not error, error=error
        )

    async def run(self) -> None:
        """Send at every interval, until cancelled."""
        while True:
            self._wake.clear()
            await self.send()
            try:
                async with asyncio.timeout(self.interval):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def send(self) -> None:
        """Tell every peer once; none waits for another."""
        now = self._clock()
        self._aside = {k: until for k, until in self._aside.items() if until > now}
        found = [
            (alert.fingerprint, render(alert, now, self.interval))
            for alert in self._alerts(self.name)
        ]
        await asyncio.gather(*(self._tell(url, found, now) for url in self.problems))
        up = not any(self.problems.values())
        self._metrics.up.labels(self.name).set(up)

    async def _tell(
        self, url: str, found: list[tuple[str, dict[str, Any]]], now: float
    ) -> None:
        told = [pair for pair in found if (url, pair[0]) not in self._aside]
        problem = ""
        for batch in batches(told):
            problem = await self._post(url, [alert for _, alert in batch])
            if problem.startswith("HTTP 4"):
                problem = await self._one_by_one(url, batch, now)
            if problem:
                break
        if problem and problem != self.problems[url]:
            where = redacted(url)
            log.warning(
                "alerts not taken", receiver=self.name, url=where, error=problem
            )
        self.problems[url] = problem

    async def _one_by_one(
        self, url: str, batch: list[tuple[str, dict[str, Any]]], now: float
    ) -> str:
        """Send each alert of a refused batch alone; set aside what is refused then."""
        refused = 0
        problem = ""
        for fingerprint, alert in batch:
            problem = await self._post(url, [alert])
            if problem.startswith("HTTP 4"):
                refused += 1
                self._aside[url, fingerprint] = now + ASIDE_SECONDS
                log.warning(
                    "an alert is refused, and set aside",
                    receiver=self.name,
                    alert=alert["labels"],
                    error=problem,
                )
            elif problem:
                return problem
        # If all are refused it is the peer, or how we see it.
        return problem if refused == len(batch) and refused > 1 else ""

    async def _post(self, url: str, alerts: list[dict[str, Any]]) -> str:
        """Send some alerts; return what was wrong, if anything."""
        try:
            answer = await self._http.post(
                url.rstrip("/") + "/api/v2/alerts",
                msgspec.json.encode(alerts),
                {"Content-Type": "application/json"},
            )
        except NoAnswer as error:
            self._count("none")
            return str(error)
        self._count(str(answer.status))
        if 200 <= answer.status < 300:
            return ""
        return f"HTTP {answer.status}: {answer.text[:200]}"

    def _count(self, code: str) -> None:
        self._metrics.attempts.labels(self.name, code).add()


def render(alert: AlertDetails, now: float, interval: float) -> dict[str, Any]:
    """Return an alert as `POST /api/v2/alerts` takes it.

    Args:
        alert: one that fires or has ended.
        now: Unix seconds.
        interval: seconds until it is sent again.
    """
    annotations = {
        "summary": formatting.summary(alert),
        "description": "\n".join(f"{k}: {v}" for k, v in formatting.facts(alert, now)),
        "runbook_url": alert.runbook_url,
    }
    lasts = now + LIFETIMES * interval
    body = {
        "labels": {safe_name(k): v for k, v in alert.all_labels.items() if v},
        "annotations": {k: v for k, v in annotations.items() if v},
        "startsAt": rfc3339(alert.fired or alert.started or now),
        "endsAt": rfc3339(lasts if alert.ended is None else alert.ended),
    }
    if alert.dashboard_url:
        body["generatorURL"] = alert.dashboard_url
    return body


def safe_name(name: str) -> str:
    """Return a label's name as every Alertmanager takes it."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{name}" if not name or name[0].isdigit() else name


def batches(
    alerts: list[tuple[str, dict[str, Any]]],
) -> list[list[tuple[str, dict[str, Any]]]]:
    """Return alerts in lists of at most `BATCH`."""
    return [alerts[n : n + BATCH] for n in range(0, len(alerts), BATCH)]
