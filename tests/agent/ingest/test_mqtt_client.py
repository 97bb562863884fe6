"""The guards around aiomqtt work, and are needed: with a real mosquitto."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import aiomqtt
import pytest
from tests.agents import DEADLINE
from tests.brokers import HOST, Broker, run_broker

from kaywatch._send.broker import MqttVersion, parse
from kaywatch_agent.ingest.mqtt_client import MqttClient

GOOD, REPLACED, BAD = "test/good", b"test/bad!", b"test/bad\xff"
STATUS = "test/status"


@pytest.fixture
def mosquitto() -> Iterator[Broker]:
    with run_broker() as broker:
        yield broker


@contextlib.asynccontextmanager
async def rewriting(port: int) -> AsyncIterator[int]:
    """Forward to a broker, and make one topic invalid UTF-8: mosquitto sends none."""
    tasks: set[asyncio.Task[None]] = set()

    async def copy(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, new: bytes
    ) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data.replace(REPLACED, new))
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def forward(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, port)
        tasks.add(asyncio.create_task(copy(reader, far_writer, REPLACED)))
        tasks.add(asyncio.create_task(copy(far_reader, writer, BAD)))

    server = await asyncio.start_server(forward, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def client(port: int, received: list[tuple[str, bytes]]) -> MqttClient:
    def handle(topic: str, payload: bytes, retained: bool) -> None:
        received.append((topic, payload))

    broker = parse(f"mqtt://{HOST}:{port}/test")
    return MqttClient(
        broker,
        MqttVersion(),
        client_id="guarded",
        session_seconds=60,
        status_topic=STATUS,
        handler=handle,
    )


async def publish(broker: Broker, topic: str, payload: str) -> None:
    await asyncio.to_thread(broker.publish, topic, payload, "-q", "1")


async def listen(alone: aiomqtt.Client, broker: Broker | None) -> None:
    async with alone:
        await alone.subscribe("test/#", 1, timeout=3)
        if broker is not None:
            await publish(broker, REPLACED.decode(), "x")
        async for _ in alone.messages:
            pass


async def test_one_undecodable_topic_stops_aiomqtt_at_every_connection(
    mosquitto: Broker,
) -> None:
    async with rewriting(mosquitto.access().port) as port:
        for attempt in range(2):
            alone = aiomqtt.Client(
                HOST, port, identifier="alone", clean_session=False, timeout=5
            )
            # While it waits for messages, or the answer to its subscription.
            with pytest.raises(aiomqtt.MqttError):
                await listen(alone, mosquitto if attempt == 0 else None)
            assert isinstance(alone._disconnected.exception(), UnicodeDecodeError)
            leaked = alone._client.socket()
            assert leaked is not None  # and stays open
            alone._loop.remove_reader(leaked.fileno())
            leaked.close()
            assert alone._misc_task is not None
            alone._misc_task.cancel()


async def test_an_undecodable_topic_is_handled_and_the_next_message_too(
    mosquitto: Broker,
) -> None:
    seen: list[tuple[str, bytes]] = []
    async with (
        rewriting(mosquitto.access().port) as port,
        client(port, seen) as guarded,
        asyncio.timeout(DEADLINE),
    ):
        await guarded.subscribe_all([GOOD, REPLACED.decode()])
        await publish(mosquitto, REPLACED.decode(), "bad")
        await publish(mosquitto, GOOD, "good")
        while len(seen) < 2:
            await asyncio.sleep(0.01)

    assert seen == [("", b"bad"), (GOOD, b"good")]


async def test_messages_queued_in_the_session_arrive_before_the_subscription(
    mosquitto: Broker,
) -> None:
    seen: list[tuple[str, bytes]] = []
    port = mosquitto.access().port
    async with client(port, seen) as first:
        await first.subscribe_all([GOOD])
    for number in range(30):
        await publish(mosquitto, GOOD, str(number))

    async with client(port, seen), asyncio.timeout(DEADLINE):
        while len(seen) < 30:
            await asyncio.sleep(0.01)
    assert [int(payload) for _, payload in seen] == list(range(30))


async def test_a_broker_that_hangs_up_instead_of_answering_is_noticed_at_once() -> None:
    async def hang_up(_: object, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(
            ConnectionResetError, match="the broker closed the connection"
        ):
            async with asyncio.timeout(DEADLINE), client(port, []):
                pass


async def test_a_lost_connection_raises_one_error_and_closes_the_socket(
    mosquitto: Broker,
) -> None:
    guarded = client(mosquitto.access().port, [])

    async def listen_and_stop() -> None:
        async with guarded, asyncio.TaskGroup() as tasks:
            tasks.create_task(guarded.wait_lost())
            await asyncio.to_thread(mosquitto.stop)

    with pytest.raises(ConnectionError, match="the broker closed the connection"):
        await listen_and_stop()
    connection = guarded._client.socket()
    assert connection is None or connection.fileno() < 0


async def test_the_status_is_published_before_disconnecting(mosquitto: Broker) -> None:
    async with client(mosquitto.access().port, []) as guarded:
        assert await guarded.publish_confirmed(STATUS, b"online", True) == ""

    with mosquitto.subscribe(STATUS) as read:
        assert (await asyncio.to_thread(read.wait))[0].payload == b"offline"
