"""Buckets of ten seconds, a minute and an hour: how they roll up, and when they go.

A bucket of ten seconds stays for the hour in which late events may still change it.
Then it moves into its minute, and is added to its hour. So the ten-second buckets and
the minutes together hold everything of the last day once, and together with the hours
everything of the last month; nothing is rolled up twice, and adding is exact.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge
from kaywatch_agent.aggregate.codec import decode, encode

__all__ = [
    "FINEST",
    "Retention",
    "add",
    "bucket",
    "expire",
    "load",
    "roll_up",
    "stored",
    "used_bytes",
]

FINEST: Final = 10
MINUTE: Final = 60
HOUR: Final = 3600

# Late events change a bucket for an hour; two steps more are a tick that was late.
SETTLED_SECONDS: Final = HOUR + 2 * FINEST

# Of each kind of work, so much at a time: it is done every ten seconds, and a clock
# that jumps ahead for a moment must not sweep away a month.
MINUTES_AT_ONCE: Final = 6
HOURS_AT_ONCE: Final = 2


class Retention(NamedTuple):
    """How long buckets are kept, in seconds, and how large the file may become.

    Attributes:
        minutes: of the buckets of a minute.
        hours: of the buckets of an hour.
        max_bytes: of the file; beyond it, the oldest buckets go first.
    """

    minutes: float = 24 * HOUR
    hours: float = 30 * 24 * HOUR
    max_bytes: int = 2 * 1024**3


def bucket(db: sqlite3.Connection, tier: int, start: int) -> Bucket:
    """Return one bucket, EMPTY if there is none."""
    row = db.execute(
        "SELECT data FROM buckets WHERE tier = ? AND start = ?", (tier, start)
    ).fetchone()
    return EMPTY if row is None else load(tier, row[0])


def load(tier: int, data: bytes) -> Bucket:
    """Return a bucket from its bytes.

    Raises:
        ValueError: if they are damaged.
    """
    try:
        return decode(data if tier == FINEST else zlib.decompress(data))
    except zlib.error as error:
        raise ValueError(f"no bucket: {error}") from None


def add(db: sqlite3.Connection, tier: int, start: int, step: Bucket) -> None:
    """Add events to a bucket, made where needed."""
    data = encode(merge([bucket(db, tier, start), step]))
    if tier != FINEST:
        data = zlib.compress(data, 1)  # half the size, and seldom read
    db.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?)", (tier, start, data))


def stored(db: sqlite3.Connection) -> Iterator[int]:
    """Yield the numbers of the ten-second buckets."""
    for (start,) in db.execute(
        "SELECT start FROM buckets WHERE tier = ? ORDER BY start", (FINEST,)
    ):
        yield start // FINEST


def roll_up(db: sqlite3.Connection, now: float) -> None:
    """Move the ten-second buckets that are settled into minutes and hours."""
    for _ in range(MINUTES_AT_ONCE):
        (start,) = db.execute(
            "SELECT min(start) FROM buckets WHERE tier = ?", (FINEST,)
        ).fetchone()
        if start is None:
            return
        minute = start - start % MINUTE
        if minute + MINUTE + SETTLED_SECONDS > now:
            return
        within = (FINEST, minute, minute + MINUTE)
        where = "WHERE tier = ? AND start >= ? AND start < ?"
        rows = db.execute(f"SELECT data FROM buckets {where}", within)  # noqa: S608
        moved = merge([load(FINEST, data) for (data,) in rows])
        add(db, MINUTE, minute, moved)
        add(db, HOUR, start - start % HOUR, moved)
        db.execute(f"DELETE FROM buckets {where}", within)  # noqa: S608


def expire(db: sqlite3.Connection, now: float, retention: Retention) -> int:
    """Delete what is too old; then the oldest, while the file is too large.

    Minutes go by the hour, so that an hour's are all there or none.

    Returns:
        How many hours went for the file's size.
    """
    for tier, kept in ((MINUTE, retention.minutes), (HOUR, retention.hours)):
        for _ in range(HOURS_AT_ONCE):
            oldest = _oldest(db, tier)
            if oldest is None or oldest + HOUR + kept > now:
                break
            _delete(db, tier, oldest)
    gone = 0
    while gone < HOURS_AT_ONCE and used_bytes(db) > retention.max_bytes:
        if not _delete_oldest(db, now):
            break
        gone += 1
    db.execute("PRAGMA incremental_vacuum(1000)").fetchall()
    return gone


def _oldest(db: sqlite3.Connection, tier: int) -> int | None:
    """Return the hour that a tier's first bucket is in."""
    (start,) = db.execute(
        "SELECT min(start) FROM buckets WHERE tier = ?", (tier,)
    ).fetchone()
    return None if start is None else int(start - start % HOUR)


def _delete(db: sqlite3.Connection, tier: int, hour: int) -> None:
    db.execute(
        "DELETE FROM buckets WHERE tier = ? AND start >= ? AND start < ?",
        (tier, hour, hour + HOUR),
    )


def _delete_oldest(db: sqlite3.Connection, now: float) -> bool:
    """Delete the oldest hour of the tier that goes back furthest."""
    found = {tier: _oldest(db, tier) for tier in (HOUR, MINUTE)}
    known = {tier: hour for tier, hour in found.items() if hour is not None}
    # An hour that is still being added to stays.
    known = {tier: hour for tier, hour in known.items() if hour + 2 * HOUR < now}
    if not known:
        return False
    tier = min(known, key=lambda tier: known[tier])
    _delete(db, tier, known[tier])
    return True


def used_bytes(db: sqlite3.Connection) -> int:
    """Return how many bytes of the file are in use."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)
