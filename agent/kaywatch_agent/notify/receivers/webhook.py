"""A webhook: JSON to a URL, in our own form or an Alertmanager's, signed.

Signatures: https://www.standardwebhooks.com, or GitHub's X-Hub-Signature-256. What is
signed are the bytes that are sent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Any, Final

import msgspec

from kaywatch._version import __version__
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import (
    AlertDetails,
    Evidence,
    Notification,
    NotificationKind,
)
from kaywatch_agent.notify import formatting
from kaywatch_agent.notify.config import WebhookConfig
from kaywatch_agent.notify.http import Http
from kaywatch_agent.notify.result import DeliveryResult, Outcome, judge_status
from kaywatch_agent.units import rfc3339

__all__ = [
    "Webhook",
    "alertmanager_body",
    "native_body",
    "sign_github",
    "sign_standard",
]

# What an Alertmanager, written in Go, has for a time that there isn't.
ZERO_TIME: Final = "0001-01-01T00:00:00Z"
WHSEC: Final = "whsec_"


class Webhook:
    """Sends to one URL."""

    def __init__(self, config: WebhookConfig, http: Http) -> None:
        self._config = config
        self._http = http

    def render(self, notification: Notification, now: float) -> dict[str, Any]:
        """Return a body of the format that is set."""
        if self._config.format == "alertmanager":
            return alertmanager_body(notification, self._config.external_url)
        return native_body(notification, now)

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Send a message; any 2xx is success."""
        url = self._config.need("url").read()
        body = msgspec.json.encode(self.render(notification, now))
        secrets: tuple[str, ...] = ()
        headers = {
            "Content-Type": "application/json",
            # A string of RFC 8941, hence the quotes.
            "Idempotency-Key": f'"{notification.id}"',
        }
        if self._config.signature != "none":
            key = self._config.need("secret").read()
            secrets = (key,)
            headers |= sign(self._config, key, notification.id, body, now)
        answer = await self._http.post(url, body, headers, secrets=secrets)
        return judge_status(
            answer.status, answer.headers, answer.text, now, gone=Outcome.GONE
        )


def sign(
    config: WebhookConfig, key: str, row_id: str, body: bytes, now: float
) -> dict[str, str]:
    """Return the headers that show who sent a body.

    Raises:
        ConfigError: the secret is no base64.
    """
    if config.signature == "github":
        return {"X-Hub-Signature-256": sign_github(key, body)}
    try:
        return sign_standard(key, row_id, int(now), body)
    except ValueError:
        found = config.need("secret").key
        raise ConfigError(found, "expected whsec_ and base64") from None


