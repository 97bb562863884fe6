"""Single executions and runs as server-sent events: the feed's listeners over HTTP."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.event_stream import (
    Event,
    EventStream,
    Filter,
    MissReason,
    Subscriber,
)
from kaywatch_agent.model.records import ExecutionRecord
from kaywatch_agent.units import parse_duration
from kaywatch_agent.web.api import live_shapes
from kaywatch_agent.web.api.parameters import EventsQuery
from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.reading import Reading
from kaywatch_agent.web.stream import Piece, Reader, event

__all__ = ["MAX_LISTENERS", "Events", "listening"]

# At a thousand events a second for each, some 20 % of a core.
MAX_LISTENERS: Final = 20

# Events that are written at once.
AT_ONCE: Final = 100

FAILURES: Final = frozenset((Outcome.ERROR, Outcome.SUPPRESSED, Outcome.FALLBACK))

_encode = msgspec.json.Encoder().encode


def listening(reading: Reading, query: EventsQuery) -> live_shapes.Listening:
    """Return the first event: from here on, nothing that matches is left out unsaid."""
    return live_shapes.Listening(
        time=reading.now, version=reading.version, rate=query.rate
    )


class Events:
    """Those who listen to the feed."""

    def __init__(self, feed: EventStream) -> None:
        self._feed = feed

    @contextlib.contextmanager
    def reader(self, query: EventsQuery, first: bytes) -> Iterator[Reader]:
        """Let one listen within the block.

        Args:
            query: to what.
            first: the first event's data.

        Raises:
            Problem: 503 when too many listen.
        """
        if len(self._feed.subscribers) >= MAX_LISTENERS:
            raise Problem(
                503,
                "too_many_listeners",
                f"{MAX_LISTENERS} listen already, which is the most there can be",
                "close one, or read /api/v1/stream or /api/v1/failures",
                {"Retry-After": "10"},
            )
        reader = _EventReader(query, first)
        self._feed.subscribe(reader.listener)
        try:
            yield reader
        finally:
            self._feed.unsubscribe(reader.listener)


class _EventReader(Reader):
    """One listener's events, encoded when it is ready for them."""

    def __init__(self, query: EventsQuery, first: bytes) -> None:
        super().__init__()
        self.listener = Subscriber(_filter(query), query.rate, self.wake)
        self._first: bytes | None = event("listening", first)

    def take(self, most: int) -> Piece | None:
        if self._first is not None:
            first, self._first = self._first, None
            return Piece(first, 0)
        made: list[bytes] = []
        events = 0
        while events < min(most, AT_ONCE):
            found = self.listener.read()
            if found is None:
                break
            if isinstance(found, Counter):
                made.append(event("missed", _encode(_missed(found))))
            else:
                made.append(_event(found))
                events += 1
        return Piece(b"".join(made), events) if made else None


def _filter(query: EventsQuery) -> Filter:
    outcomes = {Outcome[name.upper()] for name in query.outcome}
    if query.failures:
        outcomes |= FAILURES
    return Filter(
        services=frozenset(query.service),
        graphs=frozenset(query.graph),
        nodes=frozenset(query.node),
        outcomes=frozenset(outcomes),
        slower_than=parse_duration(query.slower_than),
        runs=query.runs,
    )


def _event(found: Event) -> bytes:
    name = "execution" if isinstance(found, ExecutionRecord) else "run"
    return event(name, _encode(found))


def _missed(counts: Counter[MissReason]) -> live_shapes.Missed:
    return live_shapes.Missed(
        limited=counts[MissReason.LIMITED], slow=counts[MissReason.SLOW]
    )
