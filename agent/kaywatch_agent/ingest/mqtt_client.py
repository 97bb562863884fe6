"""aiomqtt's client, with protection against faulty brokers and its own defects."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from aiomqtt import Client, MqttCodeError, MqttError, ProtocolVersion, Will
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from kaywatch import wire
from kaywatch._send.broker import Broker, MqttVersion

__all__ = ["Handler", "MqttClient"]

KEEPALIVE: Final = 30
ANSWER_TIMEOUT: Final = 10.0  # for each response of the broker
CLOSING_TIMEOUT: Final = 1.0

# How many unacknowledged messages an MQTT 5 broker may send.
RECEIVE_MAXIMUM: Final = 100
# The largest packet the broker may send: 64 KiB are for the topic and properties.
MAX_PACKET: Final = wire.MAX_FRAME + 65_536

UNSUPPORTED_VERSION: Final = ReasonCode(
    PacketTypes.CONNACK, "Unsupported protocol version"
)
NODELAY: Final = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

_SESSION_311: Final[dict[str, Any]] = {
    "protocol": ProtocolVersion.V311,
    "clean_session": False,
}

Handler: TypeAlias = Callable[[str, bytes, bool], None]  # topic, payload, retained


class MqttClient(Client):
    """One connection to a broker, with a session that outlives it.

    This class works around these defects of aiomqtt, which test_mqtt_client.py
    demonstrates with aiomqtt alone:

    - A topic that is not UTF-8 ends the connection before the message is acknowledged,
      so the broker sends it again on each following connection.
    - The queue of received messages is unbounded, or drops messages that the broker
      considers delivered. This class handles each message when it is read and
      acknowledges it afterwards, so that a busy agent slows the broker down.
    - A broker that closes the connection instead of sending CONNACK causes a timeout.
    - A PUBLISH that the broker rejects looks like a success.
    - While TLS has decrypted bytes, no other task of the event loop runs.
    - After a failure, the socket stays open and is still read.
    """

    def __init__(
        self,
        broker: Broker,
        mqtt_version: MqttVersion,
        *,
        client_id: str,
        session_seconds: int,
        status_topic: str,
        handler: Handler,
    ) -> None:
        """Prepare a connection; `async with` opens it.

        Args:
            broker: the address, account and TLS files.
            mqtt_version: selects the version of MQTT; updated by the broker's response.
            client_id: identifies the session that the broker keeps.
            session_seconds: how long the broker keeps the session while the client is
                offline (MQTT 5).
            status_topic: the topic of the last will, which reports the agent offline.
            handler: called with each message; must not raise.
        """
        is_5 = mqtt_version.is_5
        will = Will(status_topic, wire.OFFLINE, qos=1, retain=True)
        super().__init__(
            broker.host,
            broker.port,
            identifier=client_id,
            will=will,
            **(_session_5(session_seconds) if is_5 else _SESSION_311),
            keepalive=KEEPALIVE,
            timeout=ANSWER_TIMEOUT,
            socket_options=(NODELAY,),
        )
        self.version = "5" if is_5 else "3.1.1"
        self._broker = broker
        self._mqtt_version = mqtt_version
        self._will = will
        self._handler = handler
        self._refusal = ""

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            OSError: cannot connect; the message has the reason.
            ConfigurationError: cannot read a password or certificate.
        """
        try:
            await super().__aenter__()
        except BaseException as error:
            self._close()
            if isinstance(error, MqttError):
                raise self._connection_error(error) from None
            raise
        self._mqtt_version.confirm()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Publish the will and disconnect; close the socket whatever the broker does.

        Raises:
            OSError: replaces the error that ended the connection, with its reason.
        """
        self.timeout = CLOSING_TIMEOUT
        will = self._will
        try:
            await self.publish(will.topic, will.payload, will.qos, will.retain)
            await super().__aexit__(exc_type, exc, tb)
        except MqttError:  # the connection is lost, or the broker does not respond
            pass
        finally:
            self._close()
        if isinstance(exc, ExceptionGroup):
            expected, other = exc.split((MqttError, OSError))
            if expected is not None and other is None:
                raise ConnectionError(_reason(expected.exceptions[0])) from None

    async def subscribe_all(self, filters: Iterable[str]) -> None:
        """Subscribe with QoS 1.

        Raises:
            ConnectionError: the broker rejects one of the filters.
        """
        subscriptions = [(name, 1) for name in filters]
        reasons = await self.subscribe(subscriptions)
        for (name, _), reason in zip(subscriptions, reasons, strict=True):
            if isinstance(reason, ReasonCode) and reason.is_failure:
                raise ConnectionError(f"not allowed to read {name}: {reason}")

    async def wait_lost(self) -> None:
        """Wait until the connection is lost.

        Raises:
            ConnectionError: always, with the reason.
        """
        await asyncio.shield(self._disconnected)
        raise ConnectionResetError("the broker closed the connection")

    async def publish_confirmed(self, topic: str, payload: bytes, retain: bool) -> str:
        """Publish with QoS 1, one message at a time; return the broker's rejection.

        The result is empty on success, and always with MQTT 3.1.1.
        """
        self._refusal = ""
        await self.publish(topic, payload, qos=1, retain=retain)
        return self._refusal

    # -- called by aiomqtt -------------------------------------------------------------

    def _client_connect(self) -> None:
        """Connect, in a thread because this blocks."""
        # Files are read for each connection: they may have been replaced.
        if self._broker.user:
            self._client.username_pw_set(self._broker.user, self._broker.secret())
        context = self._broker.context()
        if context is not None:
            self._client.tls_set_context(context)
        super()._client_connect()

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, *args: Any
    ) -> None:
        if not self._connected.done():
            self._mqtt_version.switch_if_unconfirmed()
            self._connected.set_exception(_closed_by_broker(args[0]))
        super()._on_disconnect(client, userdata, flags, *args)

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self._handler(topic, bytes(message.payload), message.retain)

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, *args: Any
    ) -> None:
        if reason_code.is_failure:
            self._refusal = str(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, *args)

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        super()._on_socket_open(client, userdata, sock)
        # An event loop has one reader per descriptor: this replaces that of aiomqtt.
        self._loop.call_soon_threadsafe(self._watch)

    # -- inside ------------------------------------------------------------------------

    def _connection_error(self, error: MqttError) -> ConnectionError:
        """Translate the error of a failed connection attempt."""
        if not isinstance(error, MqttCodeError):
            return ConnectionError(str(error) or "the broker does not respond")
        if error.rc == UNSUPPORTED_VERSION:
            self._mqtt_version.switch()
        return ConnectionRefusedError(f"the broker rejected the connection: {error.rc}")

    def _watch(self) -> None:
        connection = self._client.socket()
        if connection is not None:
            self._loop.add_reader(connection.fileno(), self._read)

    def _read(self) -> None:
        """Read one packet, and let others in the loop go first before the next."""
        try:
            self._client.loop_read()
        except Exception as error:  # noqa: BLE001 - a new connection is the answer
            if not self._disconnected.done():
                self._disconnected.set_exception(error)
        connection = self._client.socket()
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            self._loop.call_soon(self._read)

    def _close(self) -> None:
        """Close the socket if paho has not. Idempotent."""
        if self._misc_task is not None:
            self._misc_task.cancel()
        connection: Any = self._client.socket()
        if connection is not None and connection.fileno() >= 0:
            self._loop.remove_reader(connection.fileno())
            self._loop.remove_writer(connection.fileno())
            connection.close()


def _session_5(session_seconds: int) -> dict[str, Any]:
    """Return the arguments for a session of MQTT 5 that outlives the connection."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    fields: Any = properties
    fields.SessionExpiryInterval = session_seconds
    fields.ReceiveMaximum = RECEIVE_MAXIMUM
    fields.MaximumPacketSize = MAX_PACKET
    return {
        "protocol": ProtocolVersion.V5,
        "clean_start": False,
        "properties": properties,
    }


def _closed_by_broker(reason: object) -> ConnectionResetError:
    return ConnectionResetError(f"the broker closed the connection: {reason}")


def _reason(error: BaseException) -> str:
    """Return the reason for the end of a connection, in one line."""
    error = error.__cause__ or error
    if isinstance(error, MqttCodeError):
        error = _closed_by_broker(error.rc)
    return str(error) or type(error).__name__
