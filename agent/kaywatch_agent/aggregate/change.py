"""What happened since the last commit: for the store, to be made durable as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kaywatch_agent.aggregate.step import Step
from kaywatch_agent.model.records import FailureRecord, TopologyRecord
from kaywatch_agent.model.series import SeriesKey

__all__ = ["Change", "Restored"]


class Change(NamedTuple):
    """What one commit makes durable.

    Attributes:
        now: Unix seconds.
        since: when the first event was seen.
        steps: what is new of each step, by number.
        late: what is new in the totals and in no step.
        totals: all since first seen, with what is new.
        keys: the series by row, append-only.
        rows: how many series are known at this moment.
        names: values by facet and number, append-only.
        sizes: how many of them are known at this moment, by facet.
        failures: new ones.
        topologies: new ones.
        clients: those that changed, by id, as JSON.
        forgotten: ids of clients that are known no more.
        marks: by client, the sequence number up to which this change has its batches.
        counters: the agent's own, as JSON.
        documents: what else is kept, by kind and id, as JSON; None for what is gone.
    """

    now: float
    since: float
    steps: Mapping[int, Step]
    late: Step
    totals: Step
    keys: Sequence[SeriesKey]
    rows: int
    names: Mapping[str, Sequence[Any]]
    sizes: Mapping[str, int]
    failures: Sequence[FailureRecord] = ()
    topologies: Sequence[TopologyRecord] = ()
    clients: Mapping[str, bytes] = {}
    forgotten: Iterable[str] = ()
    marks: Mapping[str, int] = {}
    counters: bytes = b"{}"
    documents: Mapping[tuple[str, str], bytes | None] = {}


class Restored(NamedTuple):
    """What was committed, after a restart.

    Attributes:
        now: when the last commit was, Unix seconds; None if there was none.
        since: when the first event was seen.
        keys: the series by row.
        names: values by facet and number.
        totals: all since first seen.
        steps: those that are open, whole.
        stored: numbers of the other steps that can be read back.
        failures: the latest, oldest first.
        topologies: all that are known.
        clients: by id, as JSON.
        counters: the agent's own, as JSON.
        documents: what else was kept, by kind and id, as JSON.
    """

    now: float | None
    since: float
    keys: Sequence[SeriesKey]
    names: Mapping[str, Sequence[Any]]
    totals: Step
    steps: Mapping[int, Step]
    stored: Sequence[int]
    failures: Sequence[FailureRecord]
    topologies: Sequence[TopologyRecord]
    clients: Mapping[str, bytes]
    counters: bytes
    documents: Mapping[tuple[str, str], bytes] = {}
