"""Slack: an incoming webhook, or a bot that goes on from its messages.

Limits: https://docs.slack.dev/reference/block-kit/blocks, and in all some 13,200
characters over a message's blocks, which is not documented.

Links are links and no buttons: a click on a button is also sent to the app, and Slack
shows a warning beside it where nobody answers (slackapi/node-slack-sdk issue 869).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from kaywatch_agent.model.alerts import AlertDetails, Notification, NotificationKind
from kaywatch_agent.notify import formatting
from kaywatch_agent.notify.config import SlackConfig
from kaywatch_agent.notify.http import Answer, Http
from kaywatch_agent.notify.result import DeliveryResult, Outcome, judge_status, sent

__all__ = ["Slack", "escaped", "judge_api", "judge_webhook", "render", "text_only"]

MAX_TITLE: Final = 300
MAX_TEXT: Final = 2_900  # of a section; 3,001 lose the whole message
MAX_FIELD: Final = 500  # 2,000 are allowed; nobody reads them
MAX_FIELDS: Final = 10
BUDGET: Final = 10_000  # characters of all blocks
MAX_NAME: Final = 300  # of one alert among many

RED, ORANGE, BLUE, GREEN = "#d32f2f", "#f57c00", "#1976d2", "#388e3c"
_COLOURS: Final = {"critical": RED, "error": RED, "warning": ORANGE, "info": BLUE}

_MARKS: Final = {
    "critical": ":red_circle:",
    "error": ":red_circle:",
    "warning": ":large_orange_circle:",
    "info": ":large_blue_circle:",
}

# Facts that stand above the fields, or below.
_ELSEWHERE: Final = frozenset({"Since", "Fired", "Resolved", "Host", "Alert"})

Links = Sequence[tuple[str, str]]

# The Web API answers 200 with an error in the body.
_LATER: Final = frozenset(
    {
        "ratelimited",
        "rate_limited",
        "internal_error",
        "fatal_error",
        "service_unavailable",
        "request_timeout",
    }
)
_MISCONFIGURED: Final = frozenset(
    {
        "invalid_auth",
        "not_authed",
        "account_inactive",
        "token_revoked",
        "token_expired",
        "missing_scope",
        "channel_not_found",
        "not_in_channel",
        "is_archived",
    }
)
_POST_ANEW: Final = frozenset(
    {"message_not_found", "edit_window_closed", "cant_update_message"}
)


class Slack:
    """Sends to one channel."""

    def __init__(self, config: SlackConfig, http: Http) -> None:
        self._config = config
        self._http = http

    def render(self, notification: Notification, now: float) -> dict[str, Any]:
        """Return a message's payload; of a bot with where it goes."""
        payload = render(notification, now)
        if not self._config.bot:
            return payload
        return address(payload, notification, self._config.channel)[1]

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Send a message; once more as plain text if its blocks are refused."""
        payload = render(notification, now)
        result = await self._attempt(payload, notification, now)
        if result.code == 400 or "invalid_blocks" in result.error:
            result = await self._attempt(text_only(payload), notification, now)
        return result

    async def _attempt(
        self, payload: dict[str, Any], notification: Notification, now: float
    ) -> DeliveryResult:
        if not self._config.bot:
            url = self._config.need("webhook_url").read()
            return judge_webhook(await self._post(url, payload, {}), now)
        result = await self._call(payload, notification, now)
        if notification.update and result.error in _POST_ANEW:
            alone = msgspec.structs.replace(notification, ref="", update=False)
            result = await self._call(payload, alone, now)
        return result

    async def _call(
        self, payload: dict[str, Any], notification: Notification, now: float
    ) -> DeliveryResult:
        token = self._config.need("bot_token").read()
        method, body = address(payload, notification, self._config.channel)
        answer = await self._post(
            f"{self._config.url.rstrip('/')}/{method}",
            body,
            {"Authorization": f"Bearer {token}"},
            token,
        )
        return judge_api(answer, now)

    async def _post(
        self, url: str, payload: Any, headers: dict[str, str], *secrets: str
    ) -> Answer:
        body = msgspec.json.encode(payload)
        kind = {"Content-Type": "application/json; charset=utf-8"}
        return await self._http.post(url, body, {**kind, **headers}, secrets=secrets)


def render(notification: Notification, now: float) -> dict[str, Any]:
    """Return a message's payload.

    The text is what a phone shows: what it is about, how bad, since when. The rest is
    an attachment, which alone can have a colour.
    """
    first = notification.alerts[0]
    lines = [f"{_mark(first)} *{escaped(formatting.title(notification), MAX_TITLE)}*"]
    lines += [
        f"_{escaped(mark, MAX_TITLE)}_"
        for mark in formatting.remarks(notification, now)
    ]
    if len(notification.alerts) == 1:
        lines.append(escaped(formatting.condition(first), MAX_TEXT))
        lines.append(escaped(formatting.times(first, now), MAX_FIELD))
        blocks = _details(first, now)
    else:
        blocks = _list(notification, now)
    text = "\n".join(filter(None, lines))
    return {
        "text": text,
        "attachments": [
            {
                "color": _colour(notification),
                "fallback": escaped(formatting.title(notification), MAX_TITLE),
                "blocks": blocks,
            }
        ],
        "unfurl_links": False,
        "unfurl_media": False,
    }


def text_only(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload without anything that Slack could find fault with."""
    sections = [
        block["text"]["text"]
        for block in payload["attachments"][0]["blocks"]
        if "text" in block
    ]
    return {
        "text": "\n".join([payload["text"], *sections])[:BUDGET],
        "unfurl_links": False,
        "unfurl_media": False,
    }


