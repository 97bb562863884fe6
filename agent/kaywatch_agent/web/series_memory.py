"""Remembers what depends only on the set of series: most requests need it again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["SeriesMemory"]

T = TypeVar("T")


class SeriesMemory:
    """Results that stay correct until a series is added, for readers in any thread.

    Several readers may compute the same result at the same time; one of them stays.
    """

    def __init__(self) -> None:
        self._results: dict[Hashable, tuple[int, Any]] = {}

    def get(self, key: Hashable, series: int, compute: Callable[[], T]) -> T:
        """Return the result of a key; compute it if series were added.

        Args:
            key: one of a bounded number.
            series: the number of series. They are only ever added.
            compute: returns the result, which must not be changed afterwards.
        """
        known = self._results.get(key)
        if known is None or known[0] != series:
            known = self._results[key] = series, compute()
        result: T = known[1]
        return result
