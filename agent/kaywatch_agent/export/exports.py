"""All exports of an agent: started, stopped, and their problems."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from kaywatch_agent.errors import ConfigError, StartError
from kaywatch_agent.export.config import (
    ExportConfig,
    OtlpConfig,
    RemoteWriteConfig,
    TargetConfig,
)
from kaywatch_agent.export.metrics import ExportMetrics, OtlpMetrics, RemoteWriteMetrics
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.runtime.health import Health
from kaywatch_agent.web.snapshot import AgentSnapshot

if TYPE_CHECKING:
    from kaywatch_agent.export.snapshot_export import SnapshotExport

    Export = SnapshotExport[Any, Any]

__all__ = ["Exports"]

OTLP_PACKAGE: Final = "opentelemetry.proto"
_STAGES: Final = ("remote", "otlp")  # the first words of stages on /health
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
        self.metrics = RemoteWriteMetrics(), OtlpMetrics()
        self._config = config
        self._snapshot = snapshot
        self._clock = clock
        self._http = HttpClient()
        self._store: Path | None = None
        self._servers: dict[str, Export] = {}
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
        for server in self._config.targets:
            try:
                self._begin(server)
            except OSError as error:
                raise StartError(f"{server.path.rstrip('.')}: {error}") from None

    def check(self, config: ExportConfig) -> None:
        """Validate a configuration for this agent.

        Raises:
            ConfigError: there is no store, or a package is missing.
        """
        for target in config.targets:
            if self._store is None:
                text = "needs a store, so that no sample is sent twice; set store.path"
                raise ConfigError(target.path.rstrip("."), text)
        if config.otlp and not _is_installed(OTLP_PACKAGE):
            text = "needs a package: pip install 'kaywatch[otlp]'"
            raise ConfigError("export.otlp", text)

    def use(self, config: ExportConfig) -> None:
        """Apply a configuration that was checked.

        Servers with unchanged keys continue undisturbed. Changed ones continue with
        their waiting snapshots.
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
        stages: dict[str, tuple[str, str]] = {}
        for server in self._servers.values():
            stages[_stage(server.config)] = (server.problem, server.note)
        stages.update((stage, (text, "")) for stage, text in self._failures.items())
        for stage, (problem, note) in stages.items():
            health.report(stage, now, problem, note)
        for stage in health.names():
            kind = stage.partition(" ")[0]
            if stage not in stages and kind in _STAGES:
                health.forget(stage)

    def rejected(self) -> dict[str, Mapping[str, int]]:
        """Return the series of the last snapshot that each server rejected."""
        return {name: server.rejected for name, server in self._servers.items()}

    # -- inside ------------------------------------------------------------------------

    async def _replace(
        self, config: ExportConfig, previous: asyncio.Task[None] | None
    ) -> None:
        """Restart the servers that changed, after the previous change."""
        if previous is not None:
            await previous
        wanted = {server.identity: server for server in config.targets}
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
                    self._failures[_stage(server)] = str(error)
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

    def _begin(self, config: TargetConfig) -> None:
        """Begin to send to a server.

        Raises:
            OSError: the folder of its snapshots cannot be used.
        """
        if self._store is None:
            raise FileNotFoundError("no store")
        folder = self._store.with_name(f"{self._store.name}.{_kind(config)}")
        server = self._open(config, folder / config.identity)
        self._servers[server.name] = server
        self._tasks[server.name] = asyncio.create_task(server.run(), name=server.name)

    def _open(self, config: TargetConfig, folder: Path) -> Export:
        """Return what sends to a server.

        Raises:
            OSError: the folder cannot be used.
        """
        # They import protobuf: 5 MB and 30 ms, which most agents never need.
        from kaywatch_agent.export.spool import Spool

        remote_write, otlp = self.metrics
        snapshot, http, clock = self._snapshot, self._http, self._clock
        if isinstance(config, OtlpConfig):
            from kaywatch_agent.export.otlp import Otlp

            return Otlp(
                config,
                Spool(folder),
                snapshot=snapshot,
                http=http,
                metrics=otlp,
                clock=clock,
            )
        if not isinstance(config, RemoteWriteConfig):
            raise TypeError(config)
        from kaywatch_agent.export.remote_write import RemoteWrite

        return RemoteWrite(
            config,
            Spool(folder),
            snapshot=snapshot,
            http=http,
            metrics=remote_write,
            clock=clock,
        )

    def _read_gauges(self) -> None:
        for metrics in self.metrics:
            metrics.lag.set_function(partial(self._values, metrics, lambda e: e.lag()))
            metrics.spool.set_function(
                partial(self._values, metrics, lambda export: export.spool.size)
            )
            metrics.completeness.set_function(
                partial(self._values, metrics, lambda export: export.completeness())
            )
        remote_write, _ = self.metrics
        remote_write.native.set_function(
            partial(self._values, remote_write, lambda export: export.native)
        )

    def _values(
        self, metrics: ExportMetrics, read: Callable[[Export], float | None]
    ) -> dict[tuple[str, ...], float]:
        """Return a value of each server of a kind, unless it has none."""
        return {
            (name,): value
            for name, export in self._servers.items()
            if export.metrics is metrics and (value := read(export)) is not None
        }


def _kind(config: TargetConfig) -> str:
    return config.path.split(".")[1]


def _stage(config: TargetConfig) -> str:
    return f"{_kind(config).replace('_', ' ')} {config.identity}"


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


async def _finish(server: Export) -> None:
    """Send what changed since the last snapshot; keep it if the server is away."""
    await server.take()
    await server.send_all()
