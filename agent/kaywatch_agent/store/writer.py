"""Gives the store a thread of its own, and lives with what goes wrong there.

A disk that is full or slow, or a file that somebody locks, is said on `/health` and
tried again with the next change; meanwhile the agent works on in memory and
acknowledges nothing. A damaged file is set aside, and a new one begun from memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket
from kaywatch_agent.aggregate.change import StoredState, WriteBatch
from kaywatch_agent.errors import StoreError
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics
from kaywatch_agent.settings.reader import Size
from kaywatch_agent.store.archive import Archive
from kaywatch_agent.store.schema import read_only
from kaywatch_agent.store.store import QUICK_BYTES, CommitReport, Store, check_integrity
from kaywatch_agent.store.tiers import Retention
from kaywatch_agent.units import parse_size

__all__ = ["IN_MEMORY", "StoreDamaged", "StoreConfig", "StoreWriter"]

IN_MEMORY: Final = ":memory:"
FILE: Final = "kaywatch.db"
LEAST_BYTES: Final = 16_000_000

# A commit that takes longer than this is worth a word.
SLOW_SECONDS: Final = 2.0

log = structlog.get_logger("kaywatch.agent")


@dataclass(frozen=True)
class StoreConfig:
    """The file that makes everything durable (`[store]`).

    Attributes:
        path: the file; by default `kaywatch.db` in `/var/lib/kaywatch` for a service
            and root, and in `$XDG_STATE_HOME/kaywatch` for other users. `:memory:`
            keeps nothing.
        synchronous: `full` survives a power cut; with `normal` one may cost the last
            ticks; see SQLite's `PRAGMA synchronous`.
        max_size: how large the file may become; then the oldest buckets go.
        minute_buckets_hours: for how many hours buckets of a minute are kept.
        hour_buckets_days: for how many days buckets of an hour are kept.
    """

    path: str = ""
    synchronous: Literal["full", "normal"] = "full"
    max_size: Size = "2GB"
    minute_buckets_hours: int = 24
    hour_buckets_days: int = 30

    def __post_init__(self) -> None:
        if self.max_bytes < LEAST_BYTES:
            raise ValueError(f'max_size = "{self.max_size}": at least "16MB"')
        for key in ("minute_buckets_hours", "hour_buckets_days"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} = {getattr(self, key)}: at least 1")

    @property
    def max_bytes(self) -> int:
        """The size limit in bytes."""
        return parse_size(self.max_size)

    @property
    def retention(self) -> Retention:
        """How long what is kept."""
        minutes = self.minute_buckets_hours * 3600
        hours = self.hour_buckets_days * 86_400
        return Retention(minutes, hours, self.max_bytes)

    @property
    def file(self) -> Path | None:
        """The file's path, the default one when none is set; None for memory."""
        if self.path == IN_MEMORY:
            return None
        return Path(self.path) if self.path else default_folder() / FILE


