"""Distinguish clients that died from clients that only disconnected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kaywatch_agent.aggregate.clients import Clients
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.pipeline.session import Peer

__all__ = ["ProcessWatch"]


class ProcessWatch:
    """The processes of disconnected clients, until they reconnect or exit."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}  # by client
        self._uses: Counter[Peer] = Counter()  # clients of a connection share a peer

    def add(self, client: str, peer: Peer) -> None:
        """Watch the process of a client that disconnected."""
        self.drop(client)
        self._peers[client] = peer
        self._uses[peer] += 1

    def expect(self, clients: Clients, via: str, peer: Peer) -> None:
        """Watch clients of a broker that have not reconnected since a restart."""
        for client in clients:
            lost = client.state is ClientState.DISCONNECTED
            if client.via == via and lost and client.id not in self._peers:
                self.add(client.id, peer)

    def check(self, clients: Clients) -> Iterator[Client]:
        """Yield the clients whose process has exited; drop reconnected ones."""
        for name, peer in list(self._peers.items()):
            client: Client | None = clients.get(name)
            if client is None or client.state is not ClientState.DISCONNECTED:
                self.drop(name)
            elif peer.has_exited():
                self.drop(name)
                yield client

    def drop(self, client: str) -> None:
        """Stop watching a client's process."""
        peer = self._peers.pop(client, None)
        if peer is None:
            return
        self._uses[peer] -= 1
        if not self._uses[peer]:
            del self._uses[peer]
            peer.close()
