"""Whether the brokers can be reached, and the agent has a session there."""

from __future__ import annotations

from typing import Final

from kaywatch.errors import ConfigurationError
from kaywatch_agent.cli.doctor.finding import Findings, ok, problem, warning
from kaywatch_agent.cli.doctor.ground import Ground
from kaywatch_agent.cli.doctor.reach import reach
from kaywatch_agent.cli.doctor.secrets import unread

__all__ = ["CHECKS", "STAGE"]

# What /health calls the session with one broker, before the broker's label.
STAGE: Final = "mqtt "


def session(ground: Ground) -> Findings:
    """The agent takes in what comes there."""
    brokers = ground.config.ingest.mqtt
    if ground.health is None or not brokers:
        return
    stages = ground.health["stages"]
    for config in brokers:
        stage = stages.get(STAGE + config.label)
        if stage is None:
            yield warning(
                f"{config.label}: the agent knows nothing of it",
                "it was added since: restart the agent",
            )
        elif stage["problem"]:
            yield problem(
                f"{config.label}: {stage['problem']}", "docs/mqtt.md has what to do"
            )
        else:
            known = [c for c in ground.clients or () if c["via"] == config.label]
            here = sum(client["state"] == "connected" for client in known)
            yield ok(f"{config.label}: there is a session, {here} clients come by it")


def reached(ground: Ground) -> Findings:
    """They can be reached from here, and what is needed there can be read."""
    for config in ground.config.ingest.mqtt:
        broker = config.broker
        try:
            broker.secret()
            context = broker.context()
        except ConfigurationError as error:
            yield unread(f"{config.label}: {error}", "see [[ingest.mqtt]]")
            continue
        yield from reach(broker.url, broker.host, broker.port, context=context)


CHECKS: Final = (session, reached)
