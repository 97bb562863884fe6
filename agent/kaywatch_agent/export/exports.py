"""All exports of an agent: started, stopped, and their problems."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from kaywatch_agent.errors import ConfigError, StartError
from kaywatch_agent.export.config import ExportConfig, RemoteWriteConfig
from kaywatch_agent.export.metrics import RemoteWriteMetrics
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.runtime.health import Health
from kaywatch_agent.web.snapshot import AgentSnapshot

if TYPE_CHECKING:
    from kaywatch_agent.export.remote_write import RemoteWrite

__all__ = ["Exports"]

STAGE: Final = "remote write "  # on /health, before the name of a server
STOP_SECONDS: Final = 3.0  # for the last snapshots at an orderly stop

log = structlog.get_logger("kaywatch.export")


class Exports:
    """The servers that an agent sends to."""

    def __init__(
        self,
        config: ExportConfig,
        *,
        snapshot: Callable[[], AgentSnapshot],
        clock: Callable[[], float],
    ) -> None:
        """Open nothing yet.

        Args:
            config: the servers.
            snapshot: returns the state of the agent.
            clock: returns Unix seconds.
        """
        self.metrics = RemoteWriteMetrics()
        self._config = config
        self._snapshot = snapshot
        self._clock = clock
        self._http = HttpClient()
        self._store: Path | None = None
        self._servers: dict[str, RemoteWrite] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, str] = {}  # of servers that could not be started
        self._change: asyncio.Task[None] | None = None
        self._read_gauges()

    def start(self, store: Path | None) -> None:
        """Begin to send.

        Args:
            store: the path of the store, beside which unsent snapshots are kept.

        Raises:
            ConfigError: there is no store.
            StartError: the folder of snapshots cannot be used.
        """
        self._store = store
        self.check(self._config)
        for server in self._config.remote_write:
            try:
                self._begin(server)
            except OSError as error:
                raise StartError(f"export.remote_write: {error}") from None

    def check(self, config: ExportConfig) -> None:
        """Validate a configuration for this agent.

        Raises:
            ConfigError: there is no store.
        """
        if config.remote_write and self._store is None:
            text = "needs a store, so that no sample is sent twice; set store.path"
            raise ConfigError("export.remote_write", text)

    def use(self, config: ExportConfig) -> None:
        """Apply a configuration that was checked.

        Servers whose keys are the same go on undisturbed. Changed ones continue with
        the snapshots that wait.
        """
        self._change = asyncio.create_task(
            self._replace(config, self._change), name="exports"
        )

    async def stop(self) -> None:
        """Send a last snapshot, as far as time allows. Idempotent."""
        if self._change is not None:
            await self._change
        servers = list(self._servers.values())
        await self._end(list(self._servers))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*map(_finish, servers))
        await self._http.aclose()

    def report(self, health: Health) -> None:
        """Report the state of each server to `/health`."""
        now = self._clock()
        for server in self._servers.values():
            note = server.histograms.note
            health.report(_stage(server.name), now, server.problem, note)
        for name, problem in self._failures.items():
            health.report(_stage(name), now, problem)
        for stage in [*health.names()]:
            name = stage.removeprefix(STAGE)
            if name not in (stage, *self._servers, *self._failures):
                health.forget(stage)

    def rejected(self) -> dict[str, Mapping[str, int]]:
        """Return the series of the last snapshot that each server rejected."""
        return {name: server.rejected for name, server in self._servers.items()}

    # -- inside ------------------------------------------------------------------------

    async def _replace(
        self, config: ExportConfig, previous: asyncio.Task[None] | None
    ) -> None:
        """Stop what changed, and start it anew, after the previous change."""
        if previous is not None:
            await previous
        wanted = {server.identity: server for server in config.remote_write}
        await self._end(
            [
                name
                for name, server in self._servers.items()
                if wanted.get(name) != server.config
            ]
        )
        self._failures.clear()
        for name, server in wanted.items():
            if name not in self._servers:
                try:
                    self._begin(server)
                except OSError as error:
                    self._failures[name] = str(error)
                    log.warning("export not started", server=name, problem=str(error))

    async def _end(self, names: Collection[str]) -> None:
        """Stop sending to some servers; their snapshots stay on disk."""
        tasks = [self._tasks.pop(name) for name in names]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for name in names:
            del self._servers[name]

    def _begin(self, config: RemoteWriteConfig) -> None:
        """Begin to send to a server.

        Raises:
            OSError: the folder of its snapshots cannot be used.
        """
        if self._store is None:
            raise FileNotFoundError("no store")
        folder = self._store.with_name(f"{self._store.name}.remote_write")
        server = self._open(config, folder / config.identity)
        self._servers[server.name] = server
        self._tasks[server.name] = asyncio.create_task(server.run(), name=server.name)

    def _open(self, config: RemoteWriteConfig, folder: Path) -> RemoteWrite:
        # It imports protobuf: 5 MB and 30 ms, which most agents never need.
        from kaywatch_agent.export.remote_write import RemoteWrite
        from kaywatch_agent.export.spool import Spool

        return RemoteWrite(
            config,
            Spool(folder),
            snapshot=self._snapshot,
            http=self._http,
            metrics=self.metrics,
            clock=self._clock,
        )

    def _read_gauges(self) -> None:
        metrics = self.metrics
        metrics.lag.set_function(
            lambda: {(each.name,): each.lag() for each in self._servers.values()}
        )
        metrics.spool.set_function(
            lambda: {(each.name,): each.spool.size for each in self._servers.values()}
        )
        metrics.native.set_function(
            lambda: {
                (each.name,): each.histograms.native for each in self._servers.values()
            }
        )
        metrics.completeness.set_function(
            lambda: {
                (each.name,): share
                for each in self._servers.values()
                if (share := each.completeness()) is not None
            }
        )


def _stage(server: str) -> str:
    return f"{STAGE}{server}"


async def _finish(server: RemoteWrite) -> None:
    """Send what changed since the last snapshot; keep it if the server is away."""
    await server.take()
    await server.send_all()
