"""The metrics of notifications: messages, attempts, receivers, heartbeats."""

from __future__ import annotations

from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = ["HeartbeatMetrics", "OutboxMetrics"]


class OutboxMetrics(Metrics):
    """Counts messages and attempts."""

    requests = Counter(
        "kaywatch_notification_requests_total",
        "Requests of rules to notify a receiver, by what became of each.",
        labels=("receiver", "kind", "result"),
    )
    ended = Counter(
        "kaywatch_notifications_total",
        "Messages that were sent, given up (dead) or superseded.",
        labels=("receiver", "kind", "result"),
    )
    attempts = Counter(
        "kaywatch_notify_attempts_total",
        "Delivery attempts, by HTTP status; none for no response.",
        labels=("receiver", "code"),
    )
    dead = Counter(
        "kaywatch_outbox_dead_total",
        "Messages that were given up.",
        labels=("receiver", "reason"),
    )
    depth = Gauge("kaywatch_outbox_depth", "Pending messages.", labels=("receiver",))
    oldest = Gauge(
        "kaywatch_outbox_oldest_seconds",
        "For how long the oldest pending message has been due.",
    )
    up = Gauge(
        "kaywatch_receiver_up",
        "Whether the last attempt to notify a receiver succeeded; absent before it.",
        labels=("receiver",),
    )


class HeartbeatMetrics(Metrics):
    """Counts pings."""

    pings = Counter(
        "kaywatch_heartbeats_total",
        "Pings of the heartbeat's URL, by result.",
        labels=("result",),
    )
