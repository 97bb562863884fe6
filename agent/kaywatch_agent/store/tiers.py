"""Buckets of ten seconds, a minute and an hour: how they roll up and expire.

A ten-second bucket stays for the hour in which late events may still change it. Then it
is moved into its minute and added to its hour. So the ten-second buckets and the
minutes contain the last day exactly once, and the ten-second buckets and the hours the
last month. Nothing is rolled up twice, and adding is exact.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, Final, NamedTuple

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge
from kaywatch_agent.aggregate.codec import decode, encode
from kaywatch_agent.store.schema import WAL_BYTES

__all__ = [
    "FINEST",
    "HOUR",
    "MINUTE",
    "Retention",
    "add",
    "bucket",
    "expire",
    "load",
    "roll_up",
    "list_buckets",
    "used_bytes",
]

FINEST: Final = 10
MINUTE: Final = 60
HOUR: Final = 3600

# Late events may change a bucket for an hour; two buckets more allow for a late tick.
SETTLED_SECONDS: Final = HOUR + 2 * FINEST

# Work is done every ten seconds, in portions: a clock that jumps ahead for a moment
# must not delete a month.
MINUTES_AT_ONCE: Final = 6
HOURS_AT_ONCE: Final = 2


class Retention(NamedTuple):
    """How long buckets are kept, and how large the file may become.

    Attributes:
        minutes: of one-minute buckets, in seconds.
        hours: of one-hour buckets, in seconds.
        max_bytes: of the file and its log; beyond it, the oldest buckets are deleted.
    """

    minutes: float = 24 * HOUR
    hours: float = 30 * 24 * HOUR
    max_bytes: int = 2 * 1024**3

    @property
    def log_bytes(self) -> int:
        """How long the write-ahead log stays."""
        return min(WAL_BYTES, self.max_bytes // 8)


def bucket(db: sqlite3.Connection, tier: int, start: int, *wanted: Any) -> Bucket:
    """Return one bucket, or the part that `decode` is asked for; EMPTY for none."""
    row = db.execute(
        "SELECT data FROM buckets WHERE tier = ? AND start = ?", (tier, start)
    ).fetchone()
    return EMPTY if row is None else load(tier, row[0], *wanted)


def load(tier: int, data: bytes, *wanted: Any) -> Bucket:
    """Return a bucket from its bytes, or the part that `decode` is asked for.

    Raises:
        ValueError: the bytes are damaged.
    """
    try:
        return decode(data if tier == FINEST else zlib.decompress(data), *wanted)
    except zlib.error as error:
        raise ValueError(f"invalid bucket: {error}") from None


def add(db: sqlite3.Connection, tier: int, start: int, more: Bucket) -> None:
    """Add events to a bucket, creating it if necessary."""
    data = encode(merge([bucket(db, tier, start), more]))
    if tier != FINEST:
        data = zlib.compress(data, 1)  # half the size, and rarely read
    db.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?)", (tier, start, data))


def list_buckets(db: sqlite3.Connection) -> Iterator[int]:
    """Yield the numbers of the ten-second buckets."""
    for (start,) in db.execute(
        "SELECT start FROM buckets WHERE tier = ? ORDER BY start", (FINEST,)
    ):
        yield start // FINEST


def roll_up(db: sqlite3.Connection, now: float) -> None:
    """Move settled ten-second buckets into minutes and hours."""
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
    """Delete expired buckets, then the oldest ones while the file is too large.

    Minutes are deleted by the hour, so that all minutes of an hour exist or none.

    Returns:
        The number of hours deleted because of the file's size.
    """
    for tier, seconds in ((MINUTE, retention.minutes), (HOUR, retention.hours)):
        for _ in range(HOURS_AT_ONCE):
            oldest = _oldest(db, tier)
            if oldest is None or oldest + HOUR + seconds > now:
                break
            _delete(db, tier, oldest)
    deleted, limit = 0, retention.max_bytes - retention.log_bytes
    while deleted < HOURS_AT_ONCE and used_bytes(db) > limit:
        if not _delete_oldest(db, now):
            break
        deleted += 1
    db.execute("PRAGMA incremental_vacuum(1000)").fetchall()
    return deleted


def _oldest(db: sqlite3.Connection, tier: int) -> int | None:
    """Return the hour of a tier's first bucket."""
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
    """Delete the oldest hour of all; return whether there was one."""
    oldest = [
        (hour, tier)
        for tier in (HOUR, MINUTE)
        # An hour that may still change is not deleted.
        if (hour := _oldest(db, tier)) is not None and hour + 2 * HOUR < now
    ]
    if not oldest:
        return False
    hour, tier = min(oldest, key=itemgetter(0))
    _delete(db, tier, hour)
    return True


def used_bytes(db: sqlite3.Connection) -> int:
    """Return how many bytes of the file are in use."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)
