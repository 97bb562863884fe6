"""All that is in the file, read in one go beside its writer: for backtests."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kaywatch_agent.aggregate.bucket import Bucket, merge
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.errors import StoreError
from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.store import tiers
from kaywatch_agent.store.archive import places
from kaywatch_agent.store.schema import APPLICATION_ID, read_only
from kaywatch_agent.store.store import by_step, failures_of, names_of

__all__ = ["StoredHistory", "reading"]

NEVER = float("inf")


class StoredHistory(NamedTuple):
    """What is in a file, while it is open.

    Attributes:
        registry: the names of rows and numbers.
        failures: the latest, the oldest first.
        first: when the first bucket begins, Unix seconds; infinite for none.
        last: when the last one ends.
        buckets: yields (start, length, step), the oldest first.
    """

    registry: Registry
    failures: list[FailureRecord]
    first: float
    last: float
    buckets: Iterator[tuple[int, int, Bucket]]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[StoredHistory]:
    """Open a file for reading within the block, as it is at its beginning.

    Raises:
        StoreError: there is none, or it can't be read.
    """
    if not path.exists():
        raise StoreError(f"{path}: there is no such store; say which with --store")
    try:
        db = read_only(path)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from None
    try:
        yield _stored(db)
    except (sqlite3.Error, ValueError) as error:
        raise StoreError(f"{path}: {error}") from None
    finally:
        db.close()


# -- inside --------------------------------------------------------------------------


def _stored(db: sqlite3.Connection) -> StoredHistory:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise ValueError("is no store of kaywatch")
    db.execute("BEGIN")  # one picture, while the writer goes on
    registry = Registry(Limits())
    keys, names = names_of(db)
    if names:  # else nothing has been written yet
        registry.restore(keys, names)
    found = list(places(db, 0.0, NEVER, 0.0))
    fresh = dict(by_step(db, "step >= ?", 0))
    starts = [start for _, start in found] + [n * tiers.FINEST for n in fresh]
    ends = [start + tier for tier, start in found]
    ends += [(n + 1) * tiers.FINEST for n in fresh]
    return StoredHistory(
        registry,
        failures_of(db),
        float(min(starts)) if starts else NEVER,
        float(max(ends)) if ends else 0.0,
        _buckets(db, found, fresh),
    )


def _buckets(
    db: sqlite3.Connection,
    found: list[tuple[int, int]],
    fresh: dict[int, list[Bucket]],
) -> Iterator[tuple[int, int, Bucket]]:
    for tier, start in found:
        step = tiers.bucket(db, tier, start)
        # What isn't folded yet is later than all that is, but for the last two steps.
        parts = fresh.pop(start // tiers.FINEST, []) if tier == tiers.FINEST else []
        yield start, tier, merge([step, *parts])
    for number in sorted(fresh):
        yield number * tiers.FINEST, tiers.FINEST, merge(fresh[number])
