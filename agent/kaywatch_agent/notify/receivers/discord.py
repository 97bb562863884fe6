"""Discord: a webhook, whose message has one embed.

https://discord.com/developers/docs/resources/webhook. With `wait=true`, Discord answers
with the message once it is saved, and otherwise with an error. The
message's id is needed to update it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from kaywatch_agent.model.alerts import AlertDetails, Notification
from kaywatch_agent.notify import appearance, formatting
from kaywatch_agent.notify.config import DiscordConfig
from kaywatch_agent.notify.http import HttpClient, Response
from kaywatch_agent.notify.receivers.account import send_to_account
from kaywatch_agent.notify.result import (
    MAX_RETRY_AFTER,
    DeliveryResult,
    judge_status,
    sent,
)
from kaywatch_agent.notify.truncation import cut, truncate, utf16_length
from kaywatch_agent.units import rfc3339

__all__ = ["Discord", "escape", "judge", "message_url", "render"]

# Discord's limits are 2,000 for the content, 256 for a name of a field, 1,024 for its
# value, 4,096 for the description, 2,048 for the footer, 25 fields, and 6,000 for an
# embed. All texts are shorter, so that their sum is within the last one.
MAX_TITLE: Final = 300
MAX_TEXT: Final = 1_000
MAX_FIELD: Final = 300
MAX_FIELDS: Final = 10
MAX_SHORT: Final = 40  # a value in a row with others
MAX_NAME: Final = 200  # of an alert in a list
MAX_LIST: Final = 3_800
MAX_FOOTER: Final = 300
MAX_URL: Final = 500  # longer links are left out
NO_MENTIONS: Final[dict[str, Any]] = {"parse": []}

UNKNOWN_MESSAGE: Final = 10_008


class Discord:
    """Sends to one channel."""

    def __init__(self, config: DiscordConfig, http: HttpClient) -> None:
        self._config = config
        self._http = http

    def render(self, notification: Notification, now: float) -> dict[str, Any]:
        """Return a message's payload."""
        return render(notification, now)

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Post a message, or update the one that it continues."""
        payload = render(notification, now)

        updated = notification.ref if notification.update else ""

        async def post(url: str) -> DeliveryResult:
            response = await self._request(url, updated, payload)
            if updated and response.json.get("code") == UNKNOWN_MESSAGE:
                # The message was deleted in Discord.
                response = await self._request(url, "", payload)
            return judge(response, now)

        url = self._config.webhook_url.read()
        return await send_to_account(notification.account, url, post)

    async def _request(
        self, url: str, message_id: str, payload: dict[str, Any]
    ) -> Response:
        token = urlsplit(url).path.strip("/").rpartition("/")[2]
        return await self._http.post(
            message_url(url, message_id),
            msgspec.json.encode(payload),
            secrets=(url, token),
            options=self._config.request_options(),
            method="PATCH" if message_id else "POST",
        )


def message_url(url: str, message_id: str) -> str:
    """Return the URL that posts a message, or updates one.

    Args:
        url: the URL of the webhook as Discord shows it, or with `/slack` or `/github`.
            Its `thread_id` is kept.
        message_id: the id of the message to update; empty to post a message.
    """
    parts = urlsplit(url)
    path = re.sub(r"/(slack|github)?/*$", "", parts.path)
    query = [pair for pair in parse_qsl(parts.query) if pair[0] != "wait"]
    if message_id:
        path = f"{path}/messages/{message_id}"
    else:
        query.append(("wait", "true"))
    return urlunsplit(parts._replace(path=path, query=urlencode(query)))


def judge(response: Response, now: float) -> DeliveryResult:
    """Return the result that a response means.

    The body of a 429 contains the time to wait, with fractions of a second. A 429 of
    the proxy in front of Discord has no body; the header contains the time.
    """
    body = response.json
    if 200 <= response.status < 300:
        return sent(response.status, ref=str(body.get("id", "")))
    error = str(body.get("message", "")) or response.text
    result = judge_status(response.status, response.headers, error, now)
    after = body.get("retry_after")
    if result.pause and isinstance(after, int | float):
        seconds = min(max(float(after), 0.0), MAX_RETRY_AFTER)
        return dataclasses.replace(result, after=seconds)
    return result


def render(notification: Notification, now: float) -> dict[str, Any]:
    """Return a message's payload: the content is what a phone shows."""
    state = appearance.message_state(notification)
    title = escape(formatting.title(notification), MAX_TITLE)
    lines = [f"{appearance.SYMBOLS[state]} **{title}**"]
    remarks = formatting.remarks(notification, now)
    lines += [f"*{escape(remark, MAX_TITLE)}*" for remark in remarks]
    one = len(notification.alerts) == 1
    embed = _details(notification, now) if one else _list(notification, now)
    colour = int(appearance.COLOURS[state].removeprefix("#"), 16)
    return {
        "content": "\n".join(lines),
        "embeds": [{"color": colour, **embed}],
        "allowed_mentions": NO_MENTIONS,
    }


