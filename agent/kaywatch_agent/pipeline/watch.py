"""Distinguish clients that died from clients that only disconnected."""

from __future__ import annotations

from kaywatch_agent.aggregate.clients import Clients
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.pipeline.session import Peer

__all__ = ["ProcessWatch"]


class ProcessWatch:
    """The processes of disconnected clients, until they reconnect or exit."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}  # by client

    def add(self, client: str, peer: Peer) -> None:
        """Watch the process of a client that disconnected."""
        self.drop(client)
        self._peers[client] = peer

    def expect(self, clients: Clients, via: str, peer: Peer) -> None:
        """Watch clients of a broker that have not reconnected since a restart."""
        for client in clients:
            if client.via == via and client.state is ClientState.DISCONNECTED:
                self._peers.setdefault(client.id, peer)

    def check(self, clients: Clients, now: float) -> None:
        """Mark clients as died whose process has exited; drop reconnected ones."""
        for name, peer in list(self._peers.items()):
            client: Client | None = clients.get(name)
            if client is None or client.state is not ClientState.DISCONNECTED:
                self.drop(name)
            elif peer.exited():
                clients.set_state(client, ClientState.DIED, now)
                self.drop(name)

    def drop(self, client: str) -> None:
        """Stop watching a client's process."""
        peer = self._peers.pop(client, None)
        # Clients of one connection share a peer.
        if peer is not None and peer not in self._peers.values():
            peer.close()
