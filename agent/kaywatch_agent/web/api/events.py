"""The stream of events: single executions and runs, as they arrive."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct, field

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.event_stream import (
    MAX_RATE,
    Event,
    EventStream,
    Filter,
    MissReason,
    Subscriber,
)
from kaywatch_agent.model.bounds import Count, Moment, Name, OutcomeName
from kaywatch_agent.model.records import ExecutionRecord
from kaywatch_agent.units import DURATION_PATTERN, parse_duration
from kaywatch_agent.web.api.parameters import DURATION_TEXT
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.snapshot import AgentSnapshot
from kaywatch_agent.web.stream import Chunk, Subscription, encode_event

__all__ = ["MissedEvents", "Subscribed", "first_event", "subscribe"]

# At 1,000 events per second each, they use some 20 % of a core.
MAX_SUBSCRIBERS: Final = 20

# The maximum number of events in one write.
BATCH: Final = 100

FAILURES: Final = frozenset((Outcome.ERROR, Outcome.SUPPRESSED, Outcome.FALLBACK))

_encode = msgspec.json.Encoder().encode


class EventsQuery(Struct, frozen=True):
    """Filters of events, and how many to send."""

    service: Annotated[
        list[Name], Meta(description="Only these services.", examples=[["shop"]])
    ] = field(default_factory=list)
    graph: Annotated[
        list[Name],
        Meta(
            description="Only these graphs; empty for executions outside any graph.",
            examples=[["checkout"]],
        ),
    ] = field(default_factory=list)
    node: Annotated[
        list[Name],
        Meta(
            description="Only these nodes; for runs, the nodes at which they ended.",
            examples=[["pay"]],
        ),
    ] = field(default_factory=list)
    outcome: Annotated[
        list[OutcomeName],
        Meta(description="Only these outcomes.", examples=[["error"]]),
    ] = field(default_factory=list)
    failures: Annotated[
        bool,
        Meta(description="Short for the outcomes error, suppressed and fallback."),
    ] = False
    slower_than: Annotated[
        str,
        Meta(
            pattern=rf"^{DURATION_PATTERN}$",
            description="Only executions and runs that took longer than this.",
            examples=["2s", "500ms", "0.5"],
            extra={"allowed": DURATION_TEXT},
        ),
    ] = "0"
    runs: Annotated[bool, Meta(description="Also send runs when they end.")] = False
    rate: Annotated[
        int, Meta(ge=1, le=MAX_RATE, description="Events per second, at most.")
    ] = MAX_RATE
    limit: (
        Annotated[
            int,
            Meta(ge=1, le=1_000_000, description="End after N executions and runs."),
        ]
        | None
    ) = None


class Subscribed(ResponseBody):
    """The first event of the stream; from here on no matching event is skipped.

    Events that are left out are counted in a `missed` event.
    """

    time: Moment
    version: str
    rate: Annotated[int, Meta(ge=1, description="events per second, at most")]


class MissedEvents(ResponseBody):
    """How many matching events were left out since the previous `missed` event.

    `limited` ones exceeded the rate, `slow` ones waited too long to be read.
    """

    limited: Count
    slow: Count


def first_event(snapshot: AgentSnapshot, query: EventsQuery) -> Subscribed:
    """Return the first event of a stream."""
    return Subscribed(time=snapshot.now, version=snapshot.version, rate=query.rate)


@contextlib.contextmanager
def subscribe(
    source: EventStream, query: EventsQuery, first: bytes
) -> Iterator[Subscription]:
    """Receive events within the block.

    Args:
        source: the source of events.
        query: filters the events.
        first: the data of the first event.

    Raises:
        Problem: 503 when there are too many subscribers.
    """
    if len(source.subscribers) >= MAX_SUBSCRIBERS:
        raise Problem(
            503,
            "too_many_subscribers",
            f"{MAX_SUBSCRIBERS} event streams are open, which is the maximum",
            "close one, or read /api/v1/live or /api/v1/failures",
            {"Retry-After": "10"},
        )
    subscription = _EventSubscription(query, first)
    # Events are received before the first one is sent, so that none is skipped after
    # it.
    source.subscribe(subscription.subscriber)
    try:
        yield subscription
    finally:
        source.unsubscribe(subscription.subscriber)


class _EventSubscription(Subscription):
    """One subscriber's events, encoded when it is ready to receive them."""

    def __init__(self, query: EventsQuery, first: bytes) -> None:
        super().__init__()
        self.subscriber = Subscriber(_filter(query), query.rate, self.wake)
        self._first: bytes | None = encode_event("subscribed", first)

    def take(self, limit: int) -> Chunk | None:
        if self._first is not None:
            first, self._first = self._first, None
            return Chunk(first, 0)
        parts: list[bytes] = []
        events = 0
        while events < min(limit, BATCH):
            event = self.subscriber.read()
            if event is None:
                break
            # The count of missed events is sent where they are missing.
            if isinstance(event, Counter):
                parts.append(_encode_missed(event))
            else:
                parts.append(_encode_event(event))
                events += 1
        return Chunk(b"".join(parts), events) if parts else None


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


def _encode_event(event: Event) -> bytes:
    name = "execution" if isinstance(event, ExecutionRecord) else "run"
    return encode_event(name, _encode(event))


def _encode_missed(counts: Counter[MissReason]) -> bytes:
    missed = MissedEvents(
        limited=counts[MissReason.LIMITED], slow=counts[MissReason.SLOW]
    )
    return encode_event("missed", _encode(missed))
