"""Remembers what became of the events of closed buckets, which any read needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kaywatch_agent.aggregate.completeness import EventLayout, EventSums
from kaywatch_agent.aggregate.view import HISTORY_BUCKETS, View

__all__ = ["EventMemory"]

# Of all buckets together, 32 bytes each: 6 MB at most. With more services than fit,
# buckets are summed up again for each response.
MAX_CELLS: Final = 200_000


class EventMemory:
    """The sums of an hour of buckets, for readers in any thread.

    Several readers may compute the same sums at the same time; one result stays.
    """

    def __init__(self) -> None:
        # By number, each with what the history has stored under that number.
        self._sums: dict[int, tuple[object, EventSums]] = {}

    def recent(
        self, view: View, layout: EventLayout, start: float, end: float
    ) -> Iterator[tuple[int, EventSums]]:
        """Yield the number and the sums of the buckets in memory; see `View.recent`."""
        for number in view.recent_numbers(start, end):
            stored = view.buckets.stored(number)
            known = self._sums.get(number)
            if known is not None and known[0] is stored:
                yield number, known[1]
                continue
            sums = layout.sum(view.buckets.part(number, dimensions=()))
            if view.buckets.is_closed(number):
                self._remember(view, number, stored, sums)
            yield number, sums

    def _remember(
        self, view: View, number: int, stored: object, sums: EventSums
    ) -> None:
        if len(self._sums) > HISTORY_BUCKETS:
            kept = self._sums.copy().items()
            self._sums = {n: known for n, known in kept if n in view.buckets}
        if len(sums.cells) + len(sums.losers) <= MAX_CELLS // HISTORY_BUCKETS:
            self._sums[number] = stored, sums
