"""Regular expressions from users, matched in linear time by RE2.

Expressions come from the configuration, rules, silences and redactions, and texts from
clients. Python's `re` backtracks, and takes exponential time for some of them; RE2
takes time proportional to the text, whatever the expression. In return, it supports
neither backreferences nor look-around. Prometheus and Alertmanager use the same syntax.

Source: github.com/google/re2/wiki/Syntax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Final

__all__ = ["Expression", "ExpressionSet"]

# Bounds the memory of a compiled expression such as (a{1000}){1000}.
MAX_MEMORY: Final = 1024 * 1024
SET_MEMORY: Final = 8 * MAX_MEMORY

HINTS: Final = {
    "invalid perl operator": "look-around and atomic groups are not supported",
    "invalid escape sequence": "backreferences and some escapes are not supported",
    "bad repetition operator": "possessive and double repeats are not supported",
}


class Expression:
    """One compiled expression."""

    def __init__(self, pattern: str) -> None:
        """Compile an expression.

        Raises:
            ValueError: it is invalid, or RE2 does not support it.
        """
        re2 = _library()
        try:
            self._compiled = re2.compile(pattern, _options(MAX_MEMORY))
        except (re2.error, UnicodeError) as error:
            raise ValueError(_explain(error)) from None
        self._value = self._compiled.groupindex.get("value", 0)

    def fullmatch(self, text: str) -> bool:
        """Return whether the expression matches a whole text."""
        return self._compiled.fullmatch(encode_text(text)) is not None

    def replace(self, text: bytes, replacement: bytes, limit: int) -> tuple[bytes, int]:
        """Replace matches, or only their group named `value` if there is one.

        Args:
            text: UTF-8.
            replacement: UTF-8.
            limit: matches to replace, at most; 0 for all.

        Returns:
            The text, and the number of replaced matches.
        """

        def replaced(match: Any) -> bytes:
            start, end = match.span(self._value)
            if start < 0:
                start, end = match.span()
            head, tail = text[match.start() : start], text[end : match.end()]
            return b"".join((head, replacement, tail))

        result: tuple[bytes, int] = self._compiled.subn(replaced, text, limit)
        return result


class ExpressionSet:
    """Several expressions, searched in one pass over a text."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile expressions.

        Raises:
            ValueError: one is invalid, or they are too large together.
        """
        self._expressions = [Expression(pattern) for pattern in patterns]
        re2 = _library()
        self._set = re2.Set.SearchSet(_options(SET_MEMORY))
        # The last one always matches: if it does not, RE2 ran out of memory.
        for pattern in (*patterns, ""):
            self._set.Add(pattern)
        try:
            self._set.Compile()
        except re2.error:
            raise ValueError("these expressions are too large together") from None
        self._search: Callable[[bytes], list[int] | None] = self._set.Match

    def matching(self, text: bytes) -> list[Expression]:
        """Return the expressions that match somewhere in a text, in their order."""
        numbers = sorted(self._search(text) or ())
        if not numbers or numbers[-1] != len(self._expressions):
            return self._expressions
        return [self._expressions[number] for number in numbers[:-1]]


def encode_text(text: str) -> bytes:
    """Return a text as UTF-8; lone surrogates become question marks."""
    return text.encode("utf-8", "replace")


@cache
def _library() -> Any:
    """Import RE2 when there is an expression: it takes 3 MB."""
    return import_module("re2")


def _options(memory: int) -> Any:
    options = _library().Options()
    options.log_errors = False
    options.max_mem = memory
    return options


def _explain(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    text = (
        reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(error)
    )
    hint = next((h for start, h in HINTS.items() if text.startswith(start)), "")
    return f"{text} ({hint})" if hint else text
