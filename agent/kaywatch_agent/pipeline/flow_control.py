"""Limit the rate of batches by asking clients for a longer flush interval.

A batch costs the agent some 20 us whatever its size, and an event 0.07 us. Many small
batches are therefore expensive: from thousands of processes, or from one that sends
each event on its own. No events are rejected. Connections are read fairly, so a client
that floods the agent delays the others by at most one read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

__all__ = ["FlowControl"]

# Some 2 % of a core. With more clients, each sends less often than once a second.
BATCHES_PER_SECOND: Final = 1_000
SLOWEST: Final = 10.0  # seconds; with a longer interval, alerts would be late

# The limit of one client, unless its batches are large.
CLIENT_BATCHES_PER_SECOND: Final = 50
WELL_FILLED: Final = 500
REMIND_SECONDS: Final = 10.0


class FlowControl:
    """Counts batches, and selects the clients that should send less often."""

    def __init__(self, now: float) -> None:
        self.seconds = 1.0  # between two batches of each client
        self._since = now
        self._batches: dict[str, int] = {}
        self._events: dict[str, int] = {}
        self._last_sent: dict[str, float] = {}  # time of the last request, by client

    def count(self, client: str, events: int) -> None:
        """Count a batch."""
        self._batches[client] = self._batches.get(client, 0) + 1
        self._events[client] = self._events.get(client, 0) + events

    def decide(self, now: float, clients: Collection[str]) -> Iterator[str]:
        """Yield the connected clients to which `seconds` should be sent."""
        elapsed = max(1.0, now - self._since)
        interval = min(SLOWEST, max(1.0, round(len(clients) / BATCHES_PER_SECOND, 1)))
        changed, self.seconds = interval != self.seconds, interval
        batches, events = self._batches, self._events
        self._since, self._batches, self._events = now, {}, {}
        if changed:
            yield from clients
            return
        for client, count in batches.items():
            too_many = count > CLIENT_BATCHES_PER_SECOND * elapsed
            too_small = events[client] < WELL_FILLED * count
            if not (too_many and too_small and client in clients):
                continue
            if now - self._last_sent.get(client, 0.0) >= REMIND_SECONDS:
                self._last_sent[client] = now
                yield client

    def forget(self, client: str) -> None:
        """Discard the state of a client that was removed."""
        self._last_sent.pop(client, None)
