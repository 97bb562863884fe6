"""The connection to the agent over an MQTT broker, driven by the sender's one thread.

Strategy: paho-mqtt without a thread of its own. `receive` polls its socket and lets it
read and write; its callbacks collect what `receive` then returns. An object is one
connection. It keeps nothing beyond its end, since the buffer keeps every batch that the
agent has not acknowledged.
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
from kaywatch._send import splitting  # noqa: F401 - see `finish_imports`
from kaywatch._send.broker import Broker, MqttVersion, PacketLimit
from kaywatch._send.transport import AgentStatus, Refused, RetryAtOnce, poll

__all__ = ["MqttTransport"]

CONNECT_TIMEOUT: Final = 3  # for TCP and for TLS; only the sender's thread waits
KEEPALIVE: Final = 30  # the broker publishes our last will after 45 s of silence
SILENCE_TIMEOUT: Final = 30.0  # while the broker owes us an answer
QUOTA: Final = 20  # published messages without a confirmation, as by paho's default
CLOSE_TIMEOUT: Final = 0.2  # seconds for the last messages
POLL: Final = 0.05
MAX_READS: Final = 100  # packets in one call, since other work waits for the thread

NOT_AUTHORIZED: Final = ReasonCode(PacketTypes.PUBACK, "Not authorized")
PACKET_TOO_LARGE: Final = ReasonCode(PacketTypes.DISCONNECT, "Packet too large")
UNSUPPORTED_VERSION: Final = ReasonCode(
    PacketTypes.CONNACK, "Unsupported protocol version"
)


class MqttStage(IntEnum):
    """The progress of a connection."""

    OPENED = 0
    ACCEPTED = 1  # by the broker
    SUBSCRIBED = 2


class TopicNames(NamedTuple):
    """The topics of a client; see `wire.topic`."""

    up: str
    down: str
    gone: str
    status: str  # of the agent

    @classmethod
    def of(cls, prefix: str, client: str) -> TopicNames:
        """Return the topics of the client with this id."""
        leaves = ("up", "down", "gone")
        up, down, gone = (wire.topic(prefix, client, leaf) for leaf in leaves)
        return cls(up, down, gone, wire.status_topic(prefix))


class PublishQueue:
    """The messages that the broker has not confirmed.

    Attributes:
        waiting: not given to paho yet.
        unconfirmed: paho's ids of published messages, with their sizes in bytes.
        quota: the maximum of `unconfirmed`.
        written: bytes given to paho since its own buffer was last empty.
        closing: whether this side ends the connection.
    """

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.unconfirmed: dict[int, int] = {}
        self.quota = QUOTA
        self.written = 0
        self.closing = False


class MqttTransport:
    """A connection to the agent's broker."""

    lossy = True

    def __init__(
        self, broker: Broker, version: MqttVersion, limit: PacketLimit, client: bytes
    ) -> None:
        """Connect with TCP and TLS; `receive` handles the broker's answer.

        Raises:
            OSError: no broker listens there, or it does not answer in time.
            ConfigurationError: a required file cannot be read.
        """
        self.largest = limit.largest
        self._limit = limit
        self._broker = broker
        self._version = version
        self._process = os.getpid()
        self._topics = TopicNames.of(broker.prefix, client.hex())
        self._queue = PublishQueue()
        self._received: list[bytes | AgentStatus] = []
        self._problem: OSError | None = None
        self._stage = MqttStage.OPENED
        self._answered_at = time.monotonic()
        self._paho = self._connect(client.hex())

    @property
    def backlog(self) -> int:
        """Bytes queued and not transmitted yet."""
        written = self._queue.written if self._paho.want_write() else 0
        return sum(map(len, self._queue.waiting)) + written

    def send(self, message: bytes) -> None:
        """Queue one message; `receive` transmits it."""
        self._queue.waiting.append(message)
        self._publish()

    def receive(self, timeout: float) -> list[bytes | AgentStatus]:
        """Transmit for at most `timeout` seconds; return what arrived."""
        client = self._paho
        for _ in range(MAX_READS):
            connection = client.socket()
            if connection is None or self._problem:
                break
            # TLS may have read more from the socket than paho asked for.
            decrypted = _has_decrypted(connection)
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
        """Disconnect, so that the broker does not publish the last will. Idempotent.

        In the child of a fork, only its copy of the socket is closed.
        """
        connection = self._paho.socket()
        if connection is None:
            return
        self._queue.closing = True
        if os.getpid() == self._process:
            with contextlib.suppress(OSError):
                self._disconnect(time.monotonic() + CLOSE_TIMEOUT)
        connection.close()

    # -- inside ----------------------------------------------------------------------

    def _connect(self, name: str) -> paho.Client:
        version = MQTTProtocolVersion.MQTTv311
        if self._version.is_5:
            version = MQTTProtocolVersion.MQTTv5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=version,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT
        client.max_inflight_messages_set(0)  # `PublishQueue` counts them
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
        if connection is not None:  # None if the broker closed it at once
            # Otherwise a small message waits 40 ms for the previous confirmation.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def _disconnect(self, deadline: float) -> None:
        """Publish waiting messages and disconnect, as far as the time allows."""
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
        owed = self._queue.unconfirmed or self._stage is not MqttStage.SUBSCRIBED
        if owed and time.monotonic() - self._answered_at > SILENCE_TIMEOUT:
            raise TimeoutError("the broker does not answer")

    def _publish(self) -> None:
        """Give paho as many messages as the broker accepts now."""
        queue = self._queue
        if not self._paho.want_write():
            queue.written = 0
        if self._stage is not MqttStage.SUBSCRIBED:
            return
        while queue.waiting and len(queue.unconfirmed) < queue.quota:
            if not queue.unconfirmed:
                self._answered_at = time.monotonic()  # nothing was owed until now
            message = queue.waiting.popleft()
            queue.written += len(message)
            published = self._paho.publish(self._topics.up, message, qos=1)
            queue.unconfirmed[published.mid] = len(message)

    def _on_connect(
        self, client: paho.Client, _: Any, __: Any, reason: ReasonCode, properties: Any
    ) -> None:
        self._answered_at = time.monotonic()
        if reason == UNSUPPORTED_VERSION:
            self._problem = _unsupported_version(self._version.switch())
        elif reason.is_failure:
            self._problem = Refused(f"the broker rejected the connection: {reason}")
        if reason.is_failure:
            return
        self._stage = MqttStage.ACCEPTED
        self._version.confirm()
        # A broker disconnects a client that exceeds its receive maximum.
        self._queue.quota = min(QUOTA, getattr(properties, "ReceiveMaximum", QUOTA))
        limit = getattr(properties, "MaximumPacketSize", None)
        if limit is not None:
            # The rest of a packet: its head, the topic, no properties.
            self.largest = min(self.largest, limit - len(self._topics.up) - 16)
        client.subscribe([(self._topics.down, 0), (self._topics.status, 1)])

    def _on_subscribe(
        self, _: Any, __: Any, ___: Any, reasons: list[ReasonCode], ____: Any
    ) -> None:
        self._answered_at = time.monotonic()
        if reasons[0].is_failure:
            text = f"the broker does not allow subscribing to {self._topics.down}"
            self._problem = Refused(text)
            return
        self._stage = MqttStage.SUBSCRIBED
        self._publish()

    def _on_publish(
        self, _: Any, __: Any, number: int, reason: ReasonCode, ___: Any
    ) -> None:
        self._answered_at = time.monotonic()
        self._limit.confirm(self._queue.unconfirmed.pop(number, 0))
        self._publish()
        # MQTT 5 only: a 3.1.1 broker drops the message without a reason. Messages
        # dropped for another reason, such as a full queue, are sent again in time.
        if reason == NOT_AUTHORIZED:
            text = (
                f"the broker does not allow publishing to {self._topics.up}: {reason}"
            )
            self._problem = Refused(text)

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        self._answered_at = time.monotonic()
        if message.topic == self._topics.down:
            self._received.append(bytes(message.payload))
        elif message.payload == wire.OFFLINE:
            self._received.append(AgentStatus.AWAY)
        elif message.payload == wire.ONLINE and not message.retain:
            self._received.append(AgentStatus.ARRIVED)
        else:  # retained: published before our hello
            self._received.append(AgentStatus.HERE)

    def _on_disconnect(
        self, _: Any, __: Any, ___: Any, reason: ReasonCode, ____: Any
    ) -> None:
        if self._queue.unconfirmed and not self._queue.closing:
            largest = max(self._queue.unconfirmed.values())
            self._limit.suspect(largest, is_certain=reason == PACKET_TOO_LARGE)
        if self._problem is not None:
            return
        accepted = self._stage is not MqttStage.OPENED
        if not accepted and self._version.switch_if_unconfirmed():
            self._problem = _unsupported_version(at_once=True)
        else:
            text = f"the broker closed the connection: {reason}"
            self._problem = ConnectionResetError(text)


def _unsupported_version(at_once: bool) -> OSError:
    text = "the broker does not support this version of MQTT"
    return RetryAtOnce(text) if at_once else ConnectionError(text)


def _has_decrypted(connection: Any) -> bool:
    """Return whether TLS holds bytes that polling the socket does not show."""
    pending = getattr(connection, "pending", None)
    return pending is not None and pending() > 0
