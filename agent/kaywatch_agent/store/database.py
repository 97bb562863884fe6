"""The open database of an agent, and its repair when its files change.

Strategy: before each commit, the files are compared with those after the last commit.
If the database was deleted, moved or replaced, it is still open, and is copied to the
path. If it was overwritten, or SQLite finds it corrupt, it is moved aside, and the next
commit writes everything that is in memory. Either is reported until the agent restarts,
and nothing is acknowledged in between.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from kaywatch_agent.errors import StoreError
from kaywatch_agent.store.files import (
    ENDINGS,
    FileChange,
    LogIndex,
    StoreFiles,
    set_aside,
    sync_folder,
)
from kaywatch_agent.store.schema import (
    FileDamaged,
    check_header,
    check_integrity,
    connect,
    diagnosed,
    read_only,
)

__all__ = ["QUICK_BYTES", "Database"]

# Checking a file of this size takes about 50 ms. A larger one is checked after the
# start, while the agent works.
QUICK_BYTES: Final = 16 * 1024 * 1024

log = structlog.get_logger("kaywatch.agent")


class Database:
    """A locked file and its connection.

    Attributes:
        path: the file.
        incident: what happened to the file, for `/health`; empty for nothing.
        files: the file and its log, on the disk.
    """

    def __init__(self, path: Path, synchronous: str, wal_bytes: int) -> None:
        """Lock the file.

        Raises:
            StoreError: the file cannot be used, or another agent uses it.
        """
        self.path = path
        self.incident = ""
        self.files = StoreFiles(path)
        self.files.open()
        self._synchronous = synchronous
        self._wal_bytes = wal_bytes
        self._connection: sqlite3.Connection | None = None
        self._version = 0  # another one after a commit of another program
        # A damaged file was moved aside, and the new one could not be created so far.
        self._is_moved = False

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection.

        Raises:
            StoreError: the file is not open.
        """
        if self._connection is None:
            raise StoreError(f"{self.path} is not open")
        return self._connection

    def open(self) -> None:
        """Open the file at the start, and check it unless it is large.

        Raises:
            FileDamaged: the file is damaged.
            StoreError: it cannot be opened, or is not a store of this version.
        """
        page = self.files.read_page()
        check_header(self.path, page)
        if not page:
            self._begin()
        whole, index = self.files.has_whole_log(), self.files.log_index()
        with diagnosed(self.path):
            was_open, is_shorter = self._connect(index)
            if was_open and (is_shorter or not whole):
                self.report(
                    f"{self.path} was in use when its agent was killed or when it was"
                    " copied, and its -wal file is missing or damaged: what was"
                    " acknowledged last may be missing"
                )
            if self.path.stat().st_size <= QUICK_BYTES:
                check_integrity(self.connection)

    def follow(self) -> bool:
        """Repair the changes of the files since the last commit.

        Returns:
            Whether other connections must be opened again.

        Raises:
            FileDamaged: the content is lost; call `start_over`.
            StoreError: it cannot be repaired now.
        """
        if self._connection is None:
            raise FileDamaged("it could not be opened")
        change = self.files.change()
        if change is FileChange.NONE:
            return False
        if change is FileChange.TOUCHED:
            self._check()
        elif change is FileChange.OVERWRITTEN:
            raise FileDamaged(change.value)
        else:
            self._copy(change)
        return change is not FileChange.TOUCHED

    def start_over(self, damage: str) -> None:
        """Move the damaged file aside, and create an empty one.

        Raises:
            StoreError: that is not possible now.
        """
        with _moving(self.path):
            if not self._is_moved:
                # First: SQLite writes the log into a file that it closes at its path.
                aside = set_aside(self.path, "damaged")
                self._is_moved = True
                self.report(
                    f"{self.path} was damaged ({damage}) and moved to {aside}; a new"
                    " file was started with what is in memory"
                )
            self._release()
            self.files.open()
            with diagnosed(self.path):
                self._connect()
            self._is_moved = False

    def remember(self) -> None:
        """Remember the files after a commit."""
        self.files.remember()
        self._version = self._data_version()

    def report(self, incident: str) -> None:
        """Log an incident, and keep it for `/health`."""
        if incident != self.incident:
            log.error("the store's file has changed", problem=incident)
        self.incident = incident

    def close(self) -> None:
        """Close and unlock the file. Idempotent."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                _set_open(self._connection, value=False)
        self._release()

    # -- inside ----------------------------------------------------------------------

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self.files.close()

    def _connect(self, before: LogIndex | None = None) -> tuple[bool, bool]:
        """Connect to the file.

        Args:
            before: the index of the log that its last user left.

        Returns:
            Whether the last user did not close the file, and whether its log is shorter
            than that user left it.
        """
        db = connect(self.path, self._synchronous, self._wal_bytes)
        self._connection = db
        was_open = db.execute("SELECT 1 FROM meta WHERE (key, value) = ('open', 1)")
        is_open = was_open.fetchone() is not None
        # By then, SQLite has read the log.
        index = self.files.log_index()
        is_shorter = index is not None and index.misses(before)
        _set_open(db, value=True)
        # Into the file, which must not depend on the log in this. From then on, the log
        # is never empty.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        _set_open(db, value=True)
        self.files.remember(opened=True)
        self._version = self._data_version()
        return is_open, is_shorter

    def _begin(self) -> None:
        """Report that the store is new, and that its file is not, if so."""
        log.info("a new store begins", store=str(self.path))
        if self.files.log_bytes():
            raise FileDamaged("it is empty, but its log is not")
        if self.files.existed:
            self.report(f"{self.path} was empty at the start: a new store begins")

    def _data_version(self) -> int:
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def _check(self) -> None:
        """Check files of which only the time has changed."""
        with diagnosed(self.path), contextlib.closing(read_only(self.path)) as other:
            if self._data_version() != self._version:
                raise FileDamaged(FileChange.OVERWRITTEN.value)
            check_integrity(other)
            # A gap in the log would only be noticed at the next start.
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self.remember()

    def _copy(self, change: FileChange) -> None:
        """Write everything in the open file to a new one at the path."""
        copy = self.path.with_name(f"{self.path.name}.new")
        self.report(
            f"{self.path} {change.value} while the agent ran: the agent writes"
            " everything in it to a new file"
        )
        with _moving(self.path), diagnosed(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            if change is FileChange.REPLACED:
                other = StoreFiles(self.path)
                other.open()  # fails if it is the file of another agent
                other.close()
            copy.unlink(missing_ok=True)
            self.connection.execute("VACUUM INTO ?", (str(copy),))
            _sync(copy)
            set_aside(self.path, "replaced", list(self.files.foreign()))
            # SQLite would apply the log of the old file to the new one.
            for ending in ENDINGS[1:]:
                Path(f"{self.path}{ending}").unlink(missing_ok=True)
            os.rename(copy, self.path)
            sync_folder(self.path)
            self._release()
            self.files.open()
            self._connect()


@contextlib.contextmanager
def _moving(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error}") from None


def _set_open(db: sqlite3.Connection, *, value: bool) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES ('open', ?)", (value,))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
