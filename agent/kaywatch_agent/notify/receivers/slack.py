"""Slack: an incoming webhook, or a bot that updates and answers its own messages.

Limits: https://docs.slack.dev/reference/block-kit/blocks. All blocks of a message
together may have about 13,200 characters, which is not documented.

Links are not buttons: Slack also reports a click on a button to the app, and shows a
warning if the app does not respond (slackapi/node-slack-sdk issue 869).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

import msgspec

from kaywatch_agent.model.alerts import AlertDetails, Notification, NotificationKind
from kaywatch_agent.notify import appearance, formatting, truncation
from kaywatch_agent.notify.appearance import Links, State
from kaywatch_agent.notify.config import SlackConfig
from kaywatch_agent.notify.http import HttpClient, Response
from kaywatch_agent.notify.receivers.account import send_to_account
from kaywatch_agent.notify.result import (
    DeliveryOutcome,
    DeliveryResult,
    judge_status,
    sent,
)

__all__ = ["Slack", "escape", "judge_api", "judge_webhook", "render", "text_only"]

MAX_TITLE: Final = 300
MAX_TEXT: Final = 2_900  # of a section; with 3,001 Slack rejects the whole message
MAX_FIELD: Final = 500  # 2,000 are allowed; shorter is more readable
MAX_FIELDS: Final = 10
MAX_BLOCKS_TEXT: Final = 10_000  # characters of all blocks
MAX_NAME: Final = 300  # of one alert in a list
INVISIBLE: Final = "\u200b"  # a space of no width

_EMOJIS: Final[dict[State, str]] = {
    "critical": ":red_circle:",
    "error": ":red_circle:",
    "warning": ":large_orange_circle:",
    "info": ":large_blue_circle:",
    "resolved": ":white_check_mark:",
    "no_data": ":white_circle:",
}

_NO_PREVIEWS: Final = {"unfurl_links": False, "unfurl_media": False}


# The Web API reports an error in the body of a 200.
_RATE_LIMITED: Final = frozenset({"ratelimited", "rate_limited"})
_TEMPORARY: Final = frozenset(
    {"internal_error", "fatal_error", "service_unavailable", "request_timeout"}
)
_MISCONFIGURED: Final = frozenset(
    {
        *("invalid_auth", "not_authed", "account_inactive", "token_revoked"),
        *("token_expired", "missing_scope", "channel_not_found", "not_in_channel"),
        "is_archived",
    }
)
# The posted message cannot be updated or answered. It was deleted, or it belongs to
# another app because the token was replaced.
_CANNOT_CONTINUE: Final = frozenset(
    {
        *("message_not_found", "edit_window_closed", "cant_update_message"),
        *("channel_not_found", "not_in_channel", "is_archived", "thread_not_found"),
    }
)


class Slack:
    """Sends to one channel."""

    def __init__(self, config: SlackConfig, http: HttpClient) -> None:
        self._config = config
        self._http = http

    def render(self, notification: Notification, now: float) -> dict[str, Any]:
        """Return a message's payload; a bot's includes the channel."""
        payload = render(notification, now)
        if self._config.bot_token is None:
            return payload
        return address(payload, notification, self._config.channel)[1]

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Send a message; again as plain text if Slack rejects its blocks."""
        payload = render(notification, now)
        result = await self._attempt(payload, notification, now)
        if result.code == 400 or "invalid_blocks" in result.error:
            result = await self._attempt(text_only(payload), notification, now)
        return result

    async def _attempt(
        self, payload: dict[str, Any], notification: Notification, now: float
    ) -> DeliveryResult:
        if self._config.bot_token is None:

            async def post(url: str) -> DeliveryResult:
                response = await self._http.post(
                    url,
                    msgspec.json.encode(payload),
                    options=self._config.request_options(),
                )
                return judge_webhook(response, now)

            url = self._config.credential().read()
            return await send_to_account(notification.account, url, post)
        return await self._attempt_as_bot(payload, notification, now)

    async def _attempt_as_bot(
        self, payload: dict[str, Any], notification: Notification, now: float
    ) -> DeliveryResult:
        async def call(token: str) -> DeliveryResult:
            return await self._call(token, payload, notification, now)

        token = self._config.credential().read()
        # A message can only be updated by the app that has posted it.
        result = await send_to_account(notification.account, token, call)
        if notification.ref and result.error in _CANNOT_CONTINUE:
            new = msgspec.structs.replace(notification, ref="", update=False)
            result = await self._call(token, payload, new, now)
            result = dataclasses.replace(result, account=token)
        return result

    async def _call(
        self,
        token: str,
        payload: dict[str, Any],
        notification: Notification,
        now: float,
    ) -> DeliveryResult:
        """Call the Web API, as a bot."""
        method, body = address(payload, notification, self._config.channel)
        response = await self._http.post(
            f"{self._config.url.rstrip('/')}/{method}",
            msgspec.json.encode(body),
            {
                "Authorization": f"Bearer {token}",
                # Without a charset the Web API adds a warning to each response.
                "Content-Type": "application/json; charset=utf-8",
            },
            secrets=(token,),
            options=self._config.request_options(),
        )
        return judge_api(response, now)


