"""Statistics of many groups of series at once, in arrays indexed by group.

Strategy: every series has the number of a group, or none. Buckets are added one by one
with a few array operations each, whatever the number of groups. A list of 10,000 nodes,
an hour's chart and one node's statistics are therefore the same loop over buckets, and
at most one bucket's copy is held besides the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate import histogram
from kaywatch_agent.aggregate.bucket import (
    ALL_DIMENSIONS,
    DIMENSION_SHIFT,
    NUMBER_MASK,
    ROW_SHIFT,
    TICKS,
    Bucket,
    Dimension,
    PhaseSum,
    find_rows,
    split,
)
from kaywatch_agent.model.series import SeriesKey

__all__ = [
    "GroupStats",
    "Numbers",
    "PhaseStats",
    "SeriesGroups",
    "few_rows",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Numbers = list[float | None]
Offset = int | Ints
Positions = Ints | slice

T = TypeVar("T", bound=Hashable)

DIMENSION_MASK: Final = (1 << (ROW_SHIFT - DIMENSION_SHIFT)) - 1
FACT_MASK: Final = (1 << ROW_SHIFT) - 1

# Facts are merged once this many wait. Each takes 16 bytes: 32 MB for any window.
MAX_PENDING: Final = 2_000_000

# Buckets with fewer rows are added together until they have this many facts: on their
# own, they spend most of the time on the overhead of calls.
SMALL_ROWS: Final = 256
JOINED_FACTS: Final = 200_000

# A search for each row is faster than a pass over a bucket with this many times as many
# rows.
FEW_FACTOR: Final = 16


class SeriesGroups(Generic[T]):
    """Assigns series to named groups.

    Attributes:
        names: the groups' names, by number.
        numbers: the number of the group by row; -1 for none.
    """

    def __init__(
        self,
        keys: Sequence[SeriesKey],
        rows: Iterable[int],
        name: Callable[[SeriesKey], T | None],
        names: Iterable[T] = (),
    ) -> None:
        """Group series by name.

        Args:
            keys: all series, by row.
            rows: the rows to group.
            name: returns the name of a series' group; None leaves the series out.
            names: groups that exist in any case, numbered first.
        """
        known: dict[T, int] = {known: number for number, known in enumerate(names)}
        at, numbers = [], []
        for row in rows:
            group = name(keys[row])
            if group is not None:
                at.append(row)
                numbers.append(known.setdefault(group, len(known)))
        self.names: list[T] = list(known)
        self.numbers: Ints = np.full(len(keys), -1)
        self.numbers[at] = numbers

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> Iterator[tuple[T, int]]:
        """Yield each group's name and number."""
        return zip(self.names, range(len(self.names)), strict=True)


class PhaseStats(NamedTuple):
    """How the time of executions was split, by group, where that is known.

    Attributes:
        executions: how many executions have a known split.
        prep, exec, wait, post: sums in seconds; `wait` is between attempts.
        items: the number of items in batch nodes.
    """

    executions: Ints
    prep: Floats
    exec: Floats
    wait: Floats
    post: Floats
    items: Ints

    def average(self, phase: str) -> Numbers:
        """Return the average seconds of a phase, None where unknown."""
        return _ratios(getattr(self, phase), self.executions)

    def item_counts(self) -> list[int | None]:
        """Return the numbers of items, None where unknown."""
        pairs = zip(self.items.tolist(), self.executions.tolist(), strict=True)
        return [count if known else None for count, known in pairs]


