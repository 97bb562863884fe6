"""Times of client clocks, which may be wrong, as times of the agent's clock.

Strategy: an event keeps its client's time, unless that is in the future: it is counted
in the bucket that the client believes in, and may arrive an hour late. The age of what
is in progress decides whether it is stuck, so its start is moved to the agent's clock:
the client computes it by the clock that `sent` of its batch shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from kaywatch_agent.model.bounds import MAX_TIME
from kaywatch_agent.model.records import FailureRecord, InFlight

__all__ = [
    "clamp_failure",
    "clamp_time",
    "clamp_times",
    "is_future",
    "move_in_flight",
]

# A time further ahead than this comes from a wrong clock, and counts as now.
FUTURE_SECONDS: Final = 5.0


def is_future(times: NDArray[np.float64], now: float) -> NDArray[np.bool_]:
    """Return which times are those of a clock that is ahead."""
    future: NDArray[np.bool_] = times > now + FUTURE_SECONDS
    return future


def clamp_times(times: NDArray[np.float64], now: float) -> NDArray[np.float64]:
    """Return events' times, limited to the range from 1970 to now."""
    if times.max() > now + FUTURE_SECONDS:
        times = np.where(is_future(times, now), now, times)
    # A sender without a clock sends 0.
    return np.where(times <= 0, now, times) if times.min() <= 0 else times


def clamp_time(time: float, now: float) -> float:
    """Return one event's time, as `clamp_times` does."""
    return time if 0 < time <= now + FUTURE_SECONDS else now


def clamp_failure(failure: FailureRecord, now: float) -> FailureRecord:
    """Return a failure with the time of its event; its run lasted as long."""
    time = clamp_time(failure.time, now)
    if time == failure.time:
        return failure
    started = failure.run_start
    return replace(
        failure, time=time, run_start=started and _move(started, time - failure.time)
    )


def move_in_flight(
    flights: Iterable[InFlight], seconds: float, now: float
) -> tuple[InFlight, ...]:
    """Return executions in progress, with their starts moved by `seconds`.

    No start is later than now. Unknown starts, which are 0, remain unknown.

    Args:
        flights: the executions in progress.
        seconds: the agent's clock minus the clock of the starts.
        now: Unix seconds, by the agent's clock.
    """
    return tuple(
        replace(
            flight,
            start=flight.start and min(now, _move(flight.start, seconds)),
            run_start=flight.run_start and min(now, _move(flight.run_start, seconds)),
        )
        for flight in flights
    )


def _move(time: float, seconds: float) -> float:
    """Return a time moved by some seconds; one that is known remains known."""
    return min(max(time + seconds, 1.0), MAX_TIME)
