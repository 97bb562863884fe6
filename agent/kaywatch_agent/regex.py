"""Regular expressions that come from outside, matched in linear time by RE2.

A configuration, a rule, a silence and a redaction bring expressions along, and clients
bring the texts. Python's `re` backtracks, so that some pairs of them take for ever;
RE2 takes time in proportion to the text, whatever the expression. In return it has no
references to groups and no look-around, which Prometheus and Alertmanager, who use the
same syntax, don't have either.

Source: github.com/google/re2/wiki/Syntax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import re2

__all__ = ["Expression", "ExpressionSet"]

# Bounds what an expression such as (a{1000}){1000} takes when it is compiled.
MAX_MEMORY: Final = 1024 * 1024
SET_MEMORY: Final = 8 * MAX_MEMORY

HINTS: Final = {
    "invalid perl operator": "look-around and atomic groups are not supported",
    "invalid escape sequence": "a reference to a group, or an escape that RE2 lacks",
    "bad repetition operator": "possessive and double repeats are not supported",
}


class Expression:
    """One expression, compiled."""

    def __init__(self, pattern: str) -> None:
        """Compile it.

        Raises:
            ValueError: it is none, or one that RE2 does not support.
        """
        try:
            self._compiled = re2.compile(pattern, _options(MAX_MEMORY))
        except (re2.error, UnicodeError) as error:
            raise ValueError(_explained(error)) from None
        self._value = self._compiled.groupindex.get("value", 0)

    def covers(self, text: str) -> bool:
        """Return whether it matches the whole of a text."""
        return self._compiled.fullmatch(encoded(text)) is not None

    def replace(self, text: bytes, replacement: bytes, limit: int) -> tuple[bytes, int]:
        """Replace what matches, or the group named `value` where there is one.

        Args:
            text: as UTF-8.
            replacement: what comes in its place.
            limit: how many matches are replaced, at most.

        Returns:
            The text, and how many matches were replaced.
        """

        def without(match: Any) -> bytes:
            start, end = match.span(self._value)
            if start < 0:
                start, end = match.span()
            head, tail = text[match.start() : start], text[end : match.end()]
            return b"".join((head, replacement, tail))

        replaced: tuple[bytes, int] = self._compiled.subn(without, text, limit)
        return replaced


class ExpressionSet:
    """Several expressions, searched for at once: a pass over the text finds all."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile them.

        Raises:
            ValueError: one is none, or they are too large together.
        """
        self._expressions = [Expression(pattern) for pattern in patterns]
        self._set = re2.Set.SearchSet(_options(SET_MEMORY))
        # The last one matches always: if it does not, RE2 ran out of memory.
        for pattern in (*patterns, ""):
            self._set.Add(pattern)
        try:
            self._set.Compile()
        except re2.error:
            raise ValueError("these expressions are too large together") from None
        self._search: Callable[[bytes], list[int] | None] = self._set.Match

    def found(self, text: bytes) -> list[Expression]:
        """Return those that match somewhere in a text, in their order."""
        numbers = sorted(self._search(text) or ())
        if not numbers or numbers[-1] != len(self._expressions):
            return self._expressions
        return [self._expressions[number] for number in numbers[:-1]]


def encoded(text: str) -> bytes:
    """Return a text as RE2 reads it; a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace")


def _options(memory: int) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = memory
    return options


def _explained(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    text = (
        reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(error)
    )
    hint = next((h for start, h in HINTS.items() if text.startswith(start)), "")
    return f"{text} ({hint})" if hint else text
