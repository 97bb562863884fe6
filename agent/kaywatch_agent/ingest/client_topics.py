"""Clients' topics on one broker: messages to sessions, and replies to clients."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from kaywatch import wire
from kaywatch_agent.ingest.brokers import BrokerConfig
from kaywatch_agent.ingest.intake import Intake
from kaywatch_agent.ingest.peers import RemotePeer
from kaywatch_agent.pipeline.session import BrokerSession
from kaywatch_agent.protocol.names import clean_name

__all__ = ["ClientTopics"]

# Replies per second to clients that have not identified themselves: a flood of invalid
# messages must not cause an equal flood of error messages.
MAX_COMPLAINTS: Final = 20

# Sessions of clients that have not identified themselves yet.
MAX_UNKNOWN: Final = 1_000

# Replies that wait for the broker, each smaller than a kilobyte.
MAX_REPLIES: Final = 10_000

LEAVES: Final = ("up", "rows", "gone")


class BrokerConnection:
    """One client's topics: its session, and the topic for replies."""

    congested = False

    def __init__(self, topics: ClientTopics, name: str, leaf: str) -> None:
        self.key = (name, leaf)
        self.is_shell = leaf == "rows"
        self.backlog = 0  # bytes queued for this client
        self.reply_topic = wire.topic(topics.prefix, name, "down")
        self.peer = topics.remote_peer()
        self._topics = topics
        sessions = topics.intake.pipeline.sessions
        self.session: BrokerSession = sessions.open_broker(
            self.peer, name, topics.label, named=not self.is_shell
        )
        topics.intake.open(self.session, self)
        topics.connections[self.key] = self

    @property
    def is_known(self) -> bool:
        """Whether the client has identified itself."""
        return bool(self.session.clients)

    def send(self, message: bytes) -> None:
        """Queue a reply."""
        self._topics.reply(self, message)

    def close(self) -> None:
        """End the session of a client that disconnected. Idempotent."""
        if self._topics.connections.pop(self.key, None) is self:
            self.peer.mark_disconnected()
            self._topics.intake.close(self.session)


class ClientTopics:
    """The clients behind one broker.

    Attributes:
        connections: by name and kind of topic, `up` or `rows`.
        since: when the agent connected, by the monotonic clock; None while it is not
            connected.
        dropped: the number of replies dropped because too many were queued.
    """

    def __init__(self, config: BrokerConfig, intake: Intake) -> None:
        """Start without clients."""
        self.prefix = config.broker.prefix
        self.label = config.label
        self.intake = intake
        self.connections: dict[tuple[str, str], BrokerConnection] = {}
        self.since: float | None = None
        self.dropped = 0
        self._grace = config.grace_seconds
        start = re.escape(wire.topic(self.prefix, "", "").removesuffix("/"))
        self._topic = re.compile(
            rf"{start}(?:([0-9a-f]{{32}})/(up|gone)|(?!agent/)([^/]+)/(rows))"
        )
        self._replies: asyncio.Queue[tuple[BrokerConnection, bytes]] = asyncio.Queue()
        self._unknown: deque[BrokerConnection] = deque()
        self._complaints: deque[float] = deque(maxlen=MAX_COMPLAINTS)

    @property
    def filters(self) -> list[str]:
        """The topics to subscribe to."""
        return [wire.topic(self.prefix, "+", leaf) for leaf in LEAVES]

    def remote_peer(self) -> RemotePeer:
        """Return a client's process, considered dead after a period of silence."""
        return RemotePeer(lambda: self.since, self._grace)

    def connected(self) -> None:
        """Watch for the clients that were connected before."""
        self.since = time.monotonic()
        pipeline = self.intake.pipeline
        pipeline.sessions.watch.expect(pipeline.clients, self.label, self.remote_peer())

    def disconnected(self) -> None:
        """End all sessions: without the broker, no client can be reached."""
        self.since = None
        for connection in list(self.connections.values()):
            connection.close()
        self._replies = asyncio.Queue()

    async def publish(self, send: Callable[[str, bytes], Awaitable[None]]) -> None:
        """Publish replies, until cancelled.

        Args:
            send: publishes with QoS 0, and returns when the message is written. QoS 0
                is enough: acks are repeated, and a client that misses another reply
                sends its hello again.
        """
        while True:
            connection, message = await self._replies.get()
            await send(connection.reply_topic, message)
            connection.backlog -= len(message)

    def reply(self, connection: BrokerConnection, message: bytes) -> None:
        """Queue a reply, or drop it if too many are queued."""
        is_complaint = connection.is_shell or not connection.is_known
        if self._replies.qsize() >= MAX_REPLIES or (
            is_complaint and not self._may_complain()
        ):
            self.dropped += 1
            return
        if connection.is_shell:  # shells read JSON
            message = msgspec.json.encode(msgspec.msgpack.decode(message))
        connection.backlog += len(message)
        self._replies.put_nowait((connection, message))

    def receive(self, topic: str, payload: bytes, retained: bool) -> str:
        """Handle a message; return why it is ignored, or an empty string."""
        match = self._topic.fullmatch(topic)
        if match is None:
            return "topic"
        if retained:
            return "retained"  # it may be of any age
        if len(payload) > wire.MAX_FRAME:
            return "too_large"
        client, leaf, shell, _ = match.groups()
        if shell:
            self._receive_rows(clean_name(shell), payload)
        elif leaf == "up":
            self._receive_message(client, payload)
        elif connection := self.connections.get((client, "up")):
            connection.close()  # the client's last will
        return ""

    # -- inside ------------------------------------------------------------------------

    def _receive_message(self, name: str, payload: bytes) -> None:
        established = self.connections.get((name, "up"))
        connection = established or BrokerConnection(self, name, "up")
        is_usable = self._take(connection, payload)
        if connection.is_known:
            return
        if not is_usable:
            connection.close()  # invalid messages must not leave sessions behind
        elif established is None:
            self._unknown.append(connection)
        if len(self._unknown) > MAX_UNKNOWN:
            oldest = self._unknown.popleft()
            if not oldest.is_known:
                oldest.close()

    def _receive_rows(self, name: str, payload: bytes) -> None:
        """Handle rows of a shell, which needs no session afterwards."""
        connection = BrokerConnection(self, name, "rows")
        self.intake.metrics.received.add(len(payload))
        session = connection.session
        self.intake.receive(session.receive_text(payload), session)
        connection.close()

    def _take(self, connection: BrokerConnection, payload: bytes) -> bool:
        """Handle a message; return whether any of it was usable."""
        self.intake.metrics.received.add(len(payload))
        session = connection.session
        return self.intake.receive(session.receive(payload), session)

    def _may_complain(self) -> bool:
        now, recent = time.monotonic(), self._complaints
        if len(recent) == MAX_COMPLAINTS and now - recent[0] < 1.0:
            return False
        recent.append(now)
        return True
