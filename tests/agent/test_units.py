from __future__ import annotations

import pytest

from kaywatch_agent.units import clock_time, quantity, rfc3339, span, sparkline


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.95, "ratio", "95.0 %"),
        (1.0, "ratio", "100.0 %"),
        (0.9996, "ratio", "99.96 %"),
        (0.0001, "ratio", "0.01 %"),
        (0.0, "ratio", "0.0 %"),
        (2.314, "seconds", "2.31 s"),
        (0.0123, "seconds", "12.3 ms"),
        (0.0, "seconds", "0 µs"),
        (135.0, "seconds", "135 s"),
        (3900.0, "seconds", "1h 5m"),
        (1.2 * 1024**3, "bytes", "1.2 GiB"),
        (17, "bytes", "17 B"),
        (0.42, "usd", "$0.42"),
        (0.0042, "usd", "$0.0042"),
        (1234.5, "usd", "$1,234.50"),
        (12345.0, "tokens", "12,345 tokens"),
        (0.5, "per_second", "0.5/s"),
        (7.0, "", "7"),
        (1234.56, "", "1,234.6"),
        (None, "ratio", "no data"),
        (float("nan"), "ratio", "no data"),
        (float("inf"), "seconds", "∞"),
    ],
)
def test_a_value_is_told_in_its_unit(value: float | None, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (40, "40s"),
        (61, "1m 1s"),
        (720, "12m"),
        (721, "12m"),
        (3600, "1h"),
        (3901, "1h 5m"),
        (86_400 * 2 + 3 * 3600 + 59, "2d 3h"),
    ],
)
def test_a_length_of_time_has_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_times() -> None:
    noon = 1_795_608_060.4194
    assert clock_time(noon, noon + 60) == "12:01 UTC"
    assert clock_time(noon, noon + 86_400) == "2026-11-25 12:01 UTC"
    assert rfc3339(noon) == "2026-11-25T12:01:00.419Z"


def test_a_sparkline_shows_gaps_and_a_flat_line() -> None:
    assert sparkline([0, 0.5, None, 1]) == "▁▅·█"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([None, float("nan")]) == ""
