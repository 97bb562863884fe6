"""The way of the data, top to bottom: a batch from its bytes to its ack, and a tick.

    bytes -> frames -> messages     Conversation.receive
          -> columns, pending       Pipeline._take_batch; to listeners, if there are any
    tick: pending -> steps          Pipeline.commit: aggregate, commit, acknowledge
          -> presence, publish      Pipeline.tick

A batch is acknowledged only after the commit of a change that holds its effect. A
crash before it: the client sends again, and nothing was counted. A crash after it: the
number is known, and the resend is dropped.

One commit is under way at a time. What arrives meanwhile, and what a commit that
failed gives back, is in the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.change import Change, Restored
from kaywatch_agent.aggregate.clients import EVENT_CODES, Client, Clients
from kaywatch_agent.feed import Feed
from kaywatch_agent.model import Presence, ProcessSample
from kaywatch_agent.observers import Observers
from kaywatch_agent.pace import Pace
from kaywatch_agent.privacy import Privacy
from kaywatch_agent.protocol.decoder import Decoder
from kaywatch_agent.protocol.framing import FrameReader, OutOfStep, Oversized
from kaywatch_agent.protocol.messages import (
    Batch,
    Bye,
    Capture,
    Flush,
    Hello,
    Message,
    Rejected,
)
from kaywatch_agent.telemetry import Telemetry

Documents = Mapping[tuple[str, str], bytes | None]

__all__ = ["Conversation", "Link", "Peer", "Pipeline"]

# A client that reads nothing gets no more replies than this many bytes.
MAX_BACKLOG: Final = 65_536
SAMPLE_SECONDS: Final = 10.0

# Clients that one connection may speak for: a relay, at most.
MAX_CLIENTS: Final = 1_000


class Peer(Protocol):
    """What is known of the process at the other end."""

    @property
    def pid(self) -> int:
        """Its process id; 0 when the transport can't tell."""

    @property
    def uid(self) -> int:
        """Its user; -1 when the transport can't tell."""

    @property
    def started(self) -> float:
        """When it started, Unix seconds; 0 when nobody can tell."""

    @property
    def trusted(self) -> bool:
        """Whether it may see what others send, and speak for them."""

    def exited(self) -> bool:
        """Whether it is gone."""

    def sample(self) -> ProcessSample | None:
        """What it uses, or None when that can't be read."""

    def close(self) -> None:
        """Release what watching it holds."""


class Link(Protocol):
    """What the pipeline needs of a connection."""

    @property
    def peer(self) -> Peer:
        """The process at the other end."""

    @property
    def backlog(self) -> int:
        """Bytes that it has not read yet."""

    @property
    def congested(self) -> bool:
        """Whether it should be sent no more until it has read some."""

    def send(self, data: bytes) -> None:
        """Queue bytes for it."""

    def close(self) -> None:
        """Hang up."""


