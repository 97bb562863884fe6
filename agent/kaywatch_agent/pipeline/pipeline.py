"""The data path of a batch and of a tick, in order.

    ingest       bytes -> session.receive(data) -> messages
    take         authorize, deduplicate by sequence number, queue; return replies
    tick         advance      queued batches, joined by table -> aggregator; account
                 [rules]      evaluated in a thread, on a snapshot
    commit       advance, then one transaction: `store.committer.Committer`
    acknowledge  durable batches; return replies

A batch is acknowledged only after the commit that contains its effect and its sequence
number. After a crash before the commit, nothing of the batch was counted, and the
client sends it again. After a crash following the commit, the sequence number is known,
and the resent batch is dropped.

A broker may lose messages, or deliver them twice or out of order. A batch from a broker
is accepted only if it is the next one of its client; otherwise the missing batches are
requested from the client.

The pipeline returns values: it has no reference to connections, the store or a caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.clients import Clients
from kaywatch_agent.aggregate.detail_quota import Detail
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.pipeline.flow_control import FlowControl
from kaywatch_agent.pipeline.metrics import PipelineMetrics
from kaywatch_agent.pipeline.queue import BatchQueue, QueuedBatch
from kaywatch_agent.pipeline.sampling import ProcessSampler
from kaywatch_agent.pipeline.session import Peer, Reply, Session
from kaywatch_agent.pipeline.sessions import SessionTable
from kaywatch_agent.pipeline.urgency import UrgencyDetector
from kaywatch_agent.protocol.limits import MAX_GAP
from kaywatch_agent.protocol.messages import (
    Batch,
    Bye,
    Flush,
    Hello,
    Message,
    Rejected,
)
from kaywatch_agent.protocol.redact import Privacy

__all__ = ["Pipeline"]

# The estimated size of the texts of a restored detail.
RESTORED_BYTES: Final = 200


class Pipeline:
    """Turns messages into aggregates, and returns the replies."""

    def __init__(
        self,
        aggregator: Aggregator,
        *,
        privacy: Privacy | None = None,
        watched: Callable[[], Collection[bytes]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Create a pipeline without clients.

        Args:
            aggregator: receives events and details.
            privacy: redacts failures; by default with the default configuration.
            watched: returns the names of the custom metrics that rules use.
            clock: returns Unix seconds.
        """
        self.aggregator = aggregator
        self.clients = Clients()
        self.metrics = PipelineMetrics()
        self.sessions = SessionTable(self.clients, clock)
        self._clock = clock
        self.urgency = UrgencyDetector(watched)
        self._flow = FlowControl(clock())
        self._sampler = ProcessSampler()
        self.queue = BatchQueue(aggregator, self._flow, privacy or Privacy())

    @property
    def commit_due(self) -> bool:
        """Whether a peer waits for a commit, which is then due before the next tick."""
        return self.sessions.commit_due

    def restore(
        self,
        clients: Iterable[Client],
        find: Callable[[int, float], Peer | None],
        host: str,
    ) -> None:
        """Restore the clients of the previous run. Call it before the first batch.

        Args:
            clients: the clients in the store.
            find: returns the running process with a given pid, if it was started no
                later than a given time.
            host: the name of this host, whose processes can be watched.
        """
        self.clients.restore(map(self._reserve_details, clients), self._clock())
        for client in self.clients:
            # A client with a user id is local, even if the host was renamed since: the
            # id is from the kernel. Behind a broker, host and pid are unverified.
            is_local = client.uid is not None or (
                client.host == host and not client.via
            )
            if client.state is not ClientState.DISCONNECTED or not is_local:
                continue
            # Without a hello the start of the process is unknown, but the process was
            # running when the client was first seen.
            peer = find(client.pid, client.start or client.first_seen)
            if peer is None:
                # The process may have recorded events until now, which are lost.
                now = self._clock()
                self._mark_died(client, now, now - client.last_seen)
            else:
                self.sessions.watch.add(client.id, peer)

    def _reserve_details(self, client: Client) -> Client:
        """Count the details of a restored client against the limits."""
        keep = self.aggregator.details.keep
        flights, loops = client.in_flight, client.loops
        size = RESTORED_BYTES * len(flights)
        client.in_flight = tuple(keep(Detail.IN_FLIGHT, client.id, flights, size, ""))
        size = RESTORED_BYTES * len(loops)
        client.loops = tuple(keep(Detail.LOOPS, client.id, loops, size, ""))
        return client

    # -- arrival -----------------------------------------------------------------------

    def take(self, message: Message, session: Session) -> list[Reply]:
        """Process one message; return the replies, usually to its sender."""
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
        """Return the message, or a rejection if the sender may not send it."""
        rejected = session.refuse(message) or self.sessions.refuse(message, session)
        if rejected is not None:
            return rejected
        if session.peer.trusted or not isinstance(message, Hello | Batch | Flush | Bye):
            return message
        # A client's id is not a secret. A process that knows it could use up its
        # sequence numbers, and the client's own batches would be dropped as duplicates.
        owner = self.clients.get(message.client)
        if owner is None or owner.uid is None or owner.uid == session.peer.uid:
            return message
        text = f"this client belongs to user {owner.uid}; you are another user"
        return Rejected(ErrorCode.FORBIDDEN, text)

    def _take_batch(self, batch: Batch, session: Session, now: float) -> list[Reply]:
        if not session.ordered and self._is_out_of_order(batch):
            return self._refuse_out_of_order(batch, session, now)
        client = self.clients.meet(batch.client or session.anonymous, now)
        replies = self._connect(client, session)
        client.service = batch.service or client.service
        if batch.seq is not None:
            if batch.seq <= client.received_seq:
                return replies + self._take_duplicate(client, session, batch.seq)
            expected = max(client.received_seq, client.first)
            if client.received_seq and batch.seq > expected + MAX_GAP:
                rejected = _skips_too_many(batch.seq, client.received_seq)
                return replies + self._reject_message(rejected, session)
            self._record_seq(client, batch.seq)
            session.accepted[client.id] = batch.seq
        self._account(batch, client, now)
        self.urgency.inspect(batch.encoded)
        ahead = 0.0 if batch.sent is None else now - batch.sent
        queued = QueuedBatch(batch, client, client.service, session, ahead)
        return replies + self.queue.put(queued, now)

    def _account(self, batch: Batch, client: Client, now: float) -> None:
        """Update the statistics of a batch's client."""
        client.batches += 1
        client.recorded = max(client.recorded, batch.recorded)
        if batch.sent is not None:
            # The value is wrong for a batch that waited for a connection, but only
            # until the next batch.
            client.skew = now - batch.sent
        if batch.drops:
            self._count_drops(client, batch.drops, now)

    def _is_out_of_order(self, batch: Batch) -> bool:
        """Whether a batch from a broker is not the next one of its client."""
        client = self.clients.get(batch.client)
        if batch.seq is None:
            return False
        received, first = (client.received_seq, client.first) if client else (0, 0)
        return not received < batch.seq <= max(received + 1, first)

    def _refuse_out_of_order(
        self, batch: Batch, session: Session, now: float
    ) -> list[Reply]:
        client = self.clients.get(batch.client)
        after = client.received_seq if client else 0
        if client is not None and batch.seq is not None and batch.seq <= after:
            # The client may have exited, so a duplicate does not mark it as connected.
            return self._take_duplicate(client, session, batch.seq)
        self.metrics.untimely.add()
        replies = session.resend(after, batch.client, now)
        self.metrics.resends.add(len(replies))
        return replies

    def _take_duplicate(
        self, client: Client, session: Session, seq: int
    ) -> list[Reply]:
        client.duplicates += 1
        self.metrics.duplicates.add()
        if self.sessions.is_hello_pending(client):
            return []  # the answer to the hello must be the first ack
        rejected = self.sessions.reject_repetition(client, session, seq)
        replies = session.ack(client.id, client.committed_seq)
        return replies + (self._reject_message(rejected, session) if rejected else [])

    def _record_seq(self, client: Client, seq: int) -> None:
        """Record a client's sequence number, and the numbers skipped before it."""
        gap = seq - client.received_seq - 1
        if gap and client.received_seq:
            client.missing_batches += gap
            self.metrics.missing.add(gap)
        client.received_seq = seq
        self.sessions.await_ack(client)

    def _take_hello(self, hello: Hello, session: Session, now: float) -> list[Reply]:
        client = self.clients.get(hello.client)
        replies: list[Reply] = []
        # A broker may repeat a hello, even of a client that has exited long ago.
        if client is None or not 0 < hello.greeting <= client.greeting:
            peer = session.peer
            client = self.clients.greet(hello, peer.pid, now, peer.started)
            replies = self._connect(client, session)
            size = sum(len(f"{key}{value}".encode()) for key, value in hello.tags)
            keep = self.aggregator.details.keep
            client.tags = dict(
                keep(Detail.TAGS, client.id, hello.tags, size, client.owner)
            )
        return replies + self.sessions.greet(client, session)

    def _take_bye(self, bye: Bye, session: Session, now: float) -> list[Reply]:
        client = self.clients.get(bye.client)
        # A broker may repeat a bye; its drops must not be counted twice.
        if client is not None and client.state is not ClientState.ENDED:
            self._count_drops(client, bye.drops, now)
            known = client.events + sum(client.dropped.values())
            client.recorded = max(client.recorded, known)
            self.clients.set_state(client, ClientState.ENDED, now)
            self._release(client, Detail.IN_FLIGHT, Detail.LOOPS)
        self.sessions.commit_due = True
        return [] if session.ordered else [Reply(session, b"", close=True)]

    def _mark_died(self, client: Client, now: float, unknown_seconds: float) -> None:
        self.clients.mark_died(client, now, unknown_seconds)
        self.aggregator.count_unknown(client.service, unknown_seconds, now)

    def _count_drops(
        self, client: Client, drops: Mapping[str, int], now: float
    ) -> None:
        for reason, events in drops.items():
            client.dropped[reason] += events
            self.metrics.dropped.labels(reason).add(events)
        self.aggregator.count_lost(client.service, drops, now)

    def _connect(self, client: Client, session: Session) -> list[Reply]:
        """Assign a client to its session, and complete its identity from the peer."""
        uid = session.peer.uid
        client.pid = client.pid or session.peer.pid
        client.owner = session.owner or client.id
        if client.uid is None and uid >= 0:
            client.uid = uid
        if not self.sessions.connect(client, session):
            return []
        if uid >= 0:
            self.aggregator.registry.quota.set_user(client.owner, uid)
        seconds = self._flow.connect(client.id)
        return session.reply(wire.slow(seconds)) if seconds > 1.0 else []

    def _release(self, client: Client, *kinds: Detail) -> None:
        """Let other clients use the bytes of a client's details."""
        for kind in kinds:
            self.aggregator.details.release(kind, client.id)

    # -- tick --------------------------------------------------------------------------

    def advance(self, now: float) -> list[Reply]:
        """Aggregate all queued batches and publish the result; return replies."""
        replies = self.queue.take_all(now)
        self.aggregator.advance(now)
        return replies

    def take_rows(self) -> list[Reply]:
        """Aggregate the queued batches of rows; return replies.

        Call it after each read: shell users who send rows wait for error messages.
        """
        return self.queue.take_rows(self._clock())

    def tick(self, now: float) -> list[Reply]:
        """Run the tasks that are due once a second; return replies."""
        started = time.perf_counter()
        replies = self.advance(now)
        for client in self.sessions.watch.check(self.clients):
            flush_interval = self._flow.interval(client.id)
            seconds = client.unknown_before_death(now, flush_interval)
            self._mark_died(client, now, seconds)
        self._sampler.sample(self.sessions.items(), self.clients, now)
        self.queue.event_stream.tick()
        for name, interval in self._flow.decide(now, self.sessions.connected()):
            self.metrics.slow.add()
            replies += self.sessions.slow(name, interval)
        self._forget(self.clients.expire(now))
        self._measure(time.perf_counter() - started)
        return replies

    def _forget(self, expired: Sequence[Client]) -> None:
        """Release the resources of clients that have expired."""
        # A process may have other clients.
        owners = {client.owner for client in self.clients} if expired else set()
        for client in expired:
            if client.owner not in owners:
                self.aggregator.registry.forget(client.owner)
            self._release(client, Detail.IN_FLIGHT, Detail.LOOPS, Detail.TAGS)
            self._flow.forget(client.id)
            self._sampler.forget(client.id)
            self.sessions.watch.drop(client.id)

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


def _skips_too_many(seq: int, received: int) -> Rejected:
    text = (
        f"seq: {seq} after {received} skips more than {MAX_GAP} numbers; send a hello"
        " whose `first` is the next number"
    )
    return Rejected(ErrorCode.BAD_MESSAGE, text, seq)