class FactCounts:
    """Adds up the facts of buckets by group, in one sorted array without duplicates."""

    def __init__(self, numbers: Ints, dimensions: Collection[Dimension]) -> None:
        """Start with nothing.

        Args:
            numbers: the group of each row, -1 for none.
            dimensions: which facts to add up.
        """
        self._numbers = numbers
        self._is_wanted = np.zeros(DIMENSION_MASK + 1, np.bool_)
        self._is_wanted[[int(one) for one in dimensions]] = True
        self._keys: list[Ints] = []
        self._counts: list[Ints] = []
        self._pending = 0
        self._groups = int(numbers.max(initial=-1)) + 1

    def add(self, keys: Ints, counts: Ints, offset: int | Ints) -> None:
        """Add facts; `offset`, or one for each, is added to the groups' numbers."""
        wanted = self._is_wanted[(keys >> DIMENSION_SHIFT) & DIMENSION_MASK]
        keys, counts = keys[wanted], counts[wanted]
        if not len(keys):
            return
        keys = (self._numbers[keys >> ROW_SHIFT] << ROW_SHIFT) | (keys & FACT_MASK)
        if not isinstance(offset, int):
            offset = offset[wanted]
        elif self._groups * FEW_FACTOR < len(keys):
            keys, counts = self._count(keys, counts)
        self._keys.append(keys + (offset << ROW_SHIFT))
        self._counts.append(counts)
        self._pending += len(keys)
        if self._pending > MAX_PENDING:
            self._compact()

    def of(self, dimension: Dimension) -> tuple[Ints, Ints, Ints]:
        """Return (groups, numbers, counts), sorted by group and number."""
        self._compact()
        if not self._keys:
            none: Ints = np.zeros(0, np.int64)
            return none, none, none
        keys, counts = self._keys[0], self._counts[0]
        at = np.flatnonzero(
            (keys >> DIMENSION_SHIFT) & DIMENSION_MASK == int(dimension)
        )
        number = keys[at] & NUMBER_MASK
        if dimension is Dimension.HISTOGRAM:
            number -= histogram.CODE_LIMIT
        return keys[at] >> ROW_SHIFT, number, counts[at]

    def _count(self, keys: Ints, counts: Ints) -> tuple[Ints, Ints]:
        """Add up the facts of few groups in a table, which is faster than sorting."""
        facts = keys & FACT_MASK
        low = int(facts.min())
        width = int(facts.max()) - low + 1
        if self._groups * width > len(keys):
            return keys, counts  # of several dimensions
        cells = (keys >> ROW_SHIFT) * width + (facts - low)
        table = np.bincount(cells, counts)  # floats, and exact up to 2^53
        at = np.flatnonzero(table)
        group, fact = np.divmod(at, width)
        return (group << ROW_SHIFT) | (fact + low), table[at].astype(np.int64)

    def _compact(self) -> None:
        """Merge pending facts."""
        if not self._pending:
            return
        keys = np.concatenate(self._keys)
        # Stable: nearly sorted runs are merged in linear time.
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        distinct = np.concatenate(([True], keys[1:] != keys[:-1]))
        starts = np.flatnonzero(distinct)
        counts = np.add.reduceat(np.concatenate(self._counts)[order], starts)
        self._keys, self._counts, self._pending = [keys[starts]], [counts], 0


