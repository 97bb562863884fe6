"""Renders the HTML of an email: tables with inline styles, which all clients show.

Clients remove style sheets, scripts and forms, and most clients block images until the
reader allows them. The HTML therefore has none of them.
"""

from __future__ import annotations

import html
from typing import Final

from kaywatch_agent.model.alerts import AlertDetails, Notification
from kaywatch_agent.notify import appearance, formatting
from kaywatch_agent.notify.appearance import Links
from kaywatch_agent.notify.truncation import truncate

__all__ = ["html_body"]

TEXT, MUTED, LINE = "#1f2328", "#59636e", "#d1d9e0"
PAGE, CARD = "#f6f8fa", "#ffffff"
# Darker than the bar, so that white text on it is readable.
LABELS: Final[dict[appearance.State, str]] = {
    **appearance.COLOURS,
    "warning": "#b45309",
    "no_data": "#6e7781",
}
FONT: Final = "-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"
WIDTH: Final = 640
MAX_TITLE: Final = 200
MAX_TEXT: Final = 1_000  # characters of one fact; Gmail hides what follows 102 kB


def html_body(notification: Notification, now: float) -> str:
    """Return a whole message as an HTML document."""
    alerts = notification.alerts
    one = len(alerts) == 1
    content = _single(alerts[0], now) if one else _several(notification, now)
    state = appearance.message_state(notification)
    rows = [
        _row(_heading(notification, now), "20px 24px 4px"),
        _row(content, "0 24px 16px"),
        _row(_footer(notification), f"12px 24px 16px;border-top:1px solid {LINE}"),
    ]
    card = (
        f'<table role="presentation" cellpadding="0" cellspacing="0" width="100%"'
        f' style="max-width:{WIDTH}px;background:{CARD};border:1px solid {LINE};'
        f'border-top:5px solid {appearance.COLOURS[state]}">'
        f"{''.join(filter(None, rows))}</table>"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(formatting.title(notification))}</title></head>\n"
        f'<body style="margin:0;padding:16px;background:{PAGE};color:{TEXT};'
        f'font:14px/1.45 {FONT}">{card}</body></html>\n'
    )


# -- inside --------------------------------------------------------------------------


def _heading(notification: Notification, now: float) -> str:
    """Return the status and the subject; below them the remarks."""
    status, subject = appearance.split_title(notification)
    alert = notification.alerts[0]
    if len(notification.alerts) == 1:
        rule, subject = alert.rule, formatting.location(alert)
    else:
        rule = f"{len(notification.alerts) + notification.left_out} alerts"
    colour = LABELS[appearance.message_state(notification)]
    label = (
        f'<span style="background:{colour};color:#fff;font-weight:600;font-size:12px;'
        f'padding:2px 8px;white-space:nowrap">{_text(status)}</span>'
    )
    heading = (
        f'<div>{label} <span style="color:{MUTED}">{_text(rule)}</span></div>'
        f'<div style="font-size:20px;font-weight:600;margin-top:8px;'
        f'overflow-wrap:anywhere">{_text(subject, MAX_TITLE)}</div>'
    )
    remarks = [
        f'<div style="color:{MUTED};font-style:italic">{_text(remark)}</div>'
        for remark in formatting.remarks(notification, now)
    ]
    return heading + "".join(remarks)


def _single(alert: AlertDetails, now: float) -> str:
    """Return one alert: its condition, its times, its links and its facts."""
    facts = appearance.details(alert, now)
    return (
        f'<div style="font-size:16px;overflow-wrap:anywhere">'
        f"{_text(formatting.condition(alert))}</div>"
        f'<div style="color:{MUTED}">{_text(formatting.times(alert, now))}</div>'
        f"{_buttons(formatting.links(alert))}{_facts(facts)}"
    )


def _several(notification: Notification, now: float) -> str:
    """Return a group: the links that all share, then a block for each alert."""
    shared = appearance.shared_links(notification)
    blocks = [_block(alert, shared, now) for alert in notification.alerts]
    if notification.left_out:
        blocks.append(
            f'<div style="color:{MUTED};margin-top:12px">+{notification.left_out}'
            " more</div>"
        )
    return _buttons(shared) + "".join(blocks)


def _block(alert: AlertDetails, shared: Links, now: float) -> str:
    state = appearance.alert_state(alert)
    ended = {"resolved": "resolved", "no_data": "no data"}.get(state)
    status = f"{ended}, {alert.severity}" if ended else alert.severity
    own = [link for link in formatting.links(alert) if link not in shared]
    links = " · ".join(f'<a href="{_url(url)}">{name}</a>' for name, url in own)
    times = " · ".join(filter(None, [status, formatting.times(alert, now)]))
    return (
        f'<div style="border-left:4px solid {appearance.COLOURS[state]};'
        f'padding:2px 0 2px 12px;margin-top:14px;overflow-wrap:anywhere">'
        f"<div><b>{_text(formatting.location(alert))}</b></div>"
        f"<div>{_text(formatting.condition(alert))}</div>"
        f'<div style="color:{MUTED};font-size:13px">{_text(times)}'
        f"{' · ' if links else ''}{links}</div></div>"
    )


def _buttons(links: Links) -> str:
    """Return links that look like buttons, the first of them filled."""
    cells = []
    for number, (name, url) in enumerate(links):
        fill, ink = (CARD, appearance.BLUE) if number else (appearance.BLUE, CARD)
        cells.append(
            f'<a href="{_url(url)}" style="display:inline-block;background:{fill};'
            f"color:{ink};border:1px solid {appearance.BLUE};text-decoration:none;"
            f'font-weight:600;padding:5px 14px;margin:0 8px 6px 0">{name}</a>'
        )
    return f'<div style="margin-top:14px">{"".join(cells)}</div>' if cells else ""


def _facts(facts: Links) -> str:
    rows = [
        f'<tr><td valign="top" style="color:{MUTED};padding:4px 16px 4px 0;'
        f'white-space:nowrap">{_text(name)}</td>'
        f'<td valign="top" style="padding:4px 0;overflow-wrap:anywhere">'
        f"{_text(text)}</td></tr>"
        for name, text in facts
    ]
    if not rows:
        return ""
    return (
        '<table role="presentation" cellpadding="0" cellspacing="0"'
        f' style="margin-top:10px;font:14px/1.45 {FONT}">{"".join(rows)}</table>'
    )


def _footer(notification: Notification) -> str:
    alert, *others = notification.alerts
    parts = [] if others else [formatting.identity(alert)]
    if all(other.host == alert.host for other in others):
        parts.append(alert.host)
    parts.append(formatting.also_notified(notification))
    text = " · ".join(filter(None, parts)) or "kaywatch"
    return f'<span style="color:{MUTED};font-size:12px">{_text(text)}</span>'


def _row(content: str, padding: str) -> str:
    return f'<tr><td style="padding:{padding}">{content}</td></tr>'


def _text(text: str, limit: int = MAX_TEXT) -> str:
    return html.escape(truncate(text, limit))


def _url(url: str) -> str:
    return html.escape(url, quote=True)
