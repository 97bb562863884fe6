"""The agent's own metrics: a closed catalogue, and one place that counts.

Everything here is on `/metrics` under its name. A name that isn't in the catalogue
raises, so the catalogue, its documentation and the code can't drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

__all__ = ["CATALOGUE", "Metric", "Telemetry"]


class Metric(NamedTuple):
    """One of the agent's own metrics."""

    name: str
    type: str  # counter or gauge
    help: str
    labels: tuple[str, ...] = ()
    durable: bool = False  # counts data: kept with it in the store, over restarts


CATALOGUE: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(
            "kaywatch_build_info",
            "gauge",
            "The version that runs; always 1.",
            ("version",),
        ),
        Metric(
            "kaywatch_start_time_seconds", "gauge", "When the agent started, Unix time."
        ),
        Metric("kaywatch_open_connections", "gauge", "Ingest connections now."),
        Metric(
            "kaywatch_connections_total",
            "counter",
            "Ingest connections since the start.",
        ),
        Metric(
            "kaywatch_mqtt_connected",
            "gauge",
            "Whether messages of a broker are taken in.",
            ("broker",),
        ),
        Metric(
            "kaywatch_mqtt_connects_total",
            "counter",
            "Times that a broker has let us in.",
            ("broker",),
        ),
        Metric(
            "kaywatch_mqtt_messages_total",
            "counter",
            "Messages that a broker delivered, ignored ones included.",
            ("broker",),
        ),
        Metric(
            "kaywatch_mqtt_ignored_total",
            "counter",
            "Messages of a broker that were not looked at, by reason.",
            ("broker", "reason"),
        ),
        Metric(
            "kaywatch_mqtt_announcements_total",
            "counter",
            "Messages published of alerts.",
            ("broker",),
        ),
        Metric(
            "kaywatch_mqtt_changes_dropped_total",
            "counter",
            "Changes of alerts that were too many for a broker.",
            ("broker",),
        ),
        Metric(
            "kaywatch_ingest_refused_total",
            "counter",
            "Ingest connections refused, or ended for what they took, by reason.",
            ("reason",),
        ),
        Metric(
            "kaywatch_ingest_throttled_seconds_total",
            "counter",
            "Time that processes were not read from, since they sent too much.",
        ),
        Metric("kaywatch_clients", "gauge", "Clients known, by state.", ("state",)),
        Metric("kaywatch_received_bytes_total", "counter", "Bytes read from clients."),
        Metric(
            "kaywatch_messages_total",
            "counter",
            "Messages decoded, by type.",
            ("type",),
        ),
        Metric(
            "kaywatch_events_total",
            "counter",
            "Events taken in: executions, runs and custom metrics' values.",
            durable=True,
        ),
        Metric(
            "kaywatch_duplicate_batches_total",
            "counter",
            "Batches that were sent again and had been counted already.",
            durable=True,
        ),
        Metric(
            "kaywatch_untimely_batches_total",
            "counter",
            "Batches by way of a broker that came before others of their client.",
        ),
        Metric(
            "kaywatch_resends_requested_total",
            "counter",
            "Requests to clients behind a broker to send again what got lost.",
        ),
        Metric(
            "kaywatch_missing_batches_total",
            "counter",
            "Batch numbers that never came; their clients report the events as drops.",
            durable=True,
        ),
        Metric(
            "kaywatch_rejected_total",
            "counter",
            "Events, or whole messages, that could not be used.",
            ("reason",),
            durable=True,
        ),
        Metric(
            "kaywatch_failures_withheld_total",
            "counter",
            "Messages of failures not kept, since too many came at once to redact.",
        ),
        Metric(
            "kaywatch_client_dropped_total",
            "counter",
            "Events that clients say they lost.",
            ("reason",),
            durable=True,
        ),
        Metric(
            "kaywatch_misplaced_events_total",
            "counter",
            "Events too old for a bucket (late) or from the future; in the totals.",
            ("reason",),
            durable=True,
        ),
        Metric(
            "kaywatch_folded_series_total",
            "counter",
            "Look-ups of series beyond the caps, counted under __other__.",
            durable=True,
        ),
        Metric(
            "kaywatch_visits_left_out_total",
            "counter",
            "Graphs and nodes over the cap, of which a step forgot the longest run.",
            durable=True,
        ),
        Metric("kaywatch_series", "gauge", "Series known."),
        Metric(
            "kaywatch_replies_withheld_total",
            "counter",
            "Replies not sent since the client does not read.",
        ),
        Metric(
            "kaywatch_slow_messages_total",
            "counter",
            "Requests to clients to send less often.",
        ),
        Metric("kaywatch_captures", "gauge", "Captures under way now."),
        Metric(
            "kaywatch_captured_messages_total",
            "counter",
            "Copies of messages handed to captures.",
        ),
        Metric(
            "kaywatch_capture_missed_total",
            "counter",
            "Copies left out since a capture does not keep up.",
        ),
        Metric("kaywatch_ticks_total", "counter", "Ticks since the start."),
        Metric(
            "kaywatch_tick_duration_seconds_total", "counter", "Time spent in ticks."
        ),
        Metric(
            "kaywatch_tick_duration_max_seconds", "gauge", "The longest tick so far."
        ),
        Metric(
            "kaywatch_rule_evaluations_total", "counter", "Evaluations of all rules."
        ),
        Metric(
            "kaywatch_rule_evaluation_failures_total",
            "counter",
            "Evaluations that failed; the alerts stayed as they were.",
        ),
        Metric(
            "kaywatch_rule_evaluation_seconds_total",
            "counter",
            "Time spent in evaluations, beside the loop.",
        ),
        Metric("kaywatch_alerts", "gauge", "Alerts, by state.", ("state",)),
        Metric(
            "kaywatch_alerts_refused",
            "gauge",
            "Alerts over the cap of their rule at the last evaluation.",
        ),
        Metric(
            "kaywatch_notices_suppressed_total",
            "counter",
            "Times that somebody was not told, by reason.",
            ("reason",),
        ),
        Metric("kaywatch_commits_total", "counter", "Transactions of the store."),
        Metric(
            "kaywatch_commit_failures_total",
            "counter",
            "Commits that failed; their changes are in later ones.",
        ),
        Metric(
            "kaywatch_commit_duration_seconds_total",
            "counter",
            "Time spent in commits.",
        ),
        Metric("kaywatch_store_bytes", "gauge", "Bytes in use in the store's file."),
        Metric(
            "kaywatch_store_expired_total",
            "counter",
            "Hours of buckets that went since the store was too large.",
        ),
        Metric(
            "kaywatch_restarts_total",
            "counter",
            "Starts that went on from a store.",
            durable=True,
        ),
        Metric(
            "kaywatch_down_seconds_total",
            "counter",
            "Time between a last commit and the start after it.",
            durable=True,
        ),
        Metric(
            "kaywatch_http_requests_total",
            "counter",
            "HTTP requests answered, by path template and status.",
            ("path", "status"),
        ),
        Metric(
            "kaywatch_http_refused_total",
            "counter",
            "HTTP requests and connections refused, by the code of the error.",
            ("reason",),
        ),
        Metric("kaywatch_http_connections", "gauge", "HTTP connections now."),
        Metric("kaywatch_stream_clients", "gauge", "Open event streams."),
        Metric("kaywatch_feed_listeners", "gauge", "Those of them for single events."),
        Metric(
            "kaywatch_feed_missed_total",
            "counter",
            "Events that listeners asked for and did not get.",
            ("reason",),
        ),
        Metric(
            "kaywatch_notices_total",
            "counter",
            "What rules had to tell a receiver, by what became of it in the outbox.",
            ("receiver", "kind", "fate"),
        ),
        Metric(
            "kaywatch_notifications_total",
            "counter",
            "Messages that are done with: sent, dead or superseded.",
            ("receiver", "kind", "result"),
        ),
        Metric(
            "kaywatch_notify_attempts_total",
            "counter",
            "Attempts to send, by the HTTP status; none for no answer.",
            ("receiver", "code"),
        ),
        Metric("kaywatch_outbox_depth", "gauge", "Messages that wait.", ("receiver",)),
        Metric(
            "kaywatch_outbox_oldest_seconds",
            "gauge",
            "How long the oldest message waits that was due.",
        ),
        Metric(
            "kaywatch_outbox_dead_total",
            "counter",
            "Messages that were given up.",
            ("receiver", "reason"),
        ),
        Metric(
            "kaywatch_receiver_up",
            "gauge",
            "Whether the last attempt to tell a receiver got through.",
            ("receiver",),
        ),
        Metric(
            "kaywatch_heartbeats_total",
            "counter",
            "Pings of the heartbeat's URL, by result.",
            ("result",),
        ),
        Metric(
            "kaywatch_process_resident_memory_bytes", "gauge", "The agent's own memory."
        ),
        Metric(
            "kaywatch_process_cpu_seconds_total",
            "counter",
            "CPU time that the agent used.",
        ),
    )
}