class GroupStats:
    """Statistics by group; all lists and arrays are indexed by group.

    Attributes:
        executions, attempts, total: sums.
        least, most: extremes; infinite for a group without events.
        last_time, last: the time and the value of the latest event.
    """

    def __init__(
        self,
        numbers: Ints,
        size: int,
        dimensions: Collection[Dimension] = ALL_DIMENSIONS,
    ) -> None:
        """Start with nothing.

        Args:
            numbers: the group of each row of the registry, -1 for none.
            size: the number of groups.
            dimensions: which facts to add up; each costs time.
        """
        self.executions: Ints = np.zeros(size, np.int64)
        self.attempts: Ints = np.zeros(size, np.int64)
        self.total: Floats = np.zeros(size)
        self.least: Floats = np.full(size, np.inf)
        self.most: Floats = np.full(size, -np.inf)
        self.last_time: Floats = np.full(size, -np.inf)
        self.last: Floats = np.zeros(size)
        self._numbers = numbers
        self._rows = np.flatnonzero(numbers >= 0)
        self._facts = FactCounts(numbers, dimensions) if dimensions else None

    def __len__(self) -> int:
        return len(self.executions)

    def add(self, bucket: Bucket, offset: int = 0) -> None:
        """Add a bucket; `offset` is added to the groups' numbers."""
        for part in split(bucket):
            self._add(part, offset)

    def add_all(self, buckets: Iterable[tuple[int, Bucket]]) -> None:
        """Add many buckets, each with an offset; faster if they are small."""
        small: list[tuple[int, Bucket]] = []
        facts = 0
        for offset, bucket in buckets:
            if len(bucket.rows) > SMALL_ROWS:
                self.add(bucket, offset)
                continue
            small.append((offset, bucket))
            facts += len(bucket.fact_keys)
            if facts > JOINED_FACTS:
                self._add_joined(small)
                small, facts = [], 0
        if small:
            self._add_joined(small)

    def _add_joined(self, buckets: Sequence[tuple[int, Bucket]]) -> None:
        offsets, parts = zip(*buckets, strict=True)
        joined = Bucket._make(map(np.concatenate, zip(*parts, strict=True)))
        at, facts = self._scan(joined)
        by_row = np.repeat(offsets, [len(part.rows) for part in parts])
        by_fact = np.repeat(offsets, [len(part.fact_keys) for part in parts])
        self._add_part(joined, at, facts, (by_row[at], by_fact[facts]))

    def _add(self, bucket: Bucket, offset: int) -> None:
        few = len(self._rows) * FEW_FACTOR < len(bucket.rows)
        at, facts = find_rows(bucket, self._rows) if few else self._scan(bucket)
        self._add_part(bucket, at, facts, (offset, offset))

    def _add_part(
        self,
        bucket: Bucket,
        at: Positions,
        facts: Positions,
        offsets: tuple[Offset, Offset],
    ) -> None:
        """Add some rows and facts of a bucket, with the offsets of both."""
        group = self._numbers[bucket.rows[at]] + offsets[0]
        if not len(group):
            return
        size = len(self)
        self.executions += _sums(group, bucket.executions[at], size)
        self.attempts += _sums(group, bucket.attempts[at], size)
        with np.errstate(over="ignore"):
            self.total += np.bincount(group, bucket.total[at], size)
        np.minimum.at(self.least, group, bucket.least[at])
        np.maximum.at(self.most, group, bucket.most[at])
        times = bucket.last_time[at]
        np.maximum.at(self.last_time, group, times)
        newest = times == self.last_time[group]
        self.last[group[newest]] = bucket.last[at][newest]
        if self._facts is not None:
            keys, counts = bucket.fact_keys[facts], bucket.fact_counts[facts]
            self._facts.add(keys, counts, offsets[1])

    # -- results -----------------------------------------------------------------------

    def sums(self) -> Numbers:
        """Return the sums of the values."""
        return _numbers(self.total)

    def averages(self) -> Numbers:
        """Return the arithmetic means of the values."""
        return _ratios(self.total, self.executions)

    def leasts(self) -> Numbers:
        """Return the smallest values."""
        return _numbers(self.least)

    def mosts(self) -> Numbers:
        """Return the largest values."""
        return _numbers(self.most)

    def lasts(self) -> Numbers:
        """Return the latest values."""
        return _numbers(np.where(self.executions > 0, self.last, np.nan))

    def retries(self) -> Ints:
        """Return the attempts beyond the first of each execution."""
        retries: Ints = np.maximum(self.attempts - self.executions, 0)
        return retries

    def retry_rates(self) -> Numbers:
        """Return the shares of attempts that were retries."""
        return _ratios(self.retries(), self.attempts)

    def outcomes(self) -> Ints:
        """Return executions by outcome: one row per group."""
        table = np.zeros((len(self), len(Outcome)), np.int64)
        group, number, count = self.facts(Dimension.OUTCOME)
        table[group, number] = count
        # OK is not stored: it is the remainder.
        table[:, Outcome.OK] = self.executions - table.sum(axis=1)
        return table

    def phases(self) -> PhaseStats:
        """Return how the time of executions was split."""
        table = np.zeros((len(self), len(PhaseSum)), np.int64)
        group, number, count = self.facts(Dimension.PHASES)
        table[group, number] = count
        return PhaseStats(
            table[:, PhaseSum.EXECUTIONS],
            table[:, PhaseSum.PREP] / TICKS,
            table[:, PhaseSum.EXEC] / TICKS,
            table[:, PhaseSum.WAIT] / TICKS,
            table[:, PhaseSum.POST] / TICKS,
            table[:, PhaseSum.ITEMS],
        )

    def error_rates(self) -> Numbers:
        """Return the shares of failed executions, not counting cancelled ones."""
        outcomes = self.outcomes()
        finished = self.executions - outcomes[:, Outcome.CANCELLED]
        return _ratios(outcomes[:, Outcome.ERROR], finished)

    def success_rates(self) -> Numbers:
        """Return the shares of other executions, as KayGraph's MetricsNode counts."""
        return [None if rate is None else 1.0 - rate for rate in self.error_rates()]

    def quantiles(self, *wanted: float) -> list[Numbers]:
        """Return one list per quantile, each within 1.1 % of the exact one."""
        group, code, count = self.facts(Dimension.HISTOGRAM)
        result = np.full((len(wanted), len(self)), np.nan)
        some = np.flatnonzero(self.executions)
        if len(code) and len(some):
            cumulative = np.cumsum(count)
            start = np.searchsorted(group, some)
            before = cumulative[start] - count[start]
            n = self.executions[some]
            for row, quantile in zip(result, wanted, strict=True):
                rank = np.clip(np.ceil(quantile * n), 1, n)
                middle = histogram.values(
                    code[np.searchsorted(cumulative, before + rank)]
                )
                row[some] = np.clip(middle, self.least[some], self.most[some])
        return [_numbers(row) for row in result]

    def counts_at_most(self, limits: Floats) -> Ints:
        """Return how many values are at most each limit: one row per group.

        Counts are exact for powers of two, which are inclusive upper bounds of
        histogram buckets. Other limits are rounded up, by at most 2.2 %.
        """
        group, code, count = self.facts(Dimension.HISTOGRAM)
        limit = histogram.codes(limits)
        keys = (group << ROW_SHIFT) + code
        wanted = (np.arange(len(self)) << ROW_SHIFT)[:, None] + limit[None, :]
        cumulative = np.concatenate(([0], np.cumsum(count)))
        ends = cumulative[np.searchsorted(keys, wanted, side="right")]
        starts = cumulative[np.searchsorted(group, np.arange(len(self)))]
        below: Ints = ends - starts[:, None]
        return below

    def facts(self, dimension: Dimension) -> tuple[Ints, Ints, Ints]:
        """Return (groups, numbers, counts) of a dimension, sorted."""
        if self._facts is None:
            none: Ints = np.zeros(0, np.int64)
            return none, none, none
        return self._facts.of(dimension)

    def counted(self, dimension: Dimension) -> Iterator[tuple[int, int, int]]:
        """Yield `facts` one by one."""
        return zip(*(column.tolist() for column in self.facts(dimension)), strict=True)

    # -- inside ------------------------------------------------------------------------

    def _scan(self, bucket: Bucket) -> tuple[Positions, Positions]:
        """Return the same as `find_rows`, by a pass over the whole bucket."""
        is_wanted = self._numbers[bucket.rows] >= 0
        if is_wanted.all():
            return slice(None), slice(None)  # no copies
        at = np.flatnonzero(is_wanted)
        if self._facts is None:
            return at, at[:0]
        facts = np.flatnonzero(self._numbers[bucket.fact_keys >> ROW_SHIFT] >= 0)
        return at, facts


def few_rows(numbers: Ints) -> Ints | None:
    """Return the rows that have a group, if they are so few that a search is faster."""
    rows = np.flatnonzero(numbers >= 0)
    return rows if len(rows) * FEW_FACTOR < len(numbers) else None


def _sums(group: Ints, values: Ints, size: int) -> Ints:
    # Sums of weights are floats, and exact up to 2^53.
    sums: Ints = np.bincount(group, values, size).astype(np.int64)
    return sums


def _ratios(above: NDArray[np.generic], below: Ints) -> Numbers:
    with np.errstate(divide="ignore", invalid="ignore"):
        return _numbers(np.true_divide(above, below))


def _numbers(values: Floats) -> Numbers:
    """Return the values, with None where JSON cannot represent the value."""
    return [value if math.isfinite(value) else None for value in values.tolist()]
