"""The one that writes: restores what was, and makes each tick's change durable.

Strategy: a tick writes only what it changed, a few blobs in the `journal`, whatever the
number of series. Every ten seconds the same transaction also folds the journal of
closed steps into `buckets`, and writes the totals anew. Both are `merge`, as everywhere
else, so what is read back is what was in memory, bit for bit but for sums of floats.

All methods are called by one thread at a time.
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

__all__ = ["CommitReport", "Store", "by_step", "failures_of", "names_of"]

BUCKET_SECONDS: Final = tiers.FINEST
LATE: Final = -1  # the journal's step of events that are in no bucket
FAILURES_KEPT: Final = 1_000

# A file whose check takes longer than some 50 ms is checked beside the work.
QUICK_BYTES: Final = 16 * 1024 * 1024

_failure: Final = msgspec.json.Decoder(FailureRecord)
_topology: Final = msgspec.json.Decoder(TopologyRecord)


class CommitReport(NamedTuple):
    """What a commit has to say.

    Attributes:
        bytes: how much of the file is in use.
        expired: buckets that went since the file was too large.
    """

    bytes: int
    expired: int


class Store:
    """One file, opened for as long as the agent lives."""

    def __init__(
        self,
        path: Path,
        *,
        synchronous: str = "FULL",
        retention: tiers.Retention | None = None,
    ) -> None:
        """Take the file; nothing is read yet.

        Raises:
            StoreError: it can't be used, or another agent uses it.
        """
        self.path = path
        self.aside: Path | None = None  # where a damaged file was put
        self.damage = ""  # what was wrong with it
        self._synchronous = synchronous
        self.retention = retention or tiers.Retention()
        self._lock = Lock(path)
        self._connection: sqlite3.Connection | None = None
        self._rows = 0
        self._sizes: dict[str, int] = {}
        self._tick = 0
        self._folded = 0  # the step up to which the journal was folded last

    # -- at the start ----------------------------------------------------------------

    def restore(self) -> StoredState:
        """Open the file and return what it knows; a damaged one is set aside.

        Raises:
            StoreError: it can't be opened, or it is a newer agent's.
        """
        try:
            self._connection = connect(self.path, self._synchronous)
            if self.path.stat().st_size <= QUICK_BYTES:
                self.check()
            return self._read()
        except (sqlite3.DatabaseError, ValueError, KeyError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(
                    f"store.path: can't read {self.path}: {error}"
                ) from None
            self.damage = f"{type(error).__name__}: {error}"
            self.start_over()
            return self._read()

    def check(self) -> None:
        """Look for damage in all of the file.

        Raises:
            sqlite3.DatabaseError: it is damaged.
        """
        check_integrity(self._open)

    def start_over(self) -> None:
        """Set the damaged file aside, and begin with an empty one."""
        self._forget()
        self.aside = set_aside(self.path)
        self._connection = connect(self.path, self._synchronous)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._forget()
        self._lock.release()

    # -- at each tick ----------------------------------------------------------------

    def commit(self, batch: WriteBatch) -> CommitReport:
        """Make changes durable, all of them or none.

        Raises:
            StoreError: it could not; it may be tried again.
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

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._rows = self._tick = self._folded = 0
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
                ((tick, n, encode(step)) for n, step in _entries(change)),
            )
            self._write_lists(db, batch)
            _set(db, now=change.now, since=change.since, counters=batch.counters)
            if current != self._folded:
                expired = self._fold(db, current, tick, change)
        # Only now: a transaction that was rolled back has told the file nothing.
        self._tick, self._folded = tick, current
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
        for facet, values in change.names.items():
            first, last = self._sizes.get(facet, 0), change.sizes[facet]
            db.executemany(
                "INSERT INTO names VALUES (?, ?, ?)",
                [
                    (facet, number, json.dumps(value))
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

    def _fold(
        self, db: sqlite3.Connection, current: int, tick: int, change: AggregateChanges
    ) -> int:
        """Move the journal of closed steps into buckets, and write the totals."""
        closed = current - 1  # the one before is open too, as in History
        for n, steps in by_step(db, "step >= 0 AND step < ?", closed):
            tiers.add(db, BUCKET_SECONDS, n * BUCKET_SECONDS, merge(steps))
        db.execute("DELETE FROM journal WHERE step < ?", (closed,))
        db.execute(
            "INSERT OR REPLACE INTO totals VALUES (0, ?, ?)",
            (tick, encode(change.totals)),
        )
        tiers.roll_up(db, change.now)
        return tiers.expire(db, change.now, self.retention)

    def _read(self) -> StoredState:
        db = self._open
        keys, names = names_of(db)
        totals_tick, totals = _totals(db)
        since = [s for _, steps in by_step(db, "tick > ?", totals_tick) for s in steps]
        steps = {
            n: merge([tiers.bucket(db, BUCKET_SECONDS, n * BUCKET_SECONDS), *parts])
            for n, parts in by_step(db, "step >= ?", 0)
        }
        clients = {
            client: _bytes(data) for client, data in db.execute("SELECT * FROM clients")
        }
        meta = dict(db.execute("SELECT key, value FROM meta"))
        (tick,) = db.execute("SELECT max(tick) FROM journal").fetchone()
        self._tick = max(tick or 0, totals_tick)
        self._rows = len(keys)
        self._sizes = {facet: len(values) for facet, values in names.items()}
        topologies = db.execute("SELECT data FROM topologies")
        return StoredState(
            now=meta.get("now"),
            since=meta.get("since", 0.0),
            keys=keys,
            names=names,
            totals=merge([totals, *since]),
            buckets=steps,
            stored=[n for n in tiers.stored(db) if n not in steps],
            clients=clients,
            failures=failures_of(db),
            topologies=[_topology.decode(data) for (data,) in topologies],
            counters=_bytes(meta.get("counters", b"{}")),
            documents={
                (kind, name): _bytes(data)
                for kind, name, data in db.execute("SELECT * FROM documents")
            },
        )


def _entries(change: AggregateChanges) -> Iterator[tuple[int, Bucket]]:
    """Yield the steps that go into the journal, one at a time."""
    yield from change.buckets.items()
    if len(change.late.rows):
        yield LATE, change.late


def check_integrity(connection: sqlite3.Connection) -> None:
    """Look for damage in all of a file; see `Store.check`."""
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def names_of(db: sqlite3.Connection) -> tuple[list[SeriesKey], dict[str, list[Any]]]:
    """Return the series by row, and the other names by facet and number."""
    keys = [_key(row) for row in db.execute("SELECT * FROM series ORDER BY row")]
    names: dict[str, list[Any]] = defaultdict(list)
    for facet, value in db.execute(
        "SELECT facet, value FROM names ORDER BY facet, number"
    ):
        names[facet].append(_frozen(json.loads(value)))
    return keys, dict(names)


def failures_of(db: sqlite3.Connection) -> list[FailureRecord]:
    """Return the latest failures, oldest first."""
    found = db.execute("SELECT data FROM failures ORDER BY number")
    return [_failure.decode(data) for (data,) in found]


def by_step(
    db: sqlite3.Connection, where: str, bound: int
) -> Iterator[tuple[int, list[Bucket]]]:
    """Yield the journal's steps that match, each with its entries."""
    found: dict[int, list[Bucket]] = defaultdict(list)
    for n, data in db.execute(
        f"SELECT step, data FROM journal WHERE {where} ORDER BY tick",  # noqa: S608
        (bound,),
    ):
        found[n].append(decode(data))
    yield from found.items()


def _totals(db: sqlite3.Connection) -> tuple[int, Bucket]:
    row = db.execute("SELECT tick, data FROM totals").fetchone()
    return (0, EMPTY) if row is None else (row[0], decode(row[1]))


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
