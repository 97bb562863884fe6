"""The store's file: its schema and migrations, its lock, and how it is opened.

The version is SQLite's `user_version`. `meta.readable_from` is the oldest version that
can use the file. A migration that only adds leaves it unchanged, so that one can return
to the previous version. Migrations run in one transaction.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from kaywatch_agent.errors import StoreError

__all__ = [
    "APPLICATION_ID",
    "VERSION",
    "Lock",
    "connect",
    "read_only",
    "set_aside",
    "transaction",
]

APPLICATION_ID: Final = 0x4B415957  # "KAYW"
VERSION: Final = 4

# How long to wait for a lock, such as that of a sqlite3 shell; the next commit retries.
BUSY_SECONDS: Final = 1.0

# The write-ahead log is truncated to this size after a checkpoint.
WAL_BYTES: Final = 64 * 1024 * 1024

# For each version, the oldest version that can read it, and the migration to it.
MIGRATIONS: Final[Sequence[tuple[int, str]]] = (
    (
        1,
        """
        CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
        CREATE TABLE series (
            row INTEGER PRIMARY KEY, kind INTEGER NOT NULL, service TEXT NOT NULL,
            graph TEXT NOT NULL, node TEXT NOT NULL, metric TEXT NOT NULL,
            labels TEXT NOT NULL
        );
        CREATE TABLE names (
            facet TEXT, number INTEGER, value TEXT NOT NULL,
            PRIMARY KEY (facet, number)
        ) WITHOUT ROWID;
        CREATE TABLE journal (
            tick INTEGER, step INTEGER, data BLOB NOT NULL, PRIMARY KEY (tick, step)
        );
        CREATE TABLE buckets (
            tier INTEGER, start INTEGER, data BLOB NOT NULL, PRIMARY KEY (tier, start)
        );
        CREATE TABLE totals (
            id INTEGER PRIMARY KEY CHECK (id = 0), tick INTEGER NOT NULL,
            data BLOB NOT NULL
        );
        CREATE TABLE clients (id TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
        CREATE TABLE failures (number INTEGER PRIMARY KEY, data TEXT NOT NULL);
        CREATE TABLE topologies (
            service TEXT, graph TEXT, data TEXT NOT NULL, PRIMARY KEY (service, graph)
        ) WITHOUT ROWID;
        """,
    ),
    (
        2,  # version 1 does not know all kinds of series
        """
        CREATE TABLE documents (
            kind TEXT, id TEXT, data TEXT NOT NULL, PRIMARY KEY (kind, id)
        ) WITHOUT ROWID;
        """,
    ),
    (
        # Failures, topologies, alerts and messages have another format, and start
        # empty. Clients keep their sequence numbers: without these, a resent batch
        # would be counted twice.
        3,
        """
        DELETE FROM failures;
        DELETE FROM topologies;
        UPDATE clients SET data = json_remove(
            json_set(
                CAST(data AS TEXT),
                '$.client', json_extract(CAST(data AS TEXT), '$.id')
            ),
            '$.id', '$.tags', '$.in_flight', '$.loops'
        );
        DELETE FROM documents WHERE kind <> 'silence'
        """,
    ),
    (
        # A field of clients and two counters have new names, and the fingerprints of
        # rules are others: kept, they would end alerts as those of changed rules.
        # Version 3 can use the file: it ignores names that it does not know.
        3,
        """
        UPDATE clients SET data = CAST(
            json_set(
                json_remove(CAST(data AS TEXT), '$.folded'),
                '$.overflow',
                json_extract(CAST(data AS TEXT), '$.folded')
            ) AS BLOB
        ) WHERE CASE WHEN json_valid(CAST(data AS TEXT))
            THEN json_type(CAST(data AS TEXT), '$.folded') END = 'integer';
        UPDATE meta SET value = CAST(
            replace(
                replace(
                    CAST(value AS TEXT),
                    '"kaywatch_folded_series_total":',
                    '"kaywatch_overflow_series_total":'
                ),
                '"kaywatch_misplaced_events_total":',
                '"kaywatch_out_of_range_events_total":'
            ) AS BLOB
        ) WHERE key = 'counters';
        UPDATE documents SET data = CAST(
            json_set(CAST(data AS TEXT), '$.meaning', '') AS BLOB
        ) WHERE kind = 'alert' AND json_valid(CAST(data AS TEXT))
        """,
    ),
)


class Lock:
    """Allows one agent at a time; the kernel releases it with the process."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StoreError: another agent holds it, or the folder cannot be used.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o640)
        except OSError as error:
            raise StoreError(
                f"store.path: cannot use {path}: {error};"
                " choose another path with --store, or store nothing: --store :memory:"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 20, 0).decode() or "unknown"
            os.close(self._file)
            raise StoreError(
                f"store.path: another agent (pid {holder}) uses {path};"
                " stop it, or choose another path with --store"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    """Open the file for writing; create or migrate it if necessary.

    Raises:
        StoreError: the file cannot be opened, is another program's, or was written by a
            newer agent.
        sqlite3.DatabaseError: the file is damaged.
    """
    try:
        connection = sqlite3.connect(
            path,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,  # one thread at a time: restore, then the writer
        )
    except sqlite3.OperationalError as error:
        raise StoreError(f"store.path: cannot open {path}: {error}") from None
    try:
        _prepare(connection, path, synchronous)
    except BaseException:
        connection.close()
        raise
    return connection


def read_only(path: Path) -> sqlite3.Connection:
    """Open the file for reading, beside its writer."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # one thread each, except to close it
    )


def set_aside(path: Path) -> Path:
    """Rename a damaged file, and its log; return the new name."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for number in range(2, 100):
        if not aside.exists():
            break
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    for ending in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{aside}{ending}")
    return aside


# -- inside --------------------------------------------------------------------------


def _prepare(connection: sqlite3.Connection, path: Path, synchronous: str) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and tables:
        raise StoreError(
            f"store.path: {path} is a database of another program;"
            " choose another path with --store"
        )
    if version > VERSION:
        _refuse_newer(connection, path, version)
    if not tables:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    connection.execute("PRAGMA cell_size_check = ON")
    if version < VERSION:
        _migrate(connection, version)


def _refuse_newer(connection: sqlite3.Connection, path: Path, version: int) -> None:
    row = connection.execute(
        "SELECT value FROM meta WHERE key = 'readable_from'"
    ).fetchone()
    if row is None or row[0] > VERSION:
        raise StoreError(
            f"store.path: {path} was written by a newer kaywatch (schema {version},"
            f" this one knows {VERSION}) and was left unchanged: install the newer"
            " kaywatch, or choose another path with --store"
        )


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    with transaction(connection):
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for number, (readable_from, script) in enumerate(MIGRATIONS, 1):
            if number > version:
                for statement in script.split(";"):
                    connection.execute(statement)
                connection.execute(
                    "INSERT OR REPLACE INTO meta VALUES ('readable_from', ?)",
                    (readable_from,),
                )
        connection.execute(f"PRAGMA user_version = {VERSION}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit everything done within the block, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
