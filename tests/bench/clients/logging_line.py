"""A `logging` line in a file for each event, as in hand-written monitoring."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tests.bench.clients.client import Client


def connect(address: str, nodes: list[str]) -> Client:
    log = logging.getLogger("bench")
    log.propagate = False
    log.addHandler(logging.FileHandler(address))
    log.setLevel(logging.INFO)

    def line(node: str) -> Callable[[float], object]:
        return lambda seconds: log.info("Node %s: completed in %.3fs", node, seconds)

    return Client([line(node) for node in nodes])
