"""Ingest over MQTT: a connection to each broker, made, kept, and made again.

The MQTT library is imported on the first connection, so that an agent without brokers
does not have it in memory.
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
# After a connection that lasted this long, the delay begins anew.
STEADY_SECONDS: Final = 10.0


class MqttMetrics(Metrics):
    """What is counted of each broker."""

    connected = Gauge(
        "kaywatch_mqtt_connected",
        "Whether the agent is connected to a broker.",
        labels=("broker",),
    )
    connects = Counter(
        "kaywatch_mqtt_connects_total",
        "Connections made to a broker.",
        labels=("broker",),
    )
    messages = Counter(
        "kaywatch_mqtt_messages_total",
        "Messages that a broker delivered, ignored ones included.",
        labels=("broker",),
    )
    ignored = Counter(
        "kaywatch_mqtt_ignored_total",
        "Messages of a broker that were ignored, by reason.",
        labels=("broker", "reason"),
    )
    announcements = Counter(
        "kaywatch_mqtt_announcements_total",
        "Messages about alerts that a broker has confirmed.",
        labels=("broker",),
    )
    changes_dropped = Counter(
        "kaywatch_mqtt_changes_dropped_total",
        "Changes of alerts that were not published, since too many waited.",
        labels=("broker",),
    )
    replies_dropped = Counter(
        "kaywatch_mqtt_replies_dropped_total",
        "Replies to clients that were not published, since there were too many.",
        labels=("broker",),
    )


class BrokerListener:
    """Stays connected to one broker, and hands its messages on."""

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
            intake: takes what clients send.
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
        self._dialect = MqttVersion()
        self._problem = "not connected yet"
        self._task: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str:
        """What is wrong; empty if nothing is."""
        return self._problem or self.agent.problem

    def start(self) -> None:
        """Connect, and stay connected, in a task of its own."""
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
                # A fault of ours: without a new attempt, the broker would be lost.
                log.exception("a broker's connection failed", broker=self.label)
                self._disconnected(f"{type(error).__name__}: {error}")
            if time.monotonic() - started > STEADY_SECONDS:
                delay = RETRY_MIN
            # Full jitter: agents do not all come back to a broker at the same time.
            await asyncio.sleep(random.uniform(0, delay))
            delay = min(delay * 2, RETRY_MAX)

    async def _serve(self) -> None:
        """Connect, and hand messages on until the connection is lost."""
        from kaywatch_agent.ingest.mqtt_client import MqttClient

        connection = MqttClient(
            self._config.broker,
            self._dialect,
            client_id=self._client_id,
            session_seconds=self._config.session_seconds,
            status_topic=self.agent.status,
            handler=self._handle,
        )
        async with connection as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(client.lost())
            await client.read_from([*self.clients.filters, *self.agent.filters])
            self._connected(client.version)
            tasks.create_task(self.clients.publish(client.publish))
            tasks.create_task(self.agent.publish(client.confirmed))

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
        """Hand a message on. Whatever it is, the next one is handled too."""
        self._metrics.messages.labels(self.label).add()
        try:
            ignored = ""
            if not self.agent.receive(topic, payload, retained):
                ignored = self.clients.receive(topic, payload, retained)
        except Exception:
            log.exception("a message could not be handled", topic=topic[:200])
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
            intake: takes what clients send.
            encode: returns an alert's payload, where alerts are published.
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
        """Return what is wrong at each broker, by label; empty if nothing is."""
        return {one.label: one.problem for one in self._listeners}

    def start(self, firing: AlertsSnapshot) -> None:
        """Connect in the background: the agent is ready with and without brokers.

        Args:
            firing: the alerts at the start.
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
