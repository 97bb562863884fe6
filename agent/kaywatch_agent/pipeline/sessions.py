"""Which client speaks through which session, and which replies wait for a commit."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, KeysView

from kaywatch import wire
from kaywatch_agent.aggregate.clients import Clients
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.pipeline.session import (
    BrokerSession,
    Peer,
    Reply,
    Session,
    StreamSession,
)
from kaywatch_agent.pipeline.watch import ProcessWatch

__all__ = ["SessionTable"]


class SessionTable:
    """All open sessions.

    It takes part in each commit: a flush is answered by the first commit that began
    after it.

    Attributes:
        commit_due: whether a peer waits for a commit before the next tick.
        watch: the processes of clients that are disconnected.
    """

    def __init__(self, clients: Clients, clock: Callable[[], float]) -> None:
        self.commit_due = False
        self.watch = ProcessWatch()
        self._clients = clients
        self._clock = clock
        self._opened = 0
        self._sessions: dict[str, Session] = {}  # by client
        self._unacked: dict[str, None] = {}  # clients with batches to acknowledge
        self._unanswered: set[str] = set()  # clients whose hello waits for a commit
        self._asking: set[Session] = set()  # flushed, for the next commit
        self._answerable: set[Session] = set()  # flushed, and that commit is durable

    def open_stream(self, peer: Peer) -> StreamSession:
        """Return the session of a new connection."""
        self._opened += 1
        return StreamSession(peer, self._opened)

    def open_broker(
        self, peer: Peer, name: str, via: str, *, named: bool
    ) -> BrokerSession:
        """Return the session with one client by way of a broker.

        Args:
            peer: what is known of its process.
            name: the client's part of its topics.
            via: the broker.
            named: whether the name is a client's id, for which alone it may speak.
        """
        self._opened += 1
        if named:
            return BrokerSession(peer, self._opened, name, name, via)
        return BrokerSession(peer, self._opened, f"anonymous-{name}", "", via)

    def connected(self) -> KeysView[str]:
        """Return the ids of the clients that have a session."""
        return self._sessions.keys()

    def items(self) -> ItemsView[str, Session]:
        """Return the sessions by client."""
        return self._sessions.items()

    def connect(self, client: Client, session: Session) -> bool:
        """Let a client speak through a session; return whether it is a new one."""
        client.via = session.via
        session.clients.add(client.id)
        known = self._sessions.get(client.id)
        self._sessions[client.id] = session
        return known is not session

    def close(self, session: Session) -> None:
        """Take note that a connection is lost; watch the processes behind it."""
        self._asking.discard(session)
        self._answerable.discard(session)
        watched = False
        for name in session.clients:
            if self._sessions.get(name) is not session:
                continue  # it is back on another connection already
            del self._sessions[name]
            self._unacked.pop(name, None)
            self._unanswered.discard(name)
            client = self._clients.get(name)
            if client is None or client.state is not ClientState.CONNECTED:
                continue
            if name == session.anonymous and not session.only:
                # A shell that pushed some rows: it did not promise to stay.
                self._clients.set_state(client, ClientState.ENDED, self._clock())
                continue
            self._clients.set_state(client, ClientState.DISCONNECTED, self._clock())
            self.watch.add(name, session.peer)
            watched = True
        if not watched:
            session.peer.close()

    # -- replies -----------------------------------------------------------------------

    def await_ack(self, client: Client) -> None:
        """Acknowledge a client's batches after the next commit."""
        self._unacked[client.id] = None

    def greet(self, client: Client, session: Session) -> list[Reply]:
        """Answer a hello, now or after the commit of what the client sent before.

        An answer with a lower number would make it report as lost what it had to drop
        and we have taken.
        """
        if client.received_seq > client.committed_seq:
            self._unanswered.add(client.id)
            self.commit_due = True
            return []
        return session.ack(client.id, client.committed_seq, client.greeting)

    def flush(self, session: Session, *, named: bool) -> None:
        """Request a commit; answer a peer that gave no client's name after it."""
        if not named:
            self._asking.add(session)
        self.commit_due = True

    def slow(self, client: str, seconds: float) -> list[Reply]:
        """Ask a client for at most one batch in so many seconds."""
        return self._sessions[client].reply(wire.slow(seconds))

    def repeat(self, session: Session) -> None:
        """Acknowledge again, with the next commit, to a peer that had not read."""
        session.acked.clear()
        self._unacked.update(dict.fromkeys(session.clients))

    def acknowledge(self, *, durable: bool) -> list[Reply]:
        """Return the replies that are due after a commit.

        Args:
            durable: whether it succeeded. After a failure, hellos are answered at
                once: their clients go on sending, and need not wait as well.
        """
        replies: list[Reply] = []
        for name in list(self._unanswered):
            replies += self._answer_hello(name, durable=durable)
        for name in list(self._unacked) if durable else ():
            if name not in self._unanswered:
                replies += self._acknowledge(name)
        for session in self._answerable:
            replies += session.reply(wire.ack(0, b""))
        self._answerable.clear()
        self.commit_due = self.commit_due or bool(self._unanswered)
        return replies

    def _acknowledge(self, name: str) -> list[Reply]:
        client, session = self._clients.get(name), self._sessions.get(name)
        if client is None or session is None:
            del self._unacked[name]
            return []
        replies = session.ack(name, client.committed_seq)
        acked = session.acked.get(name)
        if acked == client.committed_seq == client.received_seq:
            del self._unacked[name]
        return replies

    def _answer_hello(self, name: str, *, durable: bool) -> list[Reply]:
        client, session = self._clients.get(name), self._sessions.get(name)
        waits = client is not None and client.committed_seq < client.received_seq
        if durable and waits and session is not None:
            return []
        self._unanswered.discard(name)
        if client is None or session is None:
            return []
        return session.ack(name, client.committed_seq, client.greeting)

    # -- commits -----------------------------------------------------------------------

    def changes(self, full: bool) -> frozenset[Session]:  # noqa: ARG002
        """Return the sessions whose flush the commit that begins will answer."""
        self.commit_due = False
        asking, self._asking = frozenset(self._asking), set()
        return asking

    def committed(self, change: frozenset[Session]) -> None:
        """Let flushes be answered."""
        self._answerable |= change

    def refused(self, change: frozenset[Session]) -> None:
        """Let flushes wait for the next commit."""
        self._asking |= change
