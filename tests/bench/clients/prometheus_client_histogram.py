"""prometheus_client: a histogram's children, scraped over its own HTTP server."""

from __future__ import annotations

from prometheus_client import REGISTRY, Histogram, generate_latest, start_http_server
from tests.bench.clients.client import Client


def connect(address: str, nodes: list[str]) -> Client:
    host, _, port = address.partition(":")
    start_http_server(int(port), host)
    histogram = Histogram("node_seconds", "Durations.", ["graph", "node"])
    children = [histogram.labels("checkout", node) for node in nodes]
    # The last scrape, which may happen after the end.
    return Client(
        [child.observe for child in children], lambda: generate_latest(REGISTRY)
    )