def escape(text: str, limit: int) -> str:
    """Return a text that Discord shows literally, of at most `limit` characters.

    A backslash makes punctuation literal. It is added only to what is markup, so that
    names such as success_rate can be copied.
    """
    text = " ".join(text.split())
    marked = {match.end() - 1 for match in _MARKUP.finditer(text)}
    pieces = [
        f"\\{character}" if index in marked else character
        for index, character in enumerate(text)
    ]
    return cut(text, pieces, limit, utf16_length)


# -- inside --------------------------------------------------------------------------

# The last character of each match is escaped: backslashes, emphasis, code, spoilers,
# mentions, links, emojis such as :fire:, and at the beginning of a line also headings,
# lists and quotations. Underscores within a word are no markup.
_MARKUP: Final = re.compile(
    r"[\\*`~|<@]"
    r"|(?<![^\W_])_|_(?![^\W_])"
    r"|\[(?=.*\]\()"
    r"|:(?=//)|:(?=[\w+-]*[a-zA-Z][\w+-]*:)"
    r"|^>|^(?:-?#{1,3}|[-+]|[0-9]+\.)(?=\s)"
)


def _details(notification: Notification, now: float) -> dict[str, Any]:
    """Return the embed of a message about one alert."""
    (alert,) = notification.alerts
    lines = [
        escape(formatting.condition(alert), MAX_TEXT),
        escape(formatting.times(alert, now), MAX_FIELD),
        _links(formatting.links(alert)),
    ]
    parts = [
        formatting.identity(alert),
        alert.host,
        formatting.also_notified(notification),
    ]
    embed = {
        "description": "\n".join(filter(None, lines)),
        "fields": [
            {
                "name": escape(name, MAX_SHORT),
                "value": escape(text, MAX_FIELD),
                "inline": len(text) <= MAX_SHORT,
            }
            for name, text in appearance.details(alert, now)
        ][:MAX_FIELDS],
        # A footer has no markup.
        "footer": _footer(parts),
    }
    # Discord shows the timestamp in each reader's time zone.
    time = alert.ended or alert.fired or alert.started
    return {**embed, "timestamp": rfc3339(time)} if time else embed


def _list(notification: Notification, now: float) -> dict[str, Any]:
    """Return the embed of a message about several alerts."""
    shared = appearance.shared_links(notification)
    lines = [_links(shared)] if shared else []
    remaining, left_out = MAX_LIST - sum(map(utf16_length, lines)), 0
    for alert in notification.alerts:
        text = _item(alert, shared, now)
        if utf16_length(text) + 1 > remaining:
            left_out += 1
            continue
        remaining -= utf16_length(text) + 1
        lines.append(text)
    left_out += notification.left_out
    parts = [
        f"+{left_out} more" if left_out else "",
        formatting.also_notified(notification),
    ]
    embed: dict[str, Any] = {"description": "\n".join(lines)}
    return {**embed, "footer": _footer(parts)} if any(parts) else embed


def _item(alert: AlertDetails, shared: appearance.Links, now: float) -> str:
    own = [link for link in formatting.links(alert) if link not in shared]
    symbol = appearance.SYMBOLS[appearance.alert_state(alert)]
    parts = [
        f"{symbol} **{escape(formatting.location(alert), MAX_NAME)}**",
        alert.severity,
        escape(formatting.times(alert, now), MAX_NAME),
        _links(own),
    ]
    text = escape(formatting.condition(alert), MAX_NAME)
    return f"{' · '.join(filter(None, parts))}\n{text}"


def _links(links: appearance.Links) -> str:
    # Within angle brackets, only the escaped characters would end a URL.
    return " · ".join(
        f"[{name}](<{url.translate(_URL_ESCAPES)}>)"
        for name, url in links
        if len(url) <= MAX_URL
    )


_URL_ESCAPES: Final = str.maketrans({"<": "%3C", ">": "%3E", "(": "%28", ")": "%29"})


def _footer(parts: list[str]) -> dict[str, str]:
    text = " · ".join(filter(None, parts))
    return {"text": truncate(text, MAX_FOOTER, utf16_length)}
