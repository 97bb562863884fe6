"""Mute windows: recurring times at which alerts are not notified."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.agent.rules.harness import AlertHarness, rule

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules.load import load
from kaywatch_agent.rules.mute import MuteWindow

BERLIN = "Europe/Berlin"
FIRING = [("chat", "firing"), ("pager", "firing")]
RESOLVED = [("chat", "resolved"), ("pager", "resolved")]
NIGHT = {
    "name": "nights",
    "match": ['severity=~"info|warning"'],
    "times": ["22:00-06:00"],
}


def window(**keys: Any) -> MuteWindow:
    (one,) = load({"mute": [{**NIGHT, **keys}]}).mutes
    return one


def utc(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()


def occurrence(one: MuteWindow, now: str) -> tuple[str, str]:
    """Return when the occurrence in progress, or the next one, starts and ends."""
    silence = one.occurrence(utc(now))
    assert silence is not None
    start, end = (f"{at:%a %d %H:%M}" for at in (silence.starts_at, silence.ends_at))
    return start, end


@pytest.mark.parametrize(
    ("keys", "now", "expected"),
    [
        # Across midnight, and the next one as soon as it has ended.
        ({}, "2026-11-25T12:00", ("Wed 25 22:00", "Thu 26 06:00")),
        ({}, "2026-11-26T05:59", ("Wed 25 22:00", "Thu 26 06:00")),
        ({}, "2026-11-26T06:00", ("Thu 26 22:00", "Fri 27 06:00")),
        # It belongs to the day on which it starts.
        (
            {"weekdays": ["fri"]},
            "2026-11-28T03:00",
            ("Fri 27 22:00", "Sat 28 06:00"),
        ),
        ({"weekdays": ["sat"]}, "2026-11-28T03:00", ("Sat 28 22:00", "Sun 29 06:00")),
        # Whole days that adjoin are one occurrence, and so are parts of days.
        (
            {"times": [], "weekdays": ["sat-sun"]},
            "2026-11-26T12:00",
            ("Sat 28 00:00", "Mon 30 00:00"),
        ),
        (
            {"times": ["22:00-24:00", "00:00-06:00"]},
            "2026-11-26T01:00",
            ("Wed 25 22:00", "Thu 26 06:00"),
        ),
        # A range of names may pass the end of the week or year.
        (
            {"times": ["08:00-09:00"], "weekdays": ["sun-mon"]},
            "2026-11-26T12:00",
            ("Sun 29 08:00", "Sun 29 09:00"),
        ),
        (
            {"times": ["08:00-09:00"], "months": ["dec-jan"]},
            "2026-11-26T12:00",
            ("Tue 01 08:00", "Tue 01 09:00"),
        ),
        (
            {"times": ["08:00-09:00"], "days_of_month": [-1]},
            "2027-02-26T12:00",
            ("Sun 28 08:00", "Sun 28 09:00"),
        ),
        # In winter, Berlin is one hour ahead of UTC, and in summer two.
        ({"time_zone": BERLIN}, "2026-11-25T12:00", ("Wed 25 21:00", "Thu 26 05:00")),
        ({"time_zone": BERLIN}, "2026-07-25T12:00", ("Sat 25 20:00", "Sun 26 04:00")),
        # The night in which the clocks go forward is an hour shorter,
        ({"time_zone": BERLIN}, "2026-03-28T23:00", ("Sat 28 21:00", "Sun 29 04:00")),
        # and that in which they go back an hour longer.
        ({"time_zone": BERLIN}, "2026-10-24T23:00", ("Sat 24 20:00", "Sun 25 05:00")),
    ],
)
def test_when_a_window_occurs(
    keys: dict[str, Any], now: str, expected: tuple[str, str]
) -> None:
    assert occurrence(window(**keys), now) == expected


@pytest.mark.parametrize(
    ("times", "day", "expected"),
    [
        # 02:00 to 03:00 is skipped: the clocks go from 02:00 to 03:00 at 01:00 UTC.
        ("02:30-04:00", "2026-03-29", ("Sun 29 01:00", "Sun 29 02:00")),
        ("01:00-02:30", "2026-03-29", ("Sun 29 00:00", "Sun 29 01:00")),
        ("02:15-02:45", "2026-03-29", ("Mon 30 00:15", "Mon 30 00:45")),
        # 02:00 to 03:00 occurs twice: both are muted.
        ("02:00-03:00", "2026-10-25", ("Sun 25 00:00", "Sun 25 02:00")),
        ("02:30-02:45", "2026-10-25", ("Sun 25 00:30", "Sun 25 01:45")),
    ],
)
def test_times_that_the_clocks_skip_or_repeat(
    times: str, day: str, expected: tuple[str, str]
) -> None:
    one = window(times=[times], time_zone=BERLIN)
    assert occurrence(one, f"{day}T00:00") == expected


@pytest.mark.parametrize("zone", ["UTC", BERLIN, "America/New_York", "Asia/Kolkata"])
def test_each_minute_of_a_year_is_muted_as_the_clock_on_the_wall_says(
    zone: str,
) -> None:
    one, place = window(time_zone=zone, weekdays=["mon-fri"]), ZoneInfo(zone)
    for quarter in range(0, 366 * 96, 7):
        now = utc("2026-01-01T00:00") + 900 * quarter
        wall = dt.datetime.fromtimestamp(now, place)
        is_evening = wall.hour >= 22 and wall.weekday() < 5
        is_morning = wall.hour < 6 and wall.weekday() in (1, 2, 3, 4, 5)
        silence = one.occurrence(now)
        assert silence is not None
        assert silence.is_active(now) == (is_evening or is_morning), wall


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"times": ["22-6"]}, 'mute[0].times[0]: "22-6": expected HH:MM-HH:MM'),
        ({"times": ["25:00-26:00"]}, "expected HH:MM-HH:MM"),
        ({"times": ["06:00-06:00"]}, "the times are equal; leave out times"),
        ({"weekdays": ["Monday"]}, 'mute[0].weekdays[0]: "Monday": expected mon, tue'),
        ({"weekdays": ["mon-"]}, '"mon-": expected mon, tue'),
        ({"months": [1]}, "mute[0].months[0]"),
        ({"days_of_month": [0]}, "mute[0].days_of_month[0]: 0: expected 1 to 31"),
        (
            {"time_zone": "Mars/Base"},
            'mute[0].time_zone: unknown time zone "Mars/Base"',
        ),
        ({"time_zone": "Europe"}, 'unknown time zone "Europe"'),
        ({"time_zone": "../etc/passwd"}, "unknown time zone"),
        ({"match": []}, "mute[0].match: expected at least one"),
        ({"match": ['x!="y"']}, "mute[0].match: these match every alert"),
        ({"name": ""}, 'mute[0].name: empty; for example "nights"'),
        ({"until": "x"}, "mute[0].until: unknown key"),
        (
            {"days_of_month": [30], "months": ["feb"]},
            "mute[0]: no day has these weekdays, days of the month and months",
        ),
        ({"times": []}, "mute[0]: it never ends; set notify = []"),
        ({"times": ["06:00-22:00", "22:00-06:00"]}, "mute[0]: it never ends"),
    ],
)
def test_what_is_not_valid_is_named(keys: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"mute": [{**NIGHT, **keys}]})
    assert error in str(caught.value)


def test_two_windows_have_two_names() -> None:
    with pytest.raises(ConfigError, match=r'mute\[1\].name: "nights" is defined twice'):
        load({"mute": [NIGHT, NIGHT]})


def muted_harness() -> AlertHarness:
    """Return an engine in the middle of a mute window that ends in ten minutes."""
    harness = AlertHarness(rule(severity="warning"))
    at = dt.datetime.fromtimestamp(harness.now, dt.UTC)
    start, end = (at + dt.timedelta(minutes=n) for n in (-5, 10))
    times = [f"{start:%H:%M}-{end:%H:%M}"]
    harness.reload(*harness.tables["rule"], mute=[{**NIGHT, "times": times}])
    return harness


def test_an_alert_that_still_fires_when_a_window_ends_is_notified_then() -> None:
    harness = muted_harness()
    for _ in range(11):
        harness.ran(100, 50)
        assert harness.wait(50, 10) == []
    assert harness.only.lifecycle.is_firing
    (why,) = {str(one) for one in harness.only.suppressions.values()}
    assert why == "silenced: by mute window nights: no comment"
    harness.ran(100, 50)
    assert harness.wait(90, 10) == FIRING


def test_an_alert_that_resolves_within_a_window_is_never_notified() -> None:
    harness = muted_harness()
    harness.ran(100, 50)
    assert harness.wait(60, 10) == []
    assert harness.only.lifecycle.is_firing
    for _ in range(20):
        harness.ran(500)
        assert harness.wait(60, 10) == []
    assert not harness.only.lifecycle.is_firing


def test_the_end_of_a_notified_alert_is_notified_within_a_window() -> None:
    harness = AlertHarness(rule(severity="warning"))
    harness.ran(100, 50)
    assert harness.wait(10) == FIRING
    at = dt.datetime.fromtimestamp(harness.now, dt.UTC)
    times = [f"{at:%H:%M}-{at + dt.timedelta(hours=2):%H:%M}"]
    harness.reload(*harness.tables["rule"], mute=[{**NIGHT, "times": times}])
    results = []
    for _ in range(10):
        harness.ran(500)
        results += harness.wait(60, 10)
    assert results == RESOLVED


def test_a_window_is_listed_as_a_silence_that_is_configured() -> None:
    harness = muted_harness()
    (silence,) = harness.engine.settings.silences_at(harness.now)
    assert (silence.id, silence.is_configured) == ("mute-nights", True)
    assert silence.created_by == "mute window nights"
    assert silence.mutes({"severity": "info"}, harness.now)
    assert not silence.mutes({"severity": "critical"}, harness.now)