def sign_standard(key: str, row_id: str, stamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks 1.0.0.

    Args:
        key: `whsec_` and base64, or several apart by spaces while they rotate.
        row_id: the same over retries.
        stamp: Unix seconds of this attempt.
        body: what is sent.

    Raises:
        ValueError: a key is no base64.
    """
    signed = f"{row_id}.{stamp}.".encode() + body
    signatures = []
    for one in key.split():
        try:
            raw = base64.b64decode(one.removeprefix(WHSEC), validate=True)
        except binascii.Error as error:
            raise ValueError(str(error)) from None
        digest = hmac.new(raw, signed, hashlib.sha256).digest()
        signatures.append("v1," + base64.b64encode(digest).decode())
    return {
        "webhook-id": row_id,
        "webhook-timestamp": str(stamp),
        "webhook-signature": " ".join(signatures),
    }


def sign_github(key: str, body: bytes) -> str:
    """Return GitHub's signature of a body."""
    return "sha256=" + hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def native_body(notification: Notification, now: float) -> dict[str, Any]:
    """Return all that is known, for programs."""
    return {
        "version": 1,
        "id": notification.id,
        "receiver": notification.receiver,
        "kind": str(notification.kind),
        "status": _status(notification),
        "test": notification.kind is NotificationKind.TEST,
        "title": formatting.title(notification),
        "text": notification.text,
        "created": rfc3339(notification.created),
        "delayed_seconds": round(formatting.delay(notification, now), 3),
        "group": notification.group,
        "left_out": notification.left_out,
        "alerts": [_native(alert) for alert in notification.alerts],
        "agent": {"name": "kaywatch", "version": __version__},
    }


def alertmanager_body(notification: Notification, external_url: str) -> dict[str, Any]:
    """Return what an Alertmanager 0.25 would send, and nothing else.

    https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
    """
    alerts = [_in_alertmanager(alert) for alert in notification.alerts]
    group = notification.group
    pairs = [f"{k}={msgspec.json.encode(v).decode()}" for k, v in group.items()]
    return {
        "receiver": notification.receiver,
        "status": _status(notification),
        "alerts": alerts,
        "groupLabels": group,
        "commonLabels": _common([alert["labels"] for alert in alerts]),
        "commonAnnotations": _common([alert["annotations"] for alert in alerts]),
        "externalURL": external_url,
        "version": "4",
        "groupKey": "{}:{" + ", ".join(pairs) + "}",
        "truncatedAlerts": notification.left_out,
    }


# -- inside --------------------------------------------------------------------------


def _status(notification: Notification) -> str:
    firing = any(not alert.resolved for alert in notification.alerts)
    return "firing" if firing else "resolved"


def _native(alert: AlertDetails) -> dict[str, Any]:
    """Return an alert; times as RFC 3339. Of errors the class is told, no message."""
    ended = alert.ended
    return {
        "status": "resolved" if alert.resolved else "firing",
        "id": alert.id,
        "rule": alert.rule,
        "severity": alert.severity,
        "labels": alert.labels,
        "fingerprint": alert.fingerprint,
        "dedup_key": alert.dedup_key,
        "episode": alert.episode,
        "summary": formatting.summary(alert),
        "condition": alert.condition,
        "value": alert.value,
        "threshold": alert.threshold,
        "clear": alert.clear,
        "worst": alert.worst,
        "worst_at": rfc3339(alert.worst_at) if alert.worst_at is not None else None,
        "unit": alert.unit,
        "window_seconds": alert.window_seconds,
        "executions": alert.executions,
        "errors": alert.errors,
        "completeness": alert.completeness,
        "started": rfc3339(alert.started) if alert.started else None,
        "fired": rfc3339(alert.fired) if alert.fired else None,
        "ended": rfc3339(ended) if ended is not None else None,
        "duration_seconds": None if ended is None else round(ended - alert.fired, 3),
        "reason": alert.reason,
        "error_classes": [{"type": t, "count": n} for t, n in alert.error_classes],
        "transition": alert.transition,
        "history": alert.history,
        "evidence": [_evidence(seen) for seen in alert.evidence],
        "host": alert.host,
        "links": {name.lower(): url for name, url in formatting.links(alert)},
        "flapping": alert.flapping,
        "note": alert.note,
    }


def _evidence(seen: Evidence) -> dict[str, Any]:
    return {
        "time": rfc3339(seen.time) if seen.time else None,
        "node": seen.node,
        "type": seen.type,
        "phase": seen.phase,
        "outcome": seen.outcome,
        "attempts": seen.attempts,
        "run": seen.run,
    }


def _in_alertmanager(alert: AlertDetails) -> dict[str, Any]:
    annotations = {
        "summary": formatting.summary(alert),
        "runbook_url": alert.runbook_url,
        "value": formatting.value_and_threshold(alert),
        "reason": alert.reason,
    }
    ended = alert.ended
    return {
        "status": "resolved" if alert.resolved else "firing",
        "labels": alert.all_labels,
        "annotations": {k: v for k, v in annotations.items() if v},
        "startsAt": rfc3339(alert.fired or alert.started),
        "endsAt": ZERO_TIME if ended is None else rfc3339(ended),
        "generatorURL": alert.dashboard_url,
        "fingerprint": alert.fingerprint,
    }


def _common(maps: list[dict[str, str]]) -> dict[str, str]:
    first, *others = maps or [{}]
    return {k: v for k, v in first.items() if all(m.get(k) == v for m in others)}
