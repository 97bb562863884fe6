"""Parses and formats durations, sizes, ratios and money.

A parser accepts what its formatter writes: `1h 30m`, `12.3ms`, `1.2 GiB`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

__all__ = [
    "DURATION_PATTERN",
    "MIB",
    "clock_time",
    "local_time",
    "duration",
    "money",
    "parse_duration",
    "parse_size",
    "percent",
    "plural",
    "quantity",
    "rfc3339",
    "size",
    "sparkline",
]

MIB: Final = 2**20

# Units in the order in which a duration has them: their seconds and maximum digits.
# Within these limits, a duration added to a date stays below the year 9999.
_UNITS: Final[Mapping[str, tuple[float, int]]] = {
    "d": (86_400.0, 6),
    "h": (3600.0, 7),
    "m": (60.0, 9),
    "s": (1.0, 10),
    "ms": (1e-3, 10),
    "µs": (1e-6, 10),
}
_NUMBER: Final = r"([0-9]{1,%d}(?:\.[0-9]{1,9})?)"
_PARTS: Final = "".join(
    rf"(?:{_NUMBER % digits} ?{unit} ?)?" for unit, (_, digits) in _UNITS.items()
)
# For JSON Schema as well.
DURATION_PATTERN: Final = rf"(?=[0-9])(?:{_PARTS}|{_NUMBER % 10})"

_DURATION: Final = re.compile(DURATION_PATTERN)
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kKMGT]?)(i?)B?")

_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_BARS: Final = "▁▂▃▄▅▆▇█"
_BLANK: Final = "·"  # no value


# -- parsing -------------------------------------------------------------------------


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `1h30m`, `500ms`, `2d`, or a plain number.

    Raises:
        ValueError: the text is not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f'invalid duration "{text[:80]}": expected a number with s, m, h or d'
            ' (ms too), such as "90s" or "1h30m"'
        )
    scales = (*(scale for scale, _ in _UNITS.values()), 1.0)
    return math.fsum(
        # 3 / 1000, because 3 * 0.001 is not the float nearest to 0.003.
        float(part) * scale if scale >= 1 else float(part) / round(1 / scale)
        for part, scale in zip(match.groups(), scales, strict=True)
        if part
    )


def parse_size(text: str) -> int:
    """Return the bytes of `64MB` (powers of 1000), `64MiB` (1024), or a plain number.

    Raises:
        ValueError: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError(
            f'invalid size "{text[:80]}": expected a number with kB, MB, GB or TB, or'
            ' KiB, MiB, GiB or TiB, such as "512MiB"'
        )
    power = " KMGT".index(match[2].upper() or " ")
    return round(float(match[1]) * (1024.0 if match[3] else 1000.0) ** power)


# -- formatting ----------------------------------------------------------------------


def quantity(value: float | None, unit: str) -> str:
    """Return a value with its unit.

    Args:
        value: the value; None if it is unknown.
        unit: ratio, percent, seconds, bytes, usd, tokens, runs, per_second, or empty.
    """
    if value is None or math.isnan(value):
        return "no data"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    match unit:
        case "ratio":
            return percent(value)
        case "percent":
            return f"{value:.0f} %"
        case "seconds":
            return duration(value)
        case "bytes":
            return size(value)
        case "usd":
            return money(value)
        case "tokens" | "runs":
            return f"{_number(value)} {unit.removesuffix('s') if value == 1 else unit}"
        case "per_second":
            return f"{_number(value)}/s"
    return _number(value)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: `1 alert`, `2,000 alerts`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float, parts: int = 2) -> str:
    """Return seconds with three digits; from a minute on, in whole units: `1h 5m`.

    Args:
        seconds: negative durations are shown as `0s`.
        parts: the largest number of units.
    """
    if seconds < 1e-9:
        return "0s"
    for unit, limit in (("µs", 1000), ("ms", 1000), ("s", 60)):
        shown = float(f"{seconds / _UNITS[unit][0]:.3g}")
        if shown < limit:
            return f"{shown:g}{unit}"
    rest = round(seconds)
    # With ten minutes or more, seconds are noise.
    units = ("d", "h", "m") if 600 <= rest < 3600 else ("d", "h", "m", "s")
    counts: list[tuple[int, str]] = []
    for unit in units:
        count, rest = divmod(rest, int(_UNITS[unit][0]))
        if count or counts:
            counts.append((count, unit))
    return " ".join(f"{count}{unit}" for count, unit in counts[:parts] if count)


def size(count: float) -> str:
    """Return bytes in units of 1024: `17 B`, `1.2 GiB`."""
    unit = 0
    while abs(round(count, 1)) >= 1024 and unit < len(_BYTES) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.1f} {_BYTES[unit]}"


def percent(share: float) -> str:
    """Return a ratio as a percentage, never rounded to 0 % or 100 %."""
    for digits in (1, 2, 3):
        text = f"{share * 100:.{digits}f}"
        if float(text) not in (0.0, 100.0) or share in (0.0, 1.0):
            return f"{text} %"
    return f"{share * 100:.6g} %"


def money(amount: float) -> str:
    """Return US dollars; an amount below ten cents with two significant digits."""
    if 0 < amount < 0.0001:
        return "<$0.0001"
    return f"${amount:,.2f}" if abs(amount) >= 0.1 or not amount else f"${amount:.2g}"


def clock_time(time: float, now: float) -> str:
    """Return a time in UTC: `12:01 UTC`, with the date if that is not today."""
    at = datetime.fromtimestamp(time, UTC)
    same = at.date() == datetime.fromtimestamp(now, UTC).date()
    return f"{at:%H:%M} UTC" if same else f"{at:%Y-%m-%d %H:%M} UTC"


def local_time(time: float) -> str:
    """Return a time in this host's zone: `13:01 CET`; empty if that is UTC."""
    at = datetime.fromtimestamp(time, UTC).astimezone()
    if not at.utcoffset():
        return ""
    zone = at.tzname() or ""
    # A zone without an abbreviation is an offset: +0530.
    same_day = at.date() == datetime.fromtimestamp(time, UTC).date()
    return f"{at:%H:%M} {zone}" if same_day else f"{at:%a %H:%M} {zone}"


def rfc3339(time: float) -> str:
    """Return a time as in RFC 3339: 2026-11-23T21:55:20.419Z."""
    at = datetime.fromtimestamp(time, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sparkline(values: Sequence[float | None]) -> str:
    """Return values as a line of bars, with a dot for None."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    return "".join(_bar(value, low, high) for value in values)


# -- inside --------------------------------------------------------------------------


def _bar(value: float | None, low: float, high: float) -> str:
    if value is None or not math.isfinite(value):
        return _BLANK
    if high == low:
        return _BARS[0]
    return _BARS[round((value - low) / (high - low) * (len(_BARS) - 1))]


def _number(value: float) -> str:
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3g}"
