"""How often clients are asked to send: seldom enough for all of them together.

A batch costs the agent some 20 us whatever is in it, and an event 0.07 us. So what
hurts are many small batches: of thousands of processes, or of one that sends each
event on its own. Nobody's events are refused, and connections are read fairly, so a
client that floods the agent delays the others by one read at most.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

__all__ = ["FlowControl"]

# Some 2 % of a core. Beyond so many clients, each sends less often than once a second.
BATCHES_PER_SECOND: Final = 1_000
SLOWEST: Final = 10.0  # seconds; alerts would come too late

# One client's share, unless its batches are well filled.
CLIENT_BATCHES_PER_SECOND: Final = 50
WELL_FILLED: Final = 500
REMIND_SECONDS: Final = 10.0


class FlowControl:
    """Counts batches, and says who should send less often."""

    def __init__(self, now: float) -> None:
        self.seconds = 1.0  # between two batches of each client
        self._since = now
        self._batches: dict[str, int] = {}
        self._events: dict[str, int] = {}
        self._told: dict[str, float] = {}  # when, by client

    def arrived(self, client: str, events: int) -> None:
        """Count a batch."""
        self._batches[client] = self._batches.get(client, 0) + 1
        self._events[client] = self._events.get(client, 0) + events

    def decide(self, now: float, clients: Collection[str]) -> Iterator[str]:
        """Yield the clients that should be told `seconds`, of those connected."""
        passed = max(1.0, now - self._since)
        wanted = min(SLOWEST, max(1.0, round(len(clients) / BATCHES_PER_SECOND, 1)))
        changed, self.seconds = wanted != self.seconds, wanted
        batches, events = self._batches, self._events
        self._since, self._batches, self._events = now, {}, {}
        if changed:
            yield from clients
            return
        for client, count in batches.items():
            hasty = count > CLIENT_BATCHES_PER_SECOND * passed
            small = events[client] < WELL_FILLED * count
            last = self._told.get(client, 0.0)
            if hasty and small and client in clients and now - last >= REMIND_SECONDS:
                self._told[client] = now
                yield client

    def forget(self, client: str) -> None:
        """Drop what is known of a client that has left."""
        self._told.pop(client, None)
