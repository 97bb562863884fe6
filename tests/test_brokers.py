"""The brokers that tests run against do what the tests need of them."""

from __future__ import annotations

import signal
import subprocess

import pytest
from tests.brokers import AGENT, Broker, run_broker
from tests.servers import require

ID = "0123456789abcdef" * 2
UP = f"kaywatch/v1/{ID}/up"


def test_a_message_comes_through_with_every_byte(broker: Broker, version: int) -> None:
    payload = bytes(range(256)) * 4_000

    with broker.subscribe("kaywatch/v1/+/up", user=AGENT, version=version) as read:
        broker.publish(UP, payload, "-i", ID, version=version)
        (message,) = read.wait()

    assert (message.topic, message.payload) == (UP, payload)
    assert not message.retained


def test_retained_messages_reach_later_subscribers(
    broker: Broker, version: int
) -> None:
    topic = "kaywatch/v1/agent/status"
    broker.publish(topic, "online", "-r", user=AGENT, version=version)

    with broker.subscribe("kaywatch/v1/agent/#", version=version) as read:
        (message,) = read.wait()

    assert (message.retained, message.payload) == (True, b"online")


@pytest.mark.parametrize("kind", ["mosquitto", "rumqttd"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_broker_comes_back_on_its_port(kind: str, number: signal.Signals) -> None:
    with run_broker(kind) as broker:
        port = broker.access().port
        broker.stop(number)
        broker.start()

        assert broker.access().port == port
        broker.publish(UP, "again")


@pytest.mark.parametrize("kind", ["mosquitto-password", "mosquitto-tls"])
def test_a_wrong_password_is_refused(kind: str) -> None:
    with run_broker(kind) as broker:
        options = [
            word.replace("shop secret", "guess") for word in broker.access().options()
        ]
        done = subprocess.run(
            [require("mosquitto_pub"), *options, "-t", UP, "-m", "x"],
            capture_output=True,
            text=True,
        )

    assert "not authori" in done.stderr.lower()


@pytest.mark.parametrize("kind", ["mosquitto-mtls"])
def test_a_connection_without_a_certificate_is_refused(kind: str) -> None:
    with run_broker(kind) as broker:
        access = broker.access()
        done = subprocess.run(
            [
                *(require("mosquitto_pub"), "-h", access.host, "-p", str(access.port)),
                *("--cafile", access.ca, "-t", UP, "-m", "x"),
            ],
            capture_output=True,
            text=True,
        )

    assert done.returncode != 0