class Pipeline:
    """Everything between the transports and those who read."""

    def __init__(
        self,
        aggregator: Aggregator,
        telemetry: Telemetry,
        *,
        commit: Callable[[Change], None],
        hurry: Callable[[], None],
        find: Callable[[int, float], Peer | None] = lambda *_: None,
        documents: Callable[[bool], Documents] = lambda _: {},
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Wire the stages.

        Args:
            aggregator: where events go.
            telemetry: where what happens is counted.
            commit: begins to make a change durable; `committed` or `refused` has to
                be called at its end.
            hurry: asks for a commit sooner than the next tick.
            find: returns the process with a pid that ran at a time, if it still does.
            documents: returns what else has to be kept and changed since the last
                call; all of it when that is asked for.
            clock: Unix seconds.
        """
        self.aggregator = aggregator
        self.clients = Clients()
        self.telemetry = telemetry
        self.clock = clock
        self.decoder = Decoder()
        self.pace = Pace(clock())
        self.feed = Feed(telemetry)
        self.observers = Observers(telemetry)
        self.privacy = Privacy()
        self.hurry = hurry
        self._find = find
        self.whole = False  # the next change has to be all that is known
        self._commit = commit
        self._documents = documents
        self._committing = False
        self._again = False  # somebody asked for a commit during one
        self._opened = 0  # connections so far
        self._owed: set[str] = set()  # clients whose greeting is not answered yet
        self._asking: set[Conversation] = set()  # want to hear of the next commit
        self._answered: set[Conversation] = set()  # hear of the one under way
        self._conversations: dict[str, Conversation] = {}  # by client
        self._watched: dict[str, Peer] = {}  # disconnected, by client

    def restore(self, found: Restored, host: str) -> None:
        """Go on from what was committed before a restart; before the first batch.

        Args:
            found: what was committed.
            host: the name of this one, whose processes can be looked after.
        """
        self.aggregator.restore(found)
        self.telemetry.load(found.counters)
        self.clients.restore(
            map(Client.from_json, found.clients.values()), self.clock()
        )
        for client in self.clients:
            # Whom the kernel named is of this host, whatever it called that.
            here = client.uid is not None or client.host == host
            if client.state is Presence.DISCONNECTED and here:
                self._look_for(client)

    def _look_for(self, client: Client) -> None:
        """Watch the process of a client that was connected before a restart."""
        peer = self._find(client.pid, client.start)
        if peer is None:
            self.clients.turn(client, Presence.DIED, self.clock())
        else:
            self._watched[client.id] = peer

    # -- a batch -----------------------------------------------------------------------

    def open(self, link: Link) -> Conversation:
        """Return the conversation of a new connection."""
        self.telemetry.add("kaywatch_connections_total")
        self._opened += 1
        return Conversation(self, link, self._opened)

    def take(self, message: Message, conversation: Conversation) -> None:
        """Act on one message."""
        now = self.clock()
        message = self._allowed(message, conversation)
        self.telemetry.add("kaywatch_messages_total", 1, type(message).__name__.lower())
        match message:
            case Batch():
                self._take_batch(message, conversation, now)
            case Hello():
                peer = conversation.link.peer
                client = self.clients.greet(message, peer.pid, now, peer.started)
                self._present(client, conversation)
                if client.received_seq > client.committed_seq:
                    # Or it would call lost what it had to drop and we have taken.
                    self._owed.add(client.id)
                    self.commit()
                else:
                    conversation.ack(client, client.committed_seq, always=True)
            case Bye():
                self._take_bye(message, now)
            case Flush():
                self._take_flush(message, conversation)
            case Capture():
                self._observe(conversation, now)
            case Rejected():
                self.telemetry.add("kaywatch_rejected_total", 1, str(message.code))
                conversation.refuse(message.code, message.text, message.seq)
                if message.fatal:
                    conversation.link.close()

    def _allowed(self, message: Message, conversation: Conversation) -> Message:
        """Return the message, or that its sender may not say that."""
        if conversation.crowded_by(message):
            text = f"one connection speaks for at most {MAX_CLIENTS} clients"
            return Rejected(ErrorCode.BAD_MESSAGE, text)
        owner = self._owner_of_another(message, conversation.link.peer)
        if owner is not None:
            text = f"this client is one of user {owner.uid}, and you are not"
            return Rejected(ErrorCode.FORBIDDEN, text)
        return message

    def _owner_of_another(self, message: Message, peer: Peer) -> Client | None:
        """Return the client that a message pretends to be of, if that is another's.

        Who knows a client's id, which is no secret, could take up its numbers, and its
        own batches would pass for duplicates.
        """
        if peer.trusted or not isinstance(message, Hello | Batch | Flush | Bye):
            return None
        known = self.clients.get(message.client)
        if known is None or known.uid is None or known.uid == peer.uid:
            return None
        return known

    def _observe(self, conversation: Conversation, now: float) -> None:
        problem = "only root and the agent's own user may capture"
        if conversation.link.peer.trusted:
            problem = self.observers.add(conversation.link, now)
        if problem:
            conversation.refuse(ErrorCode.FORBIDDEN, problem, None)

    def _take_batch(self, batch: Batch, conversation: Conversation, now: float) -> None:
        client = self.clients.meet(batch.client or conversation.anonymous, now)
        self._present(client, conversation)
        client.pid = client.pid or conversation.link.peer.pid
        if batch.service:
            client.service = batch.service
        if batch.seq is not None and batch.seq <= client.received_seq:
            client.duplicates += 1
            self.telemetry.add("kaywatch_duplicate_batches_total")
            conversation.ack(client, client.committed_seq)
            return
        if batch.failures:
            # Before anybody sees them.
            batch = batch._replace(failures=self.privacy.failures(batch.failures))
        taken, late, folded = self.aggregator.accept(
            batch, client.service, now, client.owner
        )
        if batch.sent is not None and not client.batches:
            # Of the first alone: later ones may have waited for a connection.
            client.skew = now - batch.sent
        self.pace.arrived(client.id, taken)
        client.batches += 1
        client.events += taken
        client.late += late
        client.folded += folded
        client.recorded = max(client.recorded, batch.recorded)
        if batch.in_flight is not None:
            client.in_flight = batch.in_flight
        if batch.loops is not None:
            client.loops = batch.loops
        if self.feed.listeners:
            self.feed.take(batch, client.service, client.pid, client.id, now)
        self._count(batch, client, taken, now)
        if batch.rejected:
            conversation.refuse(next(iter(batch.rejected)), batch.problem, None)

    def _count(self, batch: Batch, client: Client, taken: int, now: float) -> None:
        self.telemetry.add("kaywatch_events_total", taken)
        for reason, events in batch.rejected.items():
            client.rejected[str(reason)] += events
            self.telemetry.add("kaywatch_rejected_total", events, str(reason))
        refused = sum(batch.rejected[code] for code in EVENT_CODES)
        if refused:
            self.aggregator.lose(client.service, {"refused": refused}, now)
        self._lose(client, dict(batch.drops), now)
        if batch.seq is None:
            return
        hole = batch.seq - client.received_seq - 1
        if hole and client.received_seq:
            client.missing_batches += hole
            self.telemetry.add("kaywatch_missing_batches_total", hole)
        client.received_seq = batch.seq

    def _lose(self, client: Client, drops: dict[str, int], now: float) -> None:
        for reason, events in drops.items():
            known = reason if reason in wire.DROP_REASONS else "other"
            client.dropped[known] += events
            self.telemetry.add("kaywatch_client_dropped_total", events, known)
        self.aggregator.lose(client.service, drops, now)

    def _take_bye(self, bye: Bye, now: float) -> None:
        client = self.clients.get(bye.client)
        if client is not None:
            self._lose(client, dict(bye.drops), now)
            self.clients.turn(client, Presence.ENDED, now)
        self.hurry()

    def _take_flush(self, flush: Flush, conversation: Conversation) -> None:
        if not flush.client:
            self._asking.add(conversation)
        self.hurry()

    # -- a tick ------------------------------------------------------------------------

    def commit(self) -> None:
        """Aggregate what is pending, and begin to make it durable."""
        now = self.clock()
        self.aggregator.advance(now)
        self._account()
        if self._committing:
            self._again = True
            return
        clients = self.clients
        changed = clients if self.whole else map(clients.get, clients.changed)
        change = self.aggregator.change(now, self.whole)._replace(
            clients={client.id: client.to_json() for client in changed if client},
            forgotten=frozenset(clients.forgotten),
            marks={client.id: client.received_seq for client in clients},
            counters=self.telemetry.dump(),
            documents=self._documents(self.whole),
        )
        clients.changed.clear()
        clients.forgotten.clear()
        self.whole = False
        self._answered, self._asking = self._asking, set()
        self._committing = True
        self._commit(change)

    def _account(self) -> None:
        """Move what the aggregation counted to where counts survive a restart."""
        aggregator, telemetry = self.aggregator, self.telemetry
        for reason, events in aggregator.misplaced.items():
            telemetry.add("kaywatch_misplaced_events_total", events, str(reason))
        aggregator.misplaced.clear()
        telemetry.add("kaywatch_visits_left_out_total", aggregator.unmeasured)
        aggregator.unmeasured = 0
        registry = aggregator.registry
        telemetry.add("kaywatch_failures_withheld_total", self.privacy.withheld)
        self.privacy.withheld = 0
        telemetry.add("kaywatch_folded_series_total", registry.folded_in_all)
        registry.folded_in_all = 0

    def committed(self, change: Change) -> None:
        """The change is durable: acknowledge what is in it."""
        self._committing = False
        for name, seq in change.marks.items():
            client = self.clients.get(name)
            if client is not None:
                client.committed_seq = seq
                self._acknowledge(client)
        for conversation in self._answered:
            conversation.answer()
        if self._owed or self._again:
            self._again = False
            self.hurry()

    def refused(self, change: Change, whole: bool = False) -> None:
        """The change is not durable: it is in the next one.

        Args:
            change: what could not be committed.
            whole: what was committed before is not there any more either.
        """
        self._committing = False
        self._asking |= self._answered
        self.whole = self.whole or whole
        self.aggregator.give_back(change)
        self.clients.changed.update(change.clients)
        self.clients.forgotten.update(change.forgotten)
        # They go on sending; this is no time to let them wait for an answer as well.
        for name in list(self._owed):
            self._owed.discard(name)
            client = self.clients.get(name)
            if client is not None and name in self._conversations:
                seq = client.committed_seq
                self._conversations[name].ack(client, seq, always=True)

    def _acknowledge(self, client: Client) -> None:
        owed = client.id in self._owed
        conversation = self._conversations.get(client.id)
        if conversation is None:
            self._owed.discard(client.id)
        elif not owed or client.committed_seq >= client.received_seq:
            self._owed.discard(client.id)
            conversation.ack(client, client.committed_seq, always=owed)

    def tick(self) -> None:
        """Do what is done once a second: commit, then look after the clients."""
        started = time.perf_counter()
        self.commit()
        now = self.clock()
        self._watch(now)
        self._sample(now)
        self.feed.tick()
        self.observers.tell(now)
        for client in self.pace.decide(now, self._conversations.keys()):
            self.telemetry.add("kaywatch_slow_messages_total")
            self._conversations[client].slow(self.pace.seconds)
        for gone in self.clients.forget(now):
            self.aggregator.registry.forget_client(gone.owner)
            self.pace.forget(gone.id)
            self._unwatch(gone.id)
        self._measure(time.perf_counter() - started)

    def _watch(self, now: float) -> None:
        """Tell those who died from those who only hung up."""
        for name, peer in list(self._watched.items()):
            client = self.clients.get(name)
            if client is None or client.state is not Presence.DISCONNECTED:
                self._unwatch(name)
            elif peer.exited():
                self.clients.turn(client, Presence.DIED, now)
                self._unwatch(name)

    def _sample(self, now: float) -> None:
        for name, conversation in self._conversations.items():
            client = self.clients.get(name)
            if client is not None and now - client.sampled_at >= SAMPLE_SECONDS:
                sample = conversation.link.peer.sample()
                if sample is not None:
                    client.sampled(sample, now)

    def _measure(self, seconds: float) -> None:
        telemetry = self.telemetry
        telemetry.add("kaywatch_ticks_total")
        telemetry.add("kaywatch_tick_duration_seconds_total", seconds)
        longest = telemetry.get("kaywatch_tick_duration_max_seconds")
        telemetry.set("kaywatch_tick_duration_max_seconds", max(longest, seconds))

    # -- presence ----------------------------------------------------------------------

    def _present(self, client: Client, conversation: Conversation) -> None:
        conversation.clients.add(client.id)
        client.owner = conversation.owner or client.id
        uid = conversation.link.peer.uid
        if client.uid is None and uid >= 0:
            client.uid = uid
            self.aggregator.registry.of_user(client.owner, uid)
        known = self._conversations.get(client.id)
        self._conversations[client.id] = conversation
        if known is not conversation and self.pace.seconds > 1.0:
            conversation.slow(self.pace.seconds)

    def gone(self, conversation: Conversation) -> None:
        """The connection is lost: keep an eye on the processes behind it."""
        now = self.clock()
        self._asking.discard(conversation)
        self._answered.discard(conversation)
        self.observers.remove(conversation.link)
        if conversation.clients:
            self.observers.ended(conversation.number, now)
        peer = conversation.link.peer
        watched = False
        for name in conversation.clients:
            if self._conversations.get(name) is not conversation:
                continue  # it is back on another connection already
            del self._conversations[name]
            client = self.clients.get(name)
            if client is None or client.state is not Presence.CONNECTED:
                continue
            if name == conversation.anonymous:
                # A shell that pushed some rows: it never said that it would stay.
                self.clients.turn(client, Presence.ENDED, now)
                continue
            self.clients.turn(client, Presence.DISCONNECTED, now)
            self._unwatch(name)
            self._watched[name] = peer
            watched = True
        if not watched:
            peer.close()

    def _unwatch(self, client: str) -> None:
        peer = self._watched.pop(client, None)
        if peer is not None and peer not in self._watched.values():
            peer.close()


class Conversation:
    """One connection's side of the protocol: frames in, replies out."""

    def __init__(self, pipeline: Pipeline, link: Link, number: int) -> None:
        self.link = link
        self.number = number
        self.clients: set[str] = set()
        self.anonymous = f"anonymous-{link.peer.pid}"
        # What series are counted for: the kernel's word, since a client can call itself
        # by as many ids as it likes.
        self.owner = _process(link.peer)
        self._pipeline = pipeline
        self._frames = FrameReader()
        self._acked: dict[str, int] = {}

    @property
    def held(self) -> int:
        """Bytes of a frame that is not complete."""
        return self._frames.held

    def receive(self, data: bytes) -> None:
        """Take in bytes, and act on every message that they complete."""
        pipeline = self._pipeline
        pipeline.telemetry.add("kaywatch_received_bytes_total", len(data))
        for frame in self._frames.receive(data):
            message = _message(frame, pipeline.decoder)
            if pipeline.observers:
                self._copy(frame, message)
            pipeline.take(message, self)

    def _copy(self, frame: bytes | Oversized | OutOfStep, message: Message) -> None:
        """Show the observers a message that can be used, but no probe of an agent."""
        probe = message == Flush("") and not self.clients
        if isinstance(frame, bytes) and not (
            probe or isinstance(message, Rejected | Capture)
        ):
            pipeline = self._pipeline
            pipeline.observers.copy(frame, self.number, pipeline.clock())

    def resume(self) -> None:
        """The peer has read what was queued."""
        self._pipeline.observers.resume(self.link)

    def close(self) -> None:
        """The connection is gone."""
        self._pipeline.gone(self)

    def crowded_by(self, message: Message) -> bool:
        """Whether the message is of one client too many."""
        return (
            isinstance(message, Hello | Batch)
            and len(self.clients) >= MAX_CLIENTS
            and (message.client or self.anonymous) not in self.clients
        )

    def ack(self, client: Client, seq: int, always: bool = False) -> None:
        """Acknowledge, unless that is known already."""
        if (always or self._acked.get(client.id) != seq) and self._send(
            wire.ack(seq, _id_bytes(client.id))
        ):
            self._acked[client.id] = seq

    def answer(self) -> None:
        """Say that what came before a flush that is nobody's is committed."""
        self._send(wire.ack(0, b""))

    def slow(self, seconds: float) -> None:
        """Ask for a batch every so many seconds at most."""
        self._send(wire.slow(seconds))

    def refuse(self, code: ErrorCode, text: str, seq: int | None) -> None:
        """Say what was wrong with a message."""
        self._send(wire.error(code, text[:500], seq))

    def _send(self, message: bytes) -> bool:
        if self.link.backlog > MAX_BACKLOG:
            self._pipeline.telemetry.add("kaywatch_replies_withheld_total")
            return False
        self.link.send(wire.frame(message))
        return True


def _message(frame: bytes | Oversized | OutOfStep, decoder: Decoder) -> Message:
    match frame:
        case Oversized(size):
            return Rejected(
                ErrorCode.FRAME_TOO_LARGE,
                f"a frame of {size} bytes; at most {wire.MAX_FRAME} are taken",
            )
        case OutOfStep(size):
            return Rejected(
                ErrorCode.FRAME_TOO_LARGE,
                f"no frame: its length would be {size} bytes; hanging up",
                fatal=True,
            )
    return decoder.decode(frame)


def _process(peer: Peer) -> str:
    """Return a name for a process that no other gets; empty if there is none."""
    return f"process {peer.pid} of {peer.started:.2f}" if peer.pid else ""


def _id_bytes(client: str) -> bytes:
    try:
        return bytes.fromhex(client)
    except ValueError:
        return b""
