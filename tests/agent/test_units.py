from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaywatch_agent.units import (
    DURATION_PATTERN,
    clock_time,
    duration,
    money,
    parse_duration,
    parse_size,
    percent,
    quantity,
    rfc3339,
    size,
    sparkline,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("60", 60),
        ("1.5", 1.5),
        ("90s", 90),
        ("500ms", 0.5),
        ("3ms", 0.003),
        ("45µs", 0.000045),
        ("2d", 172_800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1d2h3m4s5ms", 93_784.005),
        (" 1h 5m ", 3900),
        ("2.31 s", 2.31),
        ("999999d", 86_399_913_600),
    ],
)
def test_a_duration_has_units_in_their_order_or_is_seconds(
    text: str, seconds: float
) -> None:
    assert parse_duration(text) == seconds
    assert re.fullmatch(DURATION_PATTERN, text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "5x",
        "-5m",
        "1m1h",
        "1h1h",
        "1h5",
        "1e3",
        "5 m5",
        "\u0665m",
        "nan",
        "1w",
    ],
)
def test_an_invalid_duration_is_an_error_with_the_format(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration") as caught:
        parse_duration(text)
    assert str(caught.value) == (
        f'invalid duration "{text}": expected a number with s, m, h or d (ms too),'
        ' such as "90s" or "1h30m"'
    )
    assert not re.fullmatch(DURATION_PATTERN, text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (0.000045, "45µs"),
        (0.0123, "12.3ms"),
        (0.9996, "1s"),
        (2.314, "2.31s"),
        (40, "40s"),
        (59.97, "1m"),
        (61, "1m 1s"),
        (135, "2m 15s"),
        (720, "12m"),
        (721, "12m"),
        (3600, "1h"),
        (3901, "1h 5m"),
        (86_400 * 2 + 3 * 3600 + 59, "2d 3h"),
        (86_400 + 59, "1d"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_duration_has_one_unit_where_there_is_no_room() -> None:
    assert duration(3901, parts=1) == "1h"


@given(st.floats(0, 1e9))
def test_a_duration_that_is_written_can_be_read(seconds: float) -> None:
    text = duration(seconds)
    # Two units, the smaller of them 1/24 of the larger at least; or three digits.
    assert parse_duration(text) == pytest.approx(seconds, rel=1 / 24, abs=1e-8)
    assert duration(parse_duration(text)) == text


@given(
    st.integers(1, 23),
    st.sampled_from([("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "", 0)]),
    st.integers(0, 23),
)
def test_a_duration_of_two_units_is_read_and_written_exactly(
    count: int, units: tuple[str, int, str, int], rest: int
) -> None:
    large, seconds, small, each = units
    text = f"{count}{large}{rest}{small}" if rest and small else f"{count}{large}"
    exact = count * seconds + (rest * each if small else 0)
    assert parse_duration(text) == exact
    assert parse_duration(duration(exact)) == exact


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("17 B", 17),
        ("20kB", 20_000),
        ("64MB", 64_000_000),
        ("1.5GB", 1_500_000_000),
        ("2TB", 2_000_000_000_000),
        ("512MiB", 512 * 1024**2),
        ("2GiB", 2 * 1024**3),
        ("1K", 1000),
    ],
)
def test_a_size_has_units_of_1000_or_1024(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "MB", "5iB", "-1MB", "1 XB", "1e3", "nan"])
def test_an_invalid_size_is_an_error_with_the_format(text: str) -> None:
    with pytest.raises(ValueError, match=f'invalid size "{text}": expected a number'):
        parse_size(text)


@given(st.integers(0, 10**15))
def test_a_size_that_is_written_can_be_read(count: int) -> None:
    text = size(count)
    # One digit after the point.
    assert parse_size(text) == pytest.approx(count, rel=0.05, abs=0.5)
    assert size(parse_size(text)) == text


@given(st.floats(0, 1))
def test_a_percentage_is_close_and_never_rounded_to_none_or_all(share: float) -> None:
    text = percent(share)
    if "e-" not in text:
        written = float(text.removesuffix(" %")) / 100
        assert written == pytest.approx(share, abs=0.0005001)
    assert (text == "100.0 %") is (share == 1.0)
    assert (text == "0.0 %") is (share == 0.0)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.95, "ratio", "95.0 %"),
        (1.0, "ratio", "100.0 %"),
        (0.9996, "ratio", "99.96 %"),
        (0.0001, "ratio", "0.01 %"),
        (0.0, "ratio", "0.0 %"),
        (2.314, "seconds", "2.31s"),
        (3900.0, "seconds", "1h 5m"),
        (1.2 * 1024**3, "bytes", "1.2 GiB"),
        (1024**2 - 1, "bytes", "1.0 MiB"),
        (17, "bytes", "17 B"),
        (0.42, "usd", "$0.42"),
        (0.0042, "usd", "$0.0042"),
        (1234.5, "usd", "$1,234.50"),
        (12345.0, "tokens", "12,345 tokens"),
        (100.0, "runs", "100 runs"),
        (1.0, "runs", "1 run"),
        (0.5, "per_second", "0.5/s"),
        (7.0, "", "7"),
        (1234.56, "", "1,234.6"),
        (None, "ratio", "no data"),
        (float("nan"), "ratio", "no data"),
        (float("inf"), "seconds", "∞"),
    ],
)
def test_a_value_is_shown_in_its_unit(
    value: float | None, unit: str, text: str
) -> None:
    assert quantity(value, unit) == text


def test_a_tiny_amount_is_not_nothing() -> None:
    assert money(0.00001) == "<$0.0001"
    assert money(0) == "$0.00"


def test_times() -> None:
    noon = 1_795_608_060.4194
    assert clock_time(noon, noon + 60) == "12:01 UTC"
    assert clock_time(noon, noon + 86_400) == "2026-11-25 12:01 UTC"
    assert rfc3339(noon) == "2026-11-25T12:01:00.419Z"


def test_a_sparkline_shows_gaps_and_a_flat_line() -> None:
    assert sparkline([0, 0.5, None, 1]) == "▁▅·█"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([None, float("nan")]) == ""
