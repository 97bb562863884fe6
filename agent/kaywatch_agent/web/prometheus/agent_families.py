"""The agent's own families: completeness by service, firing alerts, its metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, cast

from kaywatch_agent.aggregate.completeness import EventCounts
from kaywatch_agent.model.alerts import SEVERITIES, Severity
from kaywatch_agent.web.prometheus.exposition import Exposition, SampleFamily
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["write_alerts", "write_completeness", "write_own_metrics"]


class _ServiceFamily(NamedTuple):
    """A family with one sample for each service."""

    name: str
    type: str
    help: str
    value: Callable[[EventCounts], float | None]


_SERVICE_FAMILIES: Final = (
    _ServiceFamily(
        "kaywatch_series_completeness",
        "gauge",
        "The share of recorded events that arrived; a death counts as one lost.",
        lambda counts: counts.ratio,
    ),
    _ServiceFamily(
        "kaywatch_series_received_total",
        "counter",
        "Events that arrived.",
        lambda counts: counts.received,
    ),
    _ServiceFamily(
        "kaywatch_series_late_total",
        "counter",
        "Events that arrived too late for a window, and are in totals only.",
        lambda counts: counts.late,
    ),
    _ServiceFamily(
        "kaywatch_series_overflow_total",
        "counter",
        "Events that are counted under __other__.",
        lambda counts: counts.overflow,
    ),
    _ServiceFamily(
        "kaywatch_series_deaths_total",
        "counter",
        "Processes that died.",
        lambda counts: counts.deaths,
    ),
    _ServiceFamily(
        "kaywatch_series_unknown_seconds_total",
        "counter",
        "Time before deaths from which events may be missing.",
        lambda counts: counts.unknown_seconds,
    ),
)

# Firing alerts on /metrics; `kaywatch_alerts` counts all of them.
MAX_ALERTS: Final = 1_000
ALERT_LABELS: Final = ("alertname", "severity", "service", "graph", "node")


def write_completeness(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    """Write what became of all events, by service."""
    view = snapshot.view
    completeness = snapshot.unaccounted()
    completeness.add(view.durable_totals)
    services = {name: completeness.of([name]) for name in completeness.services}
    for name, type, help, value in _SERVICE_FAMILIES:
        numbers = ((service, value(counts)) for service, counts in services.items())
        values: dict[tuple[str, ...], float] = {
            (service,): float(number)
            for service, number in numbers
            if number is not None
        }
        exposition.samples(
            SampleFamily(name, type, help, ("service",), values, view.since)
        )
    dropped: dict[tuple[str, ...], float] = {
        (service, reason): float(count)
        for service, counts in services.items()
        for reason, count in counts.dropped.items()
    }
    name, help = "kaywatch_series_dropped_total", "Events that were lost."
    labels = ("service", "reason")
    exposition.samples(SampleFamily(name, "counter", help, labels, dropped, view.since))


def write_alerts(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    """Write the firing alerts, one sample each, the most severe first."""
    firing = []
    # Taking a snapshot waits until an evaluation has ended.
    if any(snapshot.alert_states.values()):
        alerts = snapshot.alerts()
        for alert in alerts.alerts:
            if alert.lifecycle.is_firing:
                labels = alerts.labels(alert)
                severity = SEVERITIES.index(cast("Severity", labels["severity"]))
                firing.append((-severity, alert.lifecycle.fired, labels))
    firing.sort(key=lambda alert: alert[:2])
    values: dict[tuple[str, ...], float] = {}
    for _, _, labels in firing[:MAX_ALERTS]:
        # Alerts that differ only in other labels, such as pid, share a sample.
        key = tuple([labels.get(name, "") for name in ALERT_LABELS])
        values[key] = values.get(key, 0.0) + 1.0
    family = "kaywatch_alerts_firing"
    help = "Firing alerts, by rule, severity and the labels of their series."
    exposition.samples(
        SampleFamily(family, "gauge", help, ALERT_LABELS, values, snapshot.started)
    )


def write_own_metrics(snapshot: AgentSnapshot, exposition: Exposition) -> None:
    """Write the agent's own metrics."""
    for metric, values in snapshot.own_metrics:
        created = snapshot.view.since if metric.durable else snapshot.started
        exposition.samples(
            SampleFamily(
                metric.name,
                metric.type,
                metric.help,
                metric.label_names,
                values,
                created,
            )
        )
