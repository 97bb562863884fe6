"""Durations, sizes, shares and money: parsed and formatted here, and nowhere else.

What a formatter writes its parser reads: `1h 30m`, `12.3ms`, `1.2 GiB`, `95.0 %`.
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
    "duration",
    "money",
    "parse_duration",
    "parse_ratio",
    "parse_size",
    "percent",
    "quantity",
    "rfc3339",
    "size",
    "sparkline",
]

MIB: Final = 2**20

# By unit, in the order in which a duration has them: its seconds, and how many digits
# it may have. All together stay below year 9999 when they are added to a date.
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
_RATIO: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%")

_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_BARS: Final = "▁▂▃▄▅▆▇█"
_BLANK: Final = "·"  # a window without a value


# -- parsing -------------------------------------------------------------------------


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `1h30m`, `500ms`, `2d`, or of a plain number.

    Raises:
        ValueError: it is no duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f'invalid duration "{text[:80]}": expected a number with s, m, h or d'
            ' (ms too), such as "90s" or "1h30m"'
        )
    scales = (*(scale for scale, _ in _UNITS.values()), 1.0)
    return math.fsum(
        # 3 / 1000, as 3 * 0.001 is not the nearest number to 0.003.
        float(part) * scale if scale >= 1 else float(part) / round(1 / scale)
        for part, scale in zip(match.groups(), scales, strict=True)
        if part
    )


def parse_size(text: str) -> int:
    """Return the bytes of `64MB` (1000 each), `64MiB` (1024), or of a plain number.

    Raises:
        ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError(
            f'invalid size "{text[:80]}": expected a number with kB, MB, GB or TB, or'
            ' KiB, MiB, GiB or TiB, such as "512MiB"'
        )
    power = " KMGT".index(match[2].upper() or " ")
    return round(float(match[1]) * (1024.0 if match[3] else 1000.0) ** power)


def parse_ratio(text: str) -> float:
    """Return the share of 1 that `99.5%` is.

    Raises:
        ValueError: it is no percentage.
    """
    match = _RATIO.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f'invalid percentage "{text[:80]}": expected a number with %,'
            ' such as "99.5%"'
        )
    return float(match[1]) / 100


# -- formatting ----------------------------------------------------------------------


def quantity(value: float | None, unit: str) -> str:
    """Return a value with its unit.

    Args:
        value: None for one that is not known.
        unit: ratio, percent, seconds, bytes, usd, tokens, per_second, or empty.
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
        case "tokens":
            return f"{_number(value)} tokens"
        case "per_second":
            return f"{_number(value)}/s"
    return _number(value)


def duration(seconds: float, parts: int = 2) -> str:
    """Return seconds with three digits, from a minute on in whole units: `1h 5m`.

    Args:
        seconds: negative ones are shown as `0s`.
        parts: the number of units, of those that it has.
    """
    if seconds < 1e-9:
        return "0s"
    for unit, limit in (("µs", 1000), ("ms", 1000), ("s", 60)):
        shown = float(f"{seconds / _UNITS[unit][0]:.3g}")
        if shown < limit:
            return f"{shown:g}{unit}"
    left = round(seconds)
    # Seconds beside ten minutes or more are noise.
    units = ("d", "h", "m") if 600 <= left < 3600 else ("d", "h", "m", "s")
    counts: list[tuple[int, str]] = []
    for unit in units:
        count, left = divmod(left, int(_UNITS[unit][0]))
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
    """Return a share of 1 as a percentage, never rounded to nothing or to all."""
    for digits in (1, 2, 3):
        text = f"{share * 100:.{digits}f}"
        if float(text) not in (0.0, 100.0) or share in (0.0, 1.0):
            return f"{text} %"
    return f"{share * 100:.6g} %"


def money(amount: float) -> str:
    """Return US dollars; an amount below ten cents with two digits that are not 0."""
    if 0 < amount < 0.0001:
        return "<$0.0001"
    return f"${amount:,.2f}" if abs(amount) >= 0.1 or not amount else f"${amount:.2g}"


def clock_time(time: float, now: float) -> str:
    """Return when something was, in UTC: 12:01, with the date if it is not today's."""
    at = datetime.fromtimestamp(time, UTC)
    same = at.date() == datetime.fromtimestamp(now, UTC).date()
    return f"{at:%H:%M} UTC" if same else f"{at:%Y-%m-%d %H:%M} UTC"


def rfc3339(time: float) -> str:
    """Return a time for machines: 2026-11-23T21:55:20.419Z."""
    at = datetime.fromtimestamp(time, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sparkline(values: Sequence[float | None]) -> str:
    """Return values as a line of bars; a window without one is a dot."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known:
        return ""
    low, high = min(known), max(known)
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
