"""Numbers as people read them: 95.0 %, 2.31 s, 1.2 GiB, $0.42, 1h 5m."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

__all__ = ["clock_time", "quantity", "rfc3339", "span", "sparkline"]

_BARS: Final = "▁▂▃▄▅▆▇█"
_BLANK: Final = "·"  # a window without a value
_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB")


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
            return _percent(value)
        case "percent":
            return f"{value:.0f} %"
        case "seconds":
            return _seconds(value)
        case "bytes":
            return _bytes(value)
        case "usd":
            return _dollars(value)
        case "tokens":
            return f"{_number(value)} tokens"
        case "per_second":
            return f"{_number(value)}/s"
    return _number(value)


def span(seconds: float) -> str:
    """Return a length of time as one or two whole units: 40s, 12m, 1h 5m, 2d 3h."""
    left = max(0, round(seconds))
    days, left = divmod(left, 86_400)
    hours, left = divmod(left, 3_600)
    minutes, left = divmod(left, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (left, "s")]
    first = next((n for n, (count, _) in enumerate(parts) if count), len(parts) - 1)
    shown = [f"{n}{unit}" for n, unit in parts[first : first + 2] if n] or ["0s"]
    # Seconds beside ten minutes or more are noise.
    return shown[0] if first == 2 and minutes >= 10 else " ".join(shown)


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


def _percent(value: float) -> str:
    # Never rounded to all or nothing.
    for digits in (1, 2, 3):
        text = f"{value * 100:.{digits}f}"
        if float(text) not in (0.0, 100.0) or value in (0.0, 1.0):
            return f"{text} %"
    return f"{value * 100:.6g} %"


def _seconds(value: float) -> str:
    size = abs(value)
    if size < 0.001:
        return f"{value * 1e6:.3g} µs"
    if size < 1:
        return f"{value * 1e3:.3g} ms"
    if size < 100:
        return f"{value:.2f} s"
    return span(value) if size >= 600 else f"{value:.0f} s"


def _bytes(value: float) -> str:
    unit = 0
    while abs(value) >= 1024 and unit < len(_BYTES) - 1:
        value /= 1024
        unit += 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_BYTES[unit]}"


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if abs(value) >= 0.1 or not value else f"${value:.2g}"


def _number(value: float) -> str:
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3g}"
