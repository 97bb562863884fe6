"""Lengths of time as people write them: `30s`, `5m`, `1.5h`, `7d`."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["seconds", "text"]

UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_FORM: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")


def seconds(written: str) -> float:
    """Return the seconds of `30s`, `5m`, `1h30m` or plain `0`.

    Raises:
        ValueError: that is none of these.
    """
    if written == "0":
        return 0.0
    if not _WHOLE.fullmatch(written):
        raise ValueError(
            f'"{written}" is no length of time: write "30s", "5m", "1h" or "7d"'
        )
    return sum(float(number) * UNITS[unit] for number, unit in _FORM.findall(written))


def text(length: float) -> str:
    """Return seconds in the largest two units that they have: `1h30m`, `45s`."""
    if length < 1:
        return "0" if length <= 0 else f"{max(1, round(length * 1000))}ms"
    rest, parts = round(length), []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(UNITS[unit]))
        if count:
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return "".join(parts)
