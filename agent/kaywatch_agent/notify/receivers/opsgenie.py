"""Opsgenie, and Jira Service Management with the same API: the Alert API, version 2.

https://docs.opsgenie.com/docs/alert-api: an alert with the alias of an open alert
increases its count, and changes nothing else. If the severity changes, a separate
request therefore sets the priority. Requests are accepted with 202, and processed
afterwards.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final, NamedTuple

import msgspec

from kaywatch._version import __version__
from kaywatch_agent.model.alerts import (
    AlertDetails,
    Notification,
    NotificationKind,
    Severity,
)
from kaywatch_agent.notify import formatting
from kaywatch_agent.notify.config import OpsgenieConfig
from kaywatch_agent.notify.http import HttpClient, Response
from kaywatch_agent.notify.receivers.account import send_to_account
from kaywatch_agent.notify.result import DeliveryOutcome, DeliveryResult, judge_status
from kaywatch_agent.notify.truncation import truncate

__all__ = ["Opsgenie", "Request", "render", "render_priority"]

MAX_MESSAGE: Final = 130
MAX_DESCRIPTION: Final = 15_000
MAX_ENTITY: Final = 512
MAX_SOURCE: Final = 100
MAX_TAG: Final = 50
MAX_TAGS: Final = 20
MAX_DETAILS: Final = 8_000  # characters of all names and values
MAX_VALUE: Final = 1_000
MAX_NOTE: Final = 25_000

MIN_PAUSE: Final = 5.0  # seconds after a 429: tokens are added every few seconds

PRIORITIES: Final[dict[Severity, str]] = {
    "critical": "P1",
    "error": "P2",
    "warning": "P3",
    "info": "P5",
}


class Request(NamedTuple):
    """A request to the API.

    Attributes:
        method: the HTTP method.
        path: the path below the base URL, with the query.
        body: a JSON object.
    """

    method: str
    path: str
    body: dict[str, Any]


def render(
    notification: Notification,
    now: float,
    *,
    close_on_no_data: bool = False,
    tags: tuple[str, ...] = (),
) -> Request:
    """Return the request about the notification's only alert.

    Args:
        notification: the message.
        now: Unix seconds.
        close_on_no_data: see `OpsgenieConfig`.
        tags: in addition to those of the alert.
    """
    (alert,) = notification.alerts
    one = f"/v2/alerts/{alert.dedup_key}"
    text = _plain(formatting.plain_text(notification, now))
    if alert.ended_without_data and not close_on_no_data:
        message = _message(notification, alert, "[NO DATA] ")
        return Request("PUT", f"{one}/message?identifierType=alias", message)
    if alert.resolved:
        note = truncate(text, MAX_NOTE)
        body = {"source": _source(alert), "note": note}
        return Request("POST", f"{one}/close?identifierType=alias", body)
    return Request("POST", "/v2/alerts", _alert(notification, alert, text, now, tags))


def render_priority(notification: Notification) -> Request | None:
    """Return the request that sets the priority of an open alert; None for others."""
    if notification.kind is not NotificationKind.REPEAT:
        return None
    (alert,) = notification.alerts
    path = f"/v2/alerts/{alert.dedup_key}/priority?identifierType=alias"
    return Request("PUT", path, {"priority": PRIORITIES[alert.severity]})


class Opsgenie:
    """Sends to one integration."""

    def __init__(self, config: OpsgenieConfig, http: HttpClient) -> None:
        self._config = config
        self._http = http

    def render(self, notification: Notification, now: float) -> dict[str, Any]:
        """Return the request, without its key."""
        return self._request(notification, now)._asdict()

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Create, count, rename or close an alert."""
        priority = render_priority(notification)

        async def call(key: str) -> DeliveryResult:
            # The priority is set first, because a retry of this request is not counted.
            if priority is not None:
                result = await self._send(priority, key, now)
                if result.outcome is not DeliveryOutcome.SENT:
                    return result
            return await self._send(self._request(notification, now), key, now)

        key = self._config.api_key.read()
        return await send_to_account(notification.account, key, call)

    async def _send(self, request: Request, key: str, now: float) -> DeliveryResult:
        response = await self._http.post(
            self._config.base_url + request.path,
            msgspec.json.encode(request.body),
            {"Authorization": f"GenieKey {key}"},
            secrets=(key,),
            options=self._config.request_options(),
            method=request.method,
        )
        result = judge_status(response.status, response.headers, _error(response), now)
        if result.pause:
            after = max(result.after or 0.0, MIN_PAUSE)
            return dataclasses.replace(result, after=after)
        return result

    def _request(self, notification: Notification, now: float) -> Request:
        return render(
            notification,
            now,
            close_on_no_data=self._config.resolve_on_no_data,
            tags=self._config.tags,
        )


# -- inside --------------------------------------------------------------------------

_TAG: Final = re.compile("<(?=[a-zA-Z/!?])")


def _alert(
    notification: Notification,
    alert: AlertDetails,
    text: str,
    now: float,
    tags: tuple[str, ...],
) -> dict[str, Any]:
    labels = (f"{name}:{value}" for name, value in alert.labels.items())
    own = ("kaywatch", alert.severity, *labels, *tags)
    body = {
        **_message(notification, alert),
        "alias": alert.dedup_key,
        "description": truncate(text, MAX_DESCRIPTION),
        "priority": PRIORITIES[alert.severity],
        "entity": truncate(formatting.location(alert), MAX_ENTITY),
        "source": _source(alert),
        "tags": [truncate(tag, MAX_TAG) for tag in own][:MAX_TAGS],
        "details": _details(alert, now),
    }
    return {name: value for name, value in body.items() if value}


def _message(
    notification: Notification, alert: AlertDetails, prefix: str = ""
) -> dict[str, str]:
    """Return what a phone shows: the problem comes first."""
    if notification.kind is NotificationKind.TEST:
        prefix = "[TEST] "
    text = _plain(prefix + formatting.summary(alert))
    return {"message": truncate(text, MAX_MESSAGE)}


def _source(alert: AlertDetails) -> str:
    return truncate(
        f"kaywatch on {alert.host}" if alert.host else "kaywatch", MAX_SOURCE
    )


def _details(alert: AlertDetails, now: float) -> dict[str, str]:
    """Return the facts, the links and the labels, as far as there is space."""
    pairs = [
        *formatting.links(alert),
        ("Rule", alert.rule),
        ("Condition", alert.condition),
        *formatting.facts(alert, now),
        *alert.labels.items(),
        ("Agent", f"kaywatch {__version__}"),
    ]
    details: dict[str, str] = {}
    remaining = MAX_DETAILS
    for name, text in pairs:
        value = truncate(_plain(text), MAX_VALUE)
        remaining -= len(name) + len(value)
        if value and remaining >= 0:
            details.setdefault(name, value)
    return details


def _plain(text: str) -> str:
    """Return a text whose HTML tags are disabled by zero-width spaces."""
    return _TAG.sub("<\u200b", text)


def _error(response: Response) -> str:
    """Return the error of a response, with the invalid fields of a 422."""
    body = response.json
    fields = body.get("errors")
    parts = [str(body.get("message", ""))]
    if isinstance(fields, dict):
        parts += [f"{name}: {text}" for name, text in fields.items()]
    return "; ".join(filter(None, parts)) or response.text
