"""The datadog package: DogStatsD datagrams over a UNIX socket, one per event."""

from __future__ import annotations

from collections.abc import Callable

from datadog.dogstatsd import DogStatsd
from tests.bench.clients.client import Client


def connect(address: str, nodes: list[str]) -> Client:
    return client(address, nodes, buffering=False)


def client(address: str, nodes: list[str], buffering: bool) -> Client:
    dogstatsd = DogStatsd(socket_path=address, disable_buffering=not buffering)

    def histogram(node: str) -> Callable[[float], object]:
        record, tags = dogstatsd.histogram, ["graph:checkout", f"node:{node}"]
        return lambda seconds: record("node.seconds", seconds, tags)

    return Client([histogram(node) for node in nodes], dogstatsd.flush)