_Value = tuple[tuple[str, ...], float]


class Telemetry:
    """Counts what the agent does."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = {
            name: {} if metric.labels else {(): 0.0}
            for name, metric in CATALOGUE.items()
        }

    def add(self, name: str, value: float = 1, *labels: str) -> None:
        """Add to a counter."""
        values = self._values[name]
        values[labels] = values.get(labels, 0.0) + value

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge, or a counter that is counted elsewhere."""
        self._values[name][labels] = float(value)

    def get(self, name: str, *labels: str) -> float:
        """Return the present value."""
        return self._values[name].get(labels, 0.0)

    def total(self, name: str) -> float:
        """Return the sum over all labels."""
        return sum(self._values[name].values())

    def dump(self) -> bytes:
        """Return the durable counters as JSON, for `load` after a restart.

        The others begin anew with each process, as Prometheus expects of a counter: one
        that a crash sets back by a little would look as if all of it came again.
        """
        counters = {
            name: list(values.items())
            for name, values in self._values.items()
            if CATALOGUE[name].durable
        }
        return msgspec.json.encode(counters)

    def load(self, data: bytes) -> None:
        """Go on counting from what was dumped; what is not durable now is left out."""
        found = msgspec.json.decode(data, type=dict[str, list[_Value]])
        for name, values in found.items():
            if name in CATALOGUE and CATALOGUE[name].durable:
                self._values[name].update(values)

    def collect(self) -> Iterator[tuple[Metric, dict[tuple[str, ...], float]]]:
        """Yield each metric with a copy of its values by labels."""
        for name, values in self._values.items():
            yield CATALOGUE[name], dict(values)
