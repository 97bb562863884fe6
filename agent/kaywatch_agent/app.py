"""Starts the components of an agent in order, and stops them in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import structlog

from kaywatch._version import __version__
from kaywatch_agent.components import Components
from kaywatch_agent.config import Config
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.export.exports import Exports
from kaywatch_agent.ingest.probe import Probe
from kaywatch_agent.runtime import logs
from kaywatch_agent.runtime.process import (
    raise_descriptors,
    release_memory,
    tune_allocator,
    tune_threads,
)
from kaywatch_agent.runtime.supervision import Supervision
from kaywatch_agent.runtime.systemd import Notifier
from kaywatch_agent.store.writer import StoreWriter

__all__ = ["App"]

# Per component: one that hangs must not keep the others from stopping.
STOP_SECONDS: Final = 5.0

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
    """One agent, from its start to its end."""

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        clock: Callable[[], float] = time.time,
        notifier: Notifier | None = None,
        sockets: Mapping[str, Sequence[socket.socket]] | None = None,
    ) -> None:
        """Build the components; open nothing.

        Args:
            config: the configuration.
            load: reads the configuration again, for a reload; raises ConfigError.
            clock: returns Unix seconds.
            notifier: reports the agent's state to systemd.
            sockets: listening sockets passed by systemd, `ingest` and `http`; missing
                ones are opened.
        """
        self.config = config
        self.http_url = ""
        self.supervision = Supervision(notifier or Notifier())
        self.components = Components(config, clock, self.reload)
        self._load = load
        self.exports = Exports(
            config.export,
            snapshot=self.components.web.application.snapshot,
            clock=clock,
        )
        self.components.metrics.include(*self.exports.metrics)
        self.components.alerting.rejected = self.exports.rejected
        self._sockets = sockets or {}
        self._stops: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._stopping = asyncio.Event()

    @property
    def socket_path(self) -> str:
        """The path that clients push to."""
        return self.components.listener.path or self.config.ingest.path

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop` is called.

        Args:
            ready: called when all sockets are open.

        Raises:
            StartError: a socket, a port or the store cannot be opened.
        """
        tune_allocator()
        tune_threads()
        raise_descriptors()
        evaluating: list[asyncio.Task[None]] = []
        commits: asyncio.Task[None] | None = None
        ticker = self.components.ticker
        ticker.publish.append(self._report)
        try:
            await self._start()
            ready()
            now, counts = self.components.clock(), self.components.status_counts()
            self.supervision.serving(now, counts)
            # Imported modules are never freed; a full collection is 20 ms shorter
            # without them.
            release_memory()
            gc.freeze()
            evaluating += (
                asyncio.create_task(ticker.run_ticks(), name="ticks"),
                asyncio.create_task(ticker.run_early_evaluations(), name="evaluations"),
            )
            commits = asyncio.create_task(ticker.run_commits(), name="commits")
            await self._stopping.wait()
        finally:
            await self._stop(evaluating, commits)

    def stop(self) -> None:
        """End `run`, with a last commit and acknowledgement. Idempotent."""
        self._stopping.set()

    def reload(self) -> list[str]:
        """Read the configuration and apply it, completely or not at all.

        Returns:
            Why nothing was changed: all errors, each with its key; empty otherwise.
        """
        self.supervision.reloading()
        try:
            self._apply(self._load())
        except ConfigError as error:
            problems = [str(each) for each in (error, *error.others)]
            for problem in problems:
                # A mistake in a file needs no traceback.
                log.error("configuration not reloaded", problem=problem)  # noqa: TRY400
            self.supervision.reloaded(problems[0])
            return problems
        self.supervision.reloaded()
        return []

    def _apply(self, config: Config) -> None:
        fixed = [
            f"{section}.{key}"
            for section, key in FIXED
            if getattr(getattr(config, section), key)
            != getattr(getattr(self.config, section), key)
        ]
        if fixed:
            names = ", ".join(fixed)
            raise ConfigError(
                "", f"{names}: cannot be changed by a reload; restart the agent"
            )
        self.exports.check(config.export)
        self.config = config
        self.components.use(config)
        self.exports.use(config.export)
        # Before the new level, which may hide it.
        log.info("configuration reloaded")
        logs.set_up(config.log)

    async def _start(self) -> None:
        components, config, sockets = self.components, self.config, self._sockets
        self._open_store()
        self._stops.append(("http", components.web.stop))
        self.http_url = await components.web.start(config.http, sockets.get("http", ()))
        await components.delivery.start()
        self._stops.append(("notify", components.delivery.stop))
        self._stops.append(("export", self.exports.stop))
        self.exports.start(config.store.file)
        self._stops.append(("rules", components.ticker.stop_rules))
        self._stops.append(("ingest", components.listener.stop))
        if "ingest" in sockets:
            components.listener.adopt(sockets["ingest"][0], config.ingest)
        else:
            components.listener.start(config.ingest)
        probe = Probe(self.socket_path, self._report_probe)
        probing = asyncio.create_task(probe.run(), name="ingest probe")
        self._stops.append(("probe", partial(_cancel, probing)))
        self._stops.append(("mqtt", components.mqtt.stop))
        components.mqtt.start(components.alerting.snapshot())
        brokers = list(components.mqtt.problems())
        log.info(
            "serving",
            http=self.http_url,
            socket=self.socket_path,
            version=__version__,
            **({"brokers": brokers} if brokers else {}),
            **({"held_by_systemd": ",".join(sorted(sockets))} if sockets else {}),
        )

    def _open_store(self) -> None:
        """Open the store, and restore its state."""
        path = self.config.store.file
        if path is None:
            return
        writer = StoreWriter(path, self.config.store)
        checking: asyncio.Task[None] | None = None

        async def close() -> None:
            await asyncio.to_thread(writer.close)
            if checking is not None:
                await checking

        self._stops.append(("store", close))
        self.components.restore(writer)
        checking = asyncio.create_task(writer.check(), name="store check")

    async def _stop(
        self,
        evaluating: Sequence[asyncio.Task[None]],
        commits: asyncio.Task[None] | None,
    ) -> None:
        """Stop in reverse order: no new connections, a last commit, acks, goodbye."""
        components = self.components
        served = bool(components.listener.path)
        self.supervision.stopping()
        components.listener.stop_accepting()
        await components.listener.read_all()
        for task in evaluating:
            task.cancel()
        if commits is not None:
            await self._commit_last(commits)
        while self._stops:
            name, stop = self._stops.pop()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await stop()
            except TimeoutError:
                log.warning("did not stop in time", stage=name, seconds=STOP_SECONDS)
        if served:
            log.info("stopped", events=components.status_counts().events)
        self.supervision.close()

    async def _commit_last(self, commits: asyncio.Task[None]) -> None:
        """Commit all received batches, after the commit in progress, if time allows."""
        ticker = self.components.ticker
        ticker.end_commits()
        await self.supervision.wait(commits, STOP_SECONDS)
        if commits.done():
            last = asyncio.create_task(ticker.commit(), name="last commit")
            await self.supervision.wait(last, STOP_SECONDS)

    def _report(self) -> None:
        """Report the state of exports, and the agent's state to systemd."""
        components = self.components
        now = components.clock()
        self.exports.report(components.health)
        status = components.health.status(now)
        self.supervision.tick(now, components.status_counts(), status)

    def _report_probe(self, problem: str) -> None:
        """Report the result of the ingest probe."""
        if problem:
            self.components.health.fail("ingest", problem)
        else:
            self.components.health.report("ingest", self.components.clock())


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
