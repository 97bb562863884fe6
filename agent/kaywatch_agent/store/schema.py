"""The schema of the store's file, its migrations, and how the file is opened.

The version is SQLite's `user_version`. `meta.readable_from` is the oldest version that
can use the file. A migration that only adds leaves it unchanged, so that one can return
to the previous version. Migrations run in one transaction.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from kaywatch_agent.errors import StoreError

__all__ = [
    "APPLICATION_ID",
    "PAGE_BYTES",
    "FileDamaged",
    "VERSION",
    "WAL_BYTES",
    "check_header",
    "check_integrity",
    "connect",
    "diagnosed",
    "read_only",
    "transaction",
]

APPLICATION_ID: Final = 0x4B415957  # "KAYW"
VERSION: Final = 5

# How long to wait for a lock, such as that of a sqlite3 shell; the next commit retries.
BUSY_SECONDS: Final = 1.0

# After a checkpoint, the write-ahead log is truncated to a share of `store.max_size`,
# but to no more than this.
WAL_BYTES: Final = 64 * 1024 * 1024

PAGE_BYTES: Final = 4096  # SQLite's default
CHECKPOINT_PAGES: Final = 1000  # in the log, until it is written into the file

_MAGIC: Final = b"SQLite format 3\0"

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
    (
        # New buckets have other columns; older ones are still read. A counter has a
        # label; what it counted before is under `total`.
        5,
        """
        UPDATE meta SET value = CAST(
            json_set(
                CAST(value AS TEXT),
                '$.kaywatch_overflow_series_total[0][0]',
                json('["total"]')
            ) AS BLOB
        ) WHERE key = 'counters' AND CASE WHEN json_valid(CAST(value AS TEXT))
            THEN json_type(
                CAST(value AS TEXT), '$.kaywatch_overflow_series_total[0]'
            ) END = 'array'
        """,
    ),
)


class FileDamaged(Exception):
    """The file's content differs from the committed content."""


@contextlib.contextmanager
def diagnosed(path: Path) -> Iterator[None]:
    """Translate SQLite's errors; only what SQLite calls corrupt counts as damage.

    Raises:
        FileDamaged: the file is damaged.
        StoreError: it cannot be used, or not now.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without details
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise FileDamaged(str(error)) from None
        raise StoreError(f"{path}: {error}") from None


def is_store_page(page: bytes) -> bool:
    """Return whether the first bytes of a file are those of a store."""
    return page.startswith(_MAGIC) and page[68:72] == APPLICATION_ID.to_bytes(4)


def check_header(path: Path, page: bytes) -> None:
    """Check by its first page that a file is a store, or empty.

    SQLite must not open another program's file: it would write a log into it that lies
    beside it.

    Raises:
        FileDamaged: it was a store.
        StoreError: it is a file of another kind.
    """
    kind = "not a database"
    if is_store_page(page):
        return
    if page.startswith(_MAGIC):
        kind = "a database of another program"
    elif not page:
        return
    elif not page.strip(b"\0"):
        raise FileDamaged("its first page is zero")
    elif b"CREATE TABLE journal" in page:  # only the first bytes are overwritten
        raise FileDamaged("file is not a database")
    raise StoreError(
        f"store.path: {path} is {kind} and was left unchanged;"
        " choose another path with --store, or move the file away"
    )


def connect(path: Path, synchronous: str, wal_bytes: int) -> sqlite3.Connection:
    """Open the file for writing; create or migrate it if necessary.

    Raises:
        StoreError: the file is another program's, or was written by a newer agent.
        sqlite3.Error: the file is damaged, or cannot be opened.
    """
    connection = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # one thread at a time: restore, then the writer
    )
    try:
        _prepare(connection, path)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {wal_bytes}")
        pages = min(CHECKPOINT_PAGES, wal_bytes // 2 // PAGE_BYTES)
        connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
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


def check_integrity(connection: sqlite3.Connection) -> None:
    """Check a whole file for damage.

    Raises:
        FileDamaged: it is damaged.
        sqlite3.Error: it is damaged, or cannot be read.
    """
    (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise FileDamaged(result)


# -- inside --------------------------------------------------------------------------


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version > VERSION:
        _refuse_newer(connection, path, version)
    if not tables:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # Before the log exists, so that the header always says whose the file is.
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA journal_mode = WAL")
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
