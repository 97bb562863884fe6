"""The path of a batch and of a tick, top to bottom.

    ingest       bytes -> session.receive(data) -> messages
    take         authorize, deduplicate by sequence number, queue; return replies
    tick         advance      queued batches, joined by table -> aggregator; account
                 [rules]      evaluated beside the event loop, on a view
    commit       advance, then one transaction: `store.committer.Committer`
    acknowledge  what is durable; return replies

A batch is acknowledged only after the commit that contains its effect and its sequence
number. After a crash before the commit, the client sends it again, and nothing was
counted; after a crash following the commit, the number is known, and the resent batch
is dropped.

Behind a broker messages get lost, are delivered twice and out of order. There a batch
is taken only if it is the next of its client; else the client is asked for the missing
ones.

The pipeline returns values: it holds no connection, no store and no caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.clients import Clients
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.pipeline.flow_control import FlowControl
from kaywatch_agent.pipeline.queue import BatchQueue, QueuedBatch
from kaywatch_agent.pipeline.session import Peer, Reply, Session
from kaywatch_agent.pipeline.sessions import SessionTable
from kaywatch_agent.protocol.messages import (
    Batch,
    Bye,
    Flush,
    Hello,
    Message,
    Rejected,
)
from kaywatch_agent.protocol.redact import Privacy
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = ["Pipeline"]

SAMPLE_SECONDS: Final = 10.0


class PipelineMetrics(Metrics):
    """What goes through the pipeline."""

    messages = Counter(
        "kaywatch_messages_total", "Messages decoded, by type.", labels=("type",)
    )
    duplicates = Counter(
        "kaywatch_duplicate_batches_total",
        "Batches that were sent again and had been counted already.",
        durable=True,
    )
    untimely = Counter(
        "kaywatch_untimely_batches_total",
        "Batches by way of a broker that came before others of their client.",
    )
    resends = Counter(
        "kaywatch_resends_requested_total",
        "Requests to clients behind a broker to send again what got lost.",
    )
    missing = Counter(
        "kaywatch_missing_batches_total",
        "Batch numbers that never came; their clients report the events as drops.",
        durable=True,
    )
    dropped = Counter(
        "kaywatch_client_dropped_total",
        "Events that clients say they lost.",
        labels=("reason",),
        durable=True,
    )
    slow = Counter(
        "kaywatch_slow_messages_total", "Requests to clients to send less often."
    )
    clients = Gauge("kaywatch_clients", "Clients known, by state.", labels=("state",))
    ticks = Counter("kaywatch_ticks_total", "Ticks since the start.")
    tick_seconds = Counter(
        "kaywatch_tick_duration_seconds_total", "Time spent in ticks."
    )
    tick_max = Gauge("kaywatch_tick_duration_max_seconds", "The longest tick so far.")


class Pipeline:
    """Everything between the transports and those who read."""

    def __init__(
        self,
        aggregator: Aggregator,
        *,
        privacy: Privacy | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with nothing queued.

        Args:
            aggregator: where events go.
            privacy: removes from failures what must not be kept.
            clock: Unix seconds.
        """
        self.aggregator = aggregator
        self.clients = Clients()
        self.metrics = PipelineMetrics()
        self.sessions = SessionTable(self.clients, clock)
        self._clock = clock
        self._flow = FlowControl(clock())
        self.queue = BatchQueue(aggregator, self._flow, privacy or Privacy())

    @property
    def commit_due(self) -> bool:
        """Whether a peer waits for a commit before the next tick."""
        return self.sessions.commit_due

    def restore(
        self,
        clients: Iterable[Client],
        find: Callable[[int, float], Peer | None],
        host: str,
    ) -> None:
        """Go on with the clients of before a restart; before the first batch.

        Args:
            clients: from the store.
            find: returns the process with a pid that ran at a time, if it still runs.
            host: this host's name; its processes can be watched.
        """
        self.clients.restore(clients, self._clock())
        for client in self.clients:
            # The kernel named the user of a local client, whatever the host was called
            # then. A client behind a broker states its host and pid itself.
            here = client.uid is not None or (client.host == host and not client.via)
            if client.state is not ClientState.DISCONNECTED or not here:
                continue
            peer = find(client.pid, client.start)
            if peer is None:
                self.clients.set_state(client, ClientState.DIED, self._clock())
            else:
                self.sessions.watch.add(client.id, peer)

    # -- arrival -----------------------------------------------------------------------

    def take(self, message: Message, session: Session) -> list[Reply]:
        """Act on one message; return the replies, usually to its sender."""
        now = self._clock()
        message = self._authorize(message, session)
        self.metrics.messages.labels(type(message).__name__.lower()).add()
        match message:
            case Batch():
                return self._take_batch(message, session, now)
            case Hello():
                return self._take_hello(message, session, now)
            case Bye():
                return self._take_bye(message, session, now)
            case Flush():
                self.sessions.flush(session, named=bool(message.client))
            case Rejected():
                return self._reject_message(message, session)
        return []

    def _reject_message(self, message: Rejected, session: Session) -> list[Reply]:
        self.queue.metrics.rejected.labels(str(message.code)).add()
        replies = session.error(message.code, message.text, message.seq)
        if message.fatal:
            replies.append(Reply(session, b"", close=True))
        return replies

    def _authorize(self, message: Message, session: Session) -> Message:
        """Return the message, or a refusal if its sender may not send it."""
        refused = session.refuse(message)
        if refused is not None:
            return refused
        if session.peer.trusted or not isinstance(message, Hello | Batch | Flush | Bye):
            return message
        # A client's id is no secret. Whoever knows it could use up its numbers, and its
        # own batches would pass for duplicates.
        owner = self.clients.get(message.client)
        if owner is None or owner.uid is None or owner.uid == session.peer.uid:
            return message
        text = f"this client is one of user {owner.uid}, and you are not"
        return Rejected(ErrorCode.FORBIDDEN, text)

    def _take_batch(self, batch: Batch, session: Session, now: float) -> list[Reply]:
        if not session.ordered and self._out_of_turn(batch):
            return self._refuse_untimely(batch, session, now)
        client = self.clients.meet(batch.client or session.anonymous, now)
        replies = self._present(client, session)
        client.service = batch.service or client.service
        if batch.seq is not None:
            if batch.seq <= client.received_seq:
                return replies + self._take_duplicate(client, session)
            self._number(client, batch.seq)
        self._account(batch, client, now)
        queued = QueuedBatch(batch, client, client.service, session)
        return replies + self.queue.put(queued, now)

    def _account(self, batch: Batch, client: Client, now: float) -> None:
        """Count what a batch tells of its client."""
        client.batches += 1
        client.recorded = max(client.recorded, batch.recorded)
        if batch.sent is not None and client.batches == 1:
            # Of the first alone: later ones may have waited for a connection.
            client.skew = now - batch.sent
        if batch.drops:
            self._lose(client, batch.drops, now)

    def _out_of_turn(self, batch: Batch) -> bool:
        """Whether a batch by way of a broker is not the next of its client."""
        client = self.clients.get(batch.client)
        if batch.seq is None:
            return False
        received, first = (client.received_seq, client.first) if client else (0, 0)
        return not received < batch.seq <= max(received + 1, first)

    def _refuse_untimely(
        self, batch: Batch, session: Session, now: float
    ) -> list[Reply]:
        client = self.clients.get(batch.client)
        after = client.received_seq if client else 0
        if client is not None and batch.seq is not None and batch.seq <= after:
            # Its client may be gone: this is no sign of life.
            return self._take_duplicate(client, session)
        self.metrics.untimely.add()
        replies = session.resend(after, batch.client, now)
        self.metrics.resends.add(len(replies))
        return replies

    def _take_duplicate(self, client: Client, session: Session) -> list[Reply]:
        client.duplicates += 1
        self.metrics.duplicates.add()
        return session.ack(client.id, client.committed_seq)

    def _number(self, client: Client, seq: int) -> None:
        """Remember that a client's batch arrived, and that others before it did not."""
        hole = seq - client.received_seq - 1
        if hole and client.received_seq:
            client.missing_batches += hole
            self.metrics.missing.add(hole)
        client.received_seq = seq
        self.sessions.await_ack(client)

    def _take_hello(self, hello: Hello, session: Session, now: float) -> list[Reply]:
        client = self.clients.get(hello.client)
        replies: list[Reply] = []
        # A broker may deliver a hello again, maybe of a client that is long gone.
        if client is None or not 0 < hello.greeting <= client.greeting:
            peer = session.peer
            client = self.clients.greet(hello, peer.pid, now, peer.started)
            replies = self._present(client, session)
        return replies + self.sessions.greet(client, session)

    def _take_bye(self, bye: Bye, session: Session, now: float) -> list[Reply]:
        client = self.clients.get(bye.client)
        # A broker may deliver it again; then its drops have been counted.
        if client is not None and client.state is not ClientState.ENDED:
            self._lose(client, bye.drops, now)
            self.clients.set_state(client, ClientState.ENDED, now)
        self.sessions.commit_due = True
        return [] if session.ordered else [Reply(session, b"", close=True)]

    def _lose(self, client: Client, drops: Mapping[str, int], now: float) -> None:
        for reason, events in drops.items():
            client.dropped[reason] += events
            self.metrics.dropped.labels(reason).add(events)
        self.aggregator.lose(client.service, drops, now)

    def _present(self, client: Client, session: Session) -> list[Reply]:
        """Connect a client to the session that it speaks through."""
        uid = session.peer.uid
        client.pid = client.pid or session.peer.pid
        client.owner = session.owner or client.id
        if client.uid is None and uid >= 0:
            client.uid = uid
            self.aggregator.registry.quota.set_user(client.owner, uid)
        if self.sessions.connect(client, session) and self._flow.seconds > 1.0:
            return session.reply(wire.slow(self._flow.seconds))
        return []

    # -- tick --------------------------------------------------------------------------

    def advance(self, now: float) -> list[Reply]:
        """Aggregate all queued batches, for readers to see; return replies."""
        replies = self.queue.take_all(now)
        self.aggregator.advance(now)
        return replies

    def take_rows(self) -> list[Reply]:
        """Aggregate the queued batches of rows; return replies.

        Call it after each read, because whoever writes rows by hand waits for errors.
        """
        return self.queue.take_rows(self._clock())

    def tick(self, now: float) -> list[Reply]:
        """Do what is done once a second; return replies."""
        started = time.perf_counter()
        replies = self.advance(now)
        self.sessions.watch.look(self.clients, now)
        self._sample(now)
        self.queue.event_stream.tick()
        for name in self._flow.decide(now, self.sessions.connected()):
            self.metrics.slow.add()
            replies += self.sessions.slow(name, self._flow.seconds)
        for gone in self.clients.expire(now):
            self.aggregator.registry.quota.forget(gone.owner)
            self._flow.forget(gone.id)
            self.sessions.watch.drop(gone.id)
        self._measure(time.perf_counter() - started)
        return replies

    def _sample(self, now: float) -> None:
        """Read memory and CPU of the processes behind connections."""
        for name, session in self.sessions.items():
            client = self.clients.get(name)
            if client is not None and now - client.sampled_at >= SAMPLE_SECONDS:
                sample = session.peer.sample()
                if sample is not None:
                    client.sampled(sample, now)

    def _measure(self, seconds: float) -> None:
        metrics = self.metrics
        metrics.ticks.add()
        metrics.tick_seconds.add(seconds)
        metrics.tick_max.set(max(metrics.tick_max.value, seconds))
        states = dict.fromkeys(ClientState, 0)
        for client in self.clients:
            states[client.state] += 1
        for state, count in states.items():
            metrics.clients.labels(str(state)).set(count)
