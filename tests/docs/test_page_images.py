"""The pictures of the web page that the documentation shows exist, and are small."""

from __future__ import annotations

import re

from tests.conftest import ROOT
from tests.docs.page_images import FAILURES, MODES, VIEWS

MAX_BYTES = 2_800_000


def test_the_documentation_shows_pictures_that_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    shown = set(re.findall(r"images/([\w-]+\.\w+)", text))
    pictures = {path.name: path for path in (ROOT / "docs/images").iterdir()}
    assert shown <= set(pictures)
    assert sum(path.stat().st_size for path in pictures.values()) < MAX_BYTES
    for shot in FAILURES:
        assert f"failure-{shot.name}.webp" in shown
    for mode in MODES:
        for shot in VIEWS:
            assert f"page-{shot.name}{mode}.webp" in pictures
