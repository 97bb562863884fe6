"""A webhook: JSON in kaywatch's own format or an Alertmanager's, signed.

Signatures: https://www.standardwebhooks.com, or GitHub's X-Hub-Signature-256. They
cover the exact bytes that are sent.
"""

from __future__ import annotations

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
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.notify.receivers.account import send_to_account
from kaywatch_agent.notify.result import DeliveryOutcome, DeliveryResult, judge_status
from kaywatch_agent.notify.signing import sign_github, sign_standard
from kaywatch_agent.units import rfc3339

__all__ = [
    "Webhook",
    "alertmanager_body",
    "native_body",
]

# How Go, and so Alertmanager, writes a time that is not set.
ZERO_TIME: Final = "0001-01-01T00:00:00Z"

# The fields of an alert that a native body shows as they are. They are listed so that a
# new field is not published by accident.
_FIELDS: Final = (
    *("id", "rule", "severity", "labels", "fingerprint", "dedup_key", "episode"),
    *("condition", "value", "threshold", "clear", "worst", "unit", "window_seconds"),
    *("executions", "errors", "completeness", "reason", "transition", "history"),
    *("host", "flapping", "note", "next_step", "cost"),
)
_TIMES: Final = ("started", "fired", "worst_at", "ended")
_EVIDENCE_FIELDS: Final = (
    *("node", "type", "message", "phase", "outcome", "attempts", "run"),
)


class Webhook:
    """Sends to one URL."""

    def __init__(self, config: WebhookConfig, http: HttpClient) -> None:
        self._config = config
        self._http = http

    def render(self, notification: Notification, now: float) -> dict[str, Any]:
        """Return the body in the configured format."""
        if self._config.format == "alertmanager":
            return alertmanager_body(notification, self._config.external_url)
        return native_body(notification, now)

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Send a message; any 2xx is success."""
        body = msgspec.json.encode(self.render(notification, now))
        # The value is a string of RFC 8941, which has quotes.
        headers = {"Idempotency-Key": f'"{notification.id}"'}
        secrets: tuple[str, ...] = ()
        if self._config.signature != "none" and self._config.secret is not None:
            key = self._config.secret.read()
            secrets = (key,)
            headers |= self._sign(key, notification.id, body, now)

        async def post(url: str) -> DeliveryResult:
            response = await self._http.post(
                url,
                body,
                headers,
                secrets=secrets,
                options=self._config.request_options(),
            )
            return judge_status(
                response.status,
                response.headers,
                response.text,
                now,
                gone=DeliveryOutcome.GONE,
            )

        url = self._config.url.read()
        return await send_to_account(notification.account, url, post)

    def _sign(
        self, key: str, message_id: str, body: bytes, now: float
    ) -> dict[str, str]:
        if self._config.signature == "github":
            return {"X-Hub-Signature-256": sign_github(key, body)}
        try:
            return sign_standard(key, message_id, int(now), body)
        except ValueError:
            path = self._config.secret.key if self._config.secret else ""
            raise ConfigError(
                path, "invalid secret: expected whsec_ followed by base64"
            ) from None


def native_body(notification: Notification, now: float) -> dict[str, Any]:
    """Return the body in kaywatch's own format, with all fields."""
    return {
        "version": 1,
        "id": notification.id,
        "receiver": notification.receiver,
        "kind": str(notification.kind),
        "status": formatting.status(notification),
        "test": notification.kind is NotificationKind.TEST,
        "title": formatting.title(notification),
        "text": notification.text,
        "created": rfc3339(notification.created),
        "delayed_seconds": round(formatting.delay(notification, now), 3),
        "group": notification.group,
        "left_out": notification.left_out,
        "also_notified": list(notification.also),
        "alerts": [_native_alert(alert) for alert in notification.alerts],
        "agent": {"name": "kaywatch", "version": __version__},
    }


def alertmanager_body(notification: Notification, external_url: str) -> dict[str, Any]:
    """Return the body that an Alertmanager 0.25 would send, without additions.

    https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
    """
    alerts = [_alertmanager_alert(alert) for alert in notification.alerts]
    group = notification.group
    pairs = [f"{k}={msgspec.json.encode(v).decode()}" for k, v in group.items()]
    return {
        "receiver": notification.receiver,
        "status": formatting.status(notification),
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


def _native_alert(alert: AlertDetails) -> dict[str, Any]:
    ended = alert.ended
    return {
        "status": _status(alert),
        "summary": formatting.summary(alert),
        **{name: getattr(alert, name) for name in _FIELDS},
        **{name: _time(getattr(alert, name)) for name in _TIMES},
        "duration_seconds": None if ended is None else round(ended - alert.fired, 3),
        "error_classes": [{"type": t, "count": n} for t, n in alert.error_classes],
        "evidence": [_evidence(execution) for execution in alert.evidence],
        "links": {name.lower(): url for name, url in formatting.links(alert)},
    }


def _evidence(execution: Evidence) -> dict[str, Any]:
    fields = {name: getattr(execution, name) for name in _EVIDENCE_FIELDS}
    return {"time": _time(execution.time), **fields}


def _alertmanager_alert(alert: AlertDetails) -> dict[str, Any]:
    annotations = {
        "summary": formatting.summary(alert),
        "runbook_url": alert.runbook_url,
        "value": formatting.value_and_threshold(alert),
        "reason": alert.reason,
    }
    return {
        "status": _status(alert),
        "labels": alert.all_labels,
        "annotations": {k: v for k, v in annotations.items() if v},
        "startsAt": rfc3339(alert.fired or alert.started),
        "endsAt": _time(alert.ended) or ZERO_TIME,
        "generatorURL": alert.dashboard_url,
        "fingerprint": alert.fingerprint,
    }


def _status(alert: AlertDetails) -> str:
    return "resolved" if alert.resolved else "firing"


def _time(seconds: float | None) -> str | None:
    return rfc3339(seconds) if seconds else None


def _common(maps: list[dict[str, str]]) -> dict[str, str]:
    first, *others = maps or [{}]
    return {k: v for k, v in first.items() if all(m.get(k) == v for m in others)}
