"""What messages say, in plain words: once for all receivers and the terminal."""

from __future__ import annotations

from typing import Final

from kaywatch_agent.model.alerts import AlertDetails, Notification, NotificationKind
from kaywatch_agent.units import clock_time, duration, quantity, sparkline

__all__ = [
    "LATE_SECONDS",
    "times",
    "truncate",
    "facts",
    "identity",
    "delay",
    "links",
    "remarks",
    "value_and_threshold",
    "location",
    "plain_text",
    "summary",
    "condition",
    "title",
]

# A message that is older than this says so.
LATE_SECONDS: Final = 120.0
MAX_NAMES: Final = 200  # characters of error classes

_REASONS: Final = {
    "cleared": "",
    "no_data": "data stopped, not confirmed healthy",
    "rule_removed": "the rule was removed",
    "rule_changed": "the rule was changed",
    "forgotten": "not seen for long",
}
_STATUS: Final = {
    NotificationKind.REPEAT: "STILL FIRING",
    NotificationKind.TEST: "TEST",
    NotificationKind.SUMMARY: "SUMMARY",
}


def title(notification: Notification) -> str:
    """Return the first line: what happened, to what."""
    firing = sum(not alert.resolved for alert in notification.alerts)
    resolved = len(notification.alerts) - firing
    if len(notification.alerts) == 1 and not notification.left_out:
        (alert,) = notification.alerts
        status = "RESOLVED" if resolved else "FIRING"
        if notification.kind is NotificationKind.TEST:
            status = f"TEST, {status}"
        else:
            status = _STATUS.get(notification.kind, status)
        return f"[{status}] {alert.rule}: {location(alert)}"
    counts = [f"FIRING: {firing}"] * bool(firing)
    counts += [f"RESOLVED: {resolved}"] * bool(resolved)
    status = ", ".join(counts)
    if notification.kind in _STATUS:
        status = f"{_STATUS[notification.kind]}, {status}"
    more = f" (+{notification.left_out} more)" if notification.left_out else ""
    about = ": ".join(v for v in notification.group.values() if v)
    return f"[{status}{more}] {about or 'alerts'}"


def location(alert: AlertDetails) -> str:
    """Return what an alert is about, such as `checkout / pay`."""
    names = [alert.labels.get(name, "") for name in ("service", "graph", "node")]
    found = " / ".join(name for name in names if name)
    return found or ", ".join(f"{k}={v}" for k, v in alert.labels.items()) or "all"


def summary(alert: AlertDetails) -> str:
    """Return how it is, in one sentence; of what ended, how it is now."""
    return alert.summary or f"{location(alert)}: {alert.condition or alert.rule}"


def condition(alert: AlertDetails) -> str:
    """Return how it is without the place, for where that stands already."""
    return summary(alert).removeprefix(f"{location(alert)}: ")


def remarks(notification: Notification, now: float) -> list[str]:
    """Return what has to be said above the alerts, such as that it is late."""
    found = []
    if notification.kind is NotificationKind.TEST:
        found.append("This is a test; nothing is wrong.")
    if notification.text:
        found.append(notification.text)
    seconds = delay(notification, now)
    if seconds:
        found.append(f"delayed {duration(seconds)}")
    if any(alert.flapping for alert in notification.alerts):
        found.append("flapping: fires and ends again and again")
    return found


def delay(notification: Notification, now: float) -> float:
    """Return by how many seconds a message is late; 0 for in time."""
    seconds = now - max(notification.created, notification.due)
    return seconds if notification.created and seconds > LATE_SECONDS else 0.0


def facts(alert: AlertDetails, now: float) -> list[tuple[str, str]]:
    """Return what is known of an alert, as names and texts, the weightiest first.

    Of one that is over, what was seen as it began is told as such, or not at all.
    """
    over = alert.resolved
    found = [
        ("Now" if over else "Value", value_and_threshold(alert)),
        ("Worst", _worst(alert, now)),
        *_times(alert, now),
        ("" if over else "Failed", _counts(alert)),
        ("Errors at first" if over else "Errors", _errors(alert)),
        ("" if over else "Worst transition", alert.transition),
        ("" if over else "Trend", _trend(alert)),
        ("Complete", _complete(alert)),
        ("Labels", _labels(alert)),
        ("Note", alert.note),
        ("Host", alert.host),
        ("Alert", identity(alert)),
    ]
    return [(name, text) for name, text in found if name and text]


