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
    """Publishes the agent's messages, and reads those of other agents.

    Attributes:
        status: the topic of the agent's status and of its last will.
        published: the number of alert messages that the broker has confirmed.
    """

    def __init__(
        self,
        config: BrokerConfig,
        client_id: str,
        host: str,
        alerts: AlertPublisher | None,
    ) -> None:
        """Start with nothing to publish.

        Args:
            config: the broker.
            client_id: the agent's client id at the broker.
            host: the name of this host.
            alerts: publishes alerts; None to publish none.
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
        self._refusal = ""
        self._wake = asyncio.Event()

    @property
    def filters(self) -> list[str]:
        """The topic filters to subscribe to."""
        alerts = [self._alerts.filter] if self._alerts is not None else []
        return [self.status, self._about, *alerts]

    @property
    def problem(self) -> str:
        """A rejected message or a conflicting agent; empty if there is neither."""
        return self._refusal or self._conflicts.problem

    @property
    def dropped(self) -> int:
        """The number of alert changes that were not published."""
        return self._alerts.dropped if self._alerts is not None else 0

    def connected(self) -> None:
        """Publish everything: the broker may have lost its retained messages."""
        self._refusal, self._online_due = "", True
        if self._alerts is not None:
            self._alerts.connected()
        self._wake.set()

    def disconnected(self) -> None:
        """Discard read messages: the broker sends them again on the next connection."""
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
        """Publish messages when they become due, until cancelled.

        Args:
            confirmed: publishes a message; returns why the broker rejects it, or an
                empty string. Called for one message at a time, so that a rejection can
                be attributed to its topic and the broker is not flooded.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            for topic, payload, retain in self._due():
                if refusal := await confirmed(topic, payload, retain):
                    self._refusal = f"not allowed to write {topic}: {refusal}"

    def receive(self, topic: str, payload: bytes, retained: bool) -> bool:
        """Handle a message of an agent; return False if the topic is not an agent's."""
        if topic == self.status:
            self._conflicts.status(payload == wire.ONLINE, retained)
            if payload == wire.OFFLINE and not retained:
                # The delayed will of our previous connection, or of another agent.
                self._online_due = True
                self._wake.set()
        elif topic == self._about:
            if self._conflicts.about(payload, retained):
                problem = self._conflicts.problem
                log.error(
                    "another agent reads the same topics",
                    broker=self._label,
                    reason=problem,
                )
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
