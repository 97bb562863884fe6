"""The usual values: the day before a period, merged once an hour or a minute."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

from kaywatch_agent.aggregate.bucket import Bucket, merge
from kaywatch_agent.aggregate.view import DAY, HOUR, MINUTE, View

__all__ = ["DayBefore"]

# For the present, and for the period it is compared with; by hour and by minute.
MAX_DAYS: Final = 4


class DayBefore:
    """Merges the 24 hours before a period, for readers in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By their end, the latest used last.
        self._days: dict[int, Bucket] = {}

    def of(self, view: View, start: float) -> Bucket:
        """Return the 24 hours before the hour in which a period starts."""
        end = int(start // HOUR) * HOUR
        return self._merged(end, lambda: (b for _, b in view.between(end - DAY, end)))

    def until(self, view: View, start: float) -> Bucket:
        """Return these 24 hours and what followed until the minute of the start."""
        hour, end = int(start // HOUR) * HOUR, int(start // MINUTE) * MINUTE
        day = self.of(view, start)
        if end == hour:
            return day
        rest = view.between(hour, end)
        return self._merged(end, lambda: (day, *(bucket for _, bucket in rest)))

    def _merged(self, end: int, buckets: Callable[[], Iterable[Bucket]]) -> Bucket:
        with self._lock:
            day = self._days.pop(end, None)
            if day is None:
                day = merge(buckets())
            self._days[end] = day
            if len(self._days) > MAX_DAYS:
                del self._days[next(iter(self._days))]
        return day
