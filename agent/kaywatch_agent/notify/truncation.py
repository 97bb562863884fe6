"""Cuts texts to the limits of receivers, between characters as a reader sees them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Final

__all__ = ["cut", "escape", "is_boundary", "truncate", "utf16_length"]

JOINER: Final = "\u200d"
ELLIPSIS: Final = "…"


def truncate(text: str, limit: int, size: Callable[[str], int] = len) -> str:
    """Return a text of at most `limit` units, with `…` where it was cut.

    Args:
        text: the text.
        limit: the highest size of the result.
        size: returns the size of a text; by default its number of code points.
    """
    return text if size(text) <= limit else escape(text, limit, {}, size)


def escape(
    text: str,
    limit: int,
    escapes: Mapping[str, str],
    size: Callable[[str], int] = len,
) -> str:
    """Return a text with escapes of at most `limit` units, never cut within an escape.

    Args:
        text: the text.
        limit: the highest size of the result, with the `…` where it was cut.
        escapes: what is written for a character.
        size: returns the size of a text; by default its number of code points.
    """
    return cut(text, [escapes.get(one, one) for one in text], limit, size)


def cut(
    text: str, pieces: Sequence[str], limit: int, size: Callable[[str], int] = len
) -> str:
    """Return an escaped text of at most `limit` units, never cut within a piece.

    Args:
        text: the text.
        pieces: what is written for each of its characters.
        limit: the highest size of the result, with the `…` where it was cut.
        size: returns the size of a text; by default its number of code points.
    """
    if sum(map(size, pieces)) <= limit:
        return "".join(pieces)
    remaining, end = limit - size(ELLIPSIS), 0
    for piece in pieces:
        remaining -= size(piece)
        if remaining < 0:
            break
        end += 1
    while end and not is_boundary(text, end):
        end -= 1
    return "".join(pieces[:end]) + ELLIPSIS


def is_boundary(text: str, index: int) -> bool:
    """Return whether a text may be cut before an index.

    An accent, a modifier or a part of a joined emoji belongs to what precedes it; two
    regional indicators are one flag. These are the rules of Unicode Annex 29 that
    matter to texts of a few hundred characters.
    """
    before, after = text[index - 1], text[index]
    if before == JOINER or after == JOINER or _extends(after):
        return False
    if _is_indicator(before) and _is_indicator(after):
        start = index
        while start and _is_indicator(text[start - 1]):
            start -= 1
        return (index - start) % 2 == 0
    return True


def utf16_length(text: str) -> int:
    """Return a text's length in UTF-16, as JavaScript counts it."""
    return len(text) + sum(character > "\uffff" for character in text)


# -- inside --------------------------------------------------------------------------


def _extends(character: str) -> bool:
    is_modifier = "\U0001f3fb" <= character <= "\U0001f3ff"  # a tone of skin
    is_tag = "\U000e0020" <= character <= "\U000e007f"  # of a flag
    return is_modifier or is_tag or unicodedata.category(character)[0] == "M"


def _is_indicator(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
