"""Runs the store in a thread of its own, and handles its errors.

A full or slow disk, or a locked file, is reported on `/health`, and the next commit
tries again; until then, the agent works in memory and acknowledges nothing. A damaged
file is moved aside, and a new one is written from memory; see `store.database`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog

from kaywatch_agent.aggregate.change import StoredState, WriteBatch
from kaywatch_agent.errors import StoreError
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics
from kaywatch_agent.settings.reader import Size
from kaywatch_agent.store.archive import Archive
from kaywatch_agent.store.database import QUICK_BYTES
from kaywatch_agent.store.schema import (
    FileDamaged,
    check_integrity,
    diagnosed,
    read_only,
)
from kaywatch_agent.store.store import CommitReport, Store
from kaywatch_agent.store.tiers import Retention
from kaywatch_agent.units import parse_size

__all__ = ["IN_MEMORY", "StoreDamaged", "StoreConfig", "StoreWriter"]

IN_MEMORY: Final = ":memory:"
FILE: Final = "kaywatch.db"
LEAST_BYTES: Final = 16_000_000

# A commit that takes longer is reported on `/health`.
SLOW_SECONDS: Final = 2.0

log = structlog.get_logger("kaywatch.agent")


@dataclass(frozen=True)
class StoreConfig:
    """The file that makes everything durable (`[store]`).

    Attributes:
        path: the file; by default `kaywatch.db` in `/var/lib/kaywatch` for a service
            and root, and in `$XDG_STATE_HOME/kaywatch` for other users. `:memory:`
            keeps nothing.
        synchronous: `full` survives a power failure; with `normal`, a power failure may
            cost the last few ticks. See SQLite's `PRAGMA synchronous`.
        max_size: the largest size of the file and its write-ahead log; beyond it, the
            oldest buckets are deleted.
        minute_buckets_hours: for how many hours one-minute buckets are kept.
        hour_buckets_days: for how many days one-hour buckets are kept.
    """

    path: str = ""
    synchronous: Literal["full", "normal"] = "full"
    max_size: Size = "2GB"
    minute_buckets_hours: int = 24
    hour_buckets_days: int = 30

    def __post_init__(self) -> None:
        if self.max_bytes < LEAST_BYTES:
            raise ValueError(f'max_size = "{self.max_size}": expected at least "16MB"')
        for key in ("minute_buckets_hours", "hour_buckets_days"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} = {getattr(self, key)}: expected at least 1")

    @property
    def max_bytes(self) -> int:
        """The size limit in bytes."""
        return parse_size(self.max_size)

    @property
    def retention(self) -> Retention:
        """How long each kind of bucket is kept."""
        minutes = self.minute_buckets_hours * 3600
        hours = self.hour_buckets_days * 86_400
        return Retention(minutes, hours, self.max_bytes)

    @property
    def file(self) -> Path | None:
        """The file's path; None if nothing is stored."""
        if self.path == IN_MEMORY:
            return None
        return Path(self.path) if self.path else default_folder() / FILE


