"""An hour of steps: the open ones as they are, the closed ones packed.

A closed step is read seldom and kept for an hour, so it is held in the narrowest
columns that fit: some 50 bytes for a series and 3 for each of its facts, against 88
and 16. Unpacked, it is what it was.

Strategy: the facts of a step have few distinct numbers, so each is held as an index of
these. Counts are bytes; the few that don't fit, as sums of time, are held apart. Rows
that are those of the step before are held once.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.step import EMPTY, ROW_SHIFT, Step

__all__ = ["History", "Packed", "pack", "unpack"]

_LOW: Final = (1 << ROW_SHIFT) - 1
_MOST: Final = int(np.iinfo(np.uint8).max)

# The spacing of floats from 2004 to 2038, Unix seconds: such times are multiples of it.
UNIT: Final = 2.0**-22
MAX_UNITS: Final = float(np.iinfo(np.uint32).max)


class Packed(NamedTuple):
    """A step in narrow columns; the facts of each row follow one another."""

    rows: NDArray[np.int32]
    executions: NDArray[Any]
    attempts: NDArray[Any]
    floats: NDArray[np.float64]  # total, squares, least, most and last, a line each
    last_time: NDArray[Any]  # the time itself, or whole units since `since`
    since: NDArray[np.float64]  # one
    facts_per_row: NDArray[Any]
    kinds: NDArray[np.uint32]  # the distinct facets and numbers
    facts: NDArray[Any]  # indexes into them
    fact_counts: NDArray[np.uint8]  # 0: the next one in `large`
    large: NDArray[Any]


def pack(step: Step, like: Packed | None = None) -> Packed:
    """Return the step in as little memory as it takes; `like` may share its rows."""
    starts = np.searchsorted(step.fact_keys, step.rows << ROW_SHIFT)
    sizes = np.diff(starts, append=len(step.fact_keys))
    kinds, facts = np.unique(step.fact_keys & _LOW, return_inverse=True)
    fits = (step.fact_counts > 0) & (step.fact_counts <= _MOST)
    last_time, since = _since(step.last_time)
    own = like is None or not np.array_equal(like.rows, step.rows)
    packed = Packed(
        rows=step.rows.astype(np.int32) if own else np.zeros(0, np.int32),
        executions=_narrow(step.executions),
        attempts=_narrow(step.attempts),
        floats=np.array([*step[3:7], step.last]),
        last_time=last_time,
        since=np.array([since]),
        facts_per_row=_narrow(sizes),
        kinds=kinds.astype(np.uint32),
        facts=_narrow(facts),
        fact_counts=np.where(fits, step.fact_counts, 0).astype(np.uint8),
        large=_narrow(step.fact_counts[~fits]),
    )
    found = Packed(*_together(packed))
    return found if own or like is None else found._replace(rows=like.rows)


def unpack(packed: Packed) -> Step:
    """Return the step that was packed."""
    rows = packed.rows.astype(np.int64)
    row_of_fact = np.repeat(rows, packed.facts_per_row)
    counts = packed.fact_counts.astype(np.int64)
    counts[counts == 0] = packed.large
    return Step._make(
        [
            rows,
            packed.executions.astype(np.int64),
            packed.attempts.astype(np.int64),
            *packed.floats[:4],
            _times(packed),
            packed.floats[4],
            (row_of_fact << ROW_SHIFT) | packed.kinds[packed.facts],
            counts,
        ]
    )


class History(Mapping[int, Step]):
    """Steps by their number, unpacked when they are asked for. Immutable."""

    def __init__(
        self,
        steps: Mapping[int, Step | Packed | None],
        read: Callable[[int], Step] = lambda _: EMPTY,
    ) -> None:
        """Hold steps.

        Args:
            steps: by number; None for one that is only in the store.
            read: returns a step from the store.
        """
        self._steps = steps
        self._read = read

    def __getitem__(self, number: int) -> Step:
        step = self._steps[number]
        if step is None:
            return self._read(number)
        return unpack(step) if isinstance(step, Packed) else step

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __contains__(self, number: object) -> bool:
        return number in self._steps

    def advanced(self, fresh: Mapping[int, Step], current: int, kept: int) -> History:
        """Return the history after a tick.

        Args:
            fresh: the steps as they are now, where something was added.
            current: the number of the step that is now.
            kept: how many steps before it are kept.
        """
        steps = {
            n: s for n, s in {**self._steps, **fresh}.items() if n >= current - kept
        }
        like = next((s for s in self._steps.values() if isinstance(s, Packed)), None)
        for number, step in steps.items():
            # The one before is open too: what is on its way comes a second late.
            if number < current - 1 and isinstance(step, Step):
                steps[number] = like = pack(step, like)
        return History(steps, self._read)


def _since(times: NDArray[np.float64]) -> tuple[NDArray[Any], float]:
    """Return times as whole units since the first of them, if that loses nothing."""
    if not len(times):
        return times, 0.0
    first = float(times.min())
    units = (times - first) / UNIT
    if not units.max() <= MAX_UNITS:
        return times, 0.0
    whole = units.astype(np.uint32)
    exact = np.array_equal(whole * UNIT + first, times)
    return (whole, first) if exact else (times, 0.0)


def _times(packed: Packed) -> NDArray[np.float64]:
    if packed.last_time.dtype == np.float64:
        return packed.last_time
    times: NDArray[np.float64] = packed.last_time * UNIT + packed.since
    return times


def _together(columns: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return copies of the columns in one block of memory of their own.

    Lying between a tick's temporaries on the heap, they would keep twice as much of it
    from being used again (measured: 680 MB for 270 MB of columns).
    """
    size = sum(column.nbytes for column in columns)
    block = mmap.mmap(-1, max(size, 1))
    copies = list(columns)
    at = 0
    # The widest first, so that each is aligned.
    for place in sorted(range(len(columns)), key=lambda n: -columns[n].itemsize):
        column = columns[place]
        copy = np.frombuffer(block, column.dtype, column.size, at)
        copies[place] = copy.reshape(column.shape)
        copies[place][...] = column
        at += column.nbytes
    return copies


def _narrow(column: NDArray[np.int64]) -> NDArray[Any]:
    most = int(column.max()) if len(column) else 0
    return column.astype(np.min_scalar_type(most))
