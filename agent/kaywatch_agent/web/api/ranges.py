"""A period in whole steps, for charts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Annotated, Final, NamedTuple, TypeVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import Bucket, Dimension
from kaywatch_agent.aggregate.completeness import EventSums
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, View
from kaywatch_agent.units import parse_duration
from kaywatch_agent.web.api.parameters import WINDOW_PATTERN, moment_seconds
from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = [
    "MAX_POINTS",
    "StepText",
    "TimeRange",
    "archived_points",
    "recent_events",
    "recent_points",
    "time_range",
    "was_watched",
]

T = TypeVar("T")

# As in range queries of Prometheus: 60 s over a week or 1 h over a year.
MAX_POINTS: Final = 11_000
DEFAULT_POINTS: Final = 360
DEFAULT_SECONDS: Final = 3600.0

StepText = Annotated[
    str,
    Meta(
        pattern=WINDOW_PATTERN,
        description="The distance between two points, a multiple of 10s. By default,"
        f" there are at most {DEFAULT_POINTS} points, or a third of that in a heatmap.",
        examples=["10s", "60", "5m"],
        extra={"allowed": "a multiple of 10 seconds, such as 10, 30s, 5m or 1h"},
    ),
]


class TimeRange(NamedTuple):
    """A period in whole steps: point n begins at first + n * step."""

    start: float
    end: float
    step: int
    first: int
    points: int


def time_range(
    start: str | None,
    end: str | None,
    step: str | None,
    now: float,
    default_points: int = DEFAULT_POINTS,
) -> TimeRange:
    """Return a range.

    Args:
        start: as a parameter's text; by default an hour before the end.
        end: as a parameter's text; by default now.
        step: as a parameter's text; by default such that the points are few.
        now: Unix seconds.
        default_points: how many are few.

    Raises:
        Problem: 400 for a start that is not before the end, and for too many points.
    """
    last = moment_seconds(end or "now", now)
    since = last - DEFAULT_SECONDS if start is None else moment_seconds(start, now)
    if since >= last:
        raise Problem(
            400,
            "bad_range",
            f"start={since:.3f} is not before end={last:.3f}",
            "give start as Unix seconds or relative to now, such as -15m",
        )
    seconds = _step(step) if step else _fit_step(last - since, default_points)
    # Steps begin at multiples of their length, so that a refreshed chart keeps its
    # points.
    first = math.floor(since / seconds) * seconds
    points = math.ceil((last - first) / seconds)
    if points > MAX_POINTS:
        raise Problem(
            400,
            "too_many_points",
            f"step={seconds}s results in {points} points; the maximum is {MAX_POINTS}",
            f"use a step of {_fit_step(last - since, MAX_POINTS)}s or more",
        )
    return TimeRange(since, last, seconds, first, points)


def archived_points(view: View, range: TimeRange) -> Iterator[tuple[int, Bucket]]:
    """Yield the range's buckets that are not in memory, with the number of a point."""
    return _points(range, view.archived(range.first, range.end, range.step))


def recent_points(
    view: View,
    range: TimeRange,
    rows: NDArray[np.int64] | None,
    dimensions: Collection[Dimension],
) -> Iterator[tuple[int, Bucket]]:
    """Yield the range's buckets in memory, or a part, with the number of a point.

    Args:
        view: has the buckets.
        range: the range.
        rows: the only series wanted, sorted; None for all.
        dimensions: those of the facts wanted; others may be yielded as well.
    """
    return _points(range, view.recent(range.first, range.end, rows, dimensions))


def recent_events(
    snapshot: AgentSnapshot, range: TimeRange
) -> Iterator[tuple[int, EventSums]]:
    """Yield the events of the range's buckets in memory, with the number of a point."""
    return _points(range, snapshot.recent_events(range.first, range.end))


def was_watched(snapshot: AgentSnapshot, time: float, step: int) -> bool:
    """Return whether the agent has data of a point's time, if there were events."""
    view = snapshot.view
    kept_since = max(view.since, snapshot.now - view.archive.kept_seconds)
    oldest = math.floor(kept_since / BUCKET_SECONDS)
    # Before and after, a missing count is unknown rather than 0.
    return time + step > oldest * BUCKET_SECONDS and time <= snapshot.now


def _points(
    range: TimeRange, buckets: Iterable[tuple[int, T]]
) -> Iterator[tuple[int, T]]:
    for begin, bucket in buckets:
        point = (begin - range.first) // range.step
        if 0 <= point < range.points:
            yield point, bucket


def _fit_step(seconds: float, points: int) -> int:
    """Return the shortest step with which a range has at most some points."""
    return max(1, math.ceil(seconds / points / BUCKET_SECONDS)) * BUCKET_SECONDS


def _step(text: str) -> int:
    step = parse_duration(text)
    # A bucket cannot be divided.
    if step % BUCKET_SECONDS:
        raise Problem(
            400,
            "bad_parameter",
            f"invalid step={text!r}",
            f"expected a multiple of {BUCKET_SECONDS}s, such as 10s, 5m or 1h",
        )
    return int(step)
