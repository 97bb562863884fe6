"""The statsd package: a UDP datagram per event, its default."""

from __future__ import annotations

from collections.abc import Callable

import statsd
from tests.bench.clients.client import Client


def connect(address: str, nodes: list[str]) -> Client:
    host, _, port = address.partition(":")
    timing = statsd.StatsClient(host, int(port)).timing

    def timer(name: str) -> Callable[[float], object]:
        return lambda seconds: timing(name, seconds * 1000)

    return Client([timer(f"checkout.{node}") for node in nodes])
