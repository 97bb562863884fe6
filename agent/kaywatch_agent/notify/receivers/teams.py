"""Microsoft Teams: a webhook of a workflow, which posts an Adaptive Card.

https://learn.microsoft.com/connectors/teams: the workflow accepts a request with 202,
and posts the card afterwards, so that a card it cannot post is lost without an error.

Texts are `TextRun`s: unlike those of a `TextBlock` or a `FactSet`, they are not
Markdown, so that names are shown as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from kaywatch_agent.model.alerts import AlertDetails, Notification
from kaywatch_agent.notify import appearance, formatting
from kaywatch_agent.notify.appearance import Links, State
from kaywatch_agent.notify.config import TeamsConfig
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.notify.receivers.account import send_to_account
from kaywatch_agent.notify.result import DeliveryResult, judge_status
from kaywatch_agent.notify.truncation import truncate

__all__ = ["Teams", "render", "without_details"]

# Teams allows 28 kB, and counts two bytes for a character, with all of the JSON.
MAX_CARD: Final = 13_000  # characters
MAX_TITLE: Final = 200
MAX_TEXT: Final = 1_000
MAX_FIELD: Final = 400
MAX_ITEM: Final = 200  # of an alert in a list
MAX_URL: Final = 500  # longer links are left out

TOO_LARGE: Final = (400, 413)

# The style of the heading's background, which Teams adapts to dark themes.
_STYLES: Final[dict[State, str]] = {
    "critical": "attention",
    "error": "attention",
    "warning": "warning",
    "info": "accent",
    "resolved": "good",
    "no_data": "emphasis",
}

Element = dict[str, Any]


class Teams:
    """Sends to one workflow."""

    def __init__(self, config: TeamsConfig, http: HttpClient) -> None:
        self._config = config
        self._http = http

    def render(self, notification: Notification, now: float) -> dict[str, Any]:
        """Return a message's payload."""
        return render(notification, now)

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Send a card; again without details if the workflow rejects it."""
        payload = render(notification, now)
        result = await self._attempt(payload, notification, now)
        if result.code in TOO_LARGE:
            result = await self._attempt(without_details(payload), notification, now)
        return result

    async def _attempt(
        self, payload: dict[str, Any], notification: Notification, now: float
    ) -> DeliveryResult:
        async def post(url: str) -> DeliveryResult:
            response = await self._http.post(
                url,
                msgspec.json.encode(payload),
                options=self._config.request_options(),
            )
            return judge_status(response.status, response.headers, response.text, now)

        url = self._config.webhook_url.read()
        return await send_to_account(notification.account, url, post)


def render(notification: Notification, now: float) -> dict[str, Any]:
    """Return a message with one card: its heading, then details, then links."""
    body = [_heading(notification, now)]
    alert, *others = notification.alerts
    if not others:
        links: Links = formatting.links(alert)
        body += [_fact(name, text) for name, text in appearance.details(alert, now)]
        parts = [formatting.identity(alert), alert.host]
        items = [_text(" · ".join(filter(None, parts)), MAX_FIELD, subtle=True)]
        left_out = notification.left_out
    else:
        links = appearance.shared_links(notification)
        blocks = [_item(each, links, now) for each in notification.alerts]
        items = _take_fitting(
            blocks, MAX_CARD - _size(_message(body, links)) - MAX_TEXT
        )
        left_out = notification.left_out + len(blocks) - len(items)
    ending = [
        f"+{left_out} more" if left_out else "",
        formatting.also_notified(notification),
    ]
    ended = " · ".join(filter(None, ending))
    items += [_text(ended, MAX_FIELD, subtle=True)] if ended else []
    return _fit(body, items, links)


def without_details(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload whose card has its heading alone."""
    (attachment,) = payload["attachments"]
    body = attachment["content"]["body"]
    return _message(body[:1], [])


# -- inside --------------------------------------------------------------------------


