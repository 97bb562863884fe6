"""The episodes of all alerts within a period: when each of them fired."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from kaywatch_agent.model.alerts import AlertDetails, Severity
from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.rules.alert import Alert, TimelineEntry
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.units import duration, quantity
from kaywatch_agent.web.api.parameters import EndText, Service, WindowText
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.snapshot import AgentSnapshot, period

__all__ = ["AlertEpisode", "episodes_of", "list_episodes"]

MAX_ALERTS: Final = 100

_FIRING: Final = frozenset({AlertState.FIRING, AlertState.RECOVERING})


class EpisodesQuery(Struct, frozen=True):
    """A period, and a service."""

    service: Service | None = None
    window: WindowText | None = None
    end: EndText | None = None


class AlertEpisode(ResponseBody):
    """One period from firing to resolved.

    `end` is null while the episode lasts, and `text` is the reason why it fired.
    """

    number: Count
    start: Moment
    end: Moment | None
    text: str


class EpisodeRow(ResponseBody):
    """The episodes of one alert, the oldest first; at most some 30 are kept."""

    alert: str
    rule: str
    severity: Severity
    labels: dict[str, str]
    state: AlertState
    episodes: Annotated[list[AlertEpisode], Meta(min_length=1)]


class EpisodeList(ResponseBody):
    """Alerts that fired within a period, the latest first; at most 100 of `matching`.

    Alerts that have been resolved for a day are forgotten.
    """

    start: Moment
    end: Moment
    matching: Count
    alerts: list[EpisodeRow]


def list_episodes(snapshot: AgentSnapshot, query: EpisodesQuery) -> EpisodeList:
    """Return the episodes of all alerts that overlap a period."""
    alerts = snapshot.alerts()
    start, end = period(snapshot.view, query.window, query.end)
    rows = [
        row
        for alert in alerts.alerts
        if query.service in (None, alerts.labels(alert).get("service", query.service))
        and (row := _row(alerts, alert, start, end)) is not None
    ]
    rows.sort(key=lambda row: -row.episodes[-1].start)
    return EpisodeList(
        start=max(0.0, start), end=end, matching=len(rows), alerts=rows[:MAX_ALERTS]
    )


def episodes_of(alert: Alert, details: AlertDetails) -> list[AlertEpisode]:
    """Return the periods in which an alert fired, from its timeline."""
    episodes: list[AlertEpisode] = []
    for entry in alert.timeline:
        # Notifications are in the timeline, too.
        if not entry.after:
            continue
        is_firing = entry.after in _FIRING
        # An alert that fires again while it recovers stays in the same episode.
        if is_firing and entry.before not in _FIRING:
            text = _reason(entry, details)
            number, start = entry.episode, entry.time
            episodes.append(
                AlertEpisode(number=number, start=start, end=None, text=text)
            )
        # The beginning may have been dropped from the timeline.
        elif not is_firing and episodes and episodes[-1].end is None:
            episodes[-1].end = entry.time
    return episodes


# -- inside --------------------------------------------------------------------------


def _row(
    alerts: AlertsSnapshot, alert: Alert, start: float, end: float
) -> EpisodeRow | None:
    facts = alerts.describe(alert)
    episodes = [
        episode
        for episode in episodes_of(alert, facts)
        if episode.start < end and (episode.end is None or episode.end >= start)
    ]
    if not episodes:
        return None
    return EpisodeRow(
        alert=alert.id,
        rule=alert.rule,
        severity=facts.severity,
        labels=facts.labels,
        state=alert.lifecycle.state,
        episodes=episodes,
    )


def _reason(entry: TimelineEntry, details: AlertDetails) -> str:
    """Return a reason such as `38.8 %, threshold 5.0 %; 31 of 80 failed in 5m`."""
    if details.in_words and entry.note:
        return entry.note
    unit, window = details.unit, details.window_seconds
    parts = []
    if entry.value is not None:
        text = quantity(entry.value, unit)
        if entry.threshold is not None:
            text += f", threshold {quantity(entry.threshold, unit)}"
        parts.append(text)
    if entry.executions:
        failed = f"{entry.errors} of {entry.executions} failed"
        parts.append(f"{failed} in {duration(window)}" if window else failed)
    return "; ".join(parts) or entry.text
