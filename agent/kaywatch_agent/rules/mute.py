"""Mute windows: recurring times at which notifications are muted.

Strategy: each occurrence of a window is a silence, so that everything that respects or
shows silences respects and shows windows as well. Days and times are those of the
window's time zone; an occurrence belongs to the day on which it starts.
"""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from kaywatch_agent.rules.matchers import Matcher
from kaywatch_agent.rules.silence import Silence

__all__ = [
    "ALL_MONTHS",
    "ALL_WEEKDAYS",
    "MuteWindow",
    "WHOLE_DAY",
    "TimeSpan",
    "parse_months",
    "parse_span",
    "parse_weekdays",
    "parse_zone",
]

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MONTHS: Final = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)

ALL_WEEKDAYS: Final = frozenset(range(len(DAYS)))
ALL_MONTHS: Final = frozenset(range(len(MONTHS)))

# Occurrences are looked for from this many days ago to this many days ahead, so that
# those that adjoin, such as whole days, are one.
HORIZON: Final = 35

# Within so many years, each date falls on each weekday.
YEARS: Final = 28

_SPAN: Final = re.compile(
    r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)"
)
_DAY: Final = dt.timedelta(days=1)
MINUTES: Final = 24 * 60  # of a day, by the clock


class TimeSpan(NamedTuple):
    """A part of a day; it ends on the next day if `end` is not after `start`.

    Both are minutes since midnight.
    """

    start: int
    end: int

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """The parts of a day that it covers if it recurs each day."""
        if self.start < self.end:
            return ((self.start, self.end),)
        return ((0, self.end), (self.start, MINUTES))


WHOLE_DAY: Final = TimeSpan(0, MINUTES)