def _message(body: Sequence[Element], links: Links) -> dict[str, Any]:
    actions = [
        {"type": "Action.OpenUrl", "title": name, "url": url}
        for name, url in links
        if len(url) <= MAX_URL
    ]
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": list(body),
    }
    if actions:
        card["actions"] = actions
    content = "application/vnd.microsoft.card.adaptive"
    attachment = {"contentType": content, "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _fit(body: list[Element], items: list[Element], links: Links) -> dict[str, Any]:
    """Return a message, leaving out the last facts if it would be too large."""
    while len(body) > 1:
        message = _message([*body, *items], links)
        if _size(message) <= MAX_CARD:
            return message
        body = body[:-1]
    return _message([*body, *items], links)


def _take_fitting(blocks: Sequence[Element], limit: int) -> list[Element]:
    """Return the blocks that fit into the limit."""
    result = []
    for block in blocks:
        limit -= _size(block)
        if limit >= 0:
            result.append(block)
    return result


def _size(value: Any) -> int:
    """Return the number of UTF-16 characters of a value's JSON."""
    return len(msgspec.json.encode(value).decode().encode("utf-16-le")) // 2


def _heading(notification: Notification, now: float) -> Element:
    """Return the status, the subject, the condition and the times, on their colour."""
    status, subject = appearance.split_title(notification)
    alert, *others = notification.alerts
    rule = f"{len(notification.alerts) + notification.left_out} alerts"
    if not others:
        rule, subject = alert.rule, formatting.location(alert)
    items = [
        _runs(_run(status, MAX_TITLE, bold=True), _run(f"  {rule}", MAX_TITLE)),
        _runs(_run(subject, MAX_TITLE, bold=True, size="Large")),
        *(
            _text(remark, MAX_FIELD, subtle=True)
            for remark in formatting.remarks(notification, now)
        ),
    ]
    if not others:
        items.append(_text(formatting.condition(alert), MAX_TEXT))
        items.append(_text(formatting.times(alert, now), MAX_FIELD, subtle=True))
    return {
        "type": "Container",
        "style": _STYLES[appearance.message_state(notification)],
        "bleed": True,
        "items": items,
    }


def _fact(name: str, text: str) -> Element:
    columns = [("130px", _text(name, MAX_FIELD, subtle=True))]
    columns.append(("stretch", _text(text, MAX_FIELD)))
    return {
        "type": "ColumnSet",
        "spacing": "Small",
        "columns": [
            {"type": "Column", "width": width, "items": [item]}
            for width, item in columns
        ],
    }


def _item(alert: AlertDetails, shared: Links, now: float) -> Element:
    """Return one alert of a list."""
    symbol = appearance.SYMBOLS[appearance.alert_state(alert)]
    times = [alert.severity, formatting.times(alert, now)]
    runs = [_run(" · ".join(filter(None, times)), MAX_ITEM, subtle=True)]
    for name, url in formatting.links(alert):
        if (name, url) not in shared and len(url) <= MAX_URL:
            action = {"type": "Action.OpenUrl", "url": url}
            runs.append(_run(" · ", MAX_ITEM, subtle=True))
            runs.append({**_run(name, MAX_ITEM), "selectAction": action})
    items = [
        _runs(_run(f"{symbol} {formatting.location(alert)}", MAX_ITEM, bold=True)),
        _text(formatting.condition(alert), MAX_ITEM),
        _runs(*runs),
    ]
    for item in items[1:]:
        item["spacing"] = "None"
    return {"type": "Container", "items": items}


def _text(text: str, limit: int, *, subtle: bool = False) -> Element:
    return _runs(_run(text, limit, subtle=subtle))


def _runs(*runs: Element) -> Element:
    return {"type": "RichTextBlock", "inlines": list(runs)}


def _run(
    text: str, limit: int, *, bold: bool = False, subtle: bool = False, size: str = ""
) -> Element:
    # Teams evaluates functions such as {{DATE(...)}} in any text. A zero-width space
    # prevents that.
    text = truncate(text, limit).replace("{{", "{\u200b{")
    run: Element = {"type": "TextRun", "text": text or "\u200b"}
    if bold:
        run["weight"] = "Bolder"
    if subtle:
        run["isSubtle"] = True
    if size:
        run["size"] = size
    return run
