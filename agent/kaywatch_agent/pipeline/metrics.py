"""The metrics of messages, clients and ticks."""

from __future__ import annotations

from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = ["PipelineMetrics"]


class PipelineMetrics(Metrics):
    """Metrics of messages, clients and ticks."""

    messages = Counter(
        "kaywatch_messages_total", "Messages decoded, by type.", labels=("type",)
    )
    duplicates = Counter(
        "kaywatch_duplicate_batches_total",
        "Batches received again after they had been counted.",
        durable=True,
    )
    untimely = Counter(
        "kaywatch_untimely_batches_total",
        "Batches from a broker that arrived ahead of earlier ones of their client.",
    )
    resends = Counter(
        "kaywatch_resends_requested_total",
        "Requests to clients behind a broker to resend lost batches.",
    )
    missing = Counter(
        "kaywatch_missing_batches_total",
        "Sequence numbers that never arrived; clients report the events as drops.",
        durable=True,
    )
    dropped = Counter(
        "kaywatch_client_dropped_total",
        "Events that clients dropped, as they report it.",
        labels=("reason",),
        durable=True,
    )
    slow = Counter(
        "kaywatch_slow_messages_total", "Requests to clients to send less often."
    )
    clients = Gauge("kaywatch_clients", "Known clients, by state.", labels=("state",))
    ticks = Counter("kaywatch_ticks_total", "Ticks since the start.")
    tick_seconds = Counter(
        "kaywatch_tick_duration_seconds_total", "Time spent in ticks."
    )
    tick_max = Gauge("kaywatch_tick_duration_max_seconds", "The longest tick so far.")
