from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaywatch import wire
from kaywatch_agent.protocol.names import clean_name, clean_text

DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def is_safe(character: str) -> bool:
    """Return whether a terminal or a line-based reader shows a character as it is."""
    return (
        unicodedata.category(character) not in ("Cc", "Zl", "Zp", "Cs")
        and unicodedata.bidirectional(character) not in DIRECTIONS
    )


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_names_are_short_and_in_one_line(name: str) -> None:
    cleaned = clean_name(name)

    assert len(cleaned) == min(len(name), wire.MAX_NAME)
    assert all(map(is_safe, cleaned))
    assert len(cleaned.splitlines()) <= 1
    assert clean_name(cleaned) == cleaned
    pairs = [(a, b) for a, b in zip(name, cleaned, strict=False) if b != "\ufffd"]
    assert all(a == b for a, b in pairs)


@pytest.mark.parametrize(
    "name",
    [
        "pay",
        "Zürich → \u6771\u4eac",
        "a\u00a0b",
        "\U0001f469\u200d\U0001f680",
        "q\"\\'<&>",
    ],
)
def test_printable_names_are_kept(name: str) -> None:
    assert clean_name(name) == name


@pytest.mark.parametrize(
    "character", ["\x1b", "\x9b", "\x07", "\x08", "\r", "\n", "\0", "\u202e", "\u2028"]
)
def test_characters_that_forge_output_are_replaced(character: str) -> None:
    assert clean_name(f"a{character}b") == "a\ufffdb"


def test_no_invisible_character_remains_except_for_joiners() -> None:
    formats = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Cf"]
    left = {c for c in formats if clean_name(c) == clean_text(c) == c}

    # Signs around numbers and abbreviations, and within Kaithi and hieroglyphs.
    visible = {c for c in left if unicodedata.bidirectional(c) in ("AN", "AL")}
    visible |= left & set(map(chr, range(0x110BD, 0x13460)))
    assert left - visible == {"\u200c", "\u200d"}


def test_texts_keep_their_lines() -> None:
    assert clean_text("one\r\n\ttwo\x1b[2J\n") == "one\n\ttwo\ufffd[2J\n"
    assert clean_text("a" * 10, 3) == "aaa"
