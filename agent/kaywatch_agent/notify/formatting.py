"""The texts of messages, shared by all receivers and the command line."""

from __future__ import annotations

from typing import Final

import msgspec

from kaywatch_agent.model.alerts import AlertDetails, Notification, NotificationKind
from kaywatch_agent.notify.truncation import truncate
from kaywatch_agent.units import clock_time, duration, local_time, quantity, sparkline

__all__ = [
    "LATE_SECONDS",
    "condition",
    "also_notified",
    "delay",
    "facts",
    "identity",
    "last_error",
    "links",
    "location",
    "plain_text",
    "remarks",
    "status",
    "summary",
    "times",
    "title",
    "truncate",
    "value_and_threshold",
    "without_error_texts",
]

# A message that is sent later than this after it was due states its delay.
LATE_SECONDS: Final = 120.0
MAX_NAMES: Final = 200  # characters of error classes
MAX_ERROR: Final = 300  # characters of the last error

# The labels of an alert's location, in order.
_LOCATION: Final = ("service", "graph", "node")

_REASONS: Final = {
    "cleared": "",
    "no_data": "data stopped, not confirmed healthy",
    "rule_removed": "the rule was removed",
    "rule_changed": "the rule was changed",
    "forgotten": "not seen for a long time",
}
_STATUS: Final = {
    NotificationKind.REPEAT: "STILL FIRING",
    NotificationKind.TEST: "TEST",
    NotificationKind.SUMMARY: "SUMMARY",
}


def status(notification: Notification) -> str:
    """Return `firing` or `resolved`, for formats that have one status for a message."""
    firing = any(not alert.resolved for alert in notification.alerts)
    return "firing" if firing else "resolved"


def title(notification: Notification) -> str:
    """Return the first line of a message: its status and its subject."""
    firing = sum(not alert.resolved for alert in notification.alerts)
    silent = sum(alert.ended_without_data for alert in notification.alerts)
    resolved = len(notification.alerts) - firing - silent
    if len(notification.alerts) == 1 and not notification.left_out:
        (alert,) = notification.alerts
        text = "NO DATA" if silent else "RESOLVED" if resolved else "FIRING"
        if notification.kind is NotificationKind.TEST:
            text = f"TEST, {text}"
        else:
            text = _STATUS.get(notification.kind, text)
        return f"[{text}] {alert.rule}: {location(alert)}"
    counts = [f"FIRING: {firing}"] * bool(firing)
    counts += [f"NO DATA: {silent}"] * bool(silent)
    counts += [f"RESOLVED: {resolved}"] * bool(resolved)
    text = ", ".join(counts)
    if notification.kind in _STATUS:
        text = f"{_STATUS[notification.kind]}, {text}"
    more = f" (+{notification.left_out} more)" if notification.left_out else ""
    group = ": ".join(value for value in notification.group.values() if value)
    return f"[{text}{more}] {group or 'alerts'}"


def location(alert: AlertDetails) -> str:
    """Return the subject of an alert, such as `checkout / pay`."""
    names = " / ".join(filter(None, map(alert.labels.get, _LOCATION)))
    return names or ", ".join(f"{k}={v}" for k, v in alert.labels.items()) or "all"


def summary(alert: AlertDetails) -> str:
    """Return an alert's current state in one sentence, with its location."""
    return alert.summary or f"{location(alert)}: {alert.condition or alert.rule}"


def condition(alert: AlertDetails) -> str:
    """Return an alert's summary without the location, for use below the title."""
    return summary(alert).removeprefix(f"{location(alert)}: ")


def remarks(notification: Notification, now: float) -> list[str]:
    """Return the lines above the alerts, such as the message's delay."""
    lines = []
    if notification.kind is NotificationKind.TEST:
        lines.append("This is a test; nothing is wrong.")
    if notification.text:
        lines.append(notification.text)
    seconds = delay(notification, now)
    if seconds:
        lines.append(f"delayed {duration(seconds)}")
    if any(alert.flapping for alert in notification.alerts):
        lines.append("flapping: fires and resolves repeatedly")
    return lines


def delay(notification: Notification, now: float) -> float:
    """Return by how many seconds a message is late; 0 if it is in time."""
    seconds = now - max(notification.created, notification.due)
    return seconds if notification.created and seconds > LATE_SECONDS else 0.0


def facts(alert: AlertDetails, now: float) -> list[tuple[str, str]]:
    """Return the known facts of an alert as names and texts, most important first.

    A resolved alert's facts from when it fired are labelled as such, or left out.
    """
    resolved = alert.resolved
    texts = [
        *([] if alert.in_words else _figures(alert, now)),
        *_times(alert, now),
        ("" if resolved else "Failed", _failed(alert)),
        ("Errors at first" if resolved else "Errors", _errors(alert)),
        ("" if resolved else "Last error", last_error(alert)),
        ("" if resolved else "Cost", alert.cost),
        ("Next step", alert.next_step),
        ("" if resolved else "Worst transition", alert.transition),
        ("" if resolved or alert.in_words else "Trend", _trend(alert)),
        ("Completeness", _completeness(alert)),
        ("Labels", _other_labels(alert)),
        ("Note", alert.note),
        ("Host", alert.host),
        ("Alert", identity(alert)),
    ]
    return [(name, text) for name, text in texts if name and text]


def _figures(alert: AlertDetails, now: float) -> list[tuple[str, str]]:
    value = "Now" if alert.resolved else "Value", value_and_threshold(alert)
    return [value, ("Worst", _worst(alert, now))]


