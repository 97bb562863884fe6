"""Ingest over MQTT: keep a connection to each broker.

The MQTT library is imported on the first connection, to save its memory in an agent
without brokers.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from kaywatch._send.broker import MqttVersion
from kaywatch.errors import ConfigurationError
from kaywatch_agent.ingest.agent_topics import AgentTopics
from kaywatch_agent.ingest.brokers import BrokerConfig
from kaywatch_agent.ingest.client_topics import ClientTopics
from kaywatch_agent.ingest.intake import Intake
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.alert_publisher import AlertPublisher
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = ["BrokerListener", "MqttIngest"]

log = structlog.get_logger("kaywatch.agent")

RETRY_MIN: Final = 0.2
RETRY_MAX: Final = 5.0
# A connection that lasted this long resets the delay before the next attempt.
STEADY_SECONDS: Final = 10.0


class MqttMetrics(Metrics):
    """Metrics of each broker."""

    connected = Gauge(
        "kaywatch_mqtt_connected",
        "Whether the agent is connected to a broker.",
        labels=("broker",),
    )
    connects = Counter(
        "kaywatch_mqtt_connects_total",
        "Successful connections to a broker.",
        labels=("broker",),
    )
    messages = Counter(
        "kaywatch_mqtt_messages_total",
        "Messages received from a broker, including ignored ones.",
        labels=("broker",),
    )
    ignored = Counter(
        "kaywatch_mqtt_ignored_total",
        "Ignored messages from a broker, by reason.",
        labels=("broker", "reason"),
    )
    announcements = Counter(
        "kaywatch_mqtt_announcements_total",
        "Messages about alerts that a broker has confirmed.",
        labels=("broker",),
    )
    changes_dropped = Counter(
        "kaywatch_mqtt_changes_dropped_total",
        "Alert changes dropped because too many were queued.",
        labels=("broker",),
    )
    replies_dropped = Counter(
        "kaywatch_mqtt_replies_dropped_total",
        "Replies to clients dropped because too many were queued.",
        labels=("broker",),
    )


class BrokerListener:
    """Keeps a connection to one broker, and passes on its messages."""

    def __init__(
        self,
        config: BrokerConfig,
        intake: Intake,
        metrics: MqttMetrics,
        host: str,
        alerts: AlertPublisher | None = None,
    ) -> None:
        """Prepare the connection.

        Args:
            config: the broker, and how to connect.
            intake: receives the messages of clients.
            metrics: shared by all brokers.
            host: the name of this host.
            alerts: publishes alerts; None to publish none.
        """
        self.label = config.label
        self.clients = ClientTopics(config, intake)
        self._client_id = config.client_id or config.default_id(host)
        self.agent = AgentTopics(config, self._client_id, host, alerts)
        self._config = config
        self._metrics = metrics
        self._mqtt_version = MqttVersion()
        self._problem = "not connected yet"
        self._task: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str:
        """A description of the problem; empty if there is none."""
        return self._problem or self.agent.problem

    def start(self) -> None:
        """Connect, and reconnect when necessary, in a background task."""
        self._task = asyncio.create_task(self._run(), name=f"mqtt {self.label}")

    async def stop(self) -> None:
        """Publish that the agent is offline, and disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._disconnected("stopped")

    # -- inside ------------------------------------------------------------------------

    async def _run(self) -> None:
        delay = RETRY_MIN
        while True:
            started = time.monotonic()
            try:
                await self._serve()
            except (OSError, ConfigurationError) as error:
                self._disconnected(str(error) or type(error).__name__)
            except Exception as error:
                # An internal error must not end the attempts to reconnect.
                log.exception("broker connection failed", broker=self.label)
                self._disconnected(f"{type(error).__name__}: {error}")
            if time.monotonic() - started > STEADY_SECONDS:
                delay = RETRY_MIN
            # Full jitter, so that agents do not all reconnect at the same time.
            await asyncio.sleep(random.uniform(0, delay))
            delay = min(delay * 2, RETRY_MAX)

    async def _serve(self) -> None:
        """Connect, and pass on messages until the connection is lost."""
        from kaywatch_agent.ingest.mqtt_client import MqttClient

        connection = MqttClient(
            self._config.broker,
            self._mqtt_version,
            client_id=self._client_id,
            session_seconds=self._config.session_seconds,
            status_topic=self.agent.status,
            handler=self._handle,
        )
        async with connection as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(client.wait_lost())
            await client.subscribe_all([*self.clients.filters, *self.agent.filters])
            self._connected(client.version)
            tasks.create_task(self.clients.publish(client.publish))
            tasks.create_task(self.agent.publish(client.publish_confirmed))

    def _connected(self, version: str) -> None:
        self._problem = ""
        self._metrics.connects.labels(self.label).add()
        log.info("broker connected", broker=self.label, mqtt=version)
        self.clients.connected()
        self.agent.connected()

    def _disconnected(self, reason: str) -> None:
        if reason != self._problem:
            log.warning("broker not connected", broker=self.label, reason=reason)
        self._problem = reason
        self.agent.disconnected()
        self.clients.disconnected()

    def _handle(self, topic: str, payload: bytes, retained: bool) -> None:
        """Pass on a message. Never raises, so that one message cannot stop ingest."""
        self._metrics.messages.labels(self.label).add()
        try:
            ignored = ""
            if not self.agent.receive(topic, payload, retained):
                ignored = self.clients.receive(topic, payload, retained)
        except Exception:
            log.exception("cannot handle a message", topic=topic[:200])
            ignored = "failed"
        if ignored:
            self._metrics.ignored.labels(self.label, ignored).add()


class MqttIngest:
    """All brokers of an agent."""

    def __init__(
        self,
        configs: Sequence[BrokerConfig],
        intake: Intake,
        encode: Callable[[AlertsSnapshot, Alert], bytes],
    ) -> None:
        """Prepare a listener for each broker.

        Args:
            configs: the brokers.
            intake: receives the messages of clients.
            encode: returns the payload that is published for an alert.
        """
        self.metrics = metrics = MqttMetrics()
        host = socket.gethostname()
        self._listeners = [
            BrokerListener(
                config,
                intake,
                metrics,
                host,
                AlertPublisher(config.broker.prefix, encode)
                if config.publish_alerts
                else None,
            )
            for config in configs
        ]
        each = self._each
        metrics.connected.set_function(each(lambda one: one.clients.since is not None))
        metrics.announcements.set_function(each(lambda one: one.agent.published))
        metrics.changes_dropped.set_function(each(lambda one: one.agent.dropped))
        metrics.replies_dropped.set_function(each(lambda one: one.clients.dropped))

    def problems(self) -> dict[str, str]:
        """Return the problem of each broker by label; empty texts for none."""
        return {one.label: one.problem for one in self._listeners}

    def start(self, firing: AlertsSnapshot) -> None:
        """Connect in the background: the agent is ready even without its brokers.

        Args:
            firing: the alerts that are firing at the start.
        """
        self.alerts_changed(firing)
        for listener in self._listeners:
            listener.start()

    async def stop(self) -> None:
        """Disconnect from all brokers."""
        await asyncio.gather(*(listener.stop() for listener in self._listeners))

    def alerts_changed(self, changed: AlertsSnapshot) -> None:
        """Publish alerts whose state has changed."""
        for listener in self._listeners:
            listener.agent.alerts_changed(changed)

    def _each(
        self, read: Callable[[BrokerListener], float]
    ) -> Callable[[], dict[tuple[str, ...], float]]:
        return lambda: {(one.label,): float(read(one)) for one in self._listeners}
