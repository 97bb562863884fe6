"""Stand-ins for the transport's side of a conversation; they record."""

from __future__ import annotations

import struct
from typing import Any

from kaywatch import wire
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.change import Change
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.model.records import ProcessSample
from kaywatch_agent.model.series import Kind
from kaywatch_agent.pipeline.pipeline import Pipeline
from kaywatch_agent.pipeline.session import Conversation
from kaywatch_agent.runtime.telemetry import Telemetry

NOW = 1_700_000_020.0


class FakePeer:
    """A process that lives until it is told otherwise."""

    def __init__(self, pid: int = 4711, uid: int = -1) -> None:
        self.pid = pid
        self.uid = uid
        self.started = 0.0
        self.trusted = uid < 0
        self.dead = False
        self.closed = 0

    def exited(self) -> bool:
        assert not self.closed
        return self.dead

    def sample(self) -> ProcessSample | None:
        return ProcessSample(rss_bytes=1_000_000, cpu_seconds=2.0)

    def close(self) -> None:
        self.closed += 1


class FakeLink:
    """A connection that keeps what is sent over it."""

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
        """Return what was sent since the last call."""
        found, at = [], 0
        while at < len(self._sent):
            (size,) = struct.unpack_from(">I", self._sent, at)
            found.append(wire.decode(bytes(self._sent[at + 4 : at + 4 + size])))
            at += 4 + size
        self._sent.clear()
        return found


class FakeTopic(FakeLink):
    """The way back to one client behind a broker, which keeps what is published."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = FakePeer(pid=0)
        self.peer.trusted = False
        self.messages: list[bytes] = []
        self.conversation: Conversation | None = None

    def close(self) -> None:
        """End the conversation, as a real one does."""
        super().close()
        assert self.conversation is not None
        self.conversation.close()

    def send(self, data: bytes) -> None:
        assert not self.closed
        self.messages.append(data)

    def replies(self) -> list[dict[str, Any]]:
        found, self.messages = self.messages, []
        return [wire.decode(message) for message in found]


class Agent:
    """A pipeline with a clock that is set by hand and a store that can fail."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.now = NOW
        self.hurried = 0
        self.broken = False
        self.slow = False
        self.under_way: Change | None = None
        self.committed: list[Change] = []
        self.telemetry = Telemetry()
        self.pipeline = Pipeline(
            Aggregator(Registry(limits or Limits()), self.now),
            self.telemetry,
            commit=self._commit,
            hurry=self._hurry,
            clock=lambda: self.now,
        )

    def _commit(self, change: Change) -> None:
        if self.slow:
            self.under_way = change
        else:
            self.end(change)

    def end(self, change: Change) -> None:
        """Let a commit end."""
        if self.broken:
            self.pipeline.refused(change)
        else:
            self.committed.append(change)
            self.pipeline.committed(change)

    def _hurry(self) -> None:
        self.hurried += 1

    def stored(self) -> int:
        """Return how many events the store holds, reports of losses aside."""
        keys = self.pipeline.aggregator.registry.keys
        return sum(
            count
            for change in self.committed
            for step in (*change.steps.values(), change.late)
            for row, count in zip(
                step.rows.tolist(), step.executions.tolist(), strict=True
            )
            if keys[row].kind not in (Kind.LOSS, Kind.LATE)
        )

    def counted(self, name: str, *labels: str) -> int:
        return int(self.telemetry.get(f"kaywatch_{name}", *labels))