def default_folder() -> Path:
    """Return the folder for the state of a service or user."""
    service = os.environ.get("STATE_DIRECTORY")  # systemd.exec(5)
    if service:
        return Path(service.split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/kaywatch")
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local/state") / "kaywatch"


class StoreMetrics(Metrics):
    """The metrics of the store."""

    commits = Counter("kaywatch_commits_total", "Transactions of the store.")
    failures = Counter(
        "kaywatch_commit_failures_total",
        "Commits that failed; their changes are in later ones.",
    )
    seconds = Counter(
        "kaywatch_commit_duration_seconds_total", "Time spent in commits."
    )
    bytes = Gauge(
        "kaywatch_store_bytes", "Bytes in use in the store's file and its log."
    )
    expired = Counter(
        "kaywatch_store_expired_total",
        "Hours of buckets deleted because the store was too large.",
    )
    restarts = Counter(
        "kaywatch_restarts_total", "Starts that continued from a store.", durable=True
    )
    down_seconds = Counter(
        "kaywatch_down_seconds_total",
        "Time between the last commit and the next start.",
        durable=True,
    )


class StoreWriter:
    """The store of a running agent.

    Attributes:
        archive: reads buckets that are no longer in memory.
    """

    def __init__(self, path: Path, config: StoreConfig) -> None:
        """Lock the file.

        Raises:
            StoreError: the file cannot be used, or another agent uses it.
        """
        self._store = Store(
            path, synchronous=config.synchronous, retention=config.retention
        )
        self.archive = Archive(self._store.path, config.retention.hours)
        self.metrics = StoreMetrics()
        self._thread = ThreadPoolExecutor(1, "store")
        self._problem = ""
        self._since = 0.0  # start of the commit in progress; 0.0 for none
        self._damaged = ""  # what `check` found
        self._checking: sqlite3.Connection | None = None
        self._closed = False

    def restore(self) -> StoredState:
        """Open the file, and return its content.

        Raises:
            StoreError: the file cannot be opened, or a newer agent wrote it.
        """
        return self._store.restore()

    @property
    def path(self) -> Path:
        """The file."""
        return self._store.path

    @property
    def problem(self) -> str:
        """The current problem, for `/health`; empty for none."""
        waited = time.monotonic() - self._since if self._since else 0.0
        if waited > SLOW_SECONDS:
            return f"a commit has been in progress for {waited:.0f} s: the disk is slow"
        incident = self._store.database.incident
        problems = (
            "" if self._problem == incident else self._problem,
            self._store.problem,
            incident and f"{incident} (shown until the agent restarts)",
        )
        return "; ".join(filter(None, problems))

    async def commit(self, batch: WriteBatch) -> None:
        """Make changes durable.

        Raises:
            StoreError: they are not durable.
            StoreDamaged: neither are earlier commits any more.
        """
        loop = asyncio.get_running_loop()
        self._since = started = time.monotonic()
        try:
            report = await loop.run_in_executor(self._thread, self._commit, batch)
        except StoreError as error:
            self._fail(str(error))
            raise
        finally:
            self._since = 0.0
        self._succeed(report, time.monotonic() - started)

    def keep(self, retention: Retention) -> None:
        """Use another retention, from the next commit on."""
        self._store.retention = retention
        self.archive.kept_seconds = retention.hours

    async def check(self) -> None:
        """Check a file for damage that was too large to be checked at the start.

        The next commit moves a damaged file aside.
        """
        if not self._store.database.incident and not self._closed:
            await asyncio.to_thread(self._check)

    def close(self) -> None:
        """Close the file, after the commit in progress."""
        self._closed = True
        if self._checking is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it has just ended
                self._checking.interrupt()
        self._thread.shutdown()
        self.archive.close()
        self._store.close()

    # -- inside ----------------------------------------------------------------------

    def _commit(self, batch: WriteBatch) -> CommitReport:
        store, damage = self._store, self._damaged
        if not damage:
            try:
                if store.database.follow():
                    self.archive.close()
                return store.commit(batch)
            except FileDamaged as error:
                damage = str(error)
        self.archive.close()
        store.start_over(damage)
        self._damaged = ""
        raise StoreDamaged(store.database.incident)

    def _check(self) -> None:
        path = self._store.path
        if path.stat().st_size <= QUICK_BYTES:
            return
        started = time.perf_counter()
        try:
            with diagnosed(path):
                self._checking = connection = read_only(path)
                with contextlib.closing(connection):
                    check_integrity(connection)
        except FileDamaged as error:
            self._damaged = str(error)
        except StoreError as error:
            if not self._closed:
                self._store.database.report(f"the store could not be checked: {error}")
        else:
            took = round(time.perf_counter() - started, 3)
            log.info("store checked", took_seconds=took)
        finally:
            self._checking = None

    def _fail(self, problem: str) -> None:
        self.metrics.failures.add()
        if problem != self._problem:
            log.error("nothing is acknowledged until the store works", problem=problem)
        self._problem = problem

    def _succeed(self, report: CommitReport, seconds: float) -> None:
        if self._problem:
            log.info("the store works again")
        self._problem = ""
        if report.expired:
            log.warning("store full, deleted the oldest hours", hours=report.expired)
        self.metrics.commits.add()
        self.metrics.seconds.add(seconds)
        self.metrics.expired.add(report.expired)
        self.metrics.bytes.set(report.bytes)


class StoreDamaged(StoreError):
    """The file was damaged and moved aside; the next commit must be complete."""
