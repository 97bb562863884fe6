"""Clients of other hosts: their messages by way of brokers, and replies back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec
import structlog

from kaywatch import wire
from kaywatch._send.broker import Dialect
from kaywatch._version import __version__
from kaywatch.errors import ConfigurationError
from kaywatch_agent.ingest.brokers import BrokerConfig
from kaywatch_agent.ingest.connection import Connection
from kaywatch_agent.ingest.peers import RemotePeer
from kaywatch_agent.ingest.rivals import Rivals
from kaywatch_agent.runtime.telemetry import Telemetry

__all__ = ["Announcing", "BrokerIntake", "Conversation", "Link", "Pipeline"]

log = structlog.get_logger("kaywatch.agent")

RETRY_MIN: Final = 0.2
RETRY_MAX: Final = 5.0
STEADY_SECONDS: Final = 10.0  # a connection that lasted so long was a good one

# Complaints to those of whom nothing could be used, a second and broker: junk is not
# to make as much again.
COMPLAINTS: Final = 20

# Conversations with those who were asked to say who they are, and have not yet.
MAX_STRANGERS: Final = 1_000

# What is said of alerts, at a time and unconfirmed: replies to clients come first.
MAX_ANNOUNCEMENTS: Final = 100
MAX_UNSENT: Final = 262_144  # bytes

ID_DIGITS: Final = 32
LEAVES: Final = ("up", "rows", "gone")


class Conversation(Protocol):
    """What is needed of the pipeline for one client."""

    @property
    def clients(self) -> set[str]:
        """Whom something was taken of."""

    def take(self, message: bytes) -> bool:
        """Act on a message; return whether anything could be used of it."""

    def take_text(self, text: bytes) -> bool:
        """Act on rows in JSON; return whether anything could be used of them."""

    def close(self) -> None:
        """The client is gone, or nothing can be heard of it."""


class Pipeline(Protocol):
    """What is needed of the pipeline."""

    def converse(self, link: Link, name: str, via: str, named: bool) -> Any:
        """Return the conversation with one client."""

    def expect(self, via: str, peer: RemotePeer) -> None:
        """Watch those who came by a broker before a restart, and are not back."""


class Announcing(Protocol):
    """What there is to say of alerts."""

    @property
    def filter(self) -> str:
        """What the broker may hold of it from a former life."""

    @property
    def dropped(self) -> int:
        """How much was too much."""

    def connected(self) -> None:
        """The broker is to be told all."""

    def disconnected(self) -> None:
        """The broker is away."""

    def found(self, topic: str) -> None:
        """The broker holds this."""

    def take(self, most: int) -> Iterable[tuple[str, bytes, bool]]:
        """Return topics, payloads, and whether to retain them."""


class Link:
    """The way back to one client; the pipeline's handle on it."""

    congested = False

    def __init__(self, intake: BrokerIntake, name: str, leaf: str) -> None:
        self.peer = RemotePeer(intake.listening_since, intake.config.grace_seconds)
        self.key = (name, leaf)
        self._intake = intake
        self._down = wire.topic(intake.config.broker.prefix, name, "down")
        self._text = leaf == "rows"
        self.conversation: Conversation = intake.pipeline.converse(
            self, name, intake.label, named=leaf == "up"
        )

    @property
    def backlog(self) -> int:
        """Bytes for all clients of this broker that are not on the wire yet."""
        return self._intake.backlog

    def send(self, message: bytes) -> None:
        """Publish a reply.

        With QoS 0: acks are repeated, and whoever misses what else there is greets.
        """
        if (
            self._text or not self.conversation.clients
        ) and not self._intake.may_tell():
            return
        if self._text:
            # Whoever publishes JSON reads no msgpack.
            message = msgspec.json.encode(msgspec.msgpack.decode(message))
        self._intake.publish(self._down, message)

    def close(self) -> None:
        """End the conversation: its client is gone. Idempotent."""
        if self._intake.links.pop(self.key, None) is self:
            self.peer.hung_up()
            self.conversation.close()


