"""The colours of alerts in messages, and the links and facts that messages lay out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from kaywatch_agent.model.alerts import AlertDetails, Notification, Severity
from kaywatch_agent.notify import formatting

__all__ = [
    "COLOURS",
    "Links",
    "SYMBOLS",
    "State",
    "alert_state",
    "details",
    "message_state",
    "shared_links",
    "split_title",
]

# The severity of a firing alert, or how an alert ended.
State = Severity | Literal["resolved", "no_data"]

Links = Sequence[tuple[str, str]]  # names and URLs

RED, ORANGE, BLUE, GREEN = "#d32f2f", "#f57c00", "#1976d2", "#388e3c"
GREY: Final = "#9e9e9e"
COLOURS: Final[dict[State, str]] = {
    "critical": RED,
    "error": RED,
    "warning": ORANGE,
    "info": BLUE,
    "resolved": GREEN,
    "no_data": GREY,
}

# For texts that have no colours of their own.
SYMBOLS: Final[dict[State, str]] = {
    "critical": "\U0001f534",
    "error": "\U0001f534",
    "warning": "\U0001f7e0",
    "info": "\U0001f535",
    "resolved": "\u2705",
    "no_data": "\u26aa",
}

# Facts that messages show above or below the others.
_ELSEWHERE: Final = frozenset({"Since", "Fired", "Resolved", "Ended", "Host", "Alert"})


def alert_state(alert: AlertDetails) -> State:
    """Return an alert's severity while it fires, and then how it ended."""
    if alert.ended_without_data:
        return "no_data"
    return "resolved" if alert.resolved else alert.severity


def message_state(notification: Notification) -> State:
    """Return the state of a message: the most severe that fires, then `no_data`."""
    firing = [alert for alert in notification.alerts if not alert.resolved]
    if firing:
        return firing[0].severity
    # One that was not confirmed healthy is enough to be no good news.
    silent = any(alert.ended_without_data for alert in notification.alerts)
    return "no_data" if silent else "resolved"


def split_title(notification: Notification) -> tuple[str, str]:
    """Return a title's two parts: `FIRING`, and the rule with its subject."""
    status, _, subject = formatting.title(notification).partition("] ")
    return status.removeprefix("["), subject


def details(alert: AlertDetails, now: float) -> list[tuple[str, str]]:
    """Return the facts for a list, without the times, the host and the identity."""
    facts = formatting.facts(alert, now)
    return [(name, text) for name, text in facts if name not in _ELSEWHERE]


def shared_links(notification: Notification) -> Links:
    """Return the links that all alerts of a message have."""
    first, *others = [formatting.links(alert) for alert in notification.alerts]
    return [link for link in first if all(link in links for links in others)]
