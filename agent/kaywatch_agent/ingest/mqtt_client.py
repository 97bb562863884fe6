"""aiomqtt's client, guarded against what would stop, flood or deceive the agent."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from aiomqtt import Client, MqttCodeError, MqttError, ProtocolVersion, Will
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from kaywatch import wire
from kaywatch._send.broker import Broker, MqttVersion

__all__ = ["Handler", "MqttClient"]

KEEPALIVE: Final = 30
ANSWER_TIMEOUT: Final = 10.0  # for each answer of the broker
CLOSING_TIMEOUT: Final = 1.0

# Unacknowledged messages that a broker of MQTT 5 may have under way.
RECEIVE_MAXIMUM: Final = 100
# The broker does not send us larger messages: 64 KiB on top for topic and properties.
MAX_PACKET: Final = wire.MAX_FRAME + 65_536

UNSUPPORTED_VERSION: Final = ReasonCode(
    PacketTypes.CONNACK, "Unsupported protocol version"
)
NODELAY: Final = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

Handler: TypeAlias = Callable[[str, bytes, bool], None]  # topic, payload, retained


class MqttClient(Client):
    """One connection to a broker, in a session that survives it.

    What aiomqtt does not guard against, as test_mqtt_client.py shows on it alone:

    - A topic that is not UTF-8 ends the connection before the message is acknowledged,
      and the broker sends it again on the next one, for ever.
    - The queue of received messages has no bound, or drops messages that the broker
      believes received. Here a message is handled as it is read, and acknowledged
      afterwards, so that a busy agent reads less and the broker waits.
    - A broker that hangs up instead of answering CONNECT looks like one that is slow.
    - A PUBLISH that the broker refuses looks like a success.
    - While TLS has decrypted bytes, nothing else in the loop runs.
    - After a failure, the socket stays open and is read from.
    """

    def __init__(
        self,
        broker: Broker,
        dialect: MqttVersion,
        *,
        client_id: str,
        session_seconds: int,
        status_topic: str,
        handler: Handler,
    ) -> None:
        """Prepare a connection; `async with` opens it.

        Args:
            broker: its address, account and TLS files.
            dialect: the version of MQTT to speak; told what the broker makes of it.
            client_id: the broker keeps our session under it.
            session_seconds: how long the broker keeps the session of an absent client
                (MQTT 5).
            status_topic: says that we are offline once the connection is gone.
            handler: takes each message; must not raise.
        """
        five = dialect.is_5
        will = Will(status_topic, wire.OFFLINE, qos=1, retain=True)
        super().__init__(
            broker.host,
            broker.port,
            identifier=client_id,
            protocol=ProtocolVersion.V5 if five else ProtocolVersion.V311,
            will=will,
            clean_session=None if five else False,
            clean_start=False if five else MQTT_CLEAN_START_FIRST_ONLY,
            properties=_properties(session_seconds) if five else None,
            keepalive=KEEPALIVE,
            timeout=ANSWER_TIMEOUT,
            socket_options=(NODELAY,),
        )
        self.version = "5" if five else "3.1.1"
        self._broker = broker
        self._dialect = dialect
        self._will = will
        self._handler = handler
        self._refusal = ""

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            OSError: cannot connect; says why.
            ConfigurationError: cannot read a password or certificate.
        """
        try:
            await super().__aenter__()
        except BaseException as error:
            self._close()
            if isinstance(error, MqttError):
                raise self._refused(error) from None
            raise
        self._dialect.confirm()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Publish the will and disconnect; close the socket whatever the broker does.

        Raises:
            OSError: in place of the error that ended the connection; says why.
        """
        self.timeout = CLOSING_TIMEOUT
        will = self._will
        try:
            await self.publish(will.topic, will.payload, will.qos, will.retain)
            await super().__aexit__(exc_type, exc, tb)
        except MqttError:  # it is gone already, or does not answer
            pass
        finally:
            self._close()
        if isinstance(exc, ExceptionGroup):
            expected, other = exc.split((MqttError, OSError))
            if expected is not None and other is None:
                raise ConnectionError(_reason(expected.exceptions[0])) from None

    async def read_from(self, filters: Iterable[str]) -> None:
        """Subscribe with QoS 1.

        Raises:
            ConnectionError: the broker denies one of the filters.
        """
        wanted = [(name, 1) for name in filters]
        reasons = await self.subscribe(wanted)
        for (name, _), reason in zip(wanted, reasons, strict=True):
            if isinstance(reason, ReasonCode) and reason.is_failure:
                raise ConnectionError(f"not allowed to read {name}: {reason}")

    async def lost(self) -> None:
        """Wait until the connection is lost, and raise why."""
        await asyncio.shield(self._disconnected)
        raise ConnectionResetError("the broker closed the connection")

    async def confirmed(self, topic: str, payload: bytes, retain: bool) -> str:
        """Publish with QoS 1, one message at a time; return why it was refused.

        Only a broker of MQTT 5 gives a reason; else the result is empty.
        """
        self._refusal = ""
        await self.publish(topic, payload, qos=1, retain=retain)
        return self._refusal

    # -- called by aiomqtt -------------------------------------------------------------

    def _client_connect(self) -> None:
        """Connect, in a thread: this blocks, and reads files that may be replaced."""
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
            self._dialect.switch_if_unconfirmed()
            self._connected.set_exception(_hung_up(args[0]))
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
        # A loop has one reader of a descriptor: this replaces aiomqtt's.
        self._loop.call_soon_threadsafe(self._watch)

    # -- inside ------------------------------------------------------------------------

    def _refused(self, error: MqttError) -> ConnectionError:
        """Return why the broker did not let us in."""
        if not isinstance(error, MqttCodeError):
            return ConnectionError(str(error) or "the broker does not answer")
        if error.rc == UNSUPPORTED_VERSION:
            self._dialect.switch()
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


def _properties(session_seconds: int) -> Properties:
    found = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    fields: Any = found
    fields.SessionExpiryInterval = session_seconds
    fields.ReceiveMaximum = RECEIVE_MAXIMUM
    fields.MaximumPacketSize = MAX_PACKET
    return found


def _hung_up(reason: object) -> ConnectionResetError:
    return ConnectionResetError(f"the broker closed the connection: {reason}")


def _reason(error: BaseException) -> str:
    """Return in one line why a connection ended."""
    error = error.__cause__ or error
    if isinstance(error, MqttCodeError):
        error = _hung_up(error.rc)
    return str(error) or type(error).__name__
