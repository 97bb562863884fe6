"""Details that are kept beside the buckets: failures, topologies, the longest runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Final

from msgspec.structs import replace

from kaywatch_agent.aggregate.view import BUCKET_SECONDS, HISTORY_BUCKETS
from kaywatch_agent.model.records import FailureRecord, TopologyRecord
from kaywatch_agent.runtime.metrics import Counter

__all__ = ["FailureLog", "LongestRuns", "Topologies"]

MAX_FAILURES: Final = 1_000
MAX_TOPOLOGIES: Final = 10_000

# Graphs and nodes per bucket whose visits are remembered, those with the most visits.
# Each takes 90 bytes: 65 MB for an hour in which all of them loop.
MAX_VISITED: Final = 2_000


class FailureLog:
    """The latest failures, oldest first, and those of them not committed yet."""

    def __init__(self) -> None:
        self.latest: deque[FailureRecord] = deque(maxlen=MAX_FAILURES)
        self._uncommitted: deque[FailureRecord] = deque(maxlen=MAX_FAILURES)

    def add(self, failure: FailureRecord) -> None:
        """Record a failure."""
        self.latest.append(failure)
        self._uncommitted.append(failure)

    def changes(self, full: bool) -> tuple[FailureRecord, ...]:
        """Return the uncommitted entries, or all of them."""
        changes = tuple(self.latest if full else self._uncommitted)
        self._uncommitted.clear()
        return changes

    def refused(self, failures: Iterable[FailureRecord]) -> None:
        """Put failures back that could not be committed."""
        waiting = (*failures, *self._uncommitted)
        self._uncommitted.clear()
        self._uncommitted.extend(waiting)


class Topologies:
    """The last topology of each graph, and those not committed yet."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], TopologyRecord] = {}
        self._uncommitted: dict[tuple[str, str], TopologyRecord] = {}

    def add(self, topology: TopologyRecord, now: float) -> bool:
        """Record a new topology; return whether there was room for it."""
        key = (topology.service, topology.graph)
        previous = self.known.get(key)
        if previous is None and len(self.known) >= MAX_TOPOLOGIES:
            return False
        since = now if previous is None else previous.since
        topology = replace(topology, since=since, changed=now)
        self.known[key] = self._uncommitted[key] = topology
        return True

    def changes(self, full: bool) -> tuple[TopologyRecord, ...]:
        """Return the uncommitted entries, or all of them."""
        changes = tuple((self.known if full else self._uncommitted).values())
        self._uncommitted = {}
        return changes

    def refused(self, topologies: Iterable[TopologyRecord]) -> None:
        """Put topologies back that could not be committed."""
        for topology in topologies:
            key = (topology.service, topology.graph)
            self._uncommitted.setdefault(key, topology)

    def restore(self, topologies: Iterable[TopologyRecord]) -> None:
        """Continue with the topologies from before a restart."""
        self.known = {(one.service, one.graph): one for one in topologies}


class LongestRuns:
    """The most visits in one run, by bucket and row, for the last hour.

    Attributes:
        by_bucket: replaced and never mutated, so that a View stays as it is.
    """

    def __init__(self, left_out: Counter) -> None:
        self.by_bucket: Mapping[int, Mapping[int, int]] = {}
        self._left_out = left_out

    def record(self, visits: Mapping[int, int], now: float) -> None:
        """Remember the visits of runs that ended now, by row."""
        current = int(now // BUCKET_SECONDS)
        most = dict(self.by_bucket.get(current, {}))
        for row, count in visits.items():
            most[row] = max(most.get(row, 0), count)
        if len(most) > MAX_VISITED:
            self._left_out.add(len(most) - MAX_VISITED)
            descending = sorted(most.items(), key=itemgetter(1), reverse=True)
            most = dict(descending[:MAX_VISITED])
        recent = {
            number: rows
            for number, rows in self.by_bucket.items()
            if number > current - HISTORY_BUCKETS
        }
        self.by_bucket = {**recent, current: most}