class MuteWindow(NamedTuple):
    """Recurring times at which matching alerts are not notified.

    Attributes:
        name: for people.
        matchers: all must match the alert's labels.
        spans: the parts of a day.
        weekdays, months: numbers from 0.
        days_of_month: from 1; -1 is the last day. All days if it is empty.
        zone: the time zone of the days and times.
        comment: why.
    """

    name: str
    matchers: tuple[Matcher, ...]
    spans: tuple[TimeSpan, ...]
    weekdays: frozenset[int]
    months: frozenset[int]
    days_of_month: frozenset[int]
    zone: dt.tzinfo
    comment: str = ""

    def occurrence(self, now: float) -> Silence | None:
        """Return the occurrence in progress at a Unix time, or else the next one.

        None if there is none within `HORIZON` days.
        """
        for start, end in _occurrences(self, int(now // _DAY.total_seconds())):
            if now < end:
                return Silence(
                    id=f"mute-{self.name}",
                    matchers=self.matchers,
                    starts_at=dt.datetime.fromtimestamp(start, dt.UTC),
                    ends_at=dt.datetime.fromtimestamp(end, dt.UTC),
                    created_by=f"mute window {self.name}",
                    comment=self.comment,
                )
        return None

    def includes(self, day: dt.date) -> bool:
        """Return whether occurrences start on a day."""
        next_month = (day.replace(day=1) + 31 * _DAY).replace(day=1)
        from_end = (day - next_month).days
        return (
            day.weekday() in self.weekdays
            and day.month - 1 in self.months
            and (
                not self.days_of_month
                or {day.day, from_end} & self.days_of_month != set()
            )
        )

    @property
    def never_occurs(self) -> bool:
        """Whether no day is included, as of February 31."""
        first = dt.date(2000, 1, 1)
        days = (first + n * _DAY for n in range(366 * YEARS))
        return not any(self.includes(day) for day in days)

    @property
    def never_ends(self) -> bool:
        """Whether its occurrences adjoin throughout a year."""
        first = dt.date(2023, 1, 1)
        days = [first + n * _DAY for n in range(366)]
        covered = 0
        for start, end in sorted(part for span in self.spans for part in span.parts):
            covered = max(covered, end) if start <= covered else covered
        return covered >= MINUTES and all(map(self.includes, days))


def parse_span(text: str) -> TimeSpan:
    """Parse such as `22:00-06:00`, which ends on the next day.

    Raises:
        ValueError: it is not valid.
    """
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}": expected HH:MM-HH:MM, such as "22:00-06:00"')
    start = int(match[1]) * 60 + int(match[2])
    end = MINUTES if match[3] is None else int(match[3]) * 60 + int(match[4])
    if start == end:
        raise ValueError(
            f'"{text}": the times are equal; leave out times for whole days'
        )
    return TimeSpan(start, end)


def parse_weekdays(text: str) -> frozenset[int]:
    """Parse a weekday or a range such as `mon-fri`; numbers count from 0.

    Raises:
        ValueError: it is not valid.
    """
    return _parse_names(text, DAYS)


def parse_months(text: str) -> frozenset[int]:
    """Parse a month or a range such as `nov-jan`; numbers count from 0.

    Raises:
        ValueError: it is not valid.
    """
    return _parse_names(text, MONTHS)


def parse_zone(name: str) -> dt.tzinfo:
    """Return the time zone with an IANA name.

    Raises:
        ValueError: it is unknown.
    """
    if name == "UTC":
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        text = f'unknown time zone "{name}"'
        if not known:
            raise ValueError(
                f"{text}: the package tzdata is missing; install it"
            ) from None
        raise ValueError(
            f'{text}: expected a name such as "Europe/Berlin" or "UTC"'
        ) from None


# -- inside --------------------------------------------------------------------------


def _parse_names(text: str, names: Sequence[str]) -> frozenset[int]:
    first, dash, last = text.partition("-")
    if first not in names or (dash and last not in names):
        example = f'such as "{names[0]}" or "{names[0]}-{names[4]}"'
        raise ValueError(f'"{text}": expected {", ".join(names)} or a range, {example}')
    start, end = names.index(first), names.index(last if dash else first)
    length = (end - start) % len(names) + 1
    return frozenset((start + n) % len(names) for n in range(length))


@lru_cache(maxsize=256)
def _occurrences(window: MuteWindow, day: int) -> tuple[tuple[float, float], ...]:
    """Return when occurrences around a day start and end, in Unix seconds.

    Args:
        window: the window.
        day: the number of a day in UTC, since 1970.
    """
    first = dt.date(1970, 1, 1) + (day - HORIZON) * _DAY
    days = (first + n * _DAY for n in range(2 * HORIZON + 1))
    merged: list[tuple[float, float]] = []
    for start, end in sorted(_each(window, filter(window.includes, days))):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        elif start < end:
            merged.append((start, end))
    return tuple(merged)


def _each(window: MuteWindow, days: Iterator[dt.date]) -> Iterator[tuple[float, float]]:
    for day in days:
        midnight = dt.datetime.combine(day, dt.time())
        for span in window.spans:
            end = midnight + dt.timedelta(minutes=span.end)
            if span.end <= span.start:
                end += _DAY
            start = midnight + dt.timedelta(minutes=span.start)
            yield _instant(start, window.zone, 0), _instant(end, window.zone, 1)


def _instant(local: dt.datetime, zone: dt.tzinfo, fold: int) -> float:
    """Return a local time as Unix seconds.

    Of a time that occurs twice, `fold` selects the first (0) or the second (1). A time
    that the clocks skip is the moment at which they do.
    """
    early, late = (local.replace(tzinfo=zone, fold=n).timestamp() for n in (0, 1))
    if early <= late:
        return late if fold else early
    # Skipped: the clocks change between the two.
    before = dt.datetime.fromtimestamp(late, zone).utcoffset()
    low, high = late, early
    while high - low > 1:
        middle = (low + high) // 2
        is_before = dt.datetime.fromtimestamp(middle, zone).utcoffset() == before
        low, high = (middle, high) if is_before else (low, middle)
    return high
