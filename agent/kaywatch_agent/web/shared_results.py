"""Results that are expensive to compute, and the same for all readers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

__all__ = ["SharedResults"]

T = TypeVar("T")

# Fifty open pages ask every five seconds.
FRESH_SECONDS: Final = 5.0


class SharedResults:
    """Keeps results for a few seconds, for readers in any thread.

    Readers that need the same result at the same time wait for one computation.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: dict[Hashable, tuple[float, Any]] = {}

    def get(self, key: Hashable, now: float, compute: Callable[[], T]) -> T:
        """Return the result of a key; compute it unless it is fresh.

        Args:
            key: what the result depends on, besides the time.
            now: Unix seconds.
            compute: returns the result, which must not be changed afterwards.
        """
        with self._lock:
            fresh = {
                known: (at, result)
                for known, (at, result) in self._results.items()
                if 0.0 <= now - at < FRESH_SECONDS
            }
            if key not in fresh:
                fresh[key] = now, compute()
            self._results = fresh
            result: T = fresh[key][1]
            return result
