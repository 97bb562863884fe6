"""What one commit makes durable, and what a start finds in the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from kaywatch_agent.aggregate.bucket import Bucket
from kaywatch_agent.aggregate.clients import ClientChanges
from kaywatch_agent.model.records import FailureRecord, TopologyRecord
from kaywatch_agent.model.series import SeriesKey

__all__ = ["AggregateChanges", "Documents", "StoredState", "WriteBatch"]

# By kind and id, as JSON; None for one that was deleted.
Documents = Mapping[tuple[str, str], bytes | None]


class AggregateChanges(NamedTuple):
    """What one commit makes durable of the aggregates.

    Attributes:
        now: Unix seconds.
        since: when the first event was seen.
        buckets: what is new of each bucket, by number.
        late: what is new in the totals and in no bucket.
        totals: all since first seen, including what is new.
        keys: the series by row, append-only.
        rows: how many series are known at this moment.
        names: values by dimension and number, append-only.
        sizes: how many of them are known at this moment, by dimension.
        failures: new ones.
        topologies: new ones.
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
        aggregate: of the aggregator.
        clients: of the clients.
        counters: the agent's own durable counters, as JSON.
        documents: alerts, silences and messages.
    """

    aggregate: AggregateChanges
    clients: ClientChanges = ClientChanges({}, frozenset(), {})
    counters: bytes = b"{}"
    documents: Documents = MappingProxyType({})

    @classmethod
    def of(cls, changes: Iterable[object]) -> WriteBatch:
        """Return the batch of all changes; those that need no store are left out."""
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
    """What was committed, after a restart.

    Attributes:
        now: when the last commit was, Unix seconds; None if there was none.
        since: when the first event was seen.
        keys: the series by row.
        names: values by dimension and number.
        totals: all since first seen.
        buckets: those that are open, whole.
        stored: numbers of the other buckets that can be read back.
        failures: the latest, oldest first.
        topologies: all that are known.
        clients: by id, as JSON.
        counters: the agent's own, as JSON.
        documents: alerts, silences and messages, by kind and id, as JSON.
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
