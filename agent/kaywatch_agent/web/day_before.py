"""The day before a period, merged once an hour: what is usual."""

from __future__ import annotations

import threading
from typing import Final

from kaywatch_agent.aggregate.bucket import Bucket, gather, merge
from kaywatch_agent.aggregate.view import DAY, HOUR, View

__all__ = ["DayBefore"]

# For the present, and for the period it is compared with.
MAX_DAYS: Final = 2


class DayBefore:
    """Merges the 24 hours before a period, for readers in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._days: dict[int, Bucket] = {}  # by their last hour, the latest used last

    def of(self, view: View, start: float) -> Bucket:
        """Return the 24 hours before the hour in which a period starts."""
        hour = int(start // HOUR)
        with self._lock:
            day = self._days.pop(hour, None)
            if day is None:
                end = hour * HOUR
                day = merge(gather(b for _, b in view.between(end - DAY, end)))
            self._days[hour] = day
            if len(self._days) > MAX_DAYS:
                del self._days[next(iter(self._days))]
        return day
