"""The OpenTelemetry SDK: a histogram, exported every second as OTLP over HTTP."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from tests.bench.clients.client import Client


def connect(address: str, nodes: list[str]) -> Client:
    exporter = OTLPMetricExporter(endpoint=f"http://{address}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=1000)
    provider = MeterProvider([reader])
    record = provider.get_meter("bench").create_histogram("node.seconds", "s").record

    def recorder(node: str) -> Callable[[float], object]:
        attributes = {"graph": "checkout", "node": node}
        return lambda seconds: record(seconds, attributes)

    return Client([recorder(node) for node in nodes], provider.force_flush)
