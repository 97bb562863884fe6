"""PagerDuty, Events API v2.

https://developer.pagerduty.com/docs/events-api-v2-overview: a trigger with the key of
an open incident adds to it; a resolve needs the same routing key as its trigger.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import msgspec

from kaywatch._version import __version__
from kaywatch_agent.model.alerts import AlertDetails, Notification, NotificationKind
from kaywatch_agent.notify import formatting
from kaywatch_agent.notify.config import PagerDutyConfig
from kaywatch_agent.notify.http import HttpClient, Response
from kaywatch_agent.notify.receivers.account import send_to_account
from kaywatch_agent.notify.result import DeliveryResult, judge_status
from kaywatch_agent.units import rfc3339

__all__ = ["PagerDuty", "encode", "render"]

MAX_SUMMARY: Final = 1_024
MAX_KEY: Final = 255
MAX_FIELD: Final = 255
MAX_BODY: Final = 512_000  # bytes

MIN_PAUSE: Final = 30.0  # seconds after a 429, as PagerDuty advises

# Resolves use the names of triggers: rules of PagerDuty route by them.
_TRIGGER_NAMES: Final = {"now": "value", "errors at first": "errors"}


def render(
    notification: Notification, now: float, *, resolve_on_no_data: bool = False
) -> dict[str, Any]:
    """Return an event about the notification's only alert, without its routing key.

    A resolve has the whole payload, too: rules that route by a field need it. A trigger
    with the key of an open incident updates it.

    Args:
        notification: the message.
        now: Unix seconds.
        resolve_on_no_data: see `PagerDutyConfig`.
    """
    (alert,) = notification.alerts
    # A lock screen shows the summary's beginning, so the problem comes first.
    remarks = formatting.remarks(notification, now)
    summary = " | ".join([_headline(notification, alert), *remarks])
    payload = {
        "summary": formatting.truncate(summary, MAX_SUMMARY),
        "source": _source(alert),
        "severity": alert.severity,
        "timestamp": rfc3339(alert.fired or alert.started or notification.created),
        "component": alert.labels.get("node", "")[:MAX_FIELD],
        "group": alert.labels.get("graph", "")[:MAX_FIELD],
        "class": alert.rule[:MAX_FIELD],
        "custom_details": _details(notification, alert, now),
    }
    is_over = alert.resolved and (resolve_on_no_data or not alert.ended_without_data)
    event = {
        "event_action": "resolve" if is_over else "trigger",
        "dedup_key": alert.dedup_key[:MAX_KEY],
        "payload": _without_empty(payload),
        "client": "kaywatch",
        "client_url": alert.dashboard_url,
        "links": [{"href": url, "text": name} for name, url in formatting.links(alert)],
    }
    return _without_empty(event)


class PagerDuty:
    """Sends to one service or ruleset."""

    def __init__(self, config: PagerDutyConfig, http: HttpClient) -> None:
        self._config = config
        self._http = http

    def render(self, notification: Notification, now: float) -> dict[str, Any]:
        """Return an event without its routing key."""
        resolve = self._config.resolve_on_no_data
        return render(notification, now, resolve_on_no_data=resolve)

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Open, add to or close an incident."""
        key = self._config.routing_key.read()
        event = self.render(notification, now)
        return await send_to_account(
            notification.account, key, lambda key: self._send(event, key, now)
        )

    async def _send(
        self, event: dict[str, Any], key: str, now: float
    ) -> DeliveryResult:
        response = await self._http.post(
            f"{self._config.base_url}/v2/enqueue",
            encode({"routing_key": key, **event}),
            secrets=(key,),
            options=self._config.request_options(),
        )
        result = judge_status(response.status, response.headers, _errors(response), now)
        if result.pause:
            after = max(result.after or 0.0, MIN_PAUSE)
            return dataclasses.replace(result, after=after)
        return result


def encode(event: dict[str, Any]) -> bytes:
    """Return an event's bytes; without details if it would be too large."""
    body = msgspec.json.encode(event)
    if len(body) <= MAX_BODY:
        return body
    note = {"note": f"left out: the event had {len(body)} bytes"}
    payload = {**event["payload"], "custom_details": note}
    return msgspec.json.encode({**event, "payload": payload})


# -- inside --------------------------------------------------------------------------


def _headline(notification: Notification, alert: AlertDetails) -> str:
    text = alert.summary or f"{formatting.location(alert)}: {alert.rule}"
    return f"[TEST] {text}" if notification.kind is NotificationKind.TEST else text


def _source(alert: AlertDetails) -> str:
    names = map(alert.labels.get, ("service", "graph"))
    first = next(filter(None, names), "")
    return " on ".join(filter(None, (first, alert.host)))[:MAX_FIELD] or "kaywatch"


def _details(
    notification: Notification, alert: AlertDetails, now: float
) -> dict[str, Any]:
    facts = ((name.lower(), text) for name, text in formatting.facts(alert, now))
    details = {_TRIGGER_NAMES.get(name, name): text for name, text in facts}
    return _without_empty(
        {
            **details,
            "also notified": ", ".join(notification.also),
            "condition": alert.condition,
            "episode": alert.episode,
            "fingerprint": alert.fingerprint,
            "agent": f"kaywatch {__version__}",
            "labels": alert.labels,
        }
    )


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _errors(response: Response) -> str:
    """Return the errors of a response: `errors` has more details than `message`."""
    body = response.json
    if not body:
        return response.text
    errors = body.get("errors") or body.get("message") or ""
    return "; ".join(map(str, errors)) if isinstance(errors, list) else str(errors)