def address(
    payload: dict[str, Any], notification: Notification, channel: str
) -> tuple[str, dict[str, Any]]:
    """Return the Web API's method and its arguments, for a bot."""
    where, _, stamp = notification.ref.partition(" ")
    if not stamp:
        return "chat.postMessage", {"channel": channel, **payload}
    if notification.update:
        kept = {k: v for k, v in payload.items() if not k.startswith("unfurl")}
        # Without blocks or attachments of its own it would keep the old ones.
        kept.setdefault("attachments", [])
        return "chat.update", {"channel": where, "ts": stamp, **kept}
    loud = notification.kind is NotificationKind.REPEAT
    thread = {"channel": where, "thread_ts": stamp, "reply_broadcast": loud}
    return "chat.postMessage", {**thread, **payload}


def judge_webhook(answer: Answer, now: float) -> DeliveryResult:
    """Return what the answer of an incoming webhook means: 200 alone isn't enough."""
    if not 200 <= answer.status < 300:
        return judge_status(answer.status, answer.headers, answer.text, now)
    if answer.text == "ok":
        return sent(answer.status)
    found = _json(answer)
    # Others that take Slack's payloads answer in JSON.
    if found.get("ok") is True or found.get("success") is True:
        return sent(answer.status)
    if found.get("error") in _LATER:
        return judge_status(429, answer.headers, str(found["error"]), now)
    text = f"HTTP {answer.status}, but not ok: {answer.text[:200]}"
    return DeliveryResult(Outcome.DEAD, answer.status, text)


def judge_api(answer: Answer, now: float) -> DeliveryResult:
    """Return what the Web API's answer means."""
    if not 200 <= answer.status < 300:
        return judge_status(answer.status, answer.headers, answer.text, now)
    found = _json(answer)
    if found.get("ok") is True:
        ref = f"{found.get('channel', '')} {found.get('ts', '')}"
        return sent(answer.status, ref=ref if found.get("ts") else "")
    error = str(found.get("error", "")) or "no JSON"
    if error in ("ratelimited", "rate_limited"):
        return judge_status(429, answer.headers, error, now)
    if error in _LATER:
        return DeliveryResult(Outcome.RETRY, answer.status, error)
    misconfigured = error in _MISCONFIGURED
    return DeliveryResult(
        Outcome.DEAD,
        answer.status,
        error,
        undelivered=True,
        misconfigured=misconfigured,
    )


