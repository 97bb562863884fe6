"""All clients: their state, sequence numbers, and the counts behind completeness."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from kaywatch_agent.aggregate.client_clocks import move_in_flight
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.protocol.messages import Hello

__all__ = ["ClientChanges", "Clients"]

# How long a client that has left is shown.
KEEP_SECONDS = 3600.0

# A disconnected client whose process may be alive is kept longer: it still buffers
# unacknowledged batches and resends them when it finds the agent. Its sequence number
# shows which of them were counted. A buffer unsent for a week is given up.
KEEP_DISCONNECTED_SECONDS = 7 * 86_400.0

# Clients in total; beyond it, clients that have left are dropped early.
KEEP_CLIENTS = 10_000

_KEPT: Final = {
    ClientState.DISCONNECTED: KEEP_DISCONNECTED_SECONDS,
    ClientState.ENDED: KEEP_SECONDS,
    ClientState.DIED: KEEP_SECONDS,
}


class ClientChanges(NamedTuple):
    """The changes of the clients in one commit.

    Attributes:
        stored: the changed clients by id, as JSON.
        forgotten: the ids of dropped clients.
        received: the sequence number of the last batch of each changed client.
    """

    stored: Mapping[str, bytes]
    forgotten: AbstractSet[str]
    received: Mapping[str, int]


class Clients:
    """All clients that are connected or left recently.

    Attributes:
        changed: ids of the clients that changed since the last commit began.
        forgotten: ids of the clients that were dropped since then.
    """

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self.changed: set[str] = set()
        self.forgotten: set[str] = set()

    def changes(self, full: bool) -> ClientChanges:
        """Return what changed since the last call, or all clients."""
        clients = self if full else map(self._clients.get, self.changed)
        changed = [client for client in clients if client is not None]
        forgotten, self.changed, self.forgotten = self.forgotten, set(), set()
        return ClientChanges(
            {client.id: client.to_json() for client in changed},
            forgotten,
            {client.id: client.received_seq for client in changed},
        )

    def committed(self, change: ClientChanges) -> None:
        """Let the batches of this commit be acknowledged."""
        for client_id, seq in change.received.items():
            client = self._clients.get(client_id)
            # A client that was dropped and has returned meanwhile starts over.
            if client is not None and seq <= client.received_seq:
                client.committed_seq = seq

    def refused(self, change: ClientChanges) -> None:
        """Add the changes of a failed commit to the next one."""
        self.changed.update(change.stored)
        self.forgotten |= change.forgotten - self._clients.keys()

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def get(self, client: str) -> Client | None:
        """Return a client by its id, None if it is unknown."""
        return self._clients.get(client)

    def meet(self, client_id: str, now: float) -> Client:
        """Return the client, created if it is new, and mark it as connected."""
        client = self._clients.get(client_id)
        if client is None:
            client = Client(client_id, since=now, first_seen=now)
            self._clients[client_id] = client
            # It may have been dropped since the last commit.
            self.forgotten.discard(client_id)
        client.last_seen = now
        self.changed.add(client_id)
        if client.state is not ClientState.CONNECTED:
            self.set_state(client, ClientState.CONNECTED, now)
        return client

    def greet(self, hello: Hello, pid: int, now: float, started: float = 0.0) -> Client:
        """Record the identity of a client.

        Args:
            hello: its message.
            pid: its pid according to the kernel, which takes precedence; 0 if unknown.
            now: Unix seconds.
            started: when its process started, according to the kernel; 0 if unknown.
        """
        client = self.meet(hello.client, now)
        client.service = hello.service or client.service
        client.host = hello.host
        client.pid = pid or hello.pid
        client.start = started or hello.start
        client.sdk = hello.sdk
        client.tags = dict(hello.tags)
        client.greeting = hello.greeting
        client.first = hello.first
        return client

    def set_state(self, client: Client, state: ClientState, now: float) -> None:
        """Change a client's state."""
        if client.state is ClientState.DIED:
            client.unknown_seconds = 0.0  # it is alive
        client.state = state
        client.since = now
        self.changed.add(client.id)
        if state is ClientState.ENDED:
            client.in_flight = ()
            client.loops = ()

    def move_in_flight(self, seconds: float, now: float) -> None:
        """Follow a change of the agent's clock, so that ages stay the same.

        Args:
            seconds: how far the clock was moved.
            now: Unix seconds, after the change.
        """
        for client in self:
            if client.in_flight:
                client.in_flight = move_in_flight(client.in_flight, seconds, now)
                self.changed.add(client.id)

    def mark_died(self, client: Client, now: float, unknown_seconds: float) -> None:
        """Record a client's death, and for how long before nothing is known of it."""
        self.set_state(client, ClientState.DIED, now)
        client.unknown_seconds = unknown_seconds

    def expire(self, now: float) -> list[Client]:
        """Drop clients that left long ago or are too many; return the dropped ones."""

        def expired(client: Client) -> bool:
            return now - client.since > _KEPT.get(client.state, math.inf)

        clients = self._clients.values()
        count = max(sum(map(expired, clients)), len(clients) - KEEP_CLIENTS)
        if count <= 0:
            return []
        left = [one for one in clients if one.state is not ClientState.CONNECTED]
        # After the expired clients, drop clients that will not return, oldest first.
        left.sort(
            key=lambda client: (
                not expired(client),
                client.state is ClientState.DISCONNECTED,
                client.since,
            )
        )
        dropped = left[:count]
        for client in dropped:
            del self._clients[client.id]
            self.forgotten.add(client.id)
        return dropped

    def restore(self, clients: Iterable[Client], now: float) -> None:
        """Continue with the clients from before a restart, all disconnected."""
        for client in clients:
            self._clients[client.id] = client
            if client.state is ClientState.CONNECTED:
                self.set_state(client, ClientState.DISCONNECTED, now)
