"""A frozen snapshot of everything aggregated, and where it finds older buckets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket
from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.model.records import FailureRecord, TopologyRecord

__all__ = [
    "BUCKET_SECONDS",
    "DAY",
    "HISTORY_BUCKETS",
    "HOUR",
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

    def bucket(self, number: int) -> Bucket:
        """Return a ten-second bucket; EMPTY if it is missing or unreadable."""

    def read(
        self, start: float, end: float, resolution: float
    ) -> Iterable[tuple[int, Bucket]]:
        """Yield (start, bucket) for the buckets that begin in [start, end)."""


class NoArchive:
    """Stands in for the store when nothing is stored."""

    kept_seconds = float(HISTORY_BUCKETS * BUCKET_SECONDS)

    def bucket(self, number: int) -> Bucket:  # noqa: ARG002
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
    """

    now: float
    since: float
    totals: Bucket
    buckets: Mapping[int, Bucket]
    registry: Registry
    failures: tuple[FailureRecord, ...]
    topologies: Mapping[tuple[str, str], TopologyRecord]
    archive: BucketArchive = NoArchive()
    longest: Mapping[int, Mapping[int, int]] = {}

    def between(
        self, start: float, end: float, resolution: float = math.inf
    ) -> Iterator[tuple[int, Bucket]]:
        """Yield (start, bucket) for buckets that overlap [start, end), oldest first.

        Args:
            start: Unix seconds.
            end: Unix seconds.
            resolution: the longest bucket, in seconds, that is acceptable for times
                more than an hour ago. Longer ones are yielded where no shorter ones
                are kept.
        """
        oldest = math.floor(self.now / BUCKET_SECONDS) - HISTORY_BUCKETS
        before = min(end, oldest * BUCKET_SECONDS)
        first, last = (
            math.floor(start / BUCKET_SECONDS),
            math.ceil(end / BUCKET_SECONDS),
        )
        if start < before:
            for begin, bucket in self.archive.read(
                first * BUCKET_SECONDS, before, resolution
            ):
                if begin // BUCKET_SECONDS not in self.buckets:
                    yield begin, bucket
        for number in sorted(self.buckets):
            if first <= number < last:
                yield number * BUCKET_SECONDS, self.buckets[number]
