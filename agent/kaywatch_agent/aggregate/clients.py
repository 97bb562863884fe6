"""Who sends: presence, sequence marks, and the accounts behind completeness."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.protocol.messages import Hello

__all__ = ["ClientChanges", "Clients"]

# A client that has left is shown for so long, and so many of them at most.
KEEP_SECONDS = 3600.0
KEEP_CLIENTS = 10_000

# One whose process may live on is kept longer: it still holds what was not
# acknowledged, and sends it again when it finds the agent. Its number tells whether
# that has been counted. A buffer that is not sent for a week has been given up.
KEEP_DISCONNECTED_SECONDS = 7 * 86_400.0


_KEPT: Final = {
    ClientState.DISCONNECTED: KEEP_DISCONNECTED_SECONDS,
    ClientState.ENDED: KEEP_SECONDS,
    ClientState.DIED: KEEP_SECONDS,
}


class ClientChanges(NamedTuple):
    """What one commit makes durable of the clients.

    Attributes:
        stored: the changed clients by id, as JSON.
        forgotten: ids of clients that are no longer known.
        received: of each changed client, the number of its last batch in this commit.
    """

    stored: Mapping[str, bytes]
    forgotten: AbstractSet[str]
    received: Mapping[str, int]


class Clients:
    """All clients that are here or left lately.

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
        """Let batches be acknowledged."""
        for name, seq in change.received.items():
            client = self._clients.get(name)
            if client is not None:
                client.committed_seq = seq

    def refused(self, change: ClientChanges) -> None:
        """Put into the next commit what this one did not make durable."""
        self.changed.update(change.stored)
        self.forgotten |= change.forgotten - self._clients.keys()

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def get(self, client: str) -> Client | None:
        """Return a client that is known."""
        return self._clients.get(client)

    def meet(self, client: str, now: float) -> Client:
        """Return the client, new or known, as present now."""
        found = self._clients.get(client)
        if found is None:
            found = Client(client, since=now, first_seen=now)
            self._clients[client] = found
            self.forgotten.discard(client)  # it is back before that was committed
        found.last_seen = now
        self.changed.add(client)
        if found.state is not ClientState.CONNECTED:
            self.turn(found, ClientState.CONNECTED, now)
        return found

    def greet(self, hello: Hello, pid: int, now: float, started: float = 0.0) -> Client:
        """Take in who a client says it is.

        Args:
            hello: its own words.
            pid: the kernel's word for it, which counts more; 0 for none.
            now: Unix seconds.
            started: when its process started by the kernel's word; 0 for none.
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

    def turn(self, client: Client, state: ClientState, now: float) -> None:
        """Put a client into another state."""
        client.state = state
        client.since = now
        self.changed.add(client.id)
        if state is ClientState.ENDED:
            client.in_flight = ()
            client.loops = ()

    def forget(self, now: float) -> list[Client]:
        """Drop those who left long ago, and return them."""
        gone = [
            client.id
            for client in self._clients.values()
            if now - client.since > _KEPT.get(client.state, math.inf)
        ]
        if len(self._clients) - len(gone) > KEEP_CLIENTS:
            left = [
                c
                for c in self._clients.values()
                if c.state is not ClientState.CONNECTED
            ]
            # Those of above first; then who won't come back, the longest gone first.
            dropped = set(gone)
            left.sort(
                key=lambda client: (
                    client.id not in dropped,
                    client.state is ClientState.DISCONNECTED,
                    client.since,
                )
            )
            gone = [c.id for c in left[: len(self._clients) - KEEP_CLIENTS]]
        self.forgotten.update(gone)
        return [self._clients.pop(client) for client in gone]

    def restore(self, clients: Iterable[Client], now: float) -> None:
        """Take in those of before a restart; none of them is connected any more."""
        for client in clients:
            self._clients[client.id] = client
            if client.state is ClientState.CONNECTED:
                self.turn(client, ClientState.DISCONNECTED, now)
