"""The metrics of exports."""

from __future__ import annotations

from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = ["ExportMetrics", "OtlpMetrics", "RemoteWriteMetrics"]


class RemoteWriteMetrics(Metrics):
    """The metrics of remote write."""

    accepted = Counter(
        "kaywatch_remote_write_series_total",
        "Series of snapshots that a server accepted.",
        labels=("server",),
    )
    dropped = Counter(
        "kaywatch_remote_write_dropped_total",
        "Series of snapshots that a server rejected, by reason.",
        labels=("server", "reason"),
    )
    skipped = Counter(
        "kaywatch_remote_write_skipped_total",
        "Snapshots that were not taken, because many wait or the clock was set back.",
        labels=("server",),
    )
    failures = Counter(
        "kaywatch_remote_write_failures_total",
        "Requests to a server that have to be sent again.",
        labels=("server",),
    )
    lag = Gauge(
        "kaywatch_remote_write_lag_seconds",
        "The age of the oldest snapshot that a server does not have; 0 for none.",
        labels=("server",),
    )
    spool = Gauge(
        "kaywatch_remote_write_spool_bytes",
        "The size of the snapshots that a server does not have.",
        labels=("server",),
    )
    completeness = Gauge(
        "kaywatch_remote_write_completeness",
        "The share of the series sent since the start that a server accepted.",
        labels=("server",),
    )
    native = Gauge(
        "kaywatch_remote_write_native_histograms",
        "1 while a server is sent native histograms, 0 for classic ones.",
        labels=("server",),
    )


class OtlpMetrics(Metrics):
    """The metrics of OTLP."""

    accepted = Counter(
        "kaywatch_otlp_points_total",
        "Points of snapshots that a server accepted.",
        labels=("server",),
    )
    dropped = Counter(
        "kaywatch_otlp_dropped_total",
        "Points of snapshots that a server rejected, by reason.",
        labels=("server", "reason"),
    )
    skipped = Counter(
        "kaywatch_otlp_skipped_total",
        "Snapshots that were not taken, because many wait or the clock was set back.",
        labels=("server",),
    )
    failures = Counter(
        "kaywatch_otlp_failures_total",
        "Requests to a server that have to be sent again.",
        labels=("server",),
    )
    lag = Gauge(
        "kaywatch_otlp_lag_seconds",
        "The age of the oldest snapshot that a server does not have; 0 for none.",
        labels=("server",),
    )
    spool = Gauge(
        "kaywatch_otlp_spool_bytes",
        "The size of the snapshots that a server does not have.",
        labels=("server",),
    )
    completeness = Gauge(
        "kaywatch_otlp_completeness",
        "The share of the points sent since the start that a server accepted.",
        labels=("server",),
    )


ExportMetrics = RemoteWriteMetrics | OtlpMetrics
