"""Reads the file at the start, and writes each commit in one transaction.

Strategy: a commit writes only what changed, as a few blobs in the `journal`, whatever
the number of series. Every ten seconds the same transaction also moves the journal of
closed buckets into `buckets`, and rewrites the totals. Both use `merge`, so what is
read back equals what was in memory, except for the last bits of sums of floats.

All methods must be called by one thread at a time.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.json import encode as encode_json

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge
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
from kaywatch_agent.store.schema import Lock, connect, set_aside, transaction

__all__ = ["CommitReport", "Store", "read_failures", "read_journal", "read_names"]

BUCKET_SECONDS: Final = tiers.FINEST
LATE: Final = -1  # journal key of events that are too late for a bucket
FAILURES_KEPT: Final = 1_000

# Checking a file of this size takes about 50 ms. A larger one is checked after the
# start, while the agent works.
QUICK_BYTES: Final = 16 * 1024 * 1024

_failure: Final = msgspec.json.Decoder(FailureRecord)
_topology: Final = msgspec.json.Decoder(TopologyRecord)


class CommitReport(NamedTuple):
    """What is known after a commit.

    Attributes:
        bytes: how much of the file is in use.
        expired: hours of buckets deleted because the file was too large.
    """

    bytes: int
    expired: int


class Store:
    """One file, locked for as long as the agent runs."""

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
        self.path = path
        self.aside: Path | None = None  # where a damaged file was moved
        self.damage = ""  # what was wrong with it
        self._synchronous = synchronous
        self.retention = retention or tiers.Retention()
        self._lock = Lock(path)
        self._connection: sqlite3.Connection | None = None
        self._rows = 0
        self._sizes: dict[str, int] = {}
        self._tick = 0
        self._moved = 0  # up to this bucket, the journal was moved to `buckets`

    # -- at the start ----------------------------------------------------------------

    def restore(self) -> StoredState:
        """Open the file and return its content; move a damaged one aside.

        Raises:
            StoreError: the file cannot be opened, or a newer agent wrote it.
        """
        try:
            self._connection = connect(self.path, self._synchronous)
            if self.path.stat().st_size <= QUICK_BYTES:
                self.check()
            return self._read()
        except (sqlite3.DatabaseError, ValueError, KeyError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(
                    f"store.path: cannot read {self.path}: {error}"
                ) from None
            self.damage = f"{type(error).__name__}: {error}"
            self.start_over()
            return self._read()

    def check(self) -> None:
        """Check the whole file for damage.

        Raises:
            sqlite3.DatabaseError: the file is damaged.
        """
        check_integrity(self._open)

    def start_over(self) -> None:
        """Move the damaged file aside, and create an empty one."""
        self._disconnect()
        self.aside = set_aside(self.path)
        self._connection = connect(self.path, self._synchronous)

    def close(self) -> None:
        """Close and unlock the file. Idempotent."""
        self._disconnect()
        self._lock.release()

    # -- at each tick ----------------------------------------------------------------

    def commit(self, batch: WriteBatch) -> CommitReport:
        """Make all changes durable, or none.

        Raises:
            StoreError: no change is durable; the commit may be retried.
            sqlite3.DatabaseError: the file is damaged.
        """
        try:
            return self._commit(batch)
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path}: {error}") from None

    # -- inside ----------------------------------------------------------------------

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self.path} is not open")
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._rows = self._tick = self._moved = 0
        self._sizes = {}

    def _commit(self, batch: WriteBatch) -> CommitReport:
        change = batch.aggregate
        db, tick = self._open, self._tick + 1
        current = int(change.now // BUCKET_SECONDS)
        expired = 0
        with transaction(db):
            self._write_names(db, change)
            db.executemany(
                "INSERT INTO journal VALUES (?, ?, ?)",
                ((tick, n, encode(bucket)) for n, bucket in _entries(change)),
            )
            self._write_lists(db, batch)
            _set(db, now=change.now, since=change.since, counters=batch.counters)
            if current != self._moved:
                expired = self._move_journal(db, current, tick, change)
        # Only after the commit: a transaction may be rolled back.
        self._tick, self._moved = tick, current
        self._rows, self._sizes = change.rows, dict(change.sizes)
        return CommitReport(tiers.used_bytes(db), expired)

    def _write_names(self, db: sqlite3.Connection, change: AggregateChanges) -> None:
        db.executemany(
            "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (row, int(k.kind), *k[1:5], json.dumps(k.labels))
                for row, k in enumerate(
                    change.keys[self._rows : change.rows], self._rows
                )
            ],
        )
        for kind, values in change.names.items():
            first, last = self._sizes.get(kind, 0), change.sizes[kind]
            db.executemany(
                "INSERT INTO names VALUES (?, ?, ?)",
                [
                    (kind, number, json.dumps(value))
                    for number, value in enumerate(values[first:last], first)
                ],
            )

    def _write_lists(self, db: sqlite3.Connection, batch: WriteBatch) -> None:
        change = batch.aggregate
        db.executemany(
            "INSERT OR REPLACE INTO clients VALUES (?, ?)", batch.clients.stored.items()
        )
        db.executemany(
            "DELETE FROM clients WHERE id = ?", [(c,) for c in batch.clients.forgotten]
        )
        failures = [(encode_json(failure),) for failure in change.failures]
        if failures:
            db.executemany("INSERT INTO failures (data) VALUES (?)", failures)
            db.execute(
                "DELETE FROM failures"
                " WHERE number <= (SELECT max(number) FROM failures) - ?",
                (FAILURES_KEPT,),
            )
        db.executemany(
            "INSERT OR REPLACE INTO topologies VALUES (?, ?, ?)",
            [(t.service, t.graph, encode_json(t)) for t in change.topologies],
        )
        kept = {at: data for at, data in batch.documents.items() if data is not None}
        db.executemany(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)",
            [(*at, data) for at, data in kept.items()],
        )
        db.executemany(
            "DELETE FROM documents WHERE kind = ? AND id = ?",
            batch.documents.keys() - kept.keys(),
        )

    def _move_journal(
        self, db: sqlite3.Connection, current: int, tick: int, change: AggregateChanges
    ) -> int:
        """Move the journal of closed buckets to `buckets`, and write the totals."""
        closed = current - 1  # the previous bucket is still open, as in History
        journal = read_journal(db, "step >= 0 AND step < ?", closed)
        for n, parts in journal.items():
            tiers.add(db, BUCKET_SECONDS, n * BUCKET_SECONDS, merge(parts))
        db.execute("DELETE FROM journal WHERE step < ?", (closed,))
        db.execute(
            "INSERT OR REPLACE INTO totals VALUES (0, ?, ?)",
            (tick, encode(change.totals)),
        )
        tiers.roll_up(db, change.now)
        return tiers.expire(db, change.now, self.retention)

    def _read(self) -> StoredState:
        db = self._open
        keys, names = read_names(db)
        totals_tick, totals = _totals(db)
        newer = read_journal(db, "tick > ?", totals_tick).values()
        buckets = {
            n: merge([tiers.bucket(db, BUCKET_SECONDS, n * BUCKET_SECONDS), *parts])
            for n, parts in read_journal(db, "step >= ?", 0).items()
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
            totals=merge([totals, *(part for parts in newer for part in parts)]),
            buckets=buckets,
            stored=[n for n in tiers.stored(db) if n not in buckets],
            failures=read_failures(db),
            topologies=_topologies(db),
            clients={
                name: _bytes(data) for name, data in db.execute("SELECT * FROM clients")
            },
            counters=_bytes(meta.get("counters", b"{}")),
            documents=_documents(db),
        )


def _entries(change: AggregateChanges) -> Iterator[tuple[int, Bucket]]:
    """Yield the steps that go into the journal, one at a time."""
    yield from change.buckets.items()
    if len(change.late.rows):
        yield LATE, change.late


def check_integrity(connection: sqlite3.Connection) -> None:
    """Check a whole file for damage; see `Store.check`."""
    (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise sqlite3.DatabaseError(result)


def read_names(db: sqlite3.Connection) -> tuple[list[SeriesKey], dict[str, list[Any]]]:
    """Return the series by row, and the other names by kind and number."""
    keys = [_key(row) for row in db.execute("SELECT * FROM series ORDER BY row")]
    names: dict[str, list[Any]] = defaultdict(list)
    for kind, value in db.execute(
        "SELECT facet, value FROM names ORDER BY facet, number"
    ):
        names[kind].append(_frozen(json.loads(value)))
    return keys, dict(names)


def read_failures(db: sqlite3.Connection) -> list[FailureRecord]:
    """Return the latest failures, oldest first."""
    rows = db.execute("SELECT data FROM failures ORDER BY number")
    return [_failure.decode(data) for (data,) in rows]


def read_journal(
    db: sqlite3.Connection, where: str, bound: int
) -> dict[int, list[Bucket]]:
    """Return the journal's entries that match, by bucket number."""
    entries: dict[int, list[Bucket]] = defaultdict(list)
    for n, data in db.execute(
        f"SELECT step, data FROM journal WHERE {where} ORDER BY tick",  # noqa: S608
        (bound,),
    ):
        entries[n].append(decode(data))
    return entries


def _totals(db: sqlite3.Connection) -> tuple[int, Bucket]:
    row = db.execute("SELECT tick, data FROM totals").fetchone()
    return (0, EMPTY) if row is None else (row[0], decode(row[1]))


def _topologies(db: sqlite3.Connection) -> list[TopologyRecord]:
    rows = db.execute("SELECT data FROM topologies")
    return [_topology.decode(data) for (data,) in rows]


def _documents(db: sqlite3.Connection) -> dict[tuple[str, str], bytes]:
    rows = db.execute("SELECT * FROM documents")
    return {(kind, name): _bytes(data) for kind, name, data in rows}


def _set(db: sqlite3.Connection, **values: object) -> None:
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def _key(row: tuple[Any, ...]) -> SeriesKey:
    _, kind, service, graph, node, metric, labels = row
    pairs = tuple((name, value) for name, value in json.loads(labels))
    return SeriesKey(Kind(kind), service, graph, node, metric, pairs)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value
