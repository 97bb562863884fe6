"""Reads everything in a store's file at once, beside its writer: for backtests."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from kaywatch_agent.aggregate.bucket import Bucket, merge
from kaywatch_agent.aggregate.change import StoredHistory, TimedBucket
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.errors import StoreError
from kaywatch_agent.store import tiers
from kaywatch_agent.store.archive import bucket_starts
from kaywatch_agent.store.schema import APPLICATION_ID, read_only
from kaywatch_agent.store.store import read_failures, read_journal, read_names
from kaywatch_agent.store.tiers import FINEST

__all__ = ["read_history"]

NEVER = float("inf")


@contextlib.contextmanager
def read_history(path: Path) -> Iterator[StoredHistory]:
    """Open a file for reading within the block, as it is at its beginning.

    Raises:
        StoreError: the file does not exist, or cannot be read.
    """
    if not path.exists():
        raise StoreError(
            f"{path}: no such file; pass the agent's database with --store"
        )
    try:
        with contextlib.closing(read_only(path)) as db:
            yield _history(db)
    except (sqlite3.Error, ValueError) as error:
        raise StoreError(f"{path}: {error}") from None


# -- inside ----------------------------------------------------------------------------


def _history(db: sqlite3.Connection) -> StoredHistory:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise ValueError("not a kaywatch store")
    db.execute("BEGIN")  # one snapshot, while the writer goes on
    registry = Registry(Limits())
    keys, names = read_names(db)
    if names:  # otherwise nothing was written yet
        registry.restore(keys, names)
    stored = bucket_starts(db, 0.0, NEVER, 0.0)
    journal = {n: [*parts] for n, parts in read_journal(db, "step >= ?", 0)}
    spans = [(start, start + tier) for tier, start in stored]
    spans += [(n * FINEST, (n + 1) * FINEST) for n in journal]
    return StoredHistory(
        registry,
        _buckets(db, stored, journal),
        first=float(min((start for start, _ in spans), default=NEVER)),
        last=float(max((end for _, end in spans), default=0)),
        failures=read_failures(db),
    )


def _buckets(
    db: sqlite3.Connection,
    stored: list[tuple[int, int]],
    journal: dict[int, list[Bucket]],
) -> Iterator[TimedBucket]:
    for tier, start in stored:
        bucket = tiers.bucket(db, tier, start)
        # The journal is newer than all stored buckets but the last two.
        parts = journal.pop(start // FINEST, []) if tier == FINEST else []
        yield TimedBucket(start, tier, merge([bucket, *parts]))
    for number in sorted(journal):
        yield TimedBucket(number * FINEST, FINEST, merge(journal[number]))
