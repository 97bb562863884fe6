"""A frozen snapshot of everything aggregated, and where it finds older buckets."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import (
    ALL_DIMENSIONS,
    EMPTY,
    Bucket,
    Dimension,
    merge,
)
from kaywatch_agent.aggregate.history import History
from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.model.records import FailureRecord, TopologyRecord

__all__ = [
    "BUCKET_SECONDS",
    "DAY",
    "HISTORY_BUCKETS",
    "HOUR",
    "MINUTE",
    "BucketArchive",
    "NoArchive",
    "View",
    "bucket_seconds",
]

BUCKET_SECONDS: Final = 10
HISTORY_BUCKETS: Final = 360  # one hour

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86_400


def bucket_seconds(age: float) -> int:
    """Return the length in seconds of the buckets kept for data of this age."""
    if age <= HOUR:
        return BUCKET_SECONDS
    return MINUTE if age <= DAY else HOUR


class BucketArchive(Protocol):
    """Reads the buckets that are no longer in memory."""

    @property
    def kept_seconds(self) -> float:
        """How long buckets are kept."""

    def bucket(
        self,
        number: int,
        rows: NDArray[np.int64] | None = None,
        dimensions: Collection[Dimension] = ALL_DIMENSIONS,
    ) -> Bucket:
        """Return a ten-second bucket; EMPTY if it is missing or unreadable.

        The other arguments are those of `decompress`.
        """

    def read(
        self, start: float, end: float, resolution: float
    ) -> Iterable[tuple[int, Bucket]]:
        """Yield (start, bucket) for the buckets that begin in [start, end)."""


class NoArchive:
    """Stands in for the store when nothing is stored."""

    kept_seconds = float(HISTORY_BUCKETS * BUCKET_SECONDS)

    def bucket(self, *_: object) -> Bucket:
        """Return an empty bucket."""
        return EMPTY

    def read(self, *_: float) -> Iterable[tuple[int, Bucket]]:
        """Yield nothing."""
        return ()


class View(NamedTuple):
    """A frozen snapshot of everything aggregated, safe to read in any thread.

    Attributes:
        now: when it was taken, Unix seconds.
        since: when the first event was seen.
        totals: everything since then.
        buckets: those of the last hour, by number.
        registry: the names of rows and numbers.
        failures: the latest, oldest first.
        topologies: by service and graph.
        archive: reads the buckets that are older than an hour.
        longest: for graphs, the nodes that the longest run visited; for nodes, the
            visits of the run that returned most often; by bucket and row. Covers the
            last hour, or the time since the agent started.
        durable_totals: those of the last commit, which no crash sets back.
    """

    now: float
    since: float
    totals: Bucket
    buckets: History
    registry: Registry
    failures: tuple[FailureRecord, ...]
    topologies: Mapping[tuple[str, str], TopologyRecord]
    archive: BucketArchive = NoArchive()
    longest: Mapping[int, Mapping[int, int]] = {}
    durable_totals: Bucket = EMPTY

    def between(
        self,
        start: float,
        end: float,
        resolution: float = math.inf,
        dimensions: Collection[Dimension] = ALL_DIMENSIONS,
    ) -> Iterator[tuple[int, Bucket]]:
        """Yield (start, bucket) for buckets that overlap [start, end), oldest first.

        Args:
            start: Unix seconds.
            end: Unix seconds.
            resolution: the longest bucket, in seconds, that is acceptable for times
                more than an hour ago. Longer ones are yielded where no shorter ones
                are kept.
            dimensions: those of the facts wanted; others may be yielded as well.
        """
        yield from self.archived(start, end, resolution)
        yield from self.recent(start, end, None, dimensions)

    def archived(
        self, start: float, end: float, resolution: float = math.inf
    ) -> Iterator[tuple[int, Bucket]]:
        """Yield those of `between` that are no longer in memory."""
        oldest = math.floor(self.now / BUCKET_SECONDS) - HISTORY_BUCKETS
        before = min(end, oldest * BUCKET_SECONDS)
        first = math.floor(start / BUCKET_SECONDS)
        if start < before:
            for begin, bucket in self.archive.read(
                first * BUCKET_SECONDS, before, resolution
            ):
                if begin // BUCKET_SECONDS not in self.buckets:
                    yield begin, bucket

    def recent(
        self,
        start: float,
        end: float,
        rows: NDArray[np.int64] | None = None,
        dimensions: Collection[Dimension] = ALL_DIMENSIONS,
    ) -> Iterator[tuple[int, Bucket]]:
        """Yield those of `between` that are in memory, or a part of each.

        Args:
            start: Unix seconds.
            end: Unix seconds.
            rows: the only series wanted, sorted; None for all.
            dimensions: those of the facts wanted; others may be yielded as well.
        """
        for number in self.recent_numbers(start, end):
            part = self.buckets.part(number, rows, dimensions)
            yield number * BUCKET_SECONDS, part

    def merged(self, start: float, end: float) -> Bucket:
        """Return the merge of `between`; most of it is remembered by `buckets`."""
        archived = (bucket for _, bucket in self.archived(start, end))
        recent = self.buckets.merged(self.recent_numbers(start, end))
        return merge(chain(archived, recent))

    def recent_numbers(self, start: float, end: float) -> list[int]:
        """Return the numbers of the buckets of `recent`, sorted."""
        first = math.floor(start / BUCKET_SECONDS)
        last = math.ceil(end / BUCKET_SECONDS)
        return sorted(number for number in self.buckets if first <= number < last)
