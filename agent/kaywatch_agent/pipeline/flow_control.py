"""Limit the rate of batches by asking clients for a longer flush interval.

A batch costs the agent about 20 us, regardless of its size, and an event 0.07 us. Many
small batches are therefore expensive, whether thousands of processes send them or one
process that sends each event separately. No events are rejected. Connections are read
fairly, so a client that floods the agent delays the others by at most one read.

The interval grows with the number of clients. Clients whose nodes failed recently get a
shorter interval, unless there are too many of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

__all__ = ["FlowControl"]

# The target rate of all clients together, which takes about 2 % of a core. With more
# clients than that, each sends less often than once a second.
BATCHES_PER_SECOND: Final = 1_000
MIN_INTERVAL: Final = 1.0  # seconds; the default of clients
MAX_INTERVAL: Final = 10.0  # with a longer interval, alerts would be late

# The usual interval changes only if it is off by more than this share, because a change
# is a message to every client.
TOLERANCE: Final = 0.1

# For this time after a failure, a client gets the usual interval divided by the factor.
# All such clients together may cause a quarter more batches.
FAILING_SECONDS: Final = 30.0
FAILING_FACTOR: Final = 4.0
MAX_EXTRA_BATCHES: Final = BATCHES_PER_SECOND / 4

# Each message takes about 20 us.
MESSAGES_PER_TICK: Final = 500

# A client is reminded of its interval if it sends more batches than this, and if they
# have fewer events than a large batch on average.
CLIENT_BATCHES_PER_SECOND: Final = 50
LARGE_BATCH_EVENTS: Final = 500
REMINDER_SECONDS: Final = 10.0


class FlowControl:
    """Counts batches, and decides how often each client should send.

    Attributes:
        seconds: the usual interval between two batches of a client.
    """

    def __init__(self, now: float) -> None:
        self.seconds = MIN_INTERVAL
        self._since = now
        self._batches: dict[str, int] = {}
        self._events: dict[str, int] = {}
        self._intervals: dict[str, float] = {}  # by client; the default for others
        self._failed: dict[str, float] = {}  # time of the last failure, by client
        self._failing: set[str] = set()
        self._reminded: dict[str, float] = {}  # time of the last reminder, by client

    def count(self, client: str, events: int) -> None:
        """Count a batch."""
        self._batches[client] = self._batches.get(client, 0) + 1
        self._events[client] = self._events.get(client, 0) + events

    def count_failure(self, client: str, now: float) -> None:
        """Record that nodes of a client failed."""
        self._failed[client] = now

    def interval(self, client: str) -> float:
        """Return the interval that a client was last asked to keep."""
        return self._intervals.get(client, MIN_INTERVAL)

    def connect(self, client: str) -> float:
        """Return the interval for a client that has just connected."""
        self._set_interval(client, self._target_interval(client))
        return self.interval(client)

    def decide(
        self, now: float, clients: Collection[str]
    ) -> Iterator[tuple[str, float]]:
        """Yield the connected clients that must be sent an interval, with the interval.

        A change for thousands of clients takes several calls.
        """
        self._update_interval(len(clients))
        self._failing = self._select_failing(now)
        yield from islice(self._changed_intervals(clients), MESSAGES_PER_TICK)
        yield from self._reminders(now, clients)

    def forget(self, client: str) -> None:
        """Discard the state of a client that was removed."""
        for state in (self._intervals, self._failed, self._reminded):
            state.pop(client, None)

    # -- inside ------------------------------------------------------------------------

    def _update_interval(self, clients: int) -> None:
        wanted = min(
            MAX_INTERVAL, max(MIN_INTERVAL, round(clients / BATCHES_PER_SECOND, 1))
        )
        is_off = abs(wanted - self.seconds) > TOLERANCE * self.seconds
        if is_off or wanted == MIN_INTERVAL:
            self.seconds = wanted

    def _select_failing(self, now: float) -> set[str]:
        """Return the clients that get a shorter interval."""
        for client, failed_at in list(self._failed.items()):
            if not 0.0 <= now - failed_at < FAILING_SECONDS:
                del self._failed[client]
        more = 1.0 / self._failing_interval() - 1.0 / self.seconds
        if more <= 0.0:
            return set()
        return set(islice(self._failed, int(MAX_EXTRA_BATCHES / more)))

    def _failing_interval(self) -> float:
        return max(MIN_INTERVAL, round(self.seconds / FAILING_FACTOR, 1))

    def _target_interval(self, client: str) -> float:
        return self._failing_interval() if client in self._failing else self.seconds

    def _set_interval(self, client: str, seconds: float) -> None:
        if seconds > MIN_INTERVAL:
            self._intervals[client] = seconds
        else:
            self._intervals.pop(client, None)

    def _changed_intervals(
        self, clients: Collection[str]
    ) -> Iterator[tuple[str, float]]:
        """Yield the clients whose interval changes, with the new interval."""
        if self.seconds == MIN_INTERVAL and not self._intervals:
            return
        for client in clients:
            wanted = self._target_interval(client)
            if wanted != self.interval(client):
                self._set_interval(client, wanted)
                yield client, wanted

    def _reminders(
        self, now: float, clients: Collection[str]
    ) -> Iterator[tuple[str, float]]:
        """Yield the clients that send too many small batches, with their interval."""
        elapsed = max(1.0, now - self._since)
        batches, events = self._batches, self._events
        self._since, self._batches, self._events = now, {}, {}
        for client, count in batches.items():
            too_many = count > CLIENT_BATCHES_PER_SECOND * elapsed
            too_small = events[client] < LARGE_BATCH_EVENTS * count
            if not (too_many and too_small and client in clients):
                continue
            if now - self._reminded.get(client, 0.0) >= REMINDER_SECONDS:
                self._reminded[client] = now
                yield client, self.interval(client)
