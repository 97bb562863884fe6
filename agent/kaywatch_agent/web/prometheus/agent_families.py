"""The families of what the agent concludes: completeness by service, firing alerts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, cast

from kaywatch_agent.aggregate.completeness import Completeness, EventCounts
from kaywatch_agent.model.alerts import SEVERITIES, Severity
from kaywatch_agent.web.prometheus.exposition import Exposition, samples
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["write_alerts", "write_completeness"]


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


def write_completeness(completeness: Completeness, exposition: Exposition) -> None:
    """Write what became of all events, by service."""
    services = {name: completeness.of([name]) for name in completeness.services}
    for family in _SERVICE_FAMILIES:
        numbers = ((name, family.value(counts)) for name, counts in services.items())
        values: dict[tuple[str, ...], float] = {
            (name,): float(number) for name, number in numbers if number is not None
        }
        lines = samples(family.name, values, ("service",))
        exposition.family(family.name, family.type, family.help, lines)
    dropped: dict[tuple[str, ...], float] = {
        (name, reason): float(count)
        for name, counts in services.items()
        for reason, count in counts.dropped.items()
    }
    name, labels = "kaywatch_series_dropped_total", ("service", "reason")
    lines = samples(name, dropped, labels)
    exposition.family(name, "counter", "Events that were lost.", lines)


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
    exposition.family(family, "gauge", help, samples(family, values, ALERT_LABELS))
