"""Sends all current alerts to an Alertmanager, or to a cluster of them, at an interval.

The outbox is not used. Firing alerts are sent to each peer every minute, and an
Alertmanager resolves an alert that it is no longer sent. After a failed request, the
next one has the same effect, so there are no retries.
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
from kaywatch_agent.notify.http import HttpClient, NoResponse, redact_url
from kaywatch_agent.notify.metrics import OutboxMetrics
from kaywatch_agent.notify.result import judge_status
from kaywatch_agent.units import parse_duration, rfc3339

__all__ = ["AlertmanagerSender", "render", "safe_name"]

BATCH: Final = 256  # the batch size of Prometheus
LIFETIME_INTERVALS: Final = 4  # after these, an alert that is not sent again ends

# A rejected alert is sent again after this time, because it may have changed.
REJECTED_SECONDS: Final = 600.0

# A resolved alert is sent for this time, as Prometheus does.
ENDED_SECONDS: Final = 900.0

log = structlog.get_logger("kaywatch.notify")

# An alert's fingerprint and body.
_Rendered = tuple[str, dict[str, Any]]


class AlertmanagerSender:
    """Sends the current alerts to all peers of an Alertmanager."""

    def __init__(
        self,
        config: AlertmanagerConfig,
        http: HttpClient,
        alerts: Callable[[str], Sequence[AlertDetails]],
        metrics: OutboxMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Send nothing yet.

        Args:
            config: the section of the configuration.
            http: sends the requests.
            alerts: returns a receiver's firing alerts, and alerts that ended in the
                last 15 minutes.
            metrics: counts attempts.
            clock: returns Unix seconds.
        """
        self.name = config.name
        self.interval = parse_duration(config.resend_interval)
        # By peer; empty for none.
        self.errors = dict.fromkeys(config.urls_to_reach(), "")
        self._http = http
        self._alerts = alerts
        self._metrics = metrics
        self._clock = clock
        self._wake = asyncio.Event()
        # When rejected alerts are sent again, by peer and fingerprint.
        self._rejected: dict[tuple[str, str], float] = {}
        self._config = config
        self._labels = _LabelHistory()
        self._attempted = False

    def wake(self) -> None:
        """Send soon: an alert fired or ended."""
        self._wake.set()

    def record(self) -> ReceiverRecord:
        """Return the receiver's state."""
        error = next(filter(None, self.errors.values()), "")
        up = not error if self._attempted else None
        return ReceiverRecord(name=self.name, type="alertmanager", up=up, error=error)

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
        """Send to every peer once, concurrently."""
        now = self._clock()
        self._rejected = {k: at for k, at in self._rejected.items() if at > now}
        alerts = self._alerts(self.name)
        rendered = [
            (
                alert.fingerprint,
                render(self._without_hidden_texts(alert), now, self.interval),
            )
            for alert in [*alerts, *self._labels.previous_forms(alerts, now)]
        ]
        if not rendered and not any(self.errors.values()):
            return
        await asyncio.gather(*(self._send_all(url, rendered) for url in self.errors))
        self._attempted = True

    def _without_hidden_texts(self, alert: AlertDetails) -> AlertDetails:
        return (
            alert if self._config.error_text else formatting.without_error_texts(alert)
        )

    async def _send_all(self, url: str, rendered: list[_Rendered]) -> None:
        alerts = [pair for pair in rendered if (url, pair[0]) not in self._rejected]
        error = ""
        for start in range(0, len(alerts), BATCH):
            batch = alerts[start : start + BATCH]
            error = await self._post(url, [body for _, body in batch])
            if error.startswith("HTTP 4"):
                error = await self._send_each(url, batch)
            if error:
                break
        if error and error != self.errors[url]:
            log.warning(
                "Alertmanager did not accept the alerts",
                receiver=self.name,
                url=redact_url(url),
                error=error,
            )
        self.errors[url] = error

    async def _send_each(self, url: str, batch: list[_Rendered]) -> str:
        """Send the alerts of a rejected batch one by one; return the peer's error."""
        rejected = 0
        error = ""
        for fingerprint, body in batch:
            error = await self._post(url, [body])
            if error.startswith("HTTP 4"):
                rejected += 1
                self._rejected[url, fingerprint] = self._clock() + REJECTED_SECONDS
                log.warning(
                    "Alertmanager rejected an alert; sending it again later",
                    receiver=self.name,
                    alert=body["labels"],
                    error=error,
                )
            elif error:
                return error
        # If all are rejected, the peer is at fault or its URL is wrong.
        return error if rejected == len(batch) and rejected > 1 else ""

    async def _post(self, url: str, bodies: list[dict[str, Any]]) -> str:
        """Send some alerts; return the error, empty for none."""
        attempts = self._metrics.attempts
        try:
            response = await self._http.post(
                url + "/api/v2/alerts",
                msgspec.json.encode(bodies),
                options=self._config.request_options(),
            )
        except NoResponse as error:
            attempts.labels(self.name, "none").add()
            return str(error)
        attempts.labels(self.name, str(response.status)).add()
        text = response.text[:200]
        return judge_status(
            response.status, response.headers, text, self._clock()
        ).error


class _LabelHistory:
    """Resolves an alert under its previous labels after its labels have changed.

    An Alertmanager identifies alerts by their labels, and the severity is a label. If
    it changes while an alert fires, the alert with the old severity would otherwise
    stay open until it expires.
    """

    def __init__(self) -> None:
        self._last: dict[str, AlertDetails] = {}  # by dedup key
        self._ended: dict[str, AlertDetails] = {}  # by fingerprint

    def previous_forms(
        self, alerts: Sequence[AlertDetails], now: float
    ) -> list[AlertDetails]:
        """Return the alerts with previous labels, which are to be sent as resolved."""
        current = {alert.fingerprint for alert in alerts}
        for alert in alerts:
            before = self._last.get(alert.dedup_key)
            if before is not None and before.fingerprint != alert.fingerprint:
                over = msgspec.structs.replace(before, ended=now, resolved=True)
                self._ended[before.fingerprint] = over
        self._last = {alert.dedup_key: alert for alert in alerts}
        self._ended = {
            name: alert
            for name, alert in self._ended.items()
            if name not in current and now - (alert.ended or now) < ENDED_SECONDS
        }
        return list(self._ended.values())


def render(alert: AlertDetails, now: float, interval: float) -> dict[str, Any]:
    """Return an alert as `POST /api/v2/alerts` accepts it.

    Args:
        alert: a firing or resolved alert.
        now: Unix seconds.
        interval: seconds until the alert is sent again.
    """
    facts = formatting.facts(alert, now)
    annotations = {
        "summary": formatting.summary(alert),
        "description": "\n".join(f"{name}: {text}" for name, text in facts),
        "runbook_url": alert.runbook_url,
    }
    expires = now + LIFETIME_INTERVALS * interval
    body = {
        "labels": {safe_name(k): v for k, v in alert.all_labels.items() if v},
        "annotations": {k: v for k, v in annotations.items() if v},
        "startsAt": rfc3339(alert.fired or alert.started or now),
        "endsAt": rfc3339(expires if alert.ended is None else alert.ended),
    }
    if alert.dashboard_url:
        body["generatorURL"] = alert.dashboard_url
    return body


def safe_name(name: str) -> str:
    """Return a label name that every version of Alertmanager accepts."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{name}" if not name or name[0].isdigit() else name
