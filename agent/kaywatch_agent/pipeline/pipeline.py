"""The way of the data, top to bottom: a batch from its bytes to its ack, and a tick.

    bytes -> frames -> messages     StreamConversation.receive, or by MQTT
                                    Conversation.take
          -> columns, pending       Pipeline._take_batch; to listeners, if there are any
    tick: pending -> steps          Pipeline.commit: aggregate, commit, acknowledge
          -> presence, publish      Pipeline.tick

A batch is acknowledged only after the commit of a change that holds its effect. A
crash before it: the client sends again, and nothing was counted. A crash after it: the
number is known, and the resend is dropped.

Behind a broker messages get lost, come twice and out of order. There a batch is taken
only if it is the next of its client; else the client is asked for what is missing.

One commit is under way at a time. What arrives meanwhile, and what a commit that
failed gives back, is in the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.change import Change, Restored
from kaywatch_agent.aggregate.clients import Clients
from kaywatch_agent.aggregate.feed import Feed
from kaywatch_agent.model.client import EVENT_CODES, Client
from kaywatch_agent.model.series import Presence
from kaywatch_agent.pipeline.mirror import Observers
from kaywatch_agent.pipeline.pace import Pace
from kaywatch_agent.pipeline.session import (
    Conversation,
    Link,
    Peer,
    StreamConversation,
)
from kaywatch_agent.protocol.decoder import Decoder
from kaywatch_agent.protocol.messages import (
    Batch,
    Bye,
    Capture,
    Flush,
    Hello,
    Message,
    Rejected,
)
from kaywatch_agent.protocol.redact import Privacy
from kaywatch_agent.runtime.telemetry import Telemetry

Documents = Mapping[tuple[str, str], bytes | None]

__all__ = ["Pipeline"]

SAMPLE_SECONDS: Final = 10.0


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
        self.feed = Feed()
        self.observers = Observers()
        telemetry.include(self.feed.metrics, self.observers.metrics)
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
        self.telemetry.restore(found.counters)
        self.clients.restore(
            map(Client.from_json, found.clients.values()), self.clock()
        )
        for client in self.clients:
            # Whom the kernel named is of this host, whatever it called that. One that
            # comes by a broker says itself what its host and pid are.
            here = client.uid is not None or (client.host == host and not client.via)
            if client.state is Presence.DISCONNECTED and here:
                self._look_for(client)

    def expect(self, via: str, peer: Peer) -> None:
        """Watch those who came by a broker before a restart, and are not back."""
        for client in self.clients:
            if client.via == via and client.state is Presence.DISCONNECTED:
                self._watched.setdefault(client.id, peer)

    def _look_for(self, client: Client) -> None:
        """Watch the process of a client that was connected before a restart."""
        peer = self._find(client.pid, client.start)
        if peer is None:
            self.clients.turn(client, Presence.DIED, self.clock())
        else:
            self._watched[client.id] = peer

    # -- a batch -----------------------------------------------------------------------

    def open(self, link: Link) -> StreamConversation:
        """Return the conversation of a new connection."""
        self.telemetry.add("kaywatch_connections_total")
        self._opened += 1
        return StreamConversation(
            self, link, self._opened, f"anonymous-{link.peer.pid}"
        )

    def converse(self, link: Link, name: str, via: str, named: bool) -> Conversation:
        """Return the conversation with one client by way of a broker.

        Args:
            link: where its replies go.
            name: what its topics are called after.
            via: the broker.
            named: whether the name is a client's id, and it may speak for that alone.
        """
        self._opened += 1
        if named:
            return Conversation(self, link, self._opened, name, name, via)
        return Conversation(self, link, self._opened, f"anonymous-{name}", "", via)

    def take(self, message: Message, conversation: Conversation) -> None:
        """Act on one message."""
        now = self.clock()
        message = self._allowed(message, conversation)
        self.telemetry.add("kaywatch_messages_total", 1, type(message).__name__.lower())
        match message:
            case Batch():
                self._take_batch(message, conversation, now)
            case Hello():
                self._take_hello(message, conversation, now)
            case Bye():
                self._take_bye(message, now)
                if conversation.lossy:
                    conversation.link.close()
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
        refused = conversation.refused(message)
        if refused is not None:
            return refused
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

    def _take_hello(self, hello: Hello, conversation: Conversation, now: float) -> None:
        client = self.clients.get(hello.client)
        if client is None or not 0 < hello.greeting <= client.greeting:
            peer = conversation.link.peer
            client = self.clients.greet(hello, peer.pid, now, peer.started)
            self._present(client, conversation)
        # Else a broker brings it again, maybe of one that is long gone.
        if client.received_seq > client.committed_seq:
            # Or it would call lost what it had to drop and we have taken.
            self._owed.add(client.id)
            self.commit()
        else:
            conversation.ack(client, client.committed_seq, always=True)

    def _out_of_turn(self, batch: Batch, conversation: Conversation) -> bool:
        """Whether a batch by way of a broker is not the one to take now."""
        if batch.seq is None:
            return False
        client = self.clients.get(batch.client)
        if client is not None and batch.seq <= client.received_seq:
            # Its client may be gone: this is no sign of life.
            self._take_again(client, conversation)
            return True
        after = client.received_seq if client else 0
        if batch.seq <= max(after + 1, client.first if client else 0):
            return False
        self.telemetry.add("kaywatch_untimely_batches_total")
        if conversation.ask_again(after, batch.client, self.clock()):
            self.telemetry.add("kaywatch_resends_requested_total")
        return True

    def _take_again(self, client: Client, conversation: Conversation) -> None:
        client.duplicates += 1
        self.telemetry.add("kaywatch_duplicate_batches_total")
        conversation.ack(client, client.committed_seq)

    def _take_batch(self, batch: Batch, conversation: Conversation, now: float) -> None:
        if conversation.lossy and self._out_of_turn(batch, conversation):
            return
        client = self.clients.meet(batch.client or conversation.anonymous, now)
        self._present(client, conversation)
        client.pid = client.pid or conversation.link.peer.pid
        if batch.service:
            client.service = batch.service
        if batch.seq is not None and batch.seq <= client.received_seq:
            self._take_again(client, conversation)
            return
        batch = self.privacy.batch(batch)  # before anybody sees it
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
        if batch.process is not None and conversation.lossy:
            client.sampled(batch.process, now if batch.sent is None else batch.sent)
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
        # A broker may bring it again, and then its drops have been counted.
        if client is not None and client.state is not Presence.ENDED:
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
            counters=self.telemetry.changes(full=True),
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
        client.via = conversation.via
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
            if name == conversation.anonymous and not conversation.only:
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