def times(alert: AlertDetails, now: float) -> str:
    """Return since when, in a line, for messages about many."""
    return " · ".join(f"{name.lower()} {text}" for name, text in _times(alert, now))


def value_and_threshold(alert: AlertDetails) -> str:
    """Return a value against its threshold: `84.2 %, threshold 95.0 %`."""
    if alert.value is None and alert.threshold is None:
        return ""
    value = quantity(alert.value, alert.unit)
    if alert.threshold is None:
        return value
    threshold = quantity(alert.threshold, alert.unit)
    near = ""
    if value == threshold and alert.value is not None:
        near = " (just above)" if alert.value > alert.threshold else " (just below)"
        near = near if alert.value != alert.threshold else ""
    clear = ""
    if alert.clear is not None and alert.clear != alert.threshold:
        clear = f", clears at {quantity(alert.clear, alert.unit)}"
    return f"{value}{near}, threshold {threshold}{clear}"


def identity(alert: AlertDetails) -> str:
    """Return how bad an alert is, how often it fired, and what it is called."""
    parts = [alert.severity, f"episode {alert.episode}", alert.id]
    return " · ".join(filter(None, parts))


def links(alert: AlertDetails) -> list[tuple[str, str]]:
    """Return the links that there are, as names and URLs."""
    found = [
        ("Dashboard", alert.dashboard_url),
        ("Runbook", alert.runbook_url),
        ("Silence", alert.silence_url),
    ]
    return [(name, url) for name, url in found if url]


def plain_text(notification: Notification, now: float) -> str:
    """Return a whole message as plain text."""
    lines = [title(notification), *remarks(notification, now)]
    for alert in notification.alerts:
        lines += ["", summary(alert)]
        lines += [f"  {name}: {text}" for name, text in facts(alert, now)]
        lines += [f"  {name}: {url}" for name, url in links(alert)]
    if notification.left_out:
        lines += ["", f"+{notification.left_out} more"]
    return "\n".join(lines)


def truncate(text: str, limit: int) -> str:
    """Return a text of at most so many characters, with `…` where it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


# -- inside --------------------------------------------------------------------------


def _times(alert: AlertDetails, now: float) -> list[tuple[str, str]]:
    fired = alert.fired or alert.started
    if not fired:
        return []
    if not alert.resolved or alert.ended is None:
        since = alert.started or fired
        return [("Since", f"{clock_time(since, now)} ({duration(now - since)})")]
    why = _REASONS.get(alert.reason, alert.reason)
    lasted = f"{clock_time(alert.ended, now)}, after {duration(alert.ended - fired)}"
    return [
        ("Fired", clock_time(fired, now)),
        ("Resolved", f"{lasted}; {why}" if why else lasted),
    ]


def _worst(alert: AlertDetails, now: float) -> str:
    """Return the worst of the episode, where it was worse than what is told anyway."""
    if alert.worst is None or alert.worst_at is None:
        return ""
    text = quantity(alert.worst, alert.unit)
    if text == quantity(alert.value, alert.unit):
        return ""
    return f"{text} at {clock_time(alert.worst_at, now)}"


def _counts(alert: AlertDetails) -> str:
    if not alert.executions:
        return ""
    window = f" in {duration(alert.window_seconds)}" if alert.window_seconds else ""
    return f"{alert.errors:,} of {alert.executions:,}{window}"


def _errors(alert: AlertDetails) -> str:
    names = [f"{name} {count:,}" for name, count in alert.error_classes]
    return truncate(", ".join(names), MAX_NAMES)


def _trend(alert: AlertDetails) -> str:
    line = sparkline(alert.history)
    known = [value for value in alert.history if value is not None]
    if len(known) < 2:
        return ""
    ends = (quantity(known[0], alert.unit), quantity(known[-1], alert.unit))
    return f"{line} {ends[0]} → {ends[1]}"


def _complete(alert: AlertDetails) -> str:
    if alert.completeness is None or alert.completeness >= 1:
        return ""
    return f"{quantity(alert.completeness, 'ratio')} of the events arrived"


def _labels(alert: AlertDetails) -> str:
    shown = ("service", "graph", "node")
    return ", ".join(f"{k}={v}" for k, v in alert.labels.items() if k not in shown)
