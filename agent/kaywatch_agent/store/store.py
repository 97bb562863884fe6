"""Reads the file at the start, and writes each commit in one transaction.

Strategy: a commit writes only what changed, as a few blobs in the `journal`, whatever
the number of series. Every ten seconds the same transaction also moves the journal of
closed buckets into `buckets`, and rewrites the totals. Both use `merge`, so what is
read back equals what was in memory, except for the last bits of the sums of buckets.

All methods must be called by one thread at a time.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.json import encode as encode_json

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge, sum_in_order
from kaywatch_agent.aggregate.change import (
    AggregateChanges,
    StoredState,
    WriteBatch,
)
from kaywatch_agent.aggregate.codec import decode, encode
from kaywatch_agent.errors import StoreError
from kaywatch_agent.model.records import FailureRecord, TopologyRecord
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.store import tiers
from kaywatch_agent.store.bulk import execute_rows
from kaywatch_agent.store.database import Database
from kaywatch_agent.store.schema import FileDamaged, diagnosed, transaction
from kaywatch_agent.units import size

__all__ = ["CommitReport", "Store", "read_failures", "read_journal", "read_names"]

BUCKET_SECONDS: Final = tiers.FINEST
LATE: Final = -1  # journal key of events that are too late for a bucket
FAILURES_KEPT: Final = 1_000

_failure: Final = msgspec.json.Decoder(FailureRecord)
_topology: Final = msgspec.json.Decoder(TopologyRecord)


# The write-ahead log is longer than its limit for a moment after a large transaction.
# If it stays long for this many commits, a reader prevents SQLite from resetting it.
PINNED_COMMITS: Final = 10


class CommitReport(NamedTuple):
    """The result of a commit.

    Attributes:
        bytes: how much of the file is in use, and the size of the write-ahead log.
        expired: hours of buckets deleted because the file was too large.
    """

    bytes: int
    expired: int


class Store:
    """One file, locked for as long as the agent runs.

    Attributes:
        path: the file.
        database: its connection.
        retention: how long buckets are kept.
        problem: why the write-ahead log grows; empty if it does not.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: str = "FULL",
        retention: tiers.Retention | None = None,
    ) -> None:
        """Lock the file; read nothing yet.

        Raises:
            StoreError: the file cannot be used, or another agent uses it.
        """
        # As SQLite does: the log is beside the file itself, not beside a link to it.
        self.path = path = path.resolve()
        self.retention = retention or tiers.Retention()
        self.problem = ""
        self.database = Database(path, synchronous, self.retention.log_bytes)
        self._rows = 0
        self._sizes: dict[str, int] = {}
        self._tick = 0
        self._moved = 0  # up to this bucket, the journal was moved to `buckets`
        self._used = 0  # bytes, after the last commit
        self._pinned = 0  # commits since the log was short

    # -- at the start ----------------------------------------------------------------

    def restore(self) -> StoredState:
        """Open the file and return its content; move a damaged one aside.

        Raises:
            StoreError: the file cannot be read, or is not a store of this version.
        """
        try:
            self.database.open()
            with diagnosed(self.path):
                return self._read()
        except FileDamaged as damage:
            self.start_over(str(damage))
            return self._read()
        except (ValueError, KeyError) as error:
            raise StoreError(
                f"store.path: cannot use {self.path}: {error}; the file was left"
                " unchanged: restore a backup, or move it away to start with an empty"
                " store"
            ) from None

    def start_over(self, damage: str) -> None:
        """Move the damaged file aside, and create an empty one.

        Raises:
            StoreError: that is not possible now.
        """
        self._rows = self._tick = self._moved = 0
        self._sizes = {}
        self.database.start_over(damage)

    def close(self) -> None:
        """Close and unlock the file. Idempotent."""
        self.database.close()

    # -- at each tick ----------------------------------------------------------------

    def commit(self, batch: WriteBatch) -> CommitReport:
        """Make all changes durable, or none.

        Raises:
            StoreError: no change is durable; the commit may be retried.
            FileDamaged: the file is damaged; call `start_over`.
        """
        self._check_log()
        try:
            with diagnosed(self.path):
                return self._commit(batch)
        except StoreError:
            # A commit that a full disk interrupts has written a part of the log.
            self.database.files.remember()
            raise

    # -- inside ----------------------------------------------------------------------

    def _check_log(self) -> None:
        """Report a reader that lets the log grow; beyond all limits, refuse to."""
        files, retention = self.database.files, self.retention
        length = files.log_bytes()
        self._pinned = self._pinned + 1 if length > retention.log_bytes else 0
        self.problem = ""
        if self._used > retention.max_bytes:
            self.problem = (
                f"{self.path} has {size(self._used)} without old buckets to delete:"
                " raise store.max_size, or lower limits.series"
            )
        if self._pinned < PINNED_COMMITS:
            return
        pids = ", ".join(files.readers()) or "unknown"
        self.problem = (
            f"the write-ahead log of {self.path} has {size(length)}: another program"
            f" (pid {pids}) reads the store and does not end; stop it"
        )
        if self._used + length > retention.max_bytes and not self._truncate_log():
            raise StoreError(self.problem)

    def _truncate_log(self) -> bool:
        """Write the log into the file; return whether no reader prevented that."""
        with diagnosed(self.path):
            (busy, *_) = self.database.connection.execute(
                "PRAGMA wal_checkpoint(TRUNCATE)"
            ).fetchone()
        self.database.remember()
        return not busy

    def _commit(self, batch: WriteBatch) -> CommitReport:
        change = batch.aggregate
        db, tick = self.database.connection, self._tick + 1
        current = int(change.now // BUCKET_SECONDS)
        expired = 0
        with transaction(db):
            self._write_names(db, change)
            for n, bucket in _entries(change):
                db.execute(
                    "INSERT INTO journal VALUES (?, ?, ?)", (tick, n, encode(bucket))
                )
            self._write_lists(db, batch)
            _set(db, now=change.now, since=change.since, counters=batch.counters)
            if current != self._moved:
                expired = self._move_journal(db, current, tick, change)
        # Only after the commit: a transaction may be rolled back.
        self._tick, self._moved = tick, current
        self._rows, self._sizes = change.rows, dict(change.sizes)
        self.database.remember()
        self._used = tiers.used_bytes(db)
        return CommitReport(self._used + self.database.files.log_bytes(), expired)

    def _write_names(self, db: sqlite3.Connection, change: AggregateChanges) -> None:
        keys = change.keys[self._rows : change.rows]
        series = (
            (row, int(k.kind), *k[1:5], json.dumps(k.labels))
            for row, k in enumerate(keys, self._rows)
        )
        execute_rows(db, "INSERT INTO series VALUES {rows}", series)
        for kind, values in change.names.items():
            first, last = self._sizes.get(kind, 0), change.sizes[kind]
            names = (
                (kind, number, json.dumps(value))
                for number, value in enumerate(values[first:last], first)
            )
            execute_rows(db, "INSERT INTO names VALUES {rows}", names)

    def _write_lists(self, db: sqlite3.Connection, batch: WriteBatch) -> None:
        change, documents = batch.aggregate, batch.documents
        # In this order: a client that was dropped may have returned since.
        forgotten = ((client,) for client in batch.clients.forgotten)
        execute_rows(db, "DELETE FROM clients WHERE id IN (VALUES {rows})", forgotten)
        clients = batch.clients.stored.items()
        execute_rows(db, "INSERT OR REPLACE INTO clients VALUES {rows}", clients)
        failures = [(encode_json(failure),) for failure in change.failures]
        if failures:
            execute_rows(db, "INSERT INTO failures (data) VALUES {rows}", failures)
            db.execute(
                "DELETE FROM failures"
                " WHERE number <= (SELECT max(number) FROM failures) - ?",
                (FAILURES_KEPT,),
            )
        graphs = ((t.service, t.graph, encode_json(t)) for t in change.topologies)
        execute_rows(db, "INSERT OR REPLACE INTO topologies VALUES {rows}", graphs)
        written = [(*at, data) for at, data in documents.items() if data is not None]
        execute_rows(db, "INSERT OR REPLACE INTO documents VALUES {rows}", written)
        deleted = [at for at, data in documents.items() if data is None]
        execute_rows(
            db, "DELETE FROM documents WHERE (kind, id) IN (VALUES {rows})", deleted
        )

    def _move_journal(
        self, db: sqlite3.Connection, current: int, tick: int, change: AggregateChanges
    ) -> int:
        """Move the journal of closed buckets to `buckets`, and write the totals."""
        closed = current - 1  # the previous bucket is still open, as in History
        for n, parts in read_journal(db, "step >= 0 AND step < ?", closed):
            tiers.add(db, BUCKET_SECONDS, n * BUCKET_SECONDS, merge(parts))
        db.execute("DELETE FROM journal WHERE step < ?", (closed,))
        db.execute(
            "INSERT OR REPLACE INTO totals VALUES (0, ?, ?)",
            (tick, encode(change.totals)),
        )
        tiers.roll_up(db, change.now)
        return tiers.expire(db, change.now, self.retention)

    def _read(self) -> StoredState:
        db = self.database.connection
        keys, names = read_names(db)
        totals_tick, totals = _totals(db)
        newer = _newer_entries(db, totals_tick)
        buckets = {
            n: merge(
                chain([tiers.bucket(db, BUCKET_SECONDS, n * BUCKET_SECONDS)], parts)
            )
            for n, parts in read_journal(db, "step >= ?", 0)
        }
        meta = dict(db.execute("SELECT key, value FROM meta"))
        (tick,) = db.execute("SELECT max(tick) FROM journal").fetchone()
        self._tick = max(tick or 0, totals_tick)
        self._rows = len(keys)
        self._sizes = {kind: len(values) for kind, values in names.items()}
        return StoredState(
            now=meta.get("now"),
            since=meta.get("since", 0.0),
            keys=keys,
            names=names,
            totals=_add(totals, newer),
            buckets=buckets,
            stored=[n for n in tiers.list_buckets(db) if n not in buckets],
            failures=read_failures(db),
            topologies=_topologies(db),
            clients=_clients(db),
            counters=_bytes(meta.get("counters", b"{}")),
            documents=_documents(db),
        )


def _entries(change: AggregateChanges) -> Iterator[tuple[int, Bucket]]:
    """Yield the steps that go into the journal, one at a time."""
    yield from change.buckets.items()
    if len(change.late.rows):
        yield LATE, change.late


def read_names(db: sqlite3.Connection) -> tuple[list[SeriesKey], dict[str, list[Any]]]:
    """Return the series by row, and the other names by kind and number."""
    keys = [_key(row) for row in db.execute("SELECT * FROM series ORDER BY row")]
    names: dict[str, list[Any]] = defaultdict(list)
    for kind, value in db.execute(
        "SELECT facet, value FROM names ORDER BY facet, number"
    ):
        names[kind].append(_freeze(json.loads(value)))
    return keys, dict(names)


def read_failures(db: sqlite3.Connection) -> list[FailureRecord]:
    """Return the latest failures, oldest first."""
    rows = db.execute("SELECT data FROM failures ORDER BY number")
    return [_failure.decode(data) for (data,) in rows]


def read_journal(
    db: sqlite3.Connection, where: str, bound: int
) -> Iterator[tuple[int, Iterator[Bucket]]]:
    """Yield the number of each bucket with entries that match, and the entries.

    One entry is decoded at a time: those of ten seconds may take hundreds of MB.
    """
    places = db.execute(
        f"SELECT step, tick FROM journal WHERE {where} ORDER BY step, tick",  # noqa: S608
        (bound,),
    ).fetchall()
    for n, entries in groupby(places, itemgetter(0)):
        yield n, map(partial(_read_entry, db), entries)


def _read_entry(db: sqlite3.Connection, place: tuple[int, int]) -> Bucket:
    (data,) = db.execute(
        "SELECT data FROM journal WHERE step = ? AND tick = ?", place
    ).fetchone()
    return decode(data)


def _totals(db: sqlite3.Connection) -> tuple[int, Bucket]:
    row = db.execute("SELECT tick, data FROM totals").fetchone()
    return (0, EMPTY) if row is None else (row[0], decode(row[1]))


def _newer_entries(db: sqlite3.Connection, tick: int) -> list[Bucket]:
    """Return the journal's entries after a tick, in the order of the aggregator."""
    rows = db.execute(
        "SELECT data FROM journal WHERE tick > ? ORDER BY tick, step", (tick,)
    )
    return [decode(data) for (data,) in rows]


def _add(totals: Bucket, newer: list[Bucket]) -> Bucket:
    """Return totals as the aggregator had them, to the last bit."""
    merged = merge([totals, *newer])
    return merged._replace(total=sum_in_order(merged.rows, [totals, *newer]))


def _topologies(db: sqlite3.Connection) -> list[TopologyRecord]:
    rows = db.execute("SELECT data FROM topologies")
    return [_topology.decode(data) for (data,) in rows]


def _clients(db: sqlite3.Connection) -> dict[str, bytes]:
    rows = db.execute("SELECT * FROM clients")
    return {name: _bytes(data) for name, data in rows}


def _documents(db: sqlite3.Connection) -> dict[tuple[str, str], bytes]:
    rows = db.execute("SELECT * FROM documents")
    return {(kind, name): _bytes(data) for kind, name, data in rows}


def _set(db: sqlite3.Connection, **values: object) -> None:
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def _key(row: tuple[Any, ...]) -> SeriesKey:
    _, kind, service, graph, node, metric, labels = row
    pairs = tuple((name, value) for name, value in json.loads(labels))
    return SeriesKey(Kind(kind), service, graph, node, metric, pairs)


def _freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value
