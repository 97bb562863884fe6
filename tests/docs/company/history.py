"""Gives a store a past of nine days: what it recorded within an hour, again and again.

An agent takes no events of yesterday, but some rules compare the present with a week of
them. So the minutes that real processes recorded are copied into all hours before.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from kaywatch_agent.aggregate.bucket import Bucket, merge
from kaywatch_agent.aggregate.change import TimedBucket
from kaywatch_agent.rules.past_hours import PAST_SECONDS
from kaywatch_agent.store.past import read_history
from kaywatch_agent.store.schema import connect, transaction
from kaywatch_agent.store.tiers import FINEST, HOUR, MINUTE, Retention, add

__all__ = ["repeat_hour"]

DAY: Final = 24 * HOUR

# Without these, the past is anonymous: its processes and failures are not shown.
_PRESENT: Final = ("buckets", "journal", "clients", "failures")


def repeat_hour(path: Path) -> None:
    """Copy what a stopped agent has stored into the past, up to an hour ago.

    The last hour is left empty: agents still take its events.
    """
    with read_history(path) as history:
        minutes = _whole_minutes(history.buckets)
    end = int(time.time() - HOUR) // MINUTE * MINUTE
    begin = int(end - PAST_SECONDS) // HOUR * HOUR
    db = connect(path, "OFF", Retention().log_bytes)
    with transaction(db):
        for table in _PRESENT:
            db.execute(f"DELETE FROM {table}")
        db.execute("UPDATE meta SET value = ? WHERE key = 'since'", (float(begin),))
        for hour in range(begin, end, HOUR):
            _write_hour(db, hour, [*_repeated(minutes, hour, min(hour + HOUR, end))])
    db.close()


# -- inside --------------------------------------------------------------------------


def _whole_minutes(buckets: Iterable[TimedBucket]) -> list[TimedBucket]:
    """Return the recorded minutes, without the first and the last one."""
    parts: dict[float, list[Bucket]] = {}
    for start, length, bucket in buckets:
        if length == FINEST:
            parts.setdefault(start // MINUTE * MINUTE, []).append(bucket)
    whole = sorted(parts)[1:-1]
    return [TimedBucket(start, MINUTE, merge(parts[start])) for start in whole]


def _repeated(minutes: list[TimedBucket], start: int, end: int) -> Iterator[Bucket]:
    """Yield the minutes of a period in the past."""
    for moment in range(start, end, MINUTE):
        original, _, bucket = minutes[moment // MINUTE % len(minutes)]
        yield bucket._replace(last_time=bucket.last_time + (moment - original))


def _write_hour(db: sqlite3.Connection, start: int, minutes: list[Bucket]) -> None:
    add(db, HOUR, start, merge(minutes))
    # As the store does: where a minute is kept, all of its hour are.
    if start >= int(time.time() - DAY) // HOUR * HOUR + HOUR:
        for number, bucket in enumerate(minutes):
            add(db, MINUTE, start + number * MINUTE, bucket)
