"""Builds all components of an agent from its configuration, and connects them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from kaywatch._version import __version__
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.aggregate.view import View
from kaywatch_agent.backtesting import Backtester
from kaywatch_agent.config import Config
from kaywatch_agent.errors import StoreError
from kaywatch_agent.ingest.intake import Intake
from kaywatch_agent.ingest.mqtt import MqttIngest
from kaywatch_agent.ingest.peers import LocalPeer
from kaywatch_agent.ingest.unix import UnixListener
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.notify.delivery import Delivery
from kaywatch_agent.pipeline.pipeline import Pipeline
from kaywatch_agent.protocol.redact import Privacy
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.loop import Alerting
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.runtime.health import Health, Readiness
from kaywatch_agent.runtime.metrics import MetricsRegistry
from kaywatch_agent.runtime.process import ProcessMetrics, resident_bytes
from kaywatch_agent.runtime.supervision import StatusCounts
from kaywatch_agent.store.committer import Committer, Durable
from kaywatch_agent.store.writer import StoreWriter
from kaywatch_agent.tick import Ticker
from kaywatch_agent.web.api.alerts import view_alert
from kaywatch_agent.web.server import WebServer
from kaywatch_agent.web.view import AgentUsage, AgentView

__all__ = ["Components"]

# A tick that is this late means that the agent is stuck.
TICK_DEADLINE: Final = 10.0
# Rules run in a thread, and are evaluated less often while the agent is busy.
RULES_DEADLINE: Final = 60.0
INGEST_DEADLINE: Final = 30.0  # three probes that fail, or hang

log = structlog.get_logger("kaywatch.agent")


class Components:
    """The object graph of one agent.

    Attributes:
        clock: returns Unix seconds.
        health: the readiness of each stage.
        metrics: the agent's own metrics.
        pipeline: turns messages into aggregates.
        intake: connects the transports with the pipeline.
        listener: the UNIX socket.
        mqtt: the brokers.
        alerting: the rules.
        delivery: notifications.
        committer: makes all state durable.
        ticker: calls the components once a second.
        web: the HTTP server.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float] = time.time,
        reload: Callable[[], list[str]] = list,
    ) -> None:
        """Build the components; open nothing.

        Args:
            config: the configuration.
            clock: returns Unix seconds.
            reload: see `AgentView`.
        """
        self.clock = clock
        self.health = _health(clock)
        self.metrics = MetricsRegistry()
        self.alerting = Alerting(
            config.alerts, min_severity=config.notify.min_severity, clock=clock
        )
        self.pipeline = Pipeline(
            Aggregator(Registry(config.limits), clock()),
            privacy=Privacy(config.failures),
            watched=lambda: self.alerting.engine.settings.custom_metrics,
            clock=clock,
        )
        self.delivery = Delivery(
            config.notify,
            alerts=self.alerting.alerts_for,
            healthy=self._healthy,
            request_commit=self.request_commit,
            clock=clock,
        )
        self.committer = Committer(self._durable_parts())
        self.intake = Intake(
            self.pipeline,
            request_commit=self.request_commit,
            request_evaluation=self.alerting.timer.request,
            clock=clock,
        )
        self.listener = UnixListener(self.intake)
        self.mqtt = MqttIngest(config.ingest.mqtt, self.intake, _alert_json)
        self.web = self._web_server(config.store.file, reload)
        self.ticker = self._ticker()
        self._include_metrics()

    def request_commit(self) -> None:
        """Request a commit before the next tick."""
        self.committer.request()

    def use(self, config: Config) -> None:
        """Apply a new configuration."""
        self.web.use(config.http)
        self.listener.use(config.ingest)
        self.pipeline.aggregator.registry.limit(config.limits)
        self.pipeline.queue.privacy = Privacy(config.failures)
        self.alerting.use(config.alerts, config.notify.min_severity)
        self.delivery.use(config.notify)
        if self.committer.writer is not None:
            self.committer.writer.keep(config.store.retention)

    def restore(self, writer: StoreWriter) -> None:
        """Use a store, and restore its state."""
        started = time.perf_counter()
        self.committer.writer = writer
        self.metrics.include(writer.metrics)
        self.pipeline.aggregator.use(writer.archive)
        state = writer.restore()
        if state.now is None:
            return
        self.pipeline.aggregator.restore(state)
        clients = map(Client.from_json, state.clients.values())
        try:
            self.metrics.restore(state.counters)
            self.pipeline.restore(clients, LocalPeer.find, socket.gethostname())
        except ValueError as error:
            raise _unusable(writer.path, error) from None
        self.alerting.restore(state.documents)
        self.delivery.restore(state.documents)
        down = max(0.0, self.clock() - state.now)
        writer.metrics.restarts.add()
        writer.metrics.down_seconds.add(down)
        log.info(
            "restored",
            store=str(writer.path),
            down_seconds=round(down, 3),
            series=len(state.keys),
            clients=len(state.clients),
            waiting=self._count(ClientState.DISCONNECTED),
            took_seconds=round(time.perf_counter() - started, 3),
        )

    def status_counts(self) -> StatusCounts:
        """Return the counts that `systemctl status` shows."""
        return StatusCounts(
            events=int(self.pipeline.queue.metrics.events.value),
            series=len(self.pipeline.aggregator.registry.keys),
            clients=self._count(ClientState.CONNECTED),
            firing=self.alerting.counts.get(AlertState.FIRING, 0),
        )

    # -- inside ------------------------------------------------------------------------

    def _durable_parts(self) -> list[Durable]:
        """Return the parts of a commit, in the order in which they are collected."""
        return [
            self.pipeline.aggregator,
            self.pipeline.clients,
            self.metrics,
            self.alerting,
            self.delivery,
            self.pipeline.sessions,
        ]

    def _include_metrics(self) -> None:
        self.metrics.include(
            ProcessMetrics(__version__, self.clock()),
            self.pipeline.aggregator.metrics,
            self.pipeline.metrics,
            self.pipeline.queue.metrics,
            self.pipeline.queue.event_stream.metrics,
            self.intake.metrics,
            self.intake.mirror.metrics,
            self.listener.metrics,
            self.mqtt.metrics,
            self.alerting.metrics,
            self.web.metrics,
            self.delivery.outbox.metrics,
            self.delivery.heartbeats,
        )

    def _web_server(
        self, store: Path | None, reload: Callable[[], list[str]]
    ) -> WebServer:
        backtester = Backtester(
            store,
            settings=lambda: self.alerting.engine.settings,
            receivers=lambda: self.delivery.config.receivers,
        )
        view = AgentView(
            socket=lambda: os.path.abspath(self.listener.path),
            health=self.health,
            event_stream=self.pipeline.queue.event_stream,
            alerting=self.alerting,
            delivery=self.delivery,
            view=self._view,
            clients=self.pipeline.clients,
            usage=self._usage,
            clock=self.clock,
            backtest=backtester.run,
            reload=reload,
            wait_durable=self.committer.wait_durable,
        )
        return WebServer(view, self.metrics, __version__)

    def _view(self) -> View:
        return self.pipeline.aggregator.view(self.clock())

    def _usage(self) -> AgentUsage:
        writer = self.committer.writer
        return AgentUsage(
            events=int(self.pipeline.queue.metrics.events.value),
            memory_bytes=resident_bytes(),
            store_bytes=int(writer.metrics.bytes.value) if writer else 0,
            cpu_seconds=time.process_time(),
        )

    def _ticker(self) -> Ticker:
        return Ticker(
            pipeline=self.pipeline,
            intake=self.intake,
            alerting=self.alerting,
            delivery=self.delivery,
            committer=self.committer,
            health=self.health,
            publish=[self._report_ingest, self.web.publish],
            changed=[self.mqtt.alerts_changed],
            clock=self.clock,
        )

    def _report_ingest(self) -> None:
        now = self.clock()
        self.health.report("connections", now, self.listener.problem)
        for broker, problem in self.mqtt.problems().items():
            self.health.report(f"mqtt {broker}", now, problem)
        if self.delivery.config.receivers:
            problem, note = self.delivery.problem(), self.delivery.note
            self.health.report("notify", now, problem, note)

    def _healthy(self) -> bool:
        """Return whether the agent receives events and evaluates rules."""
        return self.health.status(self.clock()).status is not Readiness.UNHEALTHY

    def _count(self, state: ClientState) -> int:
        return sum(client.state is state for client in self.pipeline.clients)


def _health(clock: Callable[[], float]) -> Health:
    health = Health(started=clock())
    health.expect("tick", within=TICK_DEADLINE)
    health.expect("ingest", within=INGEST_DEADLINE)
    health.expect("rules", within=RULES_DEADLINE)
    return health


def _unusable(path: Path, error: ValueError) -> StoreError:
    return StoreError(
        f"store.path: cannot use {path}: {error}; the file was left unchanged:"
        " restore a backup, or move it away to start with an empty store"
    )


def _alert_json(snapshot: AlertsSnapshot, alert: Alert) -> bytes:
    """Return an alert in the JSON format of the HTTP API."""
    return msgspec.json.encode(view_alert(snapshot, alert))
