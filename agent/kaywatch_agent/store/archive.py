"""Reads back the buckets that are no longer in memory, beside the writer.

Each thread that reads has a connection of its own, so nobody waits for anybody.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kaywatch_agent.aggregate.bucket import Bucket
from kaywatch_agent.errors import StoreError
from kaywatch_agent.store import tiers
from kaywatch_agent.store.schema import read_only

__all__ = ["Archive", "places"]

MINUTE: Final = 60
HOUR: Final = 3600


class Archive:
    """What is in the file, for readers in any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def bucket(self, number: int) -> Bucket:
        """Return a ten-second bucket, EMPTY if it isn't there.

        Raises:
            StoreError: it can't be read.
        """
        try:
            start = number * tiers.FINEST
            return tiers.bucket(self._connection, tiers.FINEST, start)
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"{self._path}: {error}") from None

    def read(
        self, start: float, end: float, resolution: float
    ) -> Iterator[tuple[int, Bucket]]:
        """Yield the buckets that begin in [start, end), each event in one of them.

        Args:
            start: Unix seconds.
            end: Unix seconds.
            resolution: buckets may be as long as this, in seconds; longer ones come
                where shorter ones are kept no more.

        Yields:
            (when the bucket begins, what is in it).

        Raises:
            StoreError: it can't be read.
        """
        try:
            yield from self._read(start, end, resolution)
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(f"{self._path}: {error}") from None

    def close(self) -> None:
        """Let each thread open the file anew when it reads next."""
        self._local = threading.local()
        while self._connections:
            self._connections.pop().close()

    # -- inside ----------------------------------------------------------------------

    @property
    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = read_only(self._path)
            self._connections.append(found)
        return found

    def _read(
        self, start: float, end: float, resolution: float
    ) -> Iterator[tuple[int, Bucket]]:
        db = self._connection
        db.execute("BEGIN")  # one picture, while the writer rolls up
        try:
            for tier, begin in list(places(db, start, end, resolution)):
                yield begin, tiers.bucket(db, tier, begin)
        finally:
            db.execute("COMMIT")


def places(
    db: sqlite3.Connection, start: float, end: float, resolution: float
) -> Iterator[tuple[int, int]]:
    """Yield (tier, start): the ten-second ones, and minutes or hours before."""
    found = db.execute(
        "SELECT tier, start FROM buckets WHERE start >= ? AND start < ?"
        " ORDER BY start, tier",
        (start, end),
    ).fetchall()
    # Minutes go by the hour: one that is there tells that all are.
    minutes = {begin - begin % HOUR for tier, begin in found if tier == MINUTE}
    for tier, begin in found:
        hour = begin - begin % HOUR
        whole = start <= hour and hour + HOUR <= end
        by_hour = hour not in minutes or (whole and resolution >= HOUR)
        if tier == tiers.FINEST or (tier == HOUR) == by_hour:
            yield tier, begin
