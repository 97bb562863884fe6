"""Texts are cut between characters as a reader sees them."""

from __future__ import annotations

import pytest

from kaywatch_agent.notify.truncation import escape, truncate, utf16_length

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
FLAGS = "\U0001f1eb\U0001f1f7\U0001f1e9\U0001f1ea"


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("abcdef", 1, "…"),
        ("abe\u0301f", 4, "ab…"),  # an accent stays with its letter
        ("abe\u0301fg", 5, "abe\u0301…"),
        (f"a{FAMILY}b", 5, "a…"),
        (f"a{FAMILY}bcd", 7, f"a{FAMILY}…"),
        ("a\U0001f44d\U0001f3fdbc", 3, "a…"),
        (f"{FLAGS}x", 4, f"{FLAGS[:2]}…"),
        (f"{FLAGS}xy", 5, f"{FLAGS}…"),
        ("\u0301" * 9, 3, "…"),
    ],
)
def test_a_text_is_cut_between_characters(text: str, limit: int, expected: str) -> None:
    assert truncate(text, limit) == expected
    assert len(truncate(text, limit)) <= limit


@pytest.mark.parametrize("limit", range(1, 14))
def test_a_text_is_not_cut_within_an_escape(limit: int) -> None:
    result = escape("a<\U0001f4a5&b>", limit, {"<": "&lt;", "&": "&amp;"}, utf16_length)

    assert utf16_length(result) <= limit
    assert "&" not in result.replace("&lt;", "").replace("&amp;", "")
    assert escape("a<b", 100, {"<": "&lt;"}) == "a&lt;b"
