"""The way to the agent over an MQTT broker, driven by the sender's one thread.

Strategy: paho-mqtt without a thread of its own. `receive` waits for its socket and lets
it read and write; what its callbacks get is kept until `receive` returns it. An object
is one connection: what was published and not confirmed goes with it, as the buffer
keeps all that the agent has not acknowledged.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections import deque
from enum import IntEnum
from typing import Any, Final, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from kaywatch import wire
from kaywatch._send.broker import AgentStatus, Broker, MqttVersion
from kaywatch._send.transport import Again, Refused, poll

__all__ = ["MqttTransport"]

CONNECT_TIMEOUT: Final = 3  # for TCP and for TLS; only the sender's thread waits
KEEPALIVE: Final = 30  # a broker takes us for dead after 45 s of silence
SILENCE_TIMEOUT: Final = 30.0  # of a broker that owes us an answer
QUOTA: Final = 20  # messages that the broker has not confirmed, as paho has it
CLOSING: Final = 0.2  # seconds for the last words
POLL: Final = 0.05
MAX_READS: Final = 100  # packets or so at a time; others wait for this thread too

NOT_AUTHORIZED: Final = ReasonCode(PacketTypes.PUBACK, "Not authorized")
UNSUPPORTED_VERSION: Final = ReasonCode(
    PacketTypes.CONNACK, "Unsupported protocol version"
)


class Stage(IntEnum):
    """How far a connection has come."""

    OPENED = 0
    ADMITTED = 1  # by the broker
    SUBSCRIBED = 2


class Topics(NamedTuple):
    """Where the messages of one client are."""

    up: str
    down: str
    gone: str
    status: str


class Outgoing:
    """The messages that the broker has not taken.

    Attributes:
        waiting: until the broker lets us publish.
        unconfirmed: paho's numbers of those that were published.
        quota: how many of those there may be.
        written: bytes that were given to paho, until it has written all.
    """

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.unconfirmed: set[int] = set()
        self.quota = QUOTA
        self.written = 0

    @property
    def held(self) -> int:
        """Bytes that wait."""
        return sum(map(len, self.waiting))


class MqttTransport:
    """A connection to a broker that an agent listens at."""

    lossy = True

    def __init__(self, broker: Broker, version: MqttVersion, client: bytes) -> None:
        """Connect, with TCP and TLS; the broker's own answer is taken in by `pump`.

        Raises:
            OSError: nobody listens there, or not in time.
            ConfigurationError: a file that is needed can't be read.
        """
        self.largest = wire.MAX_FRAME
        self._broker = broker
        self._version = version
        self._process = os.getpid()
        name = client.hex()
        self._topics = Topics(
            up=wire.topic(broker.prefix, name, "up"),
            down=wire.topic(broker.prefix, name, "down"),
            gone=wire.topic(broker.prefix, name, "gone"),
            status=wire.status_topic(broker.prefix),
        )
        self._outgoing = Outgoing()
        self._received: list[bytes | AgentStatus] = []
        self._problem: OSError | None = None
        self._stage = Stage.OPENED
        self._heard = time.monotonic()
        self._paho = self._connect(name)

    @property
    def backlog(self) -> int:
        """Bytes queued and not moved yet."""
        outgoing = self._outgoing
        return outgoing.held + (outgoing.written if self._paho.want_write() else 0)

    def send(self, message: bytes) -> None:
        """Queue one message; `receive` moves it."""
        self._outgoing.waiting.append(message)
        self._publish()

    def receive(self, timeout: float) -> list[bytes | AgentStatus]:
        """Move bytes for at most `timeout` seconds; return what came."""
        client = self._paho
        for _ in range(MAX_READS):
            connection = client.socket()
            if connection is None or self._problem:
                break
            # TLS may have read more from the socket than was asked of it.
            decrypted = _decrypted(connection)
            wait = 0.0 if decrypted else timeout
            events = poll(connection, client.want_write(), wait)
            if events & select.POLLOUT:
                client.loop_write()
            if not events & ~select.POLLOUT and not decrypted:
                break
            client.loop_read()
            timeout = 0.0
        client.loop_misc()
        self._check()
        received, self._received = self._received, []
        return received

    def close(self) -> None:
        """Say goodbye to the broker, so that it doesn't announce a death. Idempotent.

        But not in a child of a fork, whose copy of the connection is only closed.
        """
        connection = self._paho.socket()
        if connection is None:
            return
        if os.getpid() == self._process:
            with contextlib.suppress(OSError):
                self._leave(time.monotonic() + CLOSING)
        connection.close()

    # -- inside ----------------------------------------------------------------------

    def _connect(self, name: str) -> paho.Client:
        version = MQTTProtocolVersion.MQTTv311
        if self._version.five:
            version = MQTTProtocolVersion.MQTTv5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=version,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT
        client.max_inflight_messages_set(0)  # we count ourselves
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.will_set(self._topics.gone, qos=1)
        if self._broker.user:
            client.username_pw_set(self._broker.user, self._broker.secret())
        context = self._broker.context()
        if context is not None:
            client.tls_set_context(context)
        client.connect(self._broker.host, self._broker.port, KEEPALIVE)
        connection: Any = client.socket()
        if connection is not None:  # else it hung up at once
            # Or a small message waits 40 ms for the confirmation of the one before it.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def _leave(self, deadline: float) -> None:
        """Publish what waits, and say goodbye, as far as the time allows."""
        while self.backlog and time.monotonic() < deadline:
            self.receive(POLL)
        self._paho.disconnect()
        while self._paho.socket() is not None and time.monotonic() < deadline:
            self.receive(POLL)

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem
        if self._paho.socket() is None:
            raise ConnectionResetError("the broker closed the connection")
        owed = self._outgoing.unconfirmed or self._stage is not Stage.SUBSCRIBED
        if owed and time.monotonic() - self._heard > SILENCE_TIMEOUT:
            raise TimeoutError("the broker does not answer")

    def _publish(self) -> None:
        """Give paho what waits, as far as the broker takes it now."""
        outgoing = self._outgoing
        if not self._paho.want_write():
            outgoing.written = 0
        if self._stage is not Stage.SUBSCRIBED:
            return
        while outgoing.waiting and len(outgoing.unconfirmed) < outgoing.quota:
            if not outgoing.unconfirmed:
                self._heard = time.monotonic()
            message = outgoing.waiting.popleft()
            outgoing.written += len(message)
            published = self._paho.publish(self._topics.up, message, qos=1)
            outgoing.unconfirmed.add(published.mid)

    def _on_connect(
        self, client: paho.Client, _: Any, __: Any, reason: ReasonCode, properties: Any
    ) -> None:
        self._heard = time.monotonic()
        if reason.is_failure:
            if reason == UNSUPPORTED_VERSION:
                self._problem = _another(self._version.refused())
            else:
                self._problem = Refused(f"the broker refuses us: {reason}")
            return
        self._stage = Stage.ADMITTED
        self._version.worked()
        # Whoever sends one too many is thrown out.
        self._outgoing.quota = min(QUOTA, getattr(properties, "ReceiveMaximum", QUOTA))
        limit = getattr(properties, "MaximumPacketSize", None)
        if limit is not None:
            # The rest of a packet: its head, the topic, no properties.
            self.largest = min(self.largest, limit - len(self._topics.up) - 16)
        client.subscribe([(self._topics.down, 0), (self._topics.status, 1)])

    def _on_subscribe(
        self, _: Any, __: Any, ___: Any, reasons: list[ReasonCode], ____: Any
    ) -> None:
        self._heard = time.monotonic()
        if reasons[0].is_failure:
            text = f"the broker lets us not read from {self._topics.down}"
            self._problem = Refused(text)
            return
        self._stage = Stage.SUBSCRIBED
        self._publish()

    def _on_publish(
        self, _: Any, __: Any, number: int, reason: ReasonCode, ___: Any
    ) -> None:
        self._heard = time.monotonic()
        self._outgoing.unconfirmed.discard(number)
        self._publish()
        # MQTT 5 only: a broker of 3.1.1 says nothing, and drops it. Dropped for another
        # reason, such as a full queue, it is just lost, and sent again in time.
        if reason == NOT_AUTHORIZED:
            text = f"the broker lets us not write to {self._topics.up}: {reason}"
            self._problem = Refused(text)

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        self._heard = time.monotonic()
        if message.topic == self._topics.down:
            self._received.append(bytes(message.payload))
        elif message.payload == wire.OFFLINE:
            self._received.append(AgentStatus.AWAY)
        elif message.payload == wire.ONLINE and not message.retain:
            self._received.append(AgentStatus.ARRIVED)
        else:  # what is retained is news from before our hello
            self._received.append(AgentStatus.HERE)

    def _on_disconnect(
        self, _: Any, __: Any, ___: Any, reason: ReasonCode, ____: Any
    ) -> None:
        if self._problem is not None:
            return
        if self._stage is Stage.OPENED and self._version.hung_up():
            self._problem = _another(True)
        else:
            self._problem = ConnectionResetError(f"the broker hung up: {reason}")


def _another(at_once: bool) -> OSError:
    text = "the broker speaks another version of MQTT"
    return Again(text) if at_once else ConnectionError(text)


def _decrypted(connection: Any) -> bool:
    """Whether TLS holds bytes that no `select` knows of."""
    pending = getattr(connection, "pending", None)
    return pending is not None and pending() > 0
