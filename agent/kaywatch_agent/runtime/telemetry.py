"""The agent's own metrics: a closed catalogue, and one place that counts.

Everything here is on `/metrics` under its name. A name that isn't in the catalogue
raises, so the catalogue, its documentation and the code can't drift apart.
"""

from __future__ import annotations

from typing import Final

from kaywatch_agent.runtime.metrics import Counter, Gauge, Instrument, MetricsRegistry

__all__ = ["Telemetry"]


def _metric(
    name: str,
    type: str,
    help: str,
    labels: tuple[str, ...] = (),
    durable: bool = False,
) -> Instrument:
    kind = Counter if type == "counter" else Gauge
    return kind(name, help, labels=labels, durable=durable)


OLD: Final[dict[str, Instrument]] = {
    metric.name: metric
    for metric in (
        _metric("kaywatch_open_connections", "gauge", "Ingest connections now."),
        _metric(
            "kaywatch_connections_total",
            "counter",
            "Ingest connections since the start.",
        ),
        _metric(
            "kaywatch_ingest_refused_total",
            "counter",
            "Ingest connections refused, or ended for what they took, by reason.",
            ("reason",),
        ),
        _metric(
            "kaywatch_ingest_throttled_seconds_total",
            "counter",
            "Time that processes were not read from, since they sent too much.",
        ),
        _metric("kaywatch_clients", "gauge", "Clients known, by state.", ("state",)),
        _metric("kaywatch_received_bytes_total", "counter", "Bytes read from clients."),
        _metric(
            "kaywatch_messages_total",
            "counter",
            "Messages decoded, by type.",
            ("type",),
        ),
        _metric(
            "kaywatch_events_total",
            "counter",
            "Events taken in: executions, runs and custom metrics' values.",
            durable=True,
        ),
        _metric(
            "kaywatch_duplicate_batches_total",
            "counter",
            "Batches that were sent again and had been counted already.",
            durable=True,
        ),
        _metric(
            "kaywatch_untimely_batches_total",
            "counter",
            "Batches by way of a broker that came before others of their client.",
        ),
        _metric(
            "kaywatch_resends_requested_total",
            "counter",
            "Requests to clients behind a broker to send again what got lost.",
        ),
        _metric(
            "kaywatch_missing_batches_total",
            "counter",
            "Batch numbers that never came; their clients report the events as drops.",
            durable=True,
        ),
        _metric(
            "kaywatch_rejected_total",
            "counter",
            "Events, or whole messages, that could not be used.",
            ("reason",),
            durable=True,
        ),
        _metric(
            "kaywatch_failures_withheld_total",
            "counter",
            "Messages of failures not kept, since too many came at once to redact.",
        ),
        _metric(
            "kaywatch_client_dropped_total",
            "counter",
            "Events that clients say they lost.",
            ("reason",),
            durable=True,
        ),
        _metric(
            "kaywatch_misplaced_events_total",
            "counter",
            "Events too old for a bucket (late) or from the future; in the totals.",
            ("reason",),
            durable=True,
        ),
        _metric(
            "kaywatch_folded_series_total",
            "counter",
            "Look-ups of series beyond the caps, counted under __other__.",
            durable=True,
        ),
        _metric(
            "kaywatch_visits_left_out_total",
            "counter",
            "Graphs and nodes over the cap, of which a step forgot the longest run.",
            durable=True,
        ),
        _metric("kaywatch_series", "gauge", "Series known."),
        _metric(
            "kaywatch_replies_withheld_total",
            "counter",
            "Replies not sent since the client does not read.",
        ),
        _metric(
            "kaywatch_slow_messages_total",
            "counter",
            "Requests to clients to send less often.",
        ),
        _metric("kaywatch_ticks_total", "counter", "Ticks since the start."),
        _metric(
            "kaywatch_tick_duration_seconds_total", "counter", "Time spent in ticks."
        ),
        _metric(
            "kaywatch_tick_duration_max_seconds", "gauge", "The longest tick so far."
        ),
    )
}


class Telemetry(MetricsRegistry):
    """Counts what the agent does: by name, for what is not declared yet."""

    def __init__(self) -> None:
        super().__init__()
        self._metrics = {name: [metric.fresh()] for name, metric in OLD.items()}

    def _find(self, name: str, labels: tuple[str, ...]) -> Instrument:
        (metric,) = self._metrics[name]
        return metric.labels(*labels) if labels else metric

    def add(self, name: str, value: float = 1, *labels: str) -> None:
        """Add to a counter."""
        self._find(name, labels).value += value

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge, or a counter that is counted elsewhere."""
        self._find(name, labels).value = float(value)

    def get(self, name: str, *labels: str) -> float:
        """Return the present value."""
        return self._samples(name).get(labels, 0.0)

    def total(self, name: str) -> float:
        """Return the sum over all labels."""
        return sum(self._samples(name).values())

    def _samples(self, name: str) -> dict[tuple[str, ...], float]:
        return next(found for metric, found in self.collect() if metric.name == name)
