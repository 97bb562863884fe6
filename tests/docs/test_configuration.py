"""The pages on the configuration are generated from the types that it is read into."""

from __future__ import annotations

from tests.docs.configuration import generate_pages


def test_the_pages_are_up_to_date() -> None:
    for path, text in generate_pages().items():
        assert path.read_text() == text, "python -m tests.docs.configuration"
