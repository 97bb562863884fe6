"""Stand-ins for the transport's side of a conversation; they record."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import Any

from kaywatch import wire
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.change import WriteBatch
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.ingest.intake import Intake
from kaywatch_agent.model.records import ProcessSample
from kaywatch_agent.model.series import Kind
from kaywatch_agent.pipeline.pipeline import Pipeline
from kaywatch_agent.pipeline.session import BrokerSession, Session, StreamSession
from kaywatch_agent.runtime.metrics import MetricsRegistry

NOW = 1_700_000_020.0


class FakePeer:
    """A process that runs until the test ends it."""

    def __init__(self, pid: int = 4711, uid: int = -1) -> None:
        self.pid = pid
        self.uid = uid
        self.started = 0.0
        self.trusted = uid < 0
        self.dead = False
        self.closed = 0

    def has_exited(self) -> bool:
        assert not self.closed
        return self.dead

    def sample(self) -> ProcessSample | None:
        return ProcessSample(rss_bytes=1_000_000, cpu_seconds=2.0)

    def close(self) -> None:
        self.closed += 1


class FakeLink:
    """A connection that keeps the sent data."""

    def __init__(self, peer: FakePeer | None = None) -> None:
        self.peer = peer or FakePeer()
        self.backlog = 0
        self.congested = False
        self.closed = False
        self._sent = bytearray()

    def send(self, data: bytes) -> None:
        assert not self.closed
        self._sent += data

    def close(self) -> None:
        self.closed = True

    def replies(self) -> list[dict[str, Any]]:
        """Return the data sent since the last call."""
        result, at = [], 0
        while at < len(self._sent):
            (size,) = struct.unpack_from(">I", self._sent, at)
            result.append(wire.decode(bytes(self._sent[at + 4 : at + 4 + size])))
            at += 4 + size
        self._sent.clear()
        return result


class FakeTopic(FakeLink):
    """The topic of one client behind a broker, which keeps the published messages."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = FakePeer(pid=0)
        self.peer.trusted = False
        self.messages: list[bytes] = []
        self.conversation: Conversation | None = None

    def close(self) -> None:
        """End the session, as a real one does."""
        super().close()
        assert self.conversation is not None
        self.conversation.close()

    def send(self, data: bytes) -> None:
        assert not self.closed
        self.messages.append(data)

    def replies(self) -> list[dict[str, Any]]:
        result, self.messages = self.messages, []
        return [wire.decode(message) for message in result]


class Conversation:
    """A session with an agent, and the transport around it."""

    def __init__(self, agent: Agent, session: Session, link: Any) -> None:
        self.session = session
        self._intake = agent.intake
        self._intake.open(session, link)

    @property
    def clients(self) -> set[str]:
        return self.session.clients

    def receive(self, data: bytes) -> None:
        assert isinstance(self.session, StreamSession)
        self._intake.receive(self.session.receive(data), self.session)

    def take(self, message: bytes) -> bool:
        assert isinstance(self.session, BrokerSession)
        return self._intake.receive(self.session.receive(message), self.session)

    def take_text(self, text: bytes) -> bool:
        assert isinstance(self.session, BrokerSession)
        return self._intake.receive(self.session.receive_text(text), self.session)

    def resume(self) -> None:
        self._intake.drained(self.session)

    def close(self) -> None:
        self._intake.close(self.session)


class Counted(MetricsRegistry):
    """A registry that can be asked for one value."""

    def get(self, name: str, *labels: str) -> float:
        return self._samples(name).get(labels, 0.0)

    def total(self, name: str) -> float:
        return sum(self._samples(name).values())

    def _samples(self, name: str) -> dict[tuple[str, ...], float]:
        return next(result for metric, result in self.collect() if metric.name == name)


class Agent:
    """A pipeline with a clock that is set by hand and a store that can fail."""

    def __init__(
        self,
        limits: Limits | None = None,
        clock: Callable[[], float] | None = None,
        watched: Callable[[], Collection[bytes]] = tuple,
    ) -> None:
        self.now = NOW
        self.clock = clock or (lambda: self.now)
        self.hurried = 0
        self.broken = False
        self.slow = False
        self.full = False  # the next commit has to hold everything
        self.under_way: list[Any] | None = None
        self.committed: list[WriteBatch] = []
        self.pipeline = Pipeline(
            Aggregator(Registry(limits or Limits()), self.clock()),
            watched=watched,
            clock=self.clock,
        )
        self.evaluations_requested = 0
        self.intake = Intake(
            self.pipeline,
            request_commit=self._hurry,
            request_evaluation=self._request_evaluation,
            clock=self.clock,
        )
        self.telemetry = Counted()
        self.telemetry.include(
            self.pipeline.metrics,
            self.pipeline.queue.metrics,
            self.pipeline.aggregator.metrics,
            self.pipeline.queue.event_stream.metrics,
            self.intake.metrics,
            self.intake.mirror.metrics,
        )
        self._parts: list[Any] = [
            self.pipeline.aggregator,
            self.pipeline.clients,
            self.pipeline.sessions,
        ]

    def _request_evaluation(self) -> None:
        self.evaluations_requested += 1

    def open(self, link: Any) -> Conversation:
        """Return a new connection's session."""
        return Conversation(self, self.pipeline.sessions.open_stream(link.peer), link)

    def converse(
        self, link: FakeLink, name: str, via: str, *, named: bool
    ) -> Conversation:
        """Return the session of one client over a broker."""
        session = self.pipeline.sessions.open_broker(link.peer, name, via, named=named)
        return Conversation(self, session, link)

    def tick(self) -> None:
        """Do the work of one second."""
        self.intake.write(self.pipeline.tick(self.clock()))
        self.intake.tick()
        self.commit()

    def commit(self) -> None:
        """Begin a commit, unless one is under way; it ends at once unless `slow`."""
        self.intake.write(self.pipeline.advance(self.clock()))
        if self.under_way is not None:
            return
        full, self.full = self.full, False
        self.under_way = [part.changes(full) for part in self._parts]
        if not self.slow:
            self.end()

    def end(self, *, broken: bool = False) -> None:
        """Let the commit that is under way end."""
        changes, self.under_way = self.under_way, None
        assert changes is not None
        durable = not (broken or self.broken)
        for part, change in zip(self._parts, changes, strict=True):
            (part.committed if durable else part.refused)(change)
        if durable:
            self.committed.append(WriteBatch.of(changes))
        replies = self.pipeline.sessions.acknowledge(durable=durable)
        self.intake.write(replies)
        if self.pipeline.commit_due:
            self._hurry()

    def _hurry(self) -> None:
        self.hurried += 1

    def count_stored(self) -> int:
        """Return how many events the store holds, reports of losses aside."""
        keys = self.pipeline.aggregator.registry.keys
        return sum(
            count
            for change in self.committed
            for step in (*change.aggregate.buckets.values(), change.aggregate.late)
            for row, count in zip(
                step.rows.tolist(), step.executions.tolist(), strict=True
            )
            if keys[row].kind not in (Kind.LOSS, Kind.LATE)
        )

    def counted(self, name: str, *labels: str) -> int:
        return int(self.telemetry.get(f"kaywatch_{name}", *labels))
