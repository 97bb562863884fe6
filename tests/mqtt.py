"""An agent and clients that meet at a broker, for tests."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.agents import Agent, new_agent, until
from tests.brokers import AGENT, KINDS, Access, Broker
from tests.cuts import Way, way_to

__all__ = [
    "agent_at",
    "with_connection",
    "both_ways",
    "each_broker",
    "each_permission",
    "is_listening",
    "new_agent_at",
    "settings",
    "variables",
]

# Each kind of broker. With any mosquitto, both sides speak MQTT 5; rumqttd has a port
# for each version. `both_ways(only_old=True)` makes a mosquitto one for 3.1.1 only.
each_broker = pytest.mark.parametrize(
    ("broker", "version"),
    [*((kind, 5) for kind in KINDS), ("rumqttd", 4)],
    indirect=True,
)

# What a broker permits and retains, whatever the transport: with the documented ACL by
# user names and by certificates, and of both implementations.
each_permission = pytest.mark.parametrize(
    ("broker", "version"),
    [("mosquitto-password", 5), ("mosquitto-mtls", 5), ("rumqttd", 5), ("rumqttd", 4)],
    indirect=True,
)

GRACE = 1  # seconds until a disconnected client is dead


def with_connection(access: Access, way: Way | None) -> Access:
    """Return the same account by another way."""
    if way is None:
        return access
    fields = {**access.__dict__, "port": way.port}
    return Access(**fields)


def settings(access: Access, prefix: str = "kaywatch", **more: object) -> str:
    """Return a table of the agent's configuration."""
    result = {
        "url": access.url(prefix),
        "password": access.password,
        "ca": access.ca,
        "cert": access.certificate,
        "key": access.key,
        "grace_seconds": GRACE,
        **more,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in result.items() if value]
    return "\n".join(["[[ingest.mqtt]]", *lines]) + "\n"


def variables(access: Access, prefix: str = "kaywatch") -> dict[str, str]:
    """Return the environment that a process needs to push to a broker."""
    return {
        "KAYWATCH_ENDPOINT": access.url(prefix),
        "KAYWATCH_MQTT_PASSWORD": access.password,
        "KAYWATCH_MQTT_CA": access.ca,
        "KAYWATCH_MQTT_CERT": access.certificate,
        "KAYWATCH_MQTT_KEY": access.key,
    }


def is_listening(agent: Agent) -> bool:
    """Return whether the agent hears its brokers."""
    stages = agent.get("/health")["stages"].items()
    mine = [stage for name, stage in stages if name.startswith("mqtt ")]
    return bool(mine) and all(s["ready"] and not s["problem"] for s in mine)


@contextlib.contextmanager
def new_agent_at(
    broker: Broker,
    *,
    version: int = 5,
    way: Way | None = None,
    rules: str = "",
    **more: object,
) -> Iterator[Agent]:
    """Yield an agent that is configured to read from a broker, to be started.

    Its clients push by the broker.

    Args:
        broker: it runs.
        version: of MQTT, for a broker with a port for each.
        way: the agent's way to it, if not the straight one.
        rules: more of its configuration.
        more: settings of `[[ingest.mqtt]]`.
    """
    with new_agent() as agent:
        config = agent.folder / "kaywatch.toml"
        table = settings(with_connection(broker.access(AGENT, version), way), **more)
        config.write_text(table + rules)
        agent.options = ("--config", str(config))
        agent.variables = variables(broker.access(version=version))
        yield agent


@contextlib.contextmanager
def agent_at(broker: Broker, **options: Any) -> Iterator[Agent]:
    """Run an agent that reads from a broker; for the options see `new_agent_at`."""
    with new_agent_at(broker, **options) as agent:
        agent.start()
        until(lambda: is_listening(agent), "the agent hears the broker")
        yield agent


@contextlib.contextmanager
def both_ways(broker: Broker, only_old: bool = False) -> Iterator[tuple[Way, Way]]:
    """Return a way to the broker for the agent, and one for the clients."""
    port = broker.access().port
    with way_to(port, only_old) as one, way_to(port, only_old) as other:
        yield one, other
