"""One connection to a broker: paho-mqtt on the event loop, without a thread of its own.

Strategy: connecting, which paho does blocking, is done in a thread; from then on the
loop watches the socket. A message is handed on from within the read that brought it, so
none waits in a queue here, and the broker gets its confirmation when the message has
been taken. Who is slow reads less from the socket, and that is all the backpressure
there has to be.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from kaywatch import wire
from kaywatch._send.broker import Broker, Dialect

__all__ = ["Connection", "Take"]

KEEPALIVE: Final = 30
CONNECT_TIMEOUT: Final = 5  # for TCP and for TLS
ANSWER_TIMEOUT: Final = 10.0  # of the broker, to us
CLOSING_TIMEOUT: Final = 1.0

# What the broker may send before we have confirmed it.
RECEIVE_MAXIMUM: Final = 100
# A message that is larger is not sent to us: the topic and more come on top.
MAX_PACKET: Final = wire.MAX_FRAME + 65_536

UNSUPPORTED_VERSION: Final = ReasonCode(
    PacketTypes.CONNACK, "Unsupported protocol version"
)

Take = Callable[[str, bytes, bool], None]  # topic, payload, whether it was retained


class Connection:
    """Connected by `open`; `lost` is done when it is no more, with the reason."""

    def __init__(
        self,
        broker: Broker,
        dialect: Dialect,
        *,
        client_id: str,
        session_seconds: int,
        will: tuple[str, bytes],
        take: Take,
    ) -> None:
        """Prepare it.

        Args:
            broker: where.
            dialect: the version to speak; told what the broker makes of it.
            client_id: ours; the broker knows our session by it.
            session_seconds: how long it keeps messages for us when we are away.
            will: the topic and payload to publish, retained, when we are.
            take: gets each message.
        """
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.unsent = 0  # bytes of messages that are not on the wire yet
        self.refused = (
            ""  # what the broker said of the last message that it didn't take
        )
        self._loop = loop
        self._broker = broker
        self._dialect = dialect
        self._take = take
        self._session_seconds = session_seconds
        self._admitted: asyncio.Future[str] = loop.create_future()
        self._granted: asyncio.Future[list[ReasonCode]] = loop.create_future()
        self._sending: dict[int, tuple[str, int]] = {}  # topics and sizes
        self._watched = -1  # the descriptor that the loop looks at
        self._writing = False
        self._reading = False
        self._ticking: asyncio.Task[None] | None = None
        self._paho = self._client(client_id, will)

    @property
    def version(self) -> str:
        """Which MQTT is spoken."""
        return "5" if self._paho.protocol == MQTTProtocolVersion.MQTTv5 else "3.1.1"

    async def open(self) -> None:
        """Connect, and be let in.

        Raises:
            OSError: it can't be; says why.
            ConfigurationError: a password or certificate can't be read.
        """
        await asyncio.to_thread(self._connect)
        connection = self._paho.socket()
        if connection is None:
            raise ConnectionResetError("the broker hung up")
        tcp: Any = connection
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watched = connection.fileno()
        self._loop.add_reader(self._watched, self._read)
        self._ticking = asyncio.create_task(self._tick(), name="mqtt keepalive")
        self._flush()
        refusal = await self._answer(self._admitted)
        if refusal:
            raise ConnectionRefusedError(refusal)
        self._dialect.worked()

    async def subscribe(self, filters: Iterable[str]) -> None:
        """Ask for messages.

        Raises:
            OSError: the broker doesn't give them.
        """
        wanted = list(filters)
        self._paho.subscribe([(name, 1) for name in wanted])
        self._flush()
        reasons = await self._answer(self._granted)
        for name, reason in zip(wanted, reasons, strict=True):
            if reason.is_failure:
                raise ConnectionError(f"not allowed to read {name}: {reason}")

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False
    ) -> None:
        """Send a message, now or as soon as there is room."""
        if self.lost.done():
            return
        info = self._paho.publish(topic, payload, qos, retain)
        if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS and not info.is_published():
            self._sending[info.mid] = (topic, len(payload))
            self.unsent += len(payload)
        self._flush()

    async def close(self, last: tuple[str, bytes] | None = None) -> None:
        """Say goodbye, after a last retained message, and hang up. Idempotent."""
        if not self.lost.done() and self._watched >= 0:
            if last is not None:
                self.publish(*last, qos=1, retain=True)
            self._paho.disconnect()
            self._flush()
            await asyncio.wait([self.lost], timeout=CLOSING_TIMEOUT)
        self._end("closed")
        self._unwatch()
        connection = self._paho.socket()
        if connection is not None:
            connection.close()
        if self._ticking is not None:
            self._ticking.cancel()

    # -- inside ----------------------------------------------------------------------

    def _client(self, client_id: str, will: tuple[str, bytes]) -> paho.Client:
        five = self._dialect.five
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5
            if five
            else MQTTProtocolVersion.MQTTv311,
            clean_session=None if five else False,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.on_socket_close = lambda *_: self._unwatch()
        client.will_set(*will, qos=1, retain=True)
        return client

    def _connect(self) -> None:
        """Connect, in a thread of its own, since it blocks and reads files."""
        broker, client = self._broker, self._paho
        if broker.user:
            client.username_pw_set(broker.user, broker.secret())
        context = broker.context()
        if context is not None:
            client.tls_set_context(context)
        if client.protocol != MQTTProtocolVersion.MQTTv5:
            client.connect(broker.host, broker.port, KEEPALIVE)
            return
        wishes: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wishes.SessionExpiryInterval = self._session_seconds
        wishes.ReceiveMaximum = RECEIVE_MAXIMUM
        wishes.MaximumPacketSize = MAX_PACKET
        client.connect(
            broker.host, broker.port, KEEPALIVE, clean_start=False, properties=wishes
        )

    async def _answer(self, answer: asyncio.Future[Any]) -> Any:
        await asyncio.wait(
            [answer, self.lost],
            timeout=ANSWER_TIMEOUT,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if answer.done():
            return answer.result()
        if self.lost.done():
            raise ConnectionResetError(self.lost.result())
        raise TimeoutError("the broker does not answer")

    def _read(self) -> None:
        self._reading = True
        self._guarded(self._paho.loop_read)
        self._reading = False
        connection: Any = self._paho.socket()
        # TLS may have read more from the socket than was asked of it.
        if connection is not None and getattr(connection, "pending", int)():
            self._loop.call_soon(self._read)
        self._flush()

    def _flush(self) -> None:
        """Write what waits, and have the loop say when more can be written."""
        if self._reading:
            return  # in one of paho's callbacks, where its lock is held
        if self._paho.want_write():
            self._guarded(self._paho.loop_write)
        wanted = self._watched >= 0 and self._paho.want_write()
        if wanted and not self._writing:
            self._loop.add_writer(self._watched, self._flush)
        elif self._writing and not wanted and self._watched >= 0:
            self._loop.remove_writer(self._watched)
        self._writing = wanted

    async def _tick(self) -> None:
        while not self.lost.done():
            await asyncio.sleep(1.0)
            self._guarded(self._paho.loop_misc)
            self._flush()

    def _guarded(self, work: Callable[[], object]) -> None:
        """Do paho's work; whatever it trips over, a new connection is the answer."""
        try:
            work()
        except Exception as error:  # noqa: BLE001
            self._end(f"{type(error).__name__}: {error}")

    def _end(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)
            self._loop.remove_writer(self._watched)
            self._watched = -1
            self._writing = False

    def _on_connect(
        self, _: Any, __: Any, ___: Any, reason: ReasonCode, ____: Any
    ) -> None:
        if self._admitted.done():
            return
        if not reason.is_failure:
            self._admitted.set_result("")
            return
        if reason == UNSUPPORTED_VERSION:
            self._dialect.refused()
        self._admitted.set_result(f"the broker refuses us: {reason}")

    def _on_subscribe(
        self, _: Any, __: Any, ___: Any, reasons: list[ReasonCode], ____: Any
    ) -> None:
        if not self._granted.done():
            self._granted.set_result(reasons)

    def _on_publish(
        self, _: Any, __: Any, number: int, reason: ReasonCode, ___: Any
    ) -> None:
        topic, size = self._sending.pop(number, ("", 0))
        self.unsent -= size
        # MQTT 5 only: a broker of 3.1.1 says nothing, and drops it.
        if reason.is_failure:
            self.refused = f"not allowed to write {topic}: {reason}"

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self._take(topic, bytes(message.payload), message.retain)

    def _on_disconnect(
        self, _: Any, __: Any, ___: Any, reason: ReasonCode, ____: Any
    ) -> None:
        if not self._admitted.done():
            # In the loop's thread or, while connecting, in the other one.
            self._dialect.hung_up()
        self._loop.call_soon_threadsafe(self._end, f"the broker hung up: {reason}")
