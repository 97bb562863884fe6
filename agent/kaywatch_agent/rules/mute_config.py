"""The table `[[mute]]` of the configuration, and its validation.

The docstrings are the reference in docs/configuration.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules.config import MatcherText
from kaywatch_agent.rules.matchers import parse as parse_matcher
from kaywatch_agent.rules.mute import (
    ALL_MONTHS,
    ALL_WEEKDAYS,
    WHOLE_DAY,
    MuteWindow,
    parse_months,
    parse_span,
    parse_weekdays,
    parse_zone,
)
from kaywatch_agent.rules.silence import Silence, validate_silence
from kaywatch_agent.settings.reader import ErrorCollector, Unit, section

__all__ = ["MuteConfig", "check_names", "read_mute"]

_ANY_TIMES: Final = (
    dt.datetime(2000, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2000, 1, 2, tzinfo=dt.UTC),
)


@dataclass(frozen=True, kw_only=True)
class MuteConfig:
    """Mutes notifications at recurring times (`[[mute]]`); all conditions must hold.

    Attributes:
        name: of the window; notifications that are muted show it as the reason.
        match: matchers of the alerts that are muted; all must match.
        times: parts of a day. A part such as `22:00-06:00` ends on the day after the
            one that the other keys select. By default the whole day.
        weekdays: days and ranges, such as `mon-fri`; by default all.
        days_of_month: `1` to `31`, and `-1` (the last day) to `-31`; by default all.
        months: months and ranges, such as `dec` or `nov-jan`; by default all.
        time_zone: the IANA name of the time zone, such as `Europe/Berlin`.
        comment: why.
    """

    name: str
    match: tuple[MatcherText, ...]
    times: tuple[Annotated[str, Unit("HH:MM-HH:MM", parse_span)], ...] = ()
    weekdays: tuple[Annotated[str, Unit("weekday", parse_weekdays)], ...] = ()
    days_of_month: tuple[int, ...] = ()
    months: tuple[Annotated[str, Unit("month", parse_months)], ...] = ()
    time_zone: Annotated[str, Unit("time zone", parse_zone)] = "UTC"
    comment: str = ""


def read_mute(table: Any, path: str) -> MuteWindow:
    """Return the mute window of a table.

    Raises:
        ConfigError: all errors, each with its key.
    """
    config = section(MuteConfig, table, path)
    problems = ErrorCollector()
    if not config.name:
        problems.add(f"{path}.name", 'empty; for example "nights"')
    for number, day in enumerate(config.days_of_month):
        if not 1 <= abs(day) <= 31:
            key = f"{path}.days_of_month[{number}]"
            problems.add(key, f"{day}: expected 1 to 31, or -31 to -1 from the end")
    with problems.collect():
        _check_matchers(config, f"{path}.match")
    problems.raise_all()
    window = MuteWindow(
        name=config.name,
        matchers=tuple(map(parse_matcher, config.match)),
        spans=tuple(map(parse_span, config.times)) or (WHOLE_DAY,),
        weekdays=_union(config.weekdays, parse_weekdays) or ALL_WEEKDAYS,
        months=_union(config.months, parse_months) or ALL_MONTHS,
        days_of_month=frozenset(config.days_of_month),
        zone=parse_zone(config.time_zone),
        comment=config.comment,
    )
    if window.never_occurs:
        text = "no day has these weekdays, days of the month and months"
        raise ConfigError(path, text)
    if window.never_ends:
        text = "it never ends; set notify = [] in the rules, or add times or weekdays"
        raise ConfigError(path, text)
    return window


def check_names(windows: Sequence[MuteWindow]) -> None:
    """Raise ConfigError for a name that two windows have."""
    names = [window.name for window in windows]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(f"mute[{number}].name", f'"{name}" is defined twice')


# -- inside --------------------------------------------------------------------------


def _union(
    texts: Iterable[str], parse: Callable[[str], frozenset[int]]
) -> frozenset[int]:
    return frozenset(number for text in texts for number in parse(text))


def _check_matchers(config: MuteConfig, path: str) -> None:
    """Raise ConfigError for matchers that a silence may not have either."""
    start, end = _ANY_TIMES
    matchers = tuple(map(parse_matcher, config.match))
    try:
        validate_silence(Silence(matchers=matchers, starts_at=start, ends_at=end))
    except ValueError as error:
        raise ConfigError(path, str(error).removeprefix("matchers: ")) from None
