"""The data that a commit writes to the store, and that a start reads from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from kaywatch_agent.aggregate.bucket import Bucket
from kaywatch_agent.aggregate.clients import ClientChanges
from kaywatch_agent.aggregate.registry import Registry
from kaywatch_agent.model.records import FailureRecord, TopologyRecord
from kaywatch_agent.model.series import SeriesKey

__all__ = [
    "AggregateChanges",
    "Documents",
    "StoredHistory",
    "StoredState",
    "TimedBucket",
    "WriteBatch",
]

# JSON by kind and id; None deletes.
Documents = Mapping[tuple[str, str], bytes | None]


class AggregateChanges(NamedTuple):
    """The changes of the aggregates in one commit.

    Attributes:
        now: Unix seconds.
        since: when the first event was seen.
        buckets: new events by bucket number.
        late: new events that are in the totals and in no bucket.
        totals: everything since first seen, including new events.
        keys: the series by row; append-only.
        rows: how many of these there are at this moment.
        names: other values by kind and number; append-only.
        sizes: how many of these there are at this moment, by kind.
        failures: new failures.
        topologies: changed topologies.
    """

    now: float
    since: float
    buckets: Mapping[int, Bucket]
    late: Bucket
    totals: Bucket
    keys: Sequence[SeriesKey]
    rows: int
    names: Mapping[str, Sequence[Any]]
    sizes: Mapping[str, int]
    failures: Sequence[FailureRecord] = ()
    topologies: Sequence[TopologyRecord] = ()


class WriteBatch(NamedTuple):
    """The content of one transaction.

    Attributes:
        aggregate: changes of the aggregator.
        clients: changes of the clients.
        counters: the agent's own durable metrics, as JSON.
        documents: changed alerts, silences and messages.
    """

    aggregate: AggregateChanges
    clients: ClientChanges = ClientChanges({}, frozenset(), {})
    counters: bytes = b"{}"
    documents: Documents = MappingProxyType({})

    @classmethod
    def of(cls, changes: Iterable[object]) -> WriteBatch:
        """Return the batch of all changes; ignore changes that need no store."""
        parts: dict[str, Any] = {}
        documents: dict[tuple[str, str], bytes | None] = {}
        for change in changes:
            match change:
                case AggregateChanges():
                    parts["aggregate"] = change
                case ClientChanges():
                    parts["clients"] = change
                case bytes():
                    parts["counters"] = change
                case Mapping():
                    documents.update(change)
        return cls(**parts, documents=documents)


class StoredState(NamedTuple):
    """The content of the store at a start.

    Attributes:
        now: time of the last commit, Unix seconds; None if there was none.
        since: when the first event was seen.
        keys: the series by row.
        names: other values by kind and number.
        totals: everything since first seen.
        buckets: the open ones, complete.
        stored: the numbers of the other buckets in the store.
        failures: the latest, oldest first.
        topologies: the last one of each graph.
        clients: JSON by id.
        counters: the agent's own durable metrics, as JSON.
        documents: alerts, silences and messages: JSON by kind and id.
    """

    now: float | None
    since: float
    keys: Sequence[SeriesKey]
    names: Mapping[str, Sequence[Any]]
    totals: Bucket
    buckets: Mapping[int, Bucket]
    stored: Sequence[int]
    failures: Sequence[FailureRecord]
    topologies: Sequence[TopologyRecord]
    clients: Mapping[str, bytes]
    counters: bytes
    documents: Mapping[tuple[str, str], bytes] = {}


class TimedBucket(NamedTuple):
    """The events in [start, start + length), in Unix seconds."""

    start: float
    length: float
    bucket: Bucket


class StoredHistory(NamedTuple):
    """Everything in a store that a backtest needs.

    Attributes:
        registry: the names of rows and numbers.
        buckets: the oldest first; read while iterated.
        first: the start of the first bucket, Unix seconds; infinite for none.
        last: the end of the last one; 0 for none.
        failures: the latest, oldest first.
    """

    registry: Registry
    buckets: Iterable[TimedBucket]
    first: float
    last: float
    failures: Sequence[FailureRecord] = ()
