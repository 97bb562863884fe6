"""An agent and clients that meet at a broker, for tests."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.agents import Agent, until
from tests.brokers import AGENT, Access, Broker
from tests.cuts import Way, way_to

__all__ = ["agent_at", "at", "both_ways", "settings", "variables"]

GRACE = 1  # seconds until who is gone is dead


def at(access: Access, way: Way | None) -> Access:
    """Return the same account by another way."""
    if way is None:
        return access
    fields = {**access.__dict__, "port": way.port}
    return Access(**fields)


def settings(access: Access, prefix: str = "kaywatch", **more: object) -> str:
    """Return a table of the agent's configuration."""
    found = {
        "url": access.url(prefix),
        "password": access.password,
        "ca": access.ca,
        "cert": access.certificate,
        "key": access.key,
        "grace_seconds": GRACE,
        **more,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in found.items() if value]
    return "\n".join(["[[ingest.mqtt]]", *lines]) + "\n"


def variables(access: Access, prefix: str = "kaywatch") -> dict[str, str]:
    """Return what a process needs in its environment to push there."""
    return {
        "KAYWATCH_ENDPOINT": access.url(prefix),
        "KAYWATCH_MQTT_PASSWORD": access.password,
        "KAYWATCH_MQTT_CA": access.ca,
        "KAYWATCH_MQTT_CERT": access.certificate,
        "KAYWATCH_MQTT_KEY": access.key,
    }


def listening(agent: Agent) -> bool:
    """Return whether the agent hears its brokers."""
    stages = agent.get("/health")["stages"].items()
    mine = [stage for name, stage in stages if name.startswith("mqtt ")]
    return bool(mine) and all(s["ready"] and not s["problem"] for s in mine)


@contextlib.contextmanager
def agent_at(
    broker: Broker,
    *,
    version: int = 5,
    way: Way | None = None,
    python: str = sys.executable,
    **more: object,
) -> Iterator[Agent]:
    """Run an agent that takes from a broker, and whose clients push by it.

    Args:
        broker: it runs.
        version: of MQTT, for a broker with a port for each.
        way: the agent's way to it, if not the straight one.
        python: that runs the agent.
        more: settings of `[[ingest.mqtt]]`.
    """
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        agent = Agent(Path(folder), python)
        config = Path(folder) / "kaywatch.toml"
        config.write_text(settings(at(broker.access(AGENT, version), way), **more))
        agent.options = ("--config", str(config))
        agent.variables = variables(broker.access(version=version))
        try:
            agent.start()
            until(lambda: listening(agent), "the agent hears the broker")
            yield agent
        finally:
            agent.close()


@contextlib.contextmanager
def both_ways(broker: Broker, only_old: bool = False) -> Iterator[tuple[Way, Way]]:
    """Return a way to the broker for the agent, and one for the clients."""
    port = broker.access().port
    with way_to(port, only_old) as one, way_to(port, only_old) as other:
        yield one, other
