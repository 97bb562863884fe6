"""The composition root: makes the stages, starts them, and stops them in reverse."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from kaywatch._version import __version__
from kaywatch_agent.aggregate.aggregator import Aggregator, View
from kaywatch_agent.aggregate.change import Change
from kaywatch_agent.aggregate.feed import Feed
from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.config import Config
from kaywatch_agent.errors import ConfigError, StoreError
from kaywatch_agent.ingest.mqtt import MqttIngest
from kaywatch_agent.ingest.peers import Peer
from kaywatch_agent.ingest.probe import Probe
from kaywatch_agent.ingest.unix import UnixListener
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.series import Presence
from kaywatch_agent.notify.delivery import Delivery, Documents
from kaywatch_agent.pipeline.pipeline import Pipeline
from kaywatch_agent.protocol.redact import Privacy
from kaywatch_agent.rules.alert import Instance
from kaywatch_agent.rules.loop import Alerting
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.rules.state import State
from kaywatch_agent.runtime.health import Health, Readiness
from kaywatch_agent.runtime.process import (
    ProcessMetrics,
    raise_descriptors,
    tune_allocator,
)
from kaywatch_agent.runtime.supervision import Figures, Supervision
from kaywatch_agent.runtime.systemd import Notifier
from kaywatch_agent.runtime.telemetry import Telemetry
from kaywatch_agent.store.commits import Commits
from kaywatch_agent.store.writer import Damaged, Writer
from kaywatch_agent.web.api.alerts import row
from kaywatch_agent.web.server import WebServer

__all__ = ["App"]

TICK_SECONDS: Final = 1.0

# Between two hurried commits: a thousand clients that exit at once share a few.
HURRY_SECONDS: Final = 0.02

# A tick that is this late means that the agent hangs.
TICK_DEADLINE: Final = 10.0
RULES_DEADLINE: Final = 60.0

# Three probes that fail, or hang.
INGEST_DEADLINE: Final = 30.0
STOP_SECONDS: Final = 5.0

# How long an answer waits for the commit of what it says was changed.
KEPT_SECONDS: Final = 5.0

# Settings that are only read at the start.
FIXED: Final = (
    ("ingest", "socket"),
    ("ingest", "mode"),
    ("ingest", "mqtt"),
    ("ingest", "group"),
    ("http", "listen"),
    ("http", "mode"),
    ("http", "group"),
    ("http", "tls_certificate_file"),
    ("http", "tls_key"),
    ("http", "connections"),
    ("store", "path"),
    ("store", "synchronous"),
)

log = structlog.get_logger("kaywatch.agent")


class App:
    """One agent; `run` is its whole life.

    It is the `Source` that the web stage reads from.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float] = time.time,
        notifier: Notifier | None = None,
        sockets: Mapping[str, Sequence[socket.socket]] | None = None,
    ) -> None:
        """Make the stages; open nothing.

        Args:
            config: what is set.
            clock: returns Unix seconds.
            notifier: who is told how the agent is.
            sockets: those that are held for it, `ingest` and `http`; it opens others.
        """
        self.config = config
        self.supervision = Supervision(notifier or Notifier())
        self._sockets = sockets or {}
        self.clock = clock
        self.telemetry = Telemetry()
        self.health = Health(started=clock())
        self.socket_path = config.ingest.path
        self.http_url = ""
        registry = Registry(config.limits)
        self.alerting = Alerting(
            config.alerts,
            min_severity=config.notify.min_severity,
            clock=clock,
        )
        self.delivery = Delivery(
            config.notify,
            alerts=self.alerting.alerts,
            healthy=self._healthy,
            request_commit=self._ask_for_commit,
            clock=clock,
        )
        self.pipeline = Pipeline(
            Aggregator(registry, clock()),
            self.telemetry,
            commit=self._commit,
            hurry=self._ask_for_commit,
            find=Peer.find,
            documents=self._documents,
            clock=clock,
        )
        self.pipeline.privacy = Privacy(config.failures)
        self._writer: Writer | None = None
        self._commits = Commits()
        self._committer: asyncio.Task[None] | None = None
        self._checks: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._evaluation: asyncio.Task[None] | None = None
        self._listener = UnixListener(self.pipeline.open, self.telemetry)
        self._mqtt = MqttIngest(config.ingest.mqtt, self.pipeline, _alert_json)
        self.telemetry.include(self._mqtt.metrics)
        self._web = WebServer(self, self.telemetry, __version__)
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._problem = ""  # of the last tick
        self._stops: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self.telemetry.include(
            ProcessMetrics(__version__, clock()),
            self.alerting.metrics,
            self.delivery.outbox.metrics,
            self.delivery.heartbeats,
            self._web.metrics,
        )

    # -- what the web stage reads ----------------------------------------------------

    @property
    def feed(self) -> Feed:
        """Single events, for those who listen."""
        return self.pipeline.feed

    def view(self) -> View:
        """Return a picture of all that was aggregated up to the last commit."""
        self._measure()
        return self.pipeline.aggregator.view(self.clock())

    def clients(self) -> Iterable[Client]:
        """Return all clients that are here or left lately."""
        return self.pipeline.clients

    async def kept(self) -> str:
        """Wait until all that was changed is durable; return why it isn't, if so."""
        self._ask_for_commit()
        if self._writer is None or await self._commits.durable(KEPT_SECONDS):
            return ""
        return self._writer.problem or f"no commit in {KEPT_SECONDS:.0f} s"

    # -- life ------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop` is called.

        Args:
            ready: called once everything listens.

        Raises:
            StartError: if a socket or a port is not to be had.
        """
        tune_allocator()
        raise_descriptors()
        try:
            await self._start()
            ready()
            self.supervision.serving(self.clock(), self._figures())
            # What was imported stays: a full collection is 20 ms shorter without it.
            gc.freeze()
            await self._tick_until_stopped()
        finally:
            await self._stop()

    def stop(self) -> None:
        """End `run`, with a last commit and acknowledgement. Idempotent."""
        self._stopping.set()
        self._hurried.set()

    def reload(self, config: Config) -> None:
        """Go on with another configuration, all of it or nothing.

        Raises:
            ConfigError: something differs that is only read at the start.
        """
        fixed = [
            f"{section}.{key}"
            for section, key in FIXED
            if getattr(getattr(config, section), key)
            != getattr(getattr(self.config, section), key)
        ]
        if fixed:
            names = ", ".join(fixed)
            raise ConfigError("", f"{names}: can't be changed without a restart")
        self._web.use(config.http)
        self.config = config
        self._listener.use(config.ingest)
        self.pipeline.aggregator.registry.limit(config.limits)
        self.pipeline.privacy = Privacy(config.failures)
        self.alerting.use(config.alerts, config.notify.min_severity)
        self.delivery.use(config.notify)
        if self._writer is not None:
            self._writer.keep(config.store.retention)
        log.info("configuration reloaded")

    async def _start(self) -> None:
        self.health.expect("tick", within=TICK_DEADLINE)
        self.health.expect("ingest", within=INGEST_DEADLINE)
        self.health.expect("rules", within=RULES_DEADLINE)
        self._restore()
        self._stops.append(("http", self._web.stop))
        held = self._sockets
        self.http_url = await self._web.start(self.config.http, held.get("http", ()))
        await self.delivery.start()
        self._stops.append(("notify", self.delivery.stop))
        self._stops.append(("rules", self._stop_rules))
        self._stops.append(("ingest", self._listener.stop))
        if "ingest" in held:
            await self._listener.adopt(held["ingest"][0], self.config.ingest)
            self.socket_path = self._listener.path
        else:
            await self._listener.start(self.config.ingest)
        probe = Probe(self.socket_path, self._probed)
        self._probe = asyncio.create_task(probe.run(), name="ingest probe")
        self._stops.append(("mqtt", self._mqtt.stop))
        self._mqtt.start(self.alerting.snapshot())
        log.info(
            "serving",
            socket=self.socket_path,
            http=self.http_url,
            version=__version__,
            **(
                {"brokers": list(brokers)} if (brokers := self._mqtt.problems()) else {}
            ),
            **({"held_by_systemd": ",".join(sorted(held))} if held else {}),
        )
        if self._writer is not None:
            work = self._check_store(self._writer)
            self._checks = asyncio.create_task(work, name="store check")

    def _restore(self) -> None:
        """Open the store, and go on from what is in it."""
        path = self.config.store.file
        if path is None:
            return
        started = time.perf_counter()
        self._writer = writer = Writer(path, self.config.store)
        self.telemetry.include(writer.metrics)
        self._stops.append(("store", self._close_store))
        self.pipeline.aggregator.use(writer)
        found = writer.restore()
        if found.now is None:
            return
        self.pipeline.restore(found, socket.gethostname())
        self.alerting.restore(found.documents)
        self.delivery.restore(found.documents)
        down = max(0.0, self.clock() - found.now)
        writer.metrics.restarts.add()
        writer.metrics.down_seconds.add(down)
        log.info(
            "restored",
            store=str(path),
            down_seconds=round(down, 3),
            series=len(found.keys),
            clients=len(found.clients),
            waiting=sum(
                client.state is Presence.DISCONNECTED for client in self.clients()
            ),
            took_seconds=round(time.perf_counter() - started, 3),
        )

    async def _tick_until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._stopping.is_set():
            if loop.time() >= due:
                self._tick()
                # Ticks that were missed are not made up for.
                due = max(due + TICK_SECONDS, loop.time())
            await self._wait(due - loop.time())
            if self._hurried.is_set() and not self._stopping.is_set():
                self._hurried.clear()
                self._guarded(self.pipeline.commit)
                await asyncio.sleep(HURRY_SECONDS)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._hurried.wait()
        except TimeoutError:
            pass

    def _tick(self) -> None:
        problem = self._guarded(self.pipeline.tick)
        now = self.clock()
        self.health.report("tick", now, problem)
        for broker, problem in self._mqtt.problems().items():
            self.health.report(f"mqtt {broker}", now, problem)
        if self._writer is not None:
            self.health.report("store", now, self._writer.problem)
        self.health.report("rules", self.alerting.evaluated, self.alerting.problem)
        if self.alerting.due:
            self._evaluation = asyncio.create_task(self._evaluate(), name="rules")
        self._web.publish()
        self.supervision.tick(now, self._figures(), self.health.status(now))

    def _guarded(self, work: Callable[[], None]) -> str:
        """Do it; return what went wrong. Nothing is acknowledged then, or lost."""
        try:
            work()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problem:
                log.exception("a tick failed, and is tried again")
            self._problem = problem
        else:
            self._problem = ""
        return self._problem

    async def _stop(self) -> None:
        """Stop in reverse order of start: no new connections, commit, acks, goodbye."""
        if self._probe is not None:
            self._probe.cancel()
        served = bool(self._listener.path)
        self.supervision.stopping()
        self._listener.stop_accepting()
        await self._listener.take_all()
        await self._last_commit()
        while self._stops:
            name, stop = self._stops.pop()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await stop()
            except TimeoutError:
                log.warning("stopped late", stage=name, seconds=STOP_SECONDS)
        if served:
            log.info("stopped", events=self._figures().events)
        self.supervision.close()

    # -- inside ----------------------------------------------------------------------

    def _commit(self, change: Change) -> None:
        """Make a change durable, beside the loop where there is a store."""
        if self._writer is None:
            self.pipeline.committed(change)
            self.delivery.committed(change.documents)
        else:
            work = self._committing(self._writer, change)
            self._committer = asyncio.create_task(work, name="commit")

    async def _committing(self, writer: Writer, change: Change) -> None:
        try:
            await writer.commit(change)
        except Exception as error:
            self._commits.ended(durable=False)
            self.pipeline.refused(change, whole=isinstance(error, Damaged))
            self.alerting.refused(change.documents)
            self.delivery.refused(change.documents)
            if not isinstance(error, StoreError):
                log.exception("a commit failed, and is tried again")
        else:
            self._commits.ended(durable=True)
            self.pipeline.committed(change)
            self.delivery.committed(change.documents)

    async def _last_commit(self) -> None:
        """Commit what has come meanwhile, if the store lets us in time."""
        for _ in range(2):  # the one under way, and the one after it
            if self._committer is not None:
                await self.supervision.wait(self._committer, STOP_SECONDS)
            self.pipeline.commit()
        if self._committer is not None:
            await self.supervision.wait(self._committer, STOP_SECONDS)

    async def _check_store(self, writer: Writer) -> None:
        """Look for damage in a large file, and say what was found."""
        started = time.perf_counter()
        try:
            damage = await writer.check()
        except StoreError as error:
            problem = str(error)
            log.warning("the store could not be checked", problem=problem)
        else:
            if damage is None:
                return
            problem = f"the file was damaged, and is set aside: {damage}"
            if damage:
                log.error("store damaged, begun anew", damage=damage)
            else:
                took = round(time.perf_counter() - started, 3)
                log.info("store checked", took_seconds=took)
                problem = ""
        # It stays there until the next start: somebody should look.
        self.health.report("store check", self.clock(), problem)

    async def _close_store(self) -> None:
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)
        if self._checks is not None:
            await self._checks

    async def _evaluate(self) -> None:
        """Evaluate the rules, and pass on what came of it."""
        view, clients = self.pipeline.aggregator.view(self.clock()), self.clients()
        update = await self.alerting.evaluate(view, clients)
        # Nothing comes between: the alerts and their messages are in one commit.
        self.delivery.enqueue(update.requests)
        if update.changed is not None:
            self._web.turned(update.changed)
            self._mqtt.alerts_changed(update.changed)

    async def _stop_rules(self) -> None:
        if self._evaluation is not None:
            await asyncio.wait([self._evaluation])
        self.alerting.stop()

    def _documents(self, whole: bool) -> Documents:
        """Return what alerts and messages want to be kept, for the next commit."""
        self._commits.began()
        return {**self.alerting.changes(whole), **self.delivery.changes(whole)}

    def _healthy(self) -> bool:
        """Whether rules are evaluated and events taken in."""
        return self.health.status(self.clock()).status is not Readiness.UNHEALTHY

    def _probed(self, problem: str) -> None:
        """Take what became of the bytes that we pushed to ourselves."""
        if problem:
            self.health.fail("ingest", problem)
        else:
            self.health.report("ingest", self.clock())

    def _ask_for_commit(self) -> None:
        self._hurried.set()

    def _figures(self) -> Figures:
        pipeline = self.pipeline
        return Figures(
            events=int(self.telemetry.get("kaywatch_events_total")),
            series=len(pipeline.aggregator.registry.keys),
            clients=sum(c.state is Presence.CONNECTED for c in pipeline.clients),
            firing=self.alerting.counts.get(State.FIRING, 0),
        )

    def _measure(self) -> None:
        """Bring the gauges up to date that nobody counts as they change."""
        telemetry, pipeline = self.telemetry, self.pipeline
        states: dict[str, int] = {}
        for client in pipeline.clients:
            states[str(client.state)] = states.get(str(client.state), 0) + 1
        for state in ("connected", "disconnected", "ended", "died"):
            telemetry.set("kaywatch_clients", states.get(state, 0), state)
        telemetry.set("kaywatch_open_connections", len(self._listener.links))
        self.delivery.measure()
        registry = pipeline.aggregator.registry
        telemetry.set("kaywatch_series", len(registry.keys))


def _alert_json(picture: AlertsSnapshot, instance: Instance) -> bytes:
    """Return an alert as HTTP has it."""
    return msgspec.json.encode(row(picture, instance))