def escaped(text: str, limit: int) -> str:
    """Return a text that means itself in Slack, of at most so many characters.

    Nothing but these three is to be escaped; it also disarms `<!channel>`.
    """
    pieces: list[str] = []
    left = limit
    for character in text:
        piece = _ESCAPES.get(character, character)
        if len(piece) > left:
            return _cut(pieces, left)
        pieces.append(piece)
        left -= len(piece)
    return "".join(pieces)


# -- inside --------------------------------------------------------------------------

_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": ""}


def _cut(pieces: list[str], left: int) -> str:
    while pieces and left < 1:
        left += len(pieces.pop())
    return "".join(pieces) + "…"


def _details(alert: AlertDetails, now: float) -> list[dict[str, Any]]:
    """Return the blocks of a message about one alert."""
    blocks = _linked(formatting.links(alert))
    fields = [
        _mrkdwn(f"*{name}*\n{escaped(text, MAX_FIELD)}")
        for name, text in formatting.facts(alert, now)
        if name not in _ELSEWHERE
    ][:MAX_FIELDS]
    if fields:
        blocks.append({"type": "section", "fields": fields})
    parts = [formatting.identity(alert), escaped(alert.host, MAX_NAME)]
    context = _mrkdwn(" · ".join(filter(None, parts)))
    blocks.append({"type": "context", "elements": [context]})
    return blocks


def _list(notification: Notification, now: float) -> list[dict[str, Any]]:
    """Return the blocks of a message about several: two lines for each."""
    first, *others = [formatting.links(alert) for alert in notification.alerts]
    shared = [link for link in first if all(link in links for links in others)]
    blocks = _linked(shared)
    left, unsaid = BUDGET, notification.left_out
    for alert in notification.alerts:
        text = _entry(alert, shared, now)
        if len(text) > left:
            unsaid += 1
            continue
        left -= len(text)
        blocks.append({"type": "section", "text": _mrkdwn(text)})
    if unsaid:
        more = _mrkdwn(f"+{unsaid} more")
        blocks.append({"type": "context", "elements": [more]})
    return blocks


def _entry(alert: AlertDetails, shared: Links, now: float) -> str:
    own = [link for link in formatting.links(alert) if link not in shared]
    head = [
        f"{_mark(alert)} *{escaped(formatting.location(alert), MAX_NAME)}*",
        alert.severity,
        escaped(formatting.times(alert, now), MAX_NAME),
        _links(own),
    ]
    text = escaped(formatting.condition(alert), MAX_NAME)
    return f"{' · '.join(filter(None, head))}\n{text}"


def _mark(alert: AlertDetails) -> str:
    return ":white_check_mark:" if alert.resolved else _MARKS[alert.severity]


def _linked(found: Links) -> list[dict[str, Any]]:
    """Return a block of links, at the top: Slack folds what is long."""
    text = _links(found)
    return [{"type": "section", "text": _mrkdwn(text)}] if text else []


def _links(found: Links) -> str:
    return " · ".join(
        f"<{_in_link(url)}|{name}>" for name, url in found if len(url) < MAX_FIELD
    )


def _in_link(url: str) -> str:
    for character, code in (("<", "%3C"), (">", "%3E"), ("|", "%7C")):
        url = url.replace(character, code)
    return url.replace("&", "&amp;")


def _colour(notification: Notification) -> str:
    firing = [alert for alert in notification.alerts if not alert.resolved]
    if not firing:
        return GREEN
    return _COLOURS[firing[0].severity]


def _mrkdwn(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text}


def _json(answer: Answer) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer.body, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError):
        return {}
