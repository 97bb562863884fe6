"""The buckets that no commit has made durable yet, and sums that a restart repeats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge, sum_in_order
from kaywatch_agent.aggregate.view import HISTORY_BUCKETS

__all__ = ["Uncommitted", "merge_each"]

# When the store cannot be written to for longer than this, uncommitted buckets are
# merged by the hour, which bounds the memory they take.
MAX_UNCOMMITTED: Final = HISTORY_BUCKETS + 60


class Uncommitted:
    """What the next commit contains.

    Attributes:
        buckets: by number.
        late: events that are in no bucket.
    """

    def __init__(self) -> None:
        self.buckets: dict[int, Bucket] = {}
        self.late = EMPTY
        # The totals without the above; None if they are unknown.
        self._base: Bucket | None = EMPTY

    def add(self, buckets: Mapping[int, Bucket], late: Bucket) -> None:
        """Add new buckets."""
        self.buckets = {**self.buckets, **merge_each(self.buckets, buckets)}
        self.late = merge([self.late, late])
        if len(self.buckets) > MAX_UNCOMMITTED:
            self.buckets = _merge_by_hour(self.buckets)

    def fix_sums(self, totals: Bucket) -> Bucket:
        """Return totals whose sums were added up as the store adds them at a start.

        Otherwise a restart could lower a sum in its last bits, which Prometheus would
        take for a counter that began again.
        """
        if self._base is None or not (self.buckets or len(self.late.rows)):
            return totals
        buckets = [self.buckets[n] for n in sorted(self.buckets)]
        parts = [self._base, self.late, *buckets]
        return totals._replace(total=sum_in_order(totals.rows, parts))

    def clear(self, base: Bucket | None) -> None:
        """Begin again.

        Args:
            base: the totals; None if the commit writes all buckets, and may fail.
        """
        self.buckets, self.late, self._base = {}, EMPTY, base

    def committed(self, totals: Bucket) -> None:
        """Handle that the totals at the last `clear` are durable."""
        if self._base is None:
            self._base = totals

    def refused(
        self, buckets: Mapping[int, Bucket], late: Bucket, durable_totals: Bucket
    ) -> None:
        """Add what a failed commit contained."""
        if self._base is not None:
            self._base = durable_totals
        self.add(buckets, late)


def merge_each(
    buckets: Mapping[int, Bucket], more: Mapping[int, Bucket]
) -> dict[int, Bucket]:
    """Return the buckets of `more`, each merged with the one in `buckets`."""
    return {n: merge([buckets.get(n, EMPTY), bucket]) for n, bucket in more.items()}


def _merge_by_hour(buckets: Mapping[int, Bucket]) -> dict[int, Bucket]:
    """Return the buckets, those before the last hour merged by the hour."""
    newest = max(buckets)
    parts: dict[int, list[Bucket]] = defaultdict(list)
    for n, bucket in buckets.items():
        old = n < newest - HISTORY_BUCKETS
        parts[n - n % HISTORY_BUCKETS if old else n].append(bucket)
    return {n: merge(part) for n, part in parts.items()}
