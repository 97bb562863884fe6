"""The datadog package with buffering, which is off by default."""

from __future__ import annotations

from tests.bench.clients.client import Client
from tests.bench.clients.datadog_unix import client


def connect(address: str, nodes: list[str]) -> Client:
    return client(address, nodes, buffering=True)
