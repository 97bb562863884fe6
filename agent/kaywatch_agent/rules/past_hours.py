"""Statistics of groups of series in past hours; each hour is read only once.

Strategy: an hour that has passed does not change. Counts are kept by hour; the shares
of actions are summed up by day, because only their mean and deviation are needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Any, Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from kaywatch_agent.aggregate.bucket import ROW_SHIFT, Bucket, Dimension, first_rows
from kaywatch_agent.aggregate.group_stats import GroupStats, SeriesGroups
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, DAY, HOUR, View

__all__ = [
    "HOURS",
    "LAST_DAY",
    "LAST_WEEK",
    "PAST_SECONDS",
    "YESTERDAY",
    "ActionSums",
    "PastHours",
    "Period",
    "count_actions",
]

# A pause of a day, one week ago at most, is compared.
HOURS: Final = 8 * 24

# The shares of actions of this many days are compared, without the last day: an action
# that is taken more often since an hour ago must not become usual at once.
ACTION_DAYS: Final = 7

# How far back any rule looks.
PAST_SECONDS: Final = (ACTION_DAYS + 2) * DAY

# In an hour with fewer executions, the share of an action is not meaningful.
MIN_HOURLY: Final = 20

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
K = TypeVar("K", bound=Hashable)


class Period(NamedTuple):
    """Past hours, as how many hours before the present one they are.

    Attributes:
        name: for messages.
        first: the earliest hour.
        end: the hour after the latest one.
    """

    name: str
    first: int
    end: int


# The same hour, the one before and the one after: a rhythm is not that punctual.
YESTERDAY: Final = Period("in the same hours of yesterday", 25, 22)
LAST_DAY: Final = Period("earlier in the last 24 hours", 24, 0)
LAST_WEEK: Final = Period("in the same hours a week ago", 7 * 24 + 1, 7 * 24 - 2)


class ActionSums(NamedTuple):
    """Sums over hours, of the shares of actions by node.

    Attributes:
        keys: the node's group, shifted by ROW_SHIFT, and the number of the action.
        counts: how often the action was returned.
        shares, squares: sums of its shares by hour, and of their squares.
        hours: by group, how many hours have enough executions.
        executions: by group, the executions in those hours.
        inverse: by group, the sum of 1 / executions of each hour.
    """

    keys: Ints
    counts: Floats
    shares: Floats
    squares: Floats
    hours: Floats
    executions: Floats
    inverse: Floats

    def aligned(self, keys: Ints) -> tuple[Floats, Floats, Floats]:
        """Return counts, shares and squares of these keys; 0 for an unknown one."""
        at = np.searchsorted(self.keys, keys)
        is_known = np.append(self.keys, -1)[at] == keys
        count, share, square = (
            np.where(is_known, np.append(column, 0.0)[at], 0.0)
            for column in (self.counts, self.shares, self.squares)
        )
        return count, share, square


class PastHours(Generic[K]):
    """The past of groups, by the selector of their series."""

    def __init__(self) -> None:
        self._executions: dict[K, tuple[int, Ints]] = {}
        self._sums: dict[tuple[K, Period], tuple[int, Ints, Floats]] = {}
        self._actions: dict[K, _ActionPast] = {}

    def executions(self, selector: K, groups: SeriesGroups[Any], view: View) -> Ints:
        """Return executions by group and hour: the last `HOURS`, and the present one.

        The present hour is only counted up to the first call within it.
        """
        hour, size = int(view.now // HOUR), len(groups)
        known = self._executions.get(selector)
        if known is None or known[0] != hour:
            stats = GroupStats(groups.numbers, size * (HOURS + 1), set())
            first, end = hour - HOURS, view.now + BUCKET_SECONDS
            for start, bucket in view.between(first * HOUR, end, HOUR):
                span = min(HOURS, max(0, int(start // HOUR) - first))
                stats.add(first_rows(bucket, len(groups.numbers)), span * size)
            known = hour, stats.executions.reshape(HOURS + 1, size).T
        # A group that is new in this hour has no earlier executions.
        new = size - len(known[1])
        if new:
            known = hour, np.pad(known[1], ((0, new), (0, 0)))
        self._executions[selector] = known
        return known[1]

    def sums(
        self, selector: K, period: Period, groups: SeriesGroups[Any], view: View
    ) -> tuple[Ints, Floats]:
        """Return executions and totals in a period of past hours, by group."""
        hour, size = int(view.now // HOUR), len(groups)
        key = selector, period
        known = self._sums.get(key)
        if known is None or known[0] != hour:
            stats = GroupStats(groups.numbers, size, set())
            start, end = (hour - period.first) * HOUR, (hour - period.end) * HOUR
            for _, bucket in view.between(start, end, HOUR):
                stats.add(first_rows(bucket, len(groups.numbers)))
            # The sums of earlier hours are not requested again.
            known = hour, stats.executions, stats.total
        # A group that is new in this hour has no earlier executions.
        new = size - len(known[1])
        if new:
            executions, total = (np.pad(known[1], (0, new)), np.pad(known[2], (0, new)))
            known = hour, executions, total
        self._sums[key] = known
        return known[1:]

    def actions(
        self, selector: K, groups: SeriesGroups[Any], view: View
    ) -> ActionSums | None:
        """Return the sums over the days before; None while no day is known."""
        return self._actions.setdefault(selector, _ActionPast()).read(groups, view)


class _ActionPast:
    """The shares of the actions of some nodes, by day."""

    def __init__(self) -> None:
        self._days: dict[int, ActionSums] = {}
        self._sums: ActionSums | None = None

    def read(self, groups: SeriesGroups[Any], view: View) -> ActionSums | None:
        """Return the sums; reads one further day at most, which takes a while."""
        end = int((view.now - DAY) // DAY)
        wanted = range(end - ACTION_DAYS, end)
        missing = [day for day in reversed(wanted) if day not in self._days]
        if missing:
            day = missing[0]
            self._days[day] = _read_day(day, groups, view)
            self._days = {day: self._days[day] for day in wanted if day in self._days}
            self._sums = _combine(self._days.values())
        return self._sums


# -- inside --------------------------------------------------------------------------


def count_actions(stats: GroupStats, view: View) -> tuple[Ints, Ints, Ints]:
    """Return keys and counts of actions, and executions by group that took one."""
    group, number, count = stats.facts(Dimension.ACTION)
    names = view.registry.actions.values
    # Failed executions take no action.
    taken = number != (names.index("") if "" in names else -1)
    group, number, count = group[taken], number[taken], count[taken]
    executions = np.bincount(group, count, len(stats)).astype(np.int64)
    return (group << ROW_SHIFT) | number, count, executions


def _read_day(day: int, groups: SeriesGroups[Any], view: View) -> ActionSums:
    hours: dict[int, list[Bucket]] = defaultdict(list)
    for start, bucket in view.between(day * DAY, (day + 1) * DAY, HOUR):
        if day * DAY <= start < (day + 1) * DAY:
            hours[int(start // HOUR)].append(first_rows(bucket, len(groups.numbers)))
    return _combine(_hour_sums(groups, buckets, view) for buckets in hours.values())


def _hour_sums(
    groups: SeriesGroups[Any], buckets: Iterable[Bucket], view: View
) -> ActionSums:
    stats = GroupStats(groups.numbers, len(groups), {Dimension.ACTION})
    for bucket in buckets:
        stats.add(bucket)
    keys, count, executions = count_actions(stats, view)
    enough = executions >= MIN_HOURLY
    is_used = enough[keys >> ROW_SHIFT]
    keys, count = keys[is_used], count[is_used].astype(np.float64)
    share = count / executions[keys >> ROW_SHIFT]
    with np.errstate(divide="ignore"):
        inverse = np.where(enough, 1.0 / executions, 0.0)
    used = np.where(enough, executions, 0).astype(np.float64)
    return ActionSums(
        keys, count, share, share**2, enough.astype(np.float64), used, inverse
    )


_NOTHING: Final = ActionSums(np.zeros(0, np.int64), *[np.zeros(0)] * 6)


def _combine(parts: Iterable[ActionSums]) -> ActionSums:
    parts = [_NOTHING, *parts]
    size = max(len(part.hours) for part in parts)
    keys, place = np.unique(
        np.concatenate([part.keys for part in parts]), return_inverse=True
    )
    by_key: list[Floats] = [
        np.bincount(place, np.concatenate(columns), len(keys)).astype(np.float64)
        for columns in zip(*(part[1:4] for part in parts), strict=True)
    ]
    # Groups are only ever added.
    by_group: list[Floats] = [
        np.sum([np.pad(one, (0, size - len(one))) for one in columns], axis=0)
        for columns in zip(*(part[4:] for part in parts), strict=True)
    ]
    return ActionSums(keys, *by_key, *by_group)