class BrokerIntake:
    """Stays connected to one broker, and has a conversation with each client there."""

    def __init__(
        self,
        config: BrokerConfig,
        pipeline: Pipeline,
        telemetry: Telemetry,
        host: str,
        announcing: Announcing | None = None,
    ) -> None:
        """Prepare it.

        Args:
            config: which broker, and how.
            pipeline: takes what comes.
            telemetry: where what happens is counted.
            host: this one's name, for our own there.
            announcing: what there is to say of alerts; None to say nothing.
        """
        self.config = config
        self.pipeline = pipeline
        self.links: dict[tuple[str, str], Link] = {}
        self.label = config.label
        self._problem = "not connected yet"
        self._telemetry = telemetry
        self._client_id = config.client_id or config.default_id(host)
        self._host = host
        self._announcing = announcing
        self._rivals = Rivals(self._client_id)
        self._status = wire.status_topic(config.broker.prefix)
        self._about = wire.topic(config.broker.prefix, "agent", "about")
        self._start = self._status.removesuffix("agent/status")
        self._dialect = Dialect()
        self._connection: Connection | None = None
        self._since: float | None = None
        self._strangers: deque[Link] = deque()
        self._told: deque[float] = deque(maxlen=COMPLAINTS)
        self._life: asyncio.Task[None] | None = None
        telemetry.set("kaywatch_mqtt_connected", 0, self.label)

    @property
    def backlog(self) -> int:
        """Bytes that are not on the wire yet."""
        connection = self._connection
        return connection.unsent if connection is not None else 0

    @property
    def problem(self) -> str:
        """What is wrong; empty for nothing."""
        connection = self._connection
        refused = connection.refused if connection is not None else ""
        return self._problem or refused or self._rivals.problem

    def listening_since(self) -> float | None:
        """Return since when the broker is heard, by the monotonic clock."""
        return self._since

    def start(self) -> None:
        """Connect, and stay so, in a task of its own: brokers come and go."""
        self._life = asyncio.create_task(self._live(), name=f"mqtt {self.label}")

    async def stop(self) -> None:
        """Say that we are away, and hang up."""
        life, self._life = self._life, None
        if life is not None:
            life.cancel()
            await asyncio.wait([life])
        self._problem = "stopped"
        self._hang_up(self._problem)
        if self._connection is not None:
            await self._connection.close((self._status, wire.OFFLINE))
            self._connection = None

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False
    ) -> None:
        """Publish a message if the broker is there, else not."""
        if self._connection is not None:
            self._connection.publish(topic, payload, qos=qos, retain=retain)

    def announce(self) -> None:
        """Publish what there is to say of alerts, as far as there is room."""
        announcing = self._announcing
        if announcing is None or self._since is None or self.backlog > MAX_UNSENT:
            return
        for topic, payload, retain in announcing.take(MAX_ANNOUNCEMENTS):
            self.publish(topic, payload, qos=1, retain=retain)
            self._telemetry.add("kaywatch_mqtt_announcements_total", 1, self.label)
            if self.backlog > MAX_UNSENT:
                break
        self._telemetry.set(
            "kaywatch_mqtt_changes_dropped_total", announcing.dropped, self.label
        )

    def may_tell(self) -> bool:
        """Whether there is room for one more complaint."""
        now, told = time.monotonic(), self._told
        if len(told) == COMPLAINTS and now - told[0] < 1.0:
            self._telemetry.add("kaywatch_replies_withheld_total")
            return False
        told.append(now)
        return True

    # -- inside ----------------------------------------------------------------------

    async def _live(self) -> None:
        delay = RETRY_MIN
        while True:
            started = time.monotonic()
            try:
                reason = await self._stay()
            except (OSError, ConfigurationError) as error:
                reason = str(error) or type(error).__name__
            self._hang_up(reason)
            if time.monotonic() - started > STEADY_SECONDS:
                delay = RETRY_MIN
            # Full jitter: a broker that comes back isn't met by all at once.
            await asyncio.sleep(random.uniform(0, delay))
            delay = min(delay * 2, RETRY_MAX)

    async def _stay(self) -> str:
        """Connect, and return why that is over."""
        connection = Connection(
            self.config.broker,
            self._dialect,
            client_id=self._client_id,
            session_seconds=self.config.session_seconds,
            will=(self._status, wire.OFFLINE),
            take=self._take,
        )
        self._connection = connection
        try:
            await connection.open()
            prefix = self.config.broker.prefix
            topics = [wire.topic(prefix, "+", leaf) for leaf in LEAVES]
            topics += [self._status, self._about]
            if self._announcing is not None:
                topics.append(self._announcing.filter)
            await connection.subscribe(topics)
            self._begin(connection)
            return await asyncio.shield(connection.lost)
        finally:
            if self._life is not None:  # else `stop` says goodbye
                await connection.close()

    def _begin(self, connection: Connection) -> None:
        """All that comes is heard from here on: tell everybody, and wait for them."""
        self._since = time.monotonic()
        self._problem = ""
        self._telemetry.set("kaywatch_mqtt_connected", 1, self.label)
        self._telemetry.add("kaywatch_mqtt_connects_total", 1, self.label)
        log.info("broker connected", broker=self.label, mqtt=connection.version)
        grace = self.config.grace_seconds
        self.pipeline.expect(self.label, RemotePeer(self.listening_since, grace))
        self._tell_online()
        if self._announcing is not None:
            self._announcing.connected()
            self.announce()

    def _hang_up(self, reason: str) -> None:
        """Nothing is heard of anybody any more."""
        self._since = None
        if reason != self._problem:
            log.warning("broker not connected", broker=self.label, reason=reason)
        self._problem = reason
        self._rivals.forget()
        if self._announcing is not None:
            self._announcing.disconnected()
        self._telemetry.set("kaywatch_mqtt_connected", 0, self.label)
        for link in list(self.links.values()):
            link.close()

    def _tell_online(self) -> None:
        self.publish(self._status, wire.ONLINE, qos=1, retain=True)
        about = {"agent": self._client_id, "host": self._host, "version": __version__}
        self.publish(self._about, msgspec.json.encode(about), qos=1, retain=True)

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        """Take a message. Whatever it is, others come after it."""
        self._telemetry.add("kaywatch_mqtt_messages_total", 1, self.label)
        try:
            ignored = self._act(topic, payload, retained)
        except Exception:
            log.exception("a message could not be taken", topic=topic[:200])
            ignored = "failed"
        if ignored:
            self._telemetry.add("kaywatch_mqtt_ignored_total", 1, self.label, ignored)

    def _act(self, topic: str, payload: bytes, retained: bool) -> str:
        """Act on a message; return why not, if so."""
        if self._meet_agent(topic, payload, retained):
            return ""
        name, leaf = self._names(topic)
        if not name:
            return "topic"
        if retained:
            return "retained"  # nobody knows how old it is
        if len(payload) > wire.MAX_FRAME:
            return "too_large"
        link = self.links.get((name, "up"))
        if leaf == "gone":
            if link is not None:
                link.close()
        elif leaf == "rows":
            self._take_rows(name, payload)
        else:
            self._take_message(link, name, payload)
        return ""

    def _meet_agent(self, topic: str, payload: bytes, retained: bool) -> bool:
        """Take what an agent says, be it us; return whether it is that."""
        if topic == self._status:
            self._rivals.online(payload == wire.ONLINE, retained)
            # The will of a connection that we had before, late; or another's.
            if payload == wire.OFFLINE and not retained and self._since is not None:
                self._tell_online()
        elif topic == self._about:
            if self._rivals.meet(payload, retained):
                log.error("another agent", broker=self.label, reason=self.problem)
        elif topic.startswith(f"{self._start}alerts/") and topic.endswith("/state"):
            if retained and self._announcing is not None:
                self._announcing.found(topic)
        else:
            return False
        return True

    def _names(self, topic: str) -> Sequence[str]:
        """Return the client's name and the leaf of a topic, nothing if it has none."""
        if not topic.startswith(self._start):
            return "", ""
        name, _, leaf = topic[len(self._start) :].partition("/")
        if leaf not in LEAVES or not name or name == "agent":
            return "", ""
        if leaf != "rows" and not _is_id(name):
            return "", ""
        return name[: wire.MAX_NAME], leaf

    def _take_message(self, link: Link | None, name: str, payload: bytes) -> None:
        new = link is None
        if link is None:
            link = self.links[name, "up"] = Link(self, name, "up")
        used = link.conversation.take(payload)
        if link.conversation.clients:
            return
        if not used:
            link.close()  # nothing is kept of junk
        elif new:
            self._strangers.append(link)
        if len(self._strangers) > MAX_STRANGERS:
            oldest = self._strangers.popleft()
            if not oldest.conversation.clients:
                oldest.close()

    def _take_rows(self, name: str, payload: bytes) -> None:
        """Take rows of somebody who doesn't stay."""
        link = self.links[name, "rows"] = Link(self, name, "rows")
        link.conversation.take_text(payload)
        link.close()


def _is_id(name: str) -> bool:
    return len(name) == ID_DIGITS and set(name) <= set("0123456789abcdef")
