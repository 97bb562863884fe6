"""A broker's connection is tried again, whatever ended it."""

from __future__ import annotations

import asyncio

import pytest
from tests.agent.protocol.fakes import Agent
from tests.agents import DEADLINE

from kaywatch_agent.ingest import mqtt
from kaywatch_agent.ingest.brokers import BrokerConfig
from kaywatch_agent.ingest.mqtt import BrokerListener, MqttMetrics


@pytest.mark.parametrize(
    "failure",
    [
        OSError("no route"),
        ValueError("a fault"),
        ExceptionGroup("several", [KeyError("a fault")]),
    ],
)
async def test_after_any_failure_the_broker_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(mqtt, "RETRY_MIN", 0.001)
    attempts: list[str] = []
    again = asyncio.Event()

    async def serve(listener: BrokerListener) -> None:
        attempts.append(listener.problem)
        if len(attempts) == 1:
            raise failure
        again.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(BrokerListener, "_serve", serve)
    config = BrokerConfig("mqtt://127.0.0.1:1/kaywatch")
    listener = BrokerListener(config, Agent().intake, MqttMetrics(), "host")
    listener.start()
    async with asyncio.timeout(DEADLINE):
        await again.wait()
    await listener.stop()
    assert str(failure) in attempts[1]