def render(notification: Notification, now: float) -> dict[str, Any]:
    """Return a message's payload.

    A phone shows the text: the subject, the severity, and since when. The rest
    is an attachment: only attachments have a colour.
    """
    alert = notification.alerts[0]
    title = escape(formatting.title(notification), MAX_TITLE)
    remarks = formatting.remarks(notification, now)
    lines = [f"{_emoji(alert)} *{title}*"]
    lines += [f"_{escape(remark, MAX_TITLE)}_" for remark in remarks]
    if len(notification.alerts) == 1:
        lines.append(escape(formatting.condition(alert), MAX_TEXT))
        lines.append(escape(formatting.times(alert, now), MAX_FIELD))
        blocks = _details(notification, alert, now)
    else:
        blocks = _list(notification, now)
    colour = appearance.COLOURS[appearance.message_state(notification)]
    attachment = {"color": colour, "fallback": title, "blocks": blocks}
    return {
        "text": "\n".join(filter(None, lines)),
        "attachments": [attachment],
        **_NO_PREVIEWS,
    }


def text_only(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload as plain text, without blocks that Slack may reject."""
    blocks = payload["attachments"][0]["blocks"]
    sections = [block["text"]["text"] for block in blocks if "text" in block]
    text = "\n".join([payload["text"], *sections])
    return {"text": text[:MAX_BLOCKS_TEXT], **_NO_PREVIEWS}


def address(
    payload: dict[str, Any], notification: Notification, channel: str
) -> tuple[str, dict[str, Any]]:
    """Return the method of the Web API and its arguments, for a bot."""
    posted_to, _, stamp = notification.ref.partition(" ")
    if not stamp:
        return "chat.postMessage", {"channel": channel, **payload}
    if notification.update:
        fields = {k: v for k, v in payload.items() if k not in _NO_PREVIEWS}
        # Without attachments of its own the message would keep the previous ones.
        fields.setdefault("attachments", [])
        return "chat.update", {"channel": posted_to, "ts": stamp, **fields}
    # A repeat is a reminder, so the channel sees it, too.
    broadcast = notification.kind is NotificationKind.REPEAT
    thread = {"channel": posted_to, "thread_ts": stamp, "reply_broadcast": broadcast}
    return "chat.postMessage", {**thread, **payload}


def judge_webhook(response: Response, now: float) -> DeliveryResult:
    """Return the result of a webhook's response: its status decides.

    Slack sends `ok`; services that accept Slack's payloads send JSON or nothing. Only a
    complete JSON body with `"ok": false` makes a success a failure.
    """
    body = response.json
    if body.get("ok") is not False or not 200 <= response.status < 300:
        return judge_status(response.status, response.headers, response.text, now)
    error = str(body.get("error", ""))
    if error in _RATE_LIMITED | _TEMPORARY:
        return judge_status(429, response.headers, error, now)
    text = f"HTTP {response.status}, but not ok: {response.text[:200]}"
    return DeliveryResult(DeliveryOutcome.REFUSED, response.status, text)


def judge_api(response: Response, now: float) -> DeliveryResult:
    """Return the result that a response of the Web API means."""
    if not 200 <= response.status < 300:
        return judge_status(response.status, response.headers, response.text, now)
    body = response.json
    if body.get("ok") is True:
        ref = f"{body.get('channel', '')} {body.get('ts', '')}"
        return sent(response.status, ref=ref if body.get("ts") else "")
    if body.get("ok") is not False:
        # The body is incomplete or missing; according to the status, the message was
        # accepted.
        return sent(response.status)
    error = str(body.get("error", "")) or "the response has no error"
    if error in _RATE_LIMITED:
        return judge_status(429, response.headers, error, now)
    if error in _TEMPORARY:
        return DeliveryResult(DeliveryOutcome.RETRY, response.status, error)
    refused = error in _MISCONFIGURED
    outcome = DeliveryOutcome.REFUSED if refused else DeliveryOutcome.DEAD
    return DeliveryResult(outcome, response.status, error, undelivered=True)


def escape(text: str, limit: int) -> str:
    """Return a text that Slack shows literally, of at most `limit` characters.

    Slack requires three escapes, which also disable `<!channel>`, and has no escape for
    its markup. Invisible spaces are therefore added around `*`, `_`, `~` and backticks
    at the edge of a word, and within `:fire:`.
    """
    text = _MARKUP.sub(f"{INVISIBLE}\\g<0>{INVISIBLE}", text)
    text = _EMOJI.sub(f":{INVISIBLE}", text)
    return truncation.escape(text, limit, _ESCAPES)


# -- inside --------------------------------------------------------------------------

# Within a word, these characters are not markup, so names such as success_rate stay
# unchanged and can be copied.
_MARKUP: Final = re.compile(r"`+|(?<![^\W_])[*_~]+|[*_~]+(?![^\W_])")
_EMOJI: Final = re.compile(r":(?=[\w+-]*[a-zA-Z][\w+-]*:)")

_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": ""}
_URL_ESCAPES: Final = str.maketrans({"<": "%3C", ">": "%3E", "|": "%7C", "&": "&amp;"})


def _details(
    notification: Notification, alert: AlertDetails, now: float
) -> list[dict[str, Any]]:
    """Return the blocks of a message about one alert."""
    blocks = _link_block(formatting.links(alert))
    fields = [
        _mrkdwn(f"*{name}*\n{escape(text, MAX_FIELD)}")
        for name, text in appearance.details(alert, now)
    ][:MAX_FIELDS]
    if fields:
        blocks.append({"type": "section", "fields": fields})
    also = escape(formatting.also_notified(notification), MAX_NAME)
    parts = [formatting.identity(alert), escape(alert.host, MAX_NAME), also]
    return [*blocks, _context(" · ".join(filter(None, parts)))]


def _list(notification: Notification, now: float) -> list[dict[str, Any]]:
    """Return the blocks of a message about several alerts: two lines for each."""
    shared = appearance.shared_links(notification)
    blocks = _link_block(shared)
    remaining, left_out = MAX_BLOCKS_TEXT, notification.left_out
    for alert in notification.alerts:
        text = _list_item(alert, shared, now)
        if len(text) > remaining:
            left_out += 1
            continue
        remaining -= len(text)
        blocks.append({"type": "section", "text": _mrkdwn(text)})
    parts = [
        f"+{left_out} more" if left_out else "",
        escape(formatting.also_notified(notification), MAX_NAME),
    ]
    text = " · ".join(filter(None, parts))
    return [*blocks, _context(text)] if text else blocks


def _list_item(alert: AlertDetails, shared: Links, now: float) -> str:
    own = [link for link in formatting.links(alert) if link not in shared]
    parts = [
        f"{_emoji(alert)} *{escape(formatting.location(alert), MAX_NAME)}*",
        alert.severity,
        escape(formatting.times(alert, now), MAX_NAME),
        _format_links(own),
    ]
    text = escape(formatting.condition(alert), MAX_NAME)
    return f"{' · '.join(filter(None, parts))}\n{text}"


def _emoji(alert: AlertDetails) -> str:
    return _EMOJIS[appearance.alert_state(alert)]


def _link_block(links: Links) -> list[dict[str, Any]]:
    """Return a block of links; it goes on top, as Slack folds long messages."""
    text = _format_links(links)
    return [{"type": "section", "text": _mrkdwn(text)}] if text else []


def _format_links(links: Links) -> str:
    return " · ".join(
        f"<{url.translate(_URL_ESCAPES)}|{name}>"
        for name, url in links
        if len(url) < MAX_FIELD
    )


def _context(text: str) -> dict[str, Any]:
    return {"type": "context", "elements": [_mrkdwn(text)]}


def _mrkdwn(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text}
