"""The agent's own topics on one broker: its status, its description, and its alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import structlog

from kaywatch import wire
from kaywatch._version import __version__
from kaywatch_agent.ingest.brokers import BrokerConfig
from kaywatch_agent.ingest.conflicts import ConflictDetector
from kaywatch_agent.rules.alert_publisher import AlertPublisher, TopicMessage
from kaywatch_agent.rules.snapshot import AlertsSnapshot

__all__ = ["AgentTopics"]

log = structlog.get_logger("kaywatch.agent")


class AgentTopics:
    """What the agent publishes there, and what agents have published.

    Attributes:
        status: the topic of our status, and of the last will.
        published: messages about alerts that the broker has confirmed.
    """

    def __init__(
        self,
        config: BrokerConfig,
        client_id: str,
        host: str,
        alerts: AlertPublisher | None,
    ) -> None:
        """Begin with nothing to publish.

        Args:
            config: the broker.
            client_id: ours at the broker.
            host: the name of our host.
            alerts: the alerts to publish; None for none.
        """
        prefix = config.broker.prefix
        self.status = wire.status_topic(prefix)
        self._alerts = alerts
        self.published = 0
        self._label = config.label
        self._about = wire.topic(prefix, "agent", "about")
        self._description = msgspec.json.encode(
            {"agent": client_id, "host": host, "version": __version__}
        )
        self._conflicts = ConflictDetector(client_id)
        self._online_due = False
        self._refused = ""
        self._wake = asyncio.Event()

    @property
    def filters(self) -> list[str]:
        """What to subscribe to."""
        alerts = [self._alerts.filter] if self._alerts is not None else []
        return [self.status, self._about, *alerts]

    @property
    def problem(self) -> str:
        """A refused message or another agent; empty if all is well."""
        return self._refused or self._conflicts.problem

    @property
    def dropped(self) -> int:
        """Changes of alerts that were not published."""
        return self._alerts.dropped if self._alerts is not None else 0

    def connected(self) -> None:
        """Publish all there is: the broker may hold none of it."""
        self._refused, self._online_due = "", True
        if self._alerts is not None:
            self._alerts.connected()
        self._wake.set()

    def disconnected(self) -> None:
        """Forget what was read: the next connection brings it again."""
        self._conflicts.reset()
        if self._alerts is not None:
            self._alerts.disconnected()

    def alerts_changed(self, changed: AlertsSnapshot) -> None:
        """Publish alerts whose state has changed."""
        if self._alerts is not None:
            self._alerts.changed(changed)
            self._wake.set()

    async def publish(
        self, confirmed: Callable[[str, bytes, bool], Awaitable[str]]
    ) -> None:
        """Publish what becomes due, until cancelled.

        Args:
            confirmed: publishes a message; returns why the broker refuses it. There is
                one at a time, so that a refusal has a topic and the broker is not
                flooded.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            for topic, payload, retain in self._due():
                if refusal := await confirmed(topic, payload, retain):
                    self._refused = f"not allowed to write {topic}: {refusal}"

    def receive(self, topic: str, payload: bytes, retained: bool) -> bool:
        """Take a message that an agent published; return whether it is one."""
        if topic == self.status:
            self._conflicts.status(payload == wire.ONLINE, retained)
            if payload == wire.OFFLINE and not retained:
                # The late will of our previous connection, or that of another agent.
                self._online_due = True
                self._wake.set()
        elif topic == self._about:
            if self._conflicts.about(payload, retained):
                problem = self._conflicts.problem
                log.error("another agent", broker=self._label, reason=problem)
        elif self._alerts is not None and self._alerts.owns(topic):
            if retained:
                self._alerts.discovered(topic)
                self._wake.set()
        else:
            return False
        return True

    # -- inside ------------------------------------------------------------------------

    def _due(self) -> Iterator[TopicMessage]:
        if self._online_due:
            self._online_due = False
            yield TopicMessage(self.status, wire.ONLINE, retain=True)
            yield TopicMessage(self._about, self._description, retain=True)
        if self._alerts is not None:
            for message in self._alerts.messages():
                yield message
                self.published += 1
