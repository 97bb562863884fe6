"""Alerts: the list, and one alert with its timeline and notifications."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from kaywatch_agent.model.alerts import (
    SEVERITIES,
    AlertSummary,
    MessageRecord,
    Subject,
)
from kaywatch_agent.model.bounds import Count, Moment, Name, Seconds
from kaywatch_agent.rules.alert import (
    Alert,
    FiringContext,
    LastNotification,
    Suppression,
    TimelineEntry,
    WorstValue,
)
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.web.api.episodes import AlertEpisode, episodes_of
from kaywatch_agent.web.api.parameters import Graph, Node, OfSeverity, Service
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = [
    "AlertView",
    "alert_details",
    "count_states",
    "find_alert",
    "list_alerts",
    "sort_by_urgency",
    "view_alert",
]

# The newest messages to one receiver. The outbox keeps some 500 that are settled.
MAX_MESSAGES: Final = 50

_URGENCY: Final = {
    AlertState.FIRING: 0,
    AlertState.RECOVERING: 1,
    AlertState.PENDING: 2,
    AlertState.OK: 3,
}


class AlertsQuery(Struct, frozen=True):
    """Filters of alerts."""

    state: (
        Annotated[
            Literal["active", "ok", "pending", "firing", "recovering"],
            Meta(description="Only this state; active stands for all but ok."),
        ]
        | None
    ) = None
    rule: (
        Annotated[Name, Meta(description="Only this rule.", examples=["slow"])] | None
    ) = None
    severity: OfSeverity | None = None
    service: Service | None = None
    graph: Graph | None = None
    node: Node | None = None
    limit: Annotated[
        int, Meta(ge=1, le=10_000, description="At most.", examples=[10])
    ] = 1000


class AlertQuery(Struct, frozen=True):
    """One alert."""

    id: Annotated[Name, Meta(min_length=1, description="The alert's id.")]


class AlertView(AlertSummary, frozen=True, kw_only=True):
    """One alert: its present state, and the facts that notifications contain.

    `since` is when it entered its state. `progress` is how long the condition for the
    next state has been met, `no_data_for` how long there was no data, both in observed
    seconds. `suppressed` has the reason by receiver, `notified` the last notification
    by receiver. `silenced_by` are ids of silences.
    """

    state: AlertState
    since: Moment | None
    progress: Seconds
    no_data_for: Seconds
    receivers: list[str]
    suppressed: dict[str, str]
    notified: dict[str, LastNotification]
    silenced_by: list[str]
    fingerprint: str


class AlertList(ResponseBody):
    """Alerts, the most urgent first; `matching` is their number without the limit.

    `states` counts all alerts by state, whatever the filters. `same_cause` counts the
    firing ones that another firing alert already reports, such as `unusual_loop` while
    `runaway` fires for the same graph.
    """

    timestamp: Moment
    matching: Count
    states: dict[str, int]
    same_cause: Count
    alerts: list[AlertView]


class AlertMessage(ResponseBody):
    """One message about an alert, and the part of it that is about this alert."""

    subject: Subject
    message: MessageRecord


class AlertReceiver(ResponseBody):
    """The notifications of one receiver, the oldest message first.

    `type` is empty if the receiver is no longer configured. An `alertmanager` is sent
    all firing alerts at an interval, and has no messages.
    """

    receiver: str
    type: str
    notified: LastNotification | None
    suppressed: Suppression | None
    messages: list[AlertMessage]


class AlertResponse(ResponseBody):
    """One alert, its timeline, its context when it fired, and its notifications.

    `episodes` are the times at which it fired, from the timeline; `left_out` counts the
    entries that are no longer kept. `context` has the values of the last windows before
    it fired as `history`, the oldest first.
    """

    timestamp: Moment
    alert: AlertView
    timeline: list[TimelineEntry]
    episodes: list[AlertEpisode]
    left_out: Count
    worst: WorstValue | None
    context: FiringContext
    receivers: list[AlertReceiver]


def list_alerts(snapshot: AgentSnapshot, query: AlertsQuery) -> AlertList:
    """Return the matching alerts, the most urgent first."""
    alerts = snapshot.alerts()
    # Only the alerts that are shown are rendered: a page may show ten of thousands.
    matching = [alert for alert in alerts.alerts if _matches(alerts, alert, query)]
    shown = sort_by_urgency(alerts, matching)[: query.limit]
    return AlertList(
        timestamp=alerts.now,
        matching=len(matching),
        states=count_states(alerts.alerts),
        same_cause=len(alerts.same_cause()),
        alerts=[view_alert(alerts, alert) for alert in shown],
    )


def alert_details(snapshot: AgentSnapshot, query: AlertQuery) -> AlertResponse:
    """Return an alert with its timeline, context and notifications.

    Raises:
        Problem: 404 for an unknown alert.
    """
    alerts = snapshot.alerts()
    alert = find_alert(alerts, query.id)
    return AlertResponse(
        timestamp=alerts.now,
        alert=view_alert(alerts, alert),
        timeline=alert.timeline,
        episodes=episodes_of(alert, alerts.describe(alert)),
        left_out=alert.dropped_entries,
        worst=alert.worst,
        context=alert.context,
        receivers=_receivers(snapshot, alerts, alert),
    )


def find_alert(alerts: AlertsSnapshot, name: str) -> Alert:
    """Return the alert with an id.

    Raises:
        Problem: 404 for an unknown alert.
    """
    alert = next((alert for alert in alerts.alerts if alert.id == name), None)
    if alert is None:
        ids = [alert.id for alert in alerts.alerts]
        raise not_found("alert", name, ids, "/api/v1/alerts")
    return alert


def view_alert(alerts: AlertsSnapshot, alert: Alert) -> AlertView:
    """Return an alert as responses and broker messages contain it."""
    facts, rule = alerts.describe(alert), alerts.rule(alert)
    summary = {name: getattr(facts, name) for name in AlertSummary.__struct_fields__}
    return AlertView(
        **summary,
        state=alert.lifecycle.state,
        since=_since(alert),
        progress=alert.lifecycle.progress,
        no_data_for=alert.lifecycle.no_data_for,
        receivers=list(rule.notify) if rule else [],
        suppressed={name: str(why) for name, why in _suppressions(alert).items()},
        notified={
            name: _to_unix_time(alerts, notification)
            for name, notification in alert.notified.items()
        },
        silenced_by=[silence.id for silence in alerts.active_silences(alert)],
        fingerprint=facts.fingerprint,
    )


def sort_by_urgency(alerts: AlertsSnapshot, selected: Iterable[Alert]) -> list[Alert]:
    """Return alerts sorted by state, severity and time."""

    def urgency(alert: Alert) -> tuple[int, int, float, str]:
        rule, life = alerts.rule(alert), alert.lifecycle
        # The alerts of a removed rule have no severity, and come last.
        severity = SEVERITIES.index(rule.severity) if rule else 0
        # The latest of the times at which its state may have begun.
        newest = life.ended or life.fired or life.started
        return _URGENCY[life.state], -severity, -newest, alert.id

    return sorted(selected, key=urgency)


def count_states(alerts: Iterable[Alert]) -> dict[str, int]:
    """Return the number of alerts in each state."""
    counts = Counter(alert.lifecycle.state for alert in alerts)
    return {state.value: counts[state] for state in AlertState}


# -- inside --------------------------------------------------------------------------


def _matches(alerts: AlertsSnapshot, alert: Alert, query: AlertsQuery) -> bool:
    state = alert.lifecycle.state
    if query.state == "active":
        if state is AlertState.OK:
            return False
    elif query.state not in (None, state.value):
        return False
    if query.rule not in (None, alert.rule):
        return False
    # Labels come last, because building them takes longer than the other filters.
    labels = alerts.labels(alert)
    return all(
        value in (None, labels.get(name, ""))
        for name, value in (
            ("severity", query.severity),
            ("service", query.service),
            ("graph", query.graph),
            ("node", query.node),
        )
    )


def _since(alert: Alert) -> float | None:
    """Return when an alert entered its state."""
    life = alert.lifecycle
    match life.state:
        case AlertState.PENDING:
            return life.started
        case AlertState.FIRING:
            return life.fired
        case AlertState.OK:
            return life.ended
    # Only the timeline contains the time at which an alert began to recover.
    changes = [entry.time for entry in alert.timeline if entry.after == life.state]
    return changes[-1] if changes else None


def _receivers(
    snapshot: AgentSnapshot, alerts: AlertsSnapshot, alert: Alert
) -> list[AlertReceiver]:
    """Return the receivers of the rule, those once notified, and fallbacks."""
    rule = alerts.rule(alert)
    types = {receiver.name: receiver.type for receiver in snapshot.receivers}
    messages = _messages(snapshot.messages, alerts.describe(alert).dedup_key)
    # A receiver that was removed from the rule or the configuration may still show the
    # alert as firing.
    names = dict.fromkeys([*(rule.notify if rule else ()), *alert.notified, *messages])
    suppressions = _suppressions(alert)
    receivers = []
    for name in names:
        notified, suppressed = alert.notified.get(name), suppressions.get(name)
        receivers.append(
            AlertReceiver(
                receiver=name,
                type=types.get(name, ""),
                notified=_to_unix_time(alerts, notified) if notified else None,
                suppressed=_until_unix_time(alerts, suppressed) if suppressed else None,
                messages=messages.get(name, [])[-MAX_MESSAGES:],
            )
        )
    return receivers


def _suppressions(alert: Alert) -> dict[str, Suppression]:
    # Only firing notifications are suppressed; suppressions of an earlier episode would
    # mislead.
    return alert.suppressions if alert.lifecycle.is_firing else {}


def _to_unix_time(
    alerts: AlertsSnapshot, notification: LastNotification
) -> LastNotification:
    """Return a notification with times in Unix seconds, not of the alerts' clock."""
    return replace(
        notification,
        at=alerts.wall(notification.at),
        fired_at=alerts.wall(notification.fired_at),
    )


def _until_unix_time(alerts: AlertsSnapshot, suppression: Suppression) -> Suppression:
    if suppression.until is None:
        return suppression
    return replace(suppression, until=alerts.wall(suppression.until))


def _messages(
    records: Iterable[MessageRecord], dedup_key: str
) -> dict[str, list[AlertMessage]]:
    """Return the messages about an alert by receiver, the oldest first."""
    messages: dict[str, list[AlertMessage]] = defaultdict(list)
    for record in records:
        for subject in record.alerts:
            # A test carries a sample alert.
            if subject.dedup_key == dedup_key and record.kind != "test":
                message = AlertMessage(subject=subject, message=record)
                messages[record.receiver].append(message)
    # The outbox lists the newest first; a timeline reads from the oldest.
    return {receiver: newest[::-1] for receiver, newest in messages.items()}
