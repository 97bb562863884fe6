"""rotel, a real OTLP collector, and a backend that it exports to."""

from __future__ import annotations

import contextlib
import gzip
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import rotel
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from tests.agents import free_port, kill_at_end, until

BINARY = Path(rotel.__file__).parent / "rotel-agent"


class Point(NamedTuple):
    """One point that the collector forwarded."""

    service: str
    labels: dict[str, str]
    data: Any
    temporality: int


class Backend:
    """What the collector exports to; keeps all requests and points, in order."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.points: list[tuple[str, Point]] = []
        self.before_answer: Callable[[bytes], None] = lambda body: None
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                backend.points += list(read_points(body))
                backend.bodies.append(body)
                backend.before_answer(body)
                answer = ExportMetricsServiceResponse().SerializeToString()
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Type", "application/x-protobuf")
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextlib.contextmanager
    def serve(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def latest(self, name: str) -> dict[str, Point]:
        """Return the last point of a metric, by node."""
        return {p.labels.get("node", ""): p for n, p in list(self.points) if n == name}

    def total(self, name: str) -> dict[str, float]:
        """Return the sum of all points of a delta, by node."""
        result: dict[str, float] = {}
        for each, point in list(self.points):
            if each == name:
                node = point.labels["node"]
                result[node] = result.get(node, 0.0) + point.data.as_double
        return result


def read_points(body: bytes) -> Iterator[tuple[str, Point]]:
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        attributes = pairs(resource.resource.attributes)
        assert attributes["host.name"] and attributes["team"] == "search"
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                data = getattr(metric, metric.WhichOneof("data"))
                temporality = getattr(data, "aggregation_temporality", 0)
                for point in data.data_points:
                    service = attributes["service.name"]
                    labels = pairs(point.attributes)
                    yield metric.name, Point(service, labels, point, temporality)


def pairs(attributes: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes}


@contextlib.contextmanager
def collector(backend: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run rotel, which forwards what it receives to the URL of a backend."""
    command = [
        *(str(BINARY), "start", "--otlp-http-endpoint", f"127.0.0.1:{port}"),
        *("--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"),
        *("--exporter", "otlp", "--otlp-exporter-endpoint", backend),
        *("--otlp-exporter-protocol", "http", "--batch-timeout", "200ms"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with kill_at_end(process), socket.socket() as probe:
        # A client may ask only once.
        until(lambda: not probe.connect_ex(("127.0.0.1", port)), "rotel listens")
        yield process
