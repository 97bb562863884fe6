"""PagerDuty, Events API v2.

https://developer.pagerduty.com/docs/events-api-v2-overview: a trigger with the key of
an open incident adds to it, and a resolve has to come with the same routing key.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from kaywatch._version import __version__
from kaywatch_agent.model.alerts import AlertDetails, Notification, NotificationKind
from kaywatch_agent.notify import formatting
from kaywatch_agent.notify.config import PagerDutyConfig
from kaywatch_agent.notify.http import Answer, Http
from kaywatch_agent.notify.result import DeliveryResult, judge_status
from kaywatch_agent.units import rfc3339

__all__ = ["PagerDuty", "judge", "render"]

MAX_SUMMARY: Final = 1_024
MAX_KEY: Final = 255
MAX_FIELD: Final = 255
MAX_BODY: Final = 512_000  # bytes
_SAME: Final = {"now": "value", "errors at first": "errors"}

LEAST_PAUSE: Final = 30.0  # seconds after a 429, as PagerDuty advises


class PagerDuty:
    """Sends to one service or ruleset."""

    def __init__(self, config: PagerDutyConfig, http: Http) -> None:
        self._config = config
        self._http = http

    def render(self, notification: Notification, now: float) -> dict[str, Any]:
        """Return an event but for its routing key."""
        return render(notification, now)

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Open, add to or close an incident."""
        key = self._config.need("routing_key").read()
        answer = await self._http.post(
            f"{self._config.base_url.rstrip('/')}/v2/enqueue",
            encode({"routing_key": key, **self.render(notification, now)}),
            {"Content-Type": "application/json"},
            secrets=(key,),
        )
        return judge(answer, now)


def render(notification: Notification, now: float) -> dict[str, Any]:
    """Return an event but for its routing key; it is about the one alert there is.

    A resolve has all of it, too: rules that route by a field would lose it otherwise.
    """
    (alert,) = notification.alerts
    # What is read first, on a lock screen, is what is wrong.
    marks = formatting.remarks(notification, now)
    summary = " | ".join([_headline(notification, alert), *marks])
    payload = {
        "summary": formatting.truncate(summary, MAX_SUMMARY),
        "source": _source(alert),
        "severity": alert.severity,
        "timestamp": rfc3339(alert.fired or alert.started or notification.created),
        "component": alert.labels.get("node", "")[:MAX_FIELD],
        "group": alert.labels.get("graph", "")[:MAX_FIELD],
        "class": alert.rule[:MAX_FIELD],
        "custom_details": _details(alert, now),
    }
    event: dict[str, Any] = {
        "event_action": "resolve" if alert.resolved else "trigger",
        "dedup_key": alert.dedup_key[:MAX_KEY],
        "payload": {name: value for name, value in payload.items() if value},
        "client": "kaywatch",
    }
    if alert.dashboard_url:
        event["client_url"] = alert.dashboard_url
    found = [{"href": url, "text": name} for name, url in formatting.links(alert)]
    if found:
        event["links"] = found
    return event


def encode(event: dict[str, Any]) -> bytes:
    """Return an event's bytes, without its details where it would be too large."""
    body = msgspec.json.encode(event)
    if len(body) <= MAX_BODY:
        return body
    note = {"note": f"left out: the event had {len(body)} bytes"}
    payload = {**event["payload"], "custom_details": note}
    return msgspec.json.encode({**event, "payload": payload})


def judge(answer: Answer, now: float) -> DeliveryResult:
    """Return what an answer means; 202 is success."""
    found = judge_status(answer.status, answer.headers, _errors(answer), now)
    if answer.status == 429:
        after = max(found.after or 0.0, LEAST_PAUSE)
        return DeliveryResult(
            found.outcome, 429, found.error, after=after, pause=True, undelivered=True
        )
    return found


# -- inside --------------------------------------------------------------------------


def _headline(notification: Notification, alert: AlertDetails) -> str:
    text = f"{formatting.location(alert)}: {alert.rule}"
    if alert.summary:
        text = alert.summary
    return f"[TEST] {text}" if notification.kind is NotificationKind.TEST else text


def _source(alert: AlertDetails) -> str:
    graph = alert.labels.get("graph", "")
    parts = [part for part in (graph, alert.host) if part]
    return " on ".join(parts)[:MAX_FIELD] or "kaywatch"


def _details(alert: AlertDetails, now: float) -> dict[str, Any]:
    facts = ((name.lower(), text) for name, text in formatting.facts(alert, now))
    # The same names on the resolve: rules route by them.
    found: dict[str, Any] = {_SAME.get(name, name): text for name, text in facts}
    found["condition"] = alert.condition
    found["episode"] = alert.episode
    found["fingerprint"] = alert.fingerprint
    found["agent"] = f"kaywatch {__version__}"
    found["labels"] = alert.labels
    return {name: value for name, value in found.items() if value}


def _errors(answer: Answer) -> str:
    """Return what an answer complains of: `errors` says more than `message`."""
    try:
        found = msgspec.json.decode(answer.body, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError):
        return answer.text
    errors = found.get("errors") or found.get("message") or ""
    return "; ".join(map(str, errors)) if isinstance(errors, list) else str(errors)
