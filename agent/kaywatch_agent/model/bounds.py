"""Bounded types that structs share, and the bounds.

The wire decoder enforces the bounds, and OpenAPI describes them. `ItemDecoder`
truncates texts and clamps integers instead of rejecting them.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from msgspec import Meta

from kaywatch.wire import MAX_NAME

__all__ = [
    "MAX_ATTEMPTS",
    "MAX_COUNT",
    "MAX_LIST",
    "MAX_MESSAGE",
    "MAX_PATH",
    "MAX_TIME",
    "MAX_TRACEBACK",
    "OUTCOMES",
    "Attempts",
    "Count",
    "Moment",
    "Name",
    "OutcomeName",
    "Rate",
    "Seconds",
]

MAX_MESSAGE: Final = 500  # characters of a failure's message
MAX_TRACEBACK: Final = 4_000  # and of its traceback

# Nodes in the path of a failed run. A failure with a path takes some 3 kB.
MAX_PATH: Final = 50

# The length of each list: failures, topologies, nodes in flight, and a topology's nodes
# and edges. Our client sends at most 1,000.
MAX_LIST: Final = 5_000

# Later stages calculate with these numbers and store them as 64-bit integers. A number
# beyond its bound is a sender's bug, and must not cause an error in a later stage.
MAX_COUNT: Final = 2**48  # sums of thousands of such reports still fit
MAX_ATTEMPTS: Final = 65_535
MAX_TIME: Final = 253_402_300_799.0  # the last second of the year 9999

Name = Annotated[str, Meta(max_length=MAX_NAME)]
Count = Annotated[int, Meta(ge=0)]
Attempts = Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)]
Rate = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]
Moment = Annotated[float, Meta(ge=0, le=MAX_TIME, description="Unix seconds")]

# The names of `kaywatch.wire.Outcome`, indexed by its numbers.
OutcomeName = Literal["ok", "error", "suppressed", "fallback", "cancelled"]
OUTCOMES: Final[tuple[OutcomeName, ...]] = get_args(OutcomeName)
