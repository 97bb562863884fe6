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


# Responses have no cycles: untracked, thousands of them do not lengthen the collector's
# pauses.
class ResponseBody(Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The base of all responses: every key is always present, and no others are."""


class Error(ResponseBody):
    """An error, and its fix."""

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
    """The number of received and lost events of the clients of some services.

    `received` events are counted in the statistics, `dropped` ones were lost, by
    reason; `ratio` is the share that was received. Of the received events, `late` ones
    arrived too late for a window and are only in the totals since first seen;
    `overflow` ones are counted under `__other__`, because of the limits on names.
    Before the `deaths` of processes, events of at most `unknown_seconds` in total may
    be missing; each death counts as one lost event in `ratio`.
    """

    received: Count
    dropped: dict[str, int]
    late: Count
    overflow: Count
    deaths: Count
    unknown_seconds: Annotated[float, Meta(ge=0)]
    ratio: Rate | None

    @classmethod
    def of(cls, counts: EventCounts) -> EventAccount:
        """Return the number of received and lost events of some services."""
        return cls(
            received=counts.received,
            dropped=dict(counts.dropped),
            late=counts.late,
            overflow=counts.overflow,
            deaths=counts.deaths,
            unknown_seconds=counts.unknown_seconds,
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
