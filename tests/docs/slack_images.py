"""Draws what Slack shows of our messages: `python -m tests.docs.slack_images`.

The messages are made by the receiver, from alerts as rules make them. Each image says
which page it was made of, so that a test sees when the message has changed since.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from pathlib import Path

import msgspec
from playwright.sync_api import Page
from tests.browser import run_browser
from tests.docs.rule_messages import built_in_messages
from tests.docs.slack_page import page
from tests.docs.webp import to_webp

from kaywatch_agent.model.alerts import AlertDetails, NotificationKind
from kaywatch_agent.notify.message import MessageEntry, OutboxMessage
from kaywatch_agent.notify.receivers import slack
from kaywatch_agent.notify.sample import resolve, sample

__all__ = ["FOLDER", "pages", "rule_pages", "source"]

FOLDER = Path(__file__).parents[2] / "docs" / "images"
NOON = 1_795_608_060.0
WIDTH = 720  # CSS pixels
SCALE = 1.5
SHOWN = 10  # of the alerts of a group, as the receiver has it
KEY = b"kaywatch-page"
HEAD = b"\x89PNG\r\n\x1a\n"


def fact() -> AlertDetails:
    """The alert of docs/receivers.md."""
    alert = sample(NOON, host="worker-3")
    return msgspec.structs.replace(
        alert,
        runbook_url="https://runbooks.example/checkout",
        dashboard_url="https://kaywatch.example/?graph=checkout",
        silence_url=f"https://kaywatch.example/silence?alert={alert.id}",
    )


def storm() -> list[AlertDetails]:
    """Alerts of one group: a provider that is down takes many nodes with it."""
    shares = (("pay", 0.612, 203), ("refund", 0.8806, 67), ("payout", 0.9102, 412))
    names = (*shares, *((f"notify-{n}", 0.93, 260 + n) for n in range(1, 10)))
    results = []
    for number, (node, value, executions) in enumerate(names):
        errors = round(executions * (1 - value))
        failed = f"{errors} of {executions} failed in 5m"
        results.append(
            msgspec.structs.replace(
                fact(),
                labels={"service": "shop", "graph": "checkout", "node": node},
                severity="critical" if value < 0.9 else "warning",
                summary=f"shop / checkout / {node}: success rate {value * 100:.1f} %,"
                f" below 95.0 % ({failed})",
                started=NOON - 120 + 5 * number,
                silence_url=f"https://kaywatch.example/silence?alert={number:016x}",
            )
        )
    return results


def pages() -> dict[str, str]:
    """Return the pages, by the image's name."""
    over = resolve(fact(), NOON + 1440)
    return {
        "slack-firing": _page(NotificationKind.FIRING, [fact()], NOON + 2),
        "slack-resolved": _page(NotificationKind.RESOLVED, [over], NOON + 1442),
        "slack-storm": _page(NotificationKind.FIRING, storm(), NOON + 40),
    }


def rule_pages() -> dict[str, str]:
    """Return a page for each built-in rule, by the image's name; takes a minute."""
    result = {}
    for rule, (fired, alert) in built_in_messages().items():
        shown = msgspec.structs.replace(
            alert,
            dashboard_url="https://kaywatch.example/?graph=shop",
            silence_url=f"https://kaywatch.example/silence?alert={alert.id}",
        )
        name = f"rule-{rule.replace('_', '-')}"
        result[name] = _page(NotificationKind.FIRING, [shown], fired + 2, fired)
    return result


def source(png: bytes) -> str:
    """Return the page that an image was rendered from, as stored in the image."""
    match = re.search(rb"tEXt" + KEY + rb"\0([0-9a-f]{64})", png)
    return match[1].decode() if match else ""


def digest(text: str) -> str:
    """Return the identity of a page."""
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    """Draw all."""
    FOLDER.mkdir(exist_ok=True)
    with run_browser() as browser:
        tab = browser.new_page(
            viewport={"width": WIDTH, "height": 200}, device_scale_factor=SCALE
        )
        for name, text in pages().items():
            png = _add_text(_draw(tab, text), digest(text))
            (FOLDER / f"{name}.png").write_bytes(png)
            print(f"{name}.png  {len(png):,} bytes")
        for name, text in rule_pages().items():
            picture = to_webp(tab, _draw(tab, text))
            (FOLDER / f"{name}.webp").write_bytes(picture)
            print(f"{name}.webp  {len(picture):,} bytes")


# -- inside --------------------------------------------------------------------------


def _page(
    kind: NotificationKind, alerts: list[AlertDetails], now: float, noon: float = NOON
) -> str:
    first = alerts[0]
    row = OutboxMessage(
        id="msg_01KZ9V5VE0ABCDEFGHJKMNPQRS",
        receiver="ops",
        stream="",
        entries=tuple(MessageEntry(kind, alert) for alert in alerts),
        group={"alertname": first.rule, "graph": "checkout"},
        created=now,
        due=now,
        not_before=now,
        expires=now + 86_400,
    )
    minutes = round(now - noon) // 60
    payload = slack.render(row.notification(SHOWN), now)
    return page(payload, f"12:{1 + minutes:02} PM")


def _draw(tab: Page, text: str) -> bytes:
    """Return a picture of a page, as high as the page is."""
    tab.set_content(text)
    return tab.screenshot(full_page=True)


def _add_text(png: bytes, text: str) -> bytes:
    """Return a PNG with a text in it: a chunk after the first, which is the header."""
    data = b"tEXt" + KEY + b"\0" + text.encode()
    chunk = (
        struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    )
    at = len(HEAD) + 25  # length, type, 13 bytes, checksum
    return png[:at] + chunk + png[at:]


if __name__ == "__main__":
    main()
