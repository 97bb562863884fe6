"""Ids that sort by the order in which they were made: https://github.com/ulid/spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["PREFIX", "Ulids"]

PREFIX: Final = "msg_"

# Crockford's base 32: neither I, L, O nor U.
_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH: Final = 26
_RANDOM_BITS: Final = 80
_TIME_LIMIT: Final = 1 << 48


class Ulids:
    """Makes ids, each greater than all before it, whatever the clock does."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._last = 0

    def after(self, known: str) -> None:
        """Make only greater ids than this one from here on, if it is one."""
        digits = known.removeprefix(PREFIX)
        if len(digits) == _LENGTH and set(digits) <= set(_DIGITS):
            value = 0
            for digit in digits:
                value = value * 32 + _DIGITS.index(digit)
            self._last = max(self._last, value)

    def make(self, now: float) -> str:
        """Return the next id: `msg_` and 26 digits."""
        stamp = min(max(0, int(now * 1000)), _TIME_LIMIT - 1)
        random = int.from_bytes(self._entropy(_RANDOM_BITS // 8), "big")
        value = stamp << _RANDOM_BITS | random
        # Within a millisecond, or when the clock was put back: the last one and one.
        self._last = value if value > self._last else self._last + 1
        return PREFIX + _encode(self._last)


def _encode(value: int) -> str:
    digits = []
    for _ in range(_LENGTH):
        value, digit = divmod(value, 32)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
