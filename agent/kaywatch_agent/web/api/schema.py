"""Types that several responses share; each endpoint's own types are in its module."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from kaywatch_agent.aggregate.completeness import EventCounts
from kaywatch_agent.model.bounds import Count, Rate
from kaywatch_agent.model.client import Client

__all__ = [
    "EventAccount",
    "ClientDetails",
    "Error",
    "ErrorResponse",
    "Outcomes",
    "ResponseBody",
    "WindowSeconds",
]

WindowSeconds = Annotated[
    int, Meta(ge=1, description="length in seconds; null: since first seen")
]


class ResponseBody(Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What all responses share: every key is always there, and there are no others."""


class Error(ResponseBody):
    """What is wrong, and how to fix it."""

    code: str
    message: str
    hint: str


class ErrorResponse(ResponseBody):
    """The body of every response that is not a success."""

    error: Error


class Outcomes(ResponseBody):
    """The number of executions, or runs, with each outcome."""

    ok: Count
    error: Count
    suppressed: Count
    fallback: Count
    cancelled: Count


class EventAccount(ResponseBody):
    """What became of the events that the clients of some services recorded.

    `received` events are counted in the statistics, `dropped` ones were lost, by
    reason; `ratio` is the share that was received. Of the received events, `late` ones
    arrived too late for a window and are only in the totals since first seen;
    `overflow` ones are counted under `__other__`, because of the limits on names.
    """

    received: Count
    dropped: dict[str, int]
    late: Count
    overflow: Count
    ratio: Rate | None

    @classmethod
    def of(cls, counts: EventCounts) -> EventAccount:
        """Return what became of the events of some services."""
        return cls(
            received=counts.received,
            dropped=dict(counts.dropped),
            late=counts.late,
            overflow=counts.overflow,
            ratio=counts.ratio,
        )


class ClientDetails(Client, kw_only=True):
    """One process that sends, or that left within the hour.

    `missing` events were recorded, and neither arrived nor were reported as lost: they
    are on their way, or were lost with the process.
    """

    completeness: Rate | None
    missing: Count
    memory_mb: float | None
    peak_memory_mb: float | None