def times(alert: AlertDetails, now: float) -> str:
    """Return when an alert began or ended, in one line."""
    return " · ".join(f"{name.lower()} {text}" for name, text in _times(alert, now))


def value_and_threshold(alert: AlertDetails) -> str:
    """Return a value and its threshold: `84.2 %, threshold 95.0 %`."""
    if alert.value is None and alert.threshold is None:
        return ""
    value = quantity(alert.value, alert.unit)
    if alert.threshold is None:
        return value
    threshold = quantity(alert.threshold, alert.unit)
    side = ""
    if value == threshold and alert.value not in (None, alert.threshold):
        # Rounding hides on which side of the threshold the value is.
        side = " (just above)" if alert.value > alert.threshold else " (just below)"
    clear = ""
    if alert.clear is not None and alert.clear != alert.threshold:
        clear = f", clears at {quantity(alert.clear, alert.unit)}"
    return f"{value}{side}, threshold {threshold}{clear}"


def last_error(alert: AlertDetails) -> str:
    """Return the last error when an alert fired, in one line; empty for none.

    Secrets were removed from its text when it was received. A receiver with
    `error_text = false` gets alerts without the texts.
    """
    if not alert.evidence:
        return ""
    last = max(alert.evidence, key=lambda execution: execution.time)
    text = " ".join(last.message.split())
    if not text:
        return ""
    return truncate(f"{last.type}: {text}" if last.type else text, MAX_ERROR)


def without_error_texts(alert: AlertDetails) -> AlertDetails:
    """Return an alert with the types of its errors only."""
    evidence = tuple(
        msgspec.structs.replace(execution, message="") for execution in alert.evidence
    )
    return msgspec.structs.replace(alert, evidence=evidence)


def also_notified(notification: Notification) -> str:
    """Return who else was notified of the alerts; empty for none."""
    names = ", ".join(notification.also)
    return f"Also notified: {names}" if names else ""


def identity(alert: AlertDetails) -> str:
    """Return an alert's severity, its episode's number, and its id."""
    parts = [alert.severity, f"episode {alert.episode}", alert.id]
    return " · ".join(filter(None, parts))


def links(alert: AlertDetails) -> list[tuple[str, str]]:
    """Return an alert's links as names and URLs."""
    urls = [
        ("Dashboard", alert.dashboard_url),
        ("Runbook", alert.runbook_url),
        ("Silence", alert.silence_url),
    ]
    return [(name, url) for name, url in urls if url]


def plain_text(notification: Notification, now: float) -> str:
    """Return a whole message as plain text."""
    lines = [title(notification), *remarks(notification, now)]
    for alert in notification.alerts:
        lines += ["", summary(alert)]
        pairs = [*facts(alert, now), *links(alert)]
        lines += [f"  {name}: {text}" for name, text in pairs]
    if notification.left_out:
        lines += ["", f"+{notification.left_out} more"]
    if also := also_notified(notification):
        lines += ["", also]
    return "\n".join(lines)


# -- inside --------------------------------------------------------------------------


def _times(alert: AlertDetails, now: float) -> list[tuple[str, str]]:
    fired = alert.fired or alert.started
    if not fired:
        return []
    if not alert.resolved or alert.ended is None:
        since = alert.started or fired
        return [("Since", f"{_clock(since, now)} ({duration(now - since)})")]
    reason = _REASONS.get(alert.reason, alert.reason)
    name = "Ended" if alert.ended_without_data else "Resolved"
    ended = f"{_clock(alert.ended, now)}, after {duration(alert.ended - fired)}"
    return [
        ("Fired", _clock(fired, now)),
        (name, f"{ended}; {reason}" if reason else ended),
    ]


def _clock(time: float, now: float) -> str:
    """Return a time in UTC, and in the agent's time zone if that is another."""
    local = local_time(time)
    return f"{clock_time(time, now)} = {local}" if local else clock_time(time, now)


def _worst(alert: AlertDetails, now: float) -> str:
    """Return the episode's worst value, unless it is the current one."""
    if alert.worst is None or alert.worst_at is None:
        return ""
    text = quantity(alert.worst, alert.unit)
    if text == quantity(alert.value, alert.unit):
        return ""
    return f"{text} at {clock_time(alert.worst_at, now)}"


def _failed(alert: AlertDetails) -> str:
    # The number of failures does not matter to an alert about durations or counts.
    if not alert.errors:
        return ""
    window = f" in {duration(alert.window_seconds)}" if alert.window_seconds else ""
    return f"{alert.errors:,} of {alert.executions:,}{window}"


def _errors(alert: AlertDetails) -> str:
    names = [f"{name} {count:,}" for name, count in alert.error_classes]
    return truncate(", ".join(names), MAX_NAMES)


def _trend(alert: AlertDetails) -> str:
    values = [value for value in alert.history if value is not None]
    if len(values) < 2:
        return ""
    first, last = (quantity(values[n], alert.unit) for n in (0, -1))
    return f"{sparkline(alert.history)} {first} → {last}"


def _completeness(alert: AlertDetails) -> str:
    if alert.completeness is None or alert.completeness >= 1:
        return ""
    return f"{quantity(alert.completeness, 'ratio')} of the events arrived"


def _other_labels(alert: AlertDetails) -> str:
    return ", ".join(f"{k}={v}" for k, v in alert.labels.items() if k not in _LOCATION)
