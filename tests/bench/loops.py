"""Aggregators without a socket, as in hand-written monitoring."""

from __future__ import annotations

import time
from typing import Any

import msgpack
from prometheus_client import CollectorRegistry, Histogram
from tests.bench.load import NODES

__all__ = ["dict_loop", "histogram_loop"]


def rows_of(events: int) -> list[dict[str, Any]]:
    return [
        {
            "graph": "checkout",
            "node": f"node{number % NODES}",
            "seconds": 0.001 * (1 + number % 997),
            "outcome": "ok",
            "attempts": 1,
            "action": "default",
        }
        for number in range(events)
    ]


def dict_loop(events: int) -> float:
    """Return the CPU nanoseconds per event of a hand-written aggregator."""
    payload = msgpack.packb(rows_of(5_000))
    counts: dict[tuple[str, str], list[float]] = {}
    started = time.process_time()
    for _ in range(events // 5_000):
        for row in msgpack.unpackb(payload):
            entry = counts.setdefault((row["graph"], row["node"]), [0, 0.0, 0.0, 9e9])
            seconds = row["seconds"]
            entry[0] += 1
            entry[1] += seconds
            entry[2] = max(entry[2], seconds)
            entry[3] = min(entry[3], seconds)
    return (time.process_time() - started) / events * 1e9


def histogram_loop(events: int) -> float:
    """Return the CPU nanoseconds per event of existing histograms."""
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "s", ["graph", "node"], registry=registry)
    names = [f"node{number}" for number in range(NODES)]
    children = {name: histogram.labels("checkout", name) for name in names}
    value = rows_of(events)
    started = time.process_time()
    for row in value:
        children[row["node"]].observe(row["seconds"])
    return (time.process_time() - started) / events * 1e9
