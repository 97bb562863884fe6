"""Reads the buckets that are no longer in memory, beside the writer.

Every thread that reads has a connection of its own, so no reader waits for another.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import ALL_DIMENSIONS, EMPTY, Bucket, Dimension
from kaywatch_agent.store import tiers
from kaywatch_agent.store.schema import read_only
from kaywatch_agent.store.tiers import FINEST, HOUR, MINUTE

__all__ = ["Archive", "bucket_starts"]

_ERRORS: Final = (sqlite3.Error, ValueError)

log = structlog.get_logger("kaywatch.agent")


class Archive:
    """The buckets in a file, for readers in any thread.

    Attributes:
        kept_seconds: how long buckets are kept.
    """

    def __init__(self, path: Path, kept_seconds: float) -> None:
        self.kept_seconds = kept_seconds
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def bucket(
        self,
        number: int,
        rows: NDArray[np.int64] | None = None,
        dimensions: Collection[Dimension] = ALL_DIMENSIONS,
    ) -> Bucket:
        """Return a ten-second bucket; EMPTY if it is missing or unreadable.

        The other arguments are those of `decompress`.
        """
        try:
            start = number * FINEST
            return tiers.bucket(self._connection, FINEST, start, rows, dimensions)
        except _ERRORS as error:
            self._warn(error)
            return EMPTY

    def read(
        self, start: float, end: float, resolution: float
    ) -> Iterator[tuple[int, Bucket]]:
        """Yield the readable buckets that begin in [start, end), no event twice.

        Args:
            start: Unix seconds.
            end: Unix seconds.
            resolution: the longest acceptable bucket, in seconds. Longer ones are
                yielded where no shorter ones are kept.

        Yields:
            (start of the bucket, the bucket).
        """
        try:
            db = self._connection
            db.execute("BEGIN")  # one snapshot, while the writer rolls up
            try:
                for tier, begin in bucket_starts(db, start, end, resolution):
                    yield begin, tiers.bucket(db, tier, begin)
            finally:
                db.execute("COMMIT")
        except _ERRORS as error:
            self._warn(error)

    def close(self) -> None:
        """Close all connections; a thread that reads again opens a new one."""
        self._local = threading.local()
        while self._connections:
            self._connections.pop().close()

    @property
    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = read_only(self._path)
            self._connections.append(connection)
        return connection

    def _warn(self, error: Exception) -> None:
        log.warning(
            "stored buckets unreadable", store=str(self._path), error=str(error)
        )


def bucket_starts(
    db: sqlite3.Connection, start: float, end: float, resolution: float
) -> list[tuple[int, int]]:
    """Return (tier, start) of ten-second buckets, and of minutes or hours before them.

    See `Archive.read` for the arguments.
    """
    stored = db.execute(
        "SELECT tier, start FROM buckets WHERE start >= ? AND start < ?"
        " ORDER BY start, tier",
        (start, end),
    ).fetchall()
    # Minutes expire by the hour: where one is stored, the whole hour is.
    minutes = {begin - begin % HOUR for tier, begin in stored if tier == MINUTE}

    def chosen(tier: int, begin: int) -> bool:
        hour = begin - begin % HOUR
        whole = start <= hour and hour + HOUR <= end
        by_hour = hour not in minutes or (whole and resolution >= HOUR)
        return tier == FINEST or (tier == HOUR) == by_hour

    return [(tier, begin) for tier, begin in stored if chosen(tier, begin)]
