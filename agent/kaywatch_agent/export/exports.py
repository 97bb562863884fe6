"""All exports of an agent: started, stopped, and their problems."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kaywatch_agent.errors import ConfigError, StartError
from kaywatch_agent.export.config import ExportConfig, RemoteWriteConfig
from kaywatch_agent.export.metrics import RemoteWriteMetrics
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.runtime.health import Health
from kaywatch_agent.web.snapshot import AgentSnapshot

if TYPE_CHECKING:
    from kaywatch_agent.export.remote_write import RemoteWrite

__all__ = ["Exports"]

STOP_SECONDS: Final = 3.0  # for the last snapshots at an orderly stop


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
        self._servers: list[RemoteWrite] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._read_gauges()

    def start(self, store: Path | None) -> None:
        """Begin to send.

        Args:
            store: the path of the store, beside which unsent snapshots are kept.

        Raises:
            ConfigError: there is no store.
            StartError: the folder of snapshots cannot be used.
        """
        if not self._config.remote_write:
            return
        if store is None:
            text = "needs a store, so that no sample is sent twice; set store.path"
            raise ConfigError("export.remote_write", text)
        for server in self._config.remote_write:
            folder = store.with_name(f"{store.name}.remote_write") / server.identity
            try:
                self._servers.append(self._open(server, folder))
            except OSError as error:
                text = f"export.remote_write: cannot use {folder}: {error}"
                raise StartError(text) from None
        for one in self._servers:
            for run in (one.run_snapshots, one.run_requests):
                self._tasks.append(asyncio.create_task(run(), name=one.name))

    async def stop(self) -> None:
        """Send a last snapshot, as far as time allows. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        servers, self._servers = self._servers, []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*map(_finish, servers))
        await self._http.aclose()

    def report(self, health: Health) -> None:
        """Report the state of each server to `/health`."""
        now = self._clock()
        for server in self._servers:
            stage = f"remote write {server.name}"
            health.report(stage, now, server.problem, server.histograms.note)

    # -- inside ------------------------------------------------------------------------

    def _open(self, config: RemoteWriteConfig, folder: Path) -> RemoteWrite:
        """Return what sends to a server.

        Raises:
            OSError: the folder cannot be used.
        """
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
            lambda: {(each.name,): each.lag() for each in self._servers}
        )
        metrics.spool.set_function(
            lambda: {(each.name,): each.spool.size for each in self._servers}
        )
        metrics.native.set_function(
            lambda: {(each.name,): each.histograms.native for each in self._servers}
        )
        metrics.completeness.set_function(
            lambda: {
                (each.name,): share
                for each in self._servers
                if (share := each.completeness()) is not None
            }
        )


async def _finish(server: RemoteWrite) -> None:
    """Send what changed since the last snapshot; keep it if the server is away."""
    await server.take()
    await server.send_all()
