"""Map clients to their sessions, and hold the replies that wait for a commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, ItemsView, KeysView
from typing import Final

from kaywatch import wire
from kaywatch.wire import ErrorCode
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
from kaywatch_agent.protocol.messages import Batch, Bye, Hello, Message, Rejected

__all__ = ["SessionTable"]

# Clients that are connected at a time; each takes 2 kB. Only a relay has many.
MAX_PROCESS_CLIENTS: Final = 2_000
MAX_USER_CLIENTS: Final = 20_000


class SessionTable:
    """All open sessions.

    It takes part in each commit: a flush is answered after the first commit that begins
    after it.

    Attributes:
        commit_due: whether a peer waits for a commit before the next tick.
        watch: the processes of disconnected clients.
    """

    def __init__(self, clients: Clients, clock: Callable[[], float]) -> None:
        self.commit_due = False
        self.watch = ProcessWatch()
        self._clients = clients
        self._clock = clock
        self._opened = 0
        self._sessions: dict[str, Session] = {}  # by client
        self._by_owner: Counter[str] = Counter()  # connected clients
        self._by_user: Counter[int] = Counter()
        self._unacked: dict[str, None] = {}  # clients with batches to acknowledge
        self._unanswered: set[str] = set()  # clients whose hello waits for a commit
        self._flushes: set[Session] = set()  # to be answered after the next commit
        self._durable_flushes: set[Session] = set()  # to be answered now

    def open_stream(self, peer: Peer) -> StreamSession:
        """Return the session of a new connection."""
        self._opened += 1
        return StreamSession(peer, self._opened)

    def open_broker(
        self, peer: Peer, name: str, via: str, *, named: bool
    ) -> BrokerSession:
        """Return the session of one client behind a broker.

        Args:
            peer: its process.
            name: the client's part of its topics.
            via: the broker's name.
            named: whether the name is a client id. The session then accepts messages
                of this client only.
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
        """Assign a client to a session; return whether the assignment is new."""
        client.via = session.via
        session.clients.add(client.id)
        previous = self._sessions.get(client.id)
        if previous is session:
            return False
        if previous is not None:
            self._count(previous, -1)
        self._sessions[client.id] = session
        self._count(session, 1)
        return True

    def refuse(self, message: Message, session: Session) -> Rejected | None:
        """Return a rejection if the peer may not send the message now, else None."""
        return self._reject_older_connection(
            message, session
        ) or self._reject_excess_client(message, session)

    def _reject_older_connection(
        self, message: Message, session: Session
    ) -> Rejected | None:
        """Reject messages on a connection if their client has a newer one.

        A client opens a new connection if the old one seems dead. Messages that are
        still in the old one must not be mixed with messages that the client sends
        again. A program that uses two connections at once is rejected for the same
        reason: its sequence numbers have no order across connections.
        """
        if not isinstance(message, Hello | Batch | Bye) or not message.client:
            return None
        newer = self._sessions.get(message.client)
        if newer is None or newer.number <= session.number:
            return None
        if not (session.ordered and newer.ordered):
            return None
        text = f"client {message.client} has a newer connection; this one is closed"
        return Rejected(ErrorCode.SUPERSEDED, text, fatal=True)

    def is_hello_pending(self, client: Client) -> bool:
        """Return whether the answer to a client's hello waits for a commit."""
        return client.id in self._unanswered

    def reject_repetition(
        self, client: Client, session: Session, seq: int
    ) -> Rejected | None:
        """Return a rejection of a duplicate that no client needs to send, else None.

        After a lost connection, a client sends hello, and then all batches that were
        not acknowledged. A duplicate without a hello, or of a batch that this
        connection has already carried, is therefore taken for a new batch with a number
        that was used before.
        """
        if not session.ordered:
            return None
        known = max(session.acked.get(client.id, 0), session.accepted.get(client.id, 0))
        if client.id in session.greeted and seq > known:
            return None
        text = (
            f"seq: {seq}, after {client.received_seq} of the same client: this batch"
            " was not counted; number all batches of a client in one sequence, and send"
            " `hello` first on each connection"
        )
        # The rejection has no number, because a batch with this number was counted.
        return Rejected(ErrorCode.REPEATED_BATCH, text)

    def _reject_excess_client(
        self, message: Message, session: Session
    ) -> Rejected | None:
        """Reject another client of a process or user that has too many."""
        if not isinstance(message, Hello | Batch):
            return None
        client = message.client or session.anonymous
        if client in self._sessions:
            return None
        peer, text = session.peer, ""
        if session.owner and self._by_owner[session.owner] >= MAX_PROCESS_CLIENTS:
            text = f"process {peer.pid}: at most {MAX_PROCESS_CLIENTS:,}"
        elif self._by_user[peer.uid] >= MAX_USER_CLIENTS:
            # Behind brokers, processes and users are unknown.
            user = f"user {peer.uid}" if peer.uid >= 0 else "all brokers"
            text = f"{user}: at most {MAX_USER_CLIENTS:,}"
        if not text:
            return None
        return Rejected(ErrorCode.OVER_QUOTA, f"too many clients of {text}")

    def _count(self, session: Session, sign: int) -> None:
        self._by_owner[session.owner] += sign
        self._by_user[session.peer.uid] += sign
        if not self._by_owner[session.owner]:
            del self._by_owner[session.owner]

    def close(self, session: Session) -> None:
        """Handle the loss of a connection: watch the processes of its clients."""
        self._flushes.discard(session)
        self._durable_flushes.discard(session)
        watched = False
        for name in session.clients:
            if self._sessions.get(name) is not session:
                continue  # it has reconnected already
            del self._sessions[name]
            self._count(session, -1)
            self._unacked.pop(name, None)
            self._unanswered.discard(name)
            client = self._clients.get(name)
            if client is None or client.state is not ClientState.CONNECTED:
                continue
            if name == session.anonymous and not session.only_client:
                # A shell that pushed some rows is expected to disconnect.
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
        """Answer a hello, now or after the commit of the client's earlier batches.

        With a lower number in the answer, the client would report batches as lost that
        the agent has received, if it has dropped them meanwhile.
        """
        session.greeted.add(client.id)
        if client.received_seq > client.committed_seq:
            self._unanswered.add(client.id)
            self.commit_due = True
            return []
        return session.ack(client.id, client.committed_seq, client.greeting)

    def flush(self, session: Session, *, named: bool) -> None:
        """Request a commit; a flush without a client id is answered after it."""
        if not named:
            self._flushes.add(session)
        self.commit_due = True

    def slow(self, client: str, seconds: float) -> list[Reply]:
        """Ask a client to send at most one batch per `seconds`."""
        return self._sessions[client].reply(wire.slow(seconds))

    def repeat_acks(self, session: Session) -> None:
        """Repeat acknowledgements that were withheld, after the next commit."""
        session.acked.clear()
        self._unacked.update(dict.fromkeys(session.clients))

    def acknowledge(self, *, durable: bool) -> list[Reply]:
        """Return the replies that are due after a commit.

        Args:
            durable: whether the commit succeeded. After a failure, hellos are answered
                at once, so that their clients can continue to send.
        """
        replies: list[Reply] = []
        for name in list(self._unanswered):
            replies += self._answer_hello(name, durable=durable)
        for name in list(self._unacked) if durable else ():
            if name not in self._unanswered:
                replies += self._acknowledge(name)
        for session in self._durable_flushes:
            replies += session.reply(wire.ack(0, b""))
        self._durable_flushes.clear()
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
        """Return the sessions whose flush is answered after this commit."""
        self.commit_due = False
        flushes, self._flushes = frozenset(self._flushes), set()
        return flushes

    def committed(self, change: frozenset[Session]) -> None:
        """Answer the flushes of a successful commit."""
        self._durable_flushes |= change

    def refused(self, change: frozenset[Session]) -> None:
        """Return the flushes of a failed commit to the queue of the next one."""
        self._flushes |= change
