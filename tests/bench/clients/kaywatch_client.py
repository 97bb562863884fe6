"""kaywatch, pushing to an agent."""

from __future__ import annotations

from tests.bench.clients.client import Client

import kaywatch
from kaywatch._process import process


def connect(address: str, nodes: list[str]) -> Client:
    kaywatch.configure(endpoint=address)
    return Client(
        [process.recorder.series("checkout", node).record_plain for node in nodes],
        settle,
    )


def settle() -> None:
    assert kaywatch.flush(20), kaywatch.client_stats()
    assert not kaywatch.client_stats()["dropped"], kaywatch.client_stats()
