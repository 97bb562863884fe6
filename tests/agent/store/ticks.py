"""Changes to commit, made from events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.agent.aggregate.samples import Event, columns

from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge
from kaywatch_agent.aggregate.change import AggregateChanges, WriteBatch
from kaywatch_agent.aggregate.clients import ClientChanges
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.model.series import ErrorKey, Kind, SeriesKey

START = 1_700_000_000 - 1_700_000_000 % 3600
KEYS = [
    SeriesKey(Kind.NODE, "shop", "checkout", "pay"),
    SeriesKey(Kind.COUNT, "shop", "", "", "hits", (("tier", "memory"),)),
    SeriesKey(Kind.RUN, "shöp", "checkout", ""),
]
NAMES: dict[str, list[Any]] = {
    "actions": ["", "default", "retry"],
    "errors": [ErrorKey("", ""), ErrorKey("ValueError", "exec")],
}


class Ticks:
    """The changes of an aggregator, tick by tick."""

    def __init__(self) -> None:
        self.totals = EMPTY
        self.events: list[Event] = []

    def change(
        self,
        now: float,
        events: Sequence[Event],
        late: Sequence[Event] = (),
        **more: Any,
    ) -> WriteBatch:
        self.events += [*events, *late]
        parts: dict[int, list[Event]] = {}
        for event in events:
            parts.setdefault(int(event.time // 10), []).append(event)
        buckets = {n: reduce(columns(part)) for n, part in parts.items()}
        rest = reduce(columns(late)) if late else EMPTY
        self.totals = merge([self.totals, *buckets.values(), rest])
        lists = {
            key: more.pop(key) for key in ("failures", "topologies") if key in more
        }
        changes = AggregateChanges(
            now=now,
            since=START,
            buckets=buckets,
            late=rest,
            totals=self.totals,
            keys=KEYS,
            rows=len(KEYS),
            names=NAMES,
            sizes={facet: len(values) for facet, values in NAMES.items()},
            **lists,
        )
        clients = ClientChanges(
            more.pop("clients", {}), frozenset(more.pop("forgotten", ())), {}
        )
        return WriteBatch(changes, clients, **more)

    def expected(self, start: float = 0, end: float = float("inf")) -> Bucket:
        return reduce(columns([e for e in self.events if start <= e.time < end]))