def default_folder() -> Path:
    """Return where state belongs: a service's, or this user's."""
    service = os.environ.get("STATE_DIRECTORY")  # systemd.exec(5)
    if service:
        return Path(service.split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/kaywatch")
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local/state") / "kaywatch"


class StoreMetrics(Metrics):
    """What is counted of the store."""

    commits = Counter("kaywatch_commits_total", "Transactions of the store.")
    failures = Counter(
        "kaywatch_commit_failures_total",
        "Commits that failed; their changes are in later ones.",
    )
    seconds = Counter(
        "kaywatch_commit_duration_seconds_total", "Time spent in commits."
    )
    bytes = Gauge("kaywatch_store_bytes", "Bytes in use in the store's file.")
    expired = Counter(
        "kaywatch_store_expired_total",
        "Hours of buckets that went since the store was too large.",
    )
    restarts = Counter(
        "kaywatch_restarts_total", "Starts that went on from a store.", durable=True
    )
    down_seconds = Counter(
        "kaywatch_down_seconds_total",
        "Time between a last commit and the start after it.",
        durable=True,
    )


class StoreWriter:
    """One store at work."""

    def __init__(self, path: Path, config: StoreConfig) -> None:
        """Take the file.

        Raises:
            StoreError: it can't be used, or another agent uses it.
        """
        self._retention = config.retention
        self._archive = Archive(path)
        self._store = Store(
            path, synchronous=config.synchronous, retention=config.retention
        )
        self.metrics = StoreMetrics()
        self._thread = ThreadPoolExecutor(1, "store")
        self._problem = ""
        self._since = 0.0  # when the commit under way began; 0.0 for none
        self._damaged = ""  # what the check beside the work found
        self._checking: sqlite3.Connection | None = None
        self._closed = False

    def restore(self) -> StoredState:
        """Open the file, and return what it knows.

        Raises:
            StoreError: it can't be opened, or it is a newer agent's.
        """
        found = self._store.restore()
        if self._store.aside is not None:
            log.error(
                "store damaged, begun anew",
                damage=self._store.damage,
                aside=str(self._store.aside),
            )
        return found

    # -- what is no longer in memory ---------------------------------------------------

    @property
    def kept_seconds(self) -> float:
        """How long buckets are kept."""
        return self._retention.hours

    def bucket(self, number: int) -> Bucket:
        """Return a step by its number, EMPTY if it isn't there or can't be read."""
        try:
            return self._archive.bucket(number)
        except StoreError as error:
            log.warning("a step can't be read", step=number, error=str(error))
            return EMPTY

    def read(
        self, start: float, end: float, resolution: float
    ) -> Iterator[tuple[int, Bucket]]:
        """Yield the buckets in [start, end) that can be read; see `Archive.read`."""
        try:
            yield from self._archive.read(start, end, resolution)
        except StoreError as error:
            log.warning("the past can't be read", error=str(error))

    # -- at work -----------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The file."""
        return self._store.path

    @property
    def problem(self) -> str:
        """What is wrong at the moment, for `/health`."""
        waited = time.monotonic() - self._since if self._since else 0.0
        if waited > SLOW_SECONDS:
            return f"a commit has been under way for {waited:.0f} s: the disk is slow"
        return self._problem

    async def commit(self, batch: WriteBatch) -> None:
        """Make changes durable.

        Raises:
            StoreError: they are not.
            StoreDamaged: nor is what was committed before any more.
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
        """Keep buckets for other times, from the next commit on."""
        self._retention = self._store.retention = retention

    async def check(self) -> str | None:
        """Look for damage in a file that is too large to be checked at the start.

        A damaged one is set aside by the next commit.

        Returns:
            What is damaged, empty for nothing; None if it was no file to look at, or
            if `close` came first.

        Raises:
            StoreError: it can't be read.
        """
        if self._store.aside is not None or self._closed:
            return None
        return await asyncio.to_thread(self._check)

    def close(self) -> None:
        """Let go of the file, after the commit that is under way."""
        self._closed = True
        if self._checking is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it has just ended
                self._checking.interrupt()
        self._thread.shutdown()
        self._archive.close()
        self._store.close()

    # -- inside ----------------------------------------------------------------------

    def _commit(self, batch: WriteBatch) -> CommitReport:
        damage = self._damaged
        if not damage:
            try:
                return self._store.commit(batch)
            except (sqlite3.DatabaseError, ValueError) as error:
                damage = str(error)
        self._damaged = ""
        self._archive.close()
        self._store.start_over()
        raise StoreDamaged(
            f"{self._store.path} is damaged ({damage}); it was set aside as"
            f" {self._store.aside}, and a new one begun"
        )

    def _check(self) -> str | None:
        path = self._store.path
        try:
            if path.stat().st_size <= QUICK_BYTES:
                return None
            self._checking = connection = read_only(path)
            with contextlib.closing(connection):
                check_integrity(connection)
        except (OSError, sqlite3.OperationalError) as error:
            if self._closed:
                return None
            raise StoreError(f"{path} can't be checked: {error}") from None
        except sqlite3.DatabaseError as error:
            self._damaged = str(error)
        finally:
            self._checking = None
        return self._damaged

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
            log.warning("the store is full: the oldest hours go", hours=report.expired)
        self.metrics.commits.add()
        self.metrics.seconds.add(seconds)
        self.metrics.expired.add(report.expired)
        self.metrics.bytes.set(report.bytes)


class StoreDamaged(StoreError):
    """The file is damaged and set aside; the next change has to be all there is."""
