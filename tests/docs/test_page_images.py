"""The pictures of the web page that the documentation shows exist, and are small."""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from tests.conftest import ROOT
from tests.docs.monitored import OF_RULES
from tests.docs.page_images import FAILURES, MODES, VIEWS

from kaywatch_agent.rules.built_in import BUILT_IN

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


def test_each_rule_is_a_failure_mode_whose_view_is_shown() -> None:
    text = (ROOT / "docs/failure-modes.md").read_text()
    modes = re.findall(r"(?m)^\| \[(.+)\]\(#.+\) \| (.+) \| (.+) \|$", text)
    sections = re.findall(r"(?ms)^## (.+?)\n(.*?)(?=^## |\Z)", text)
    contents = {title.lower(): content for title, content in sections}
    rules = {rule for _, names, _ in modes for rule in re.findall(r"\w+", names)}
    # Those are about the alerts and exports themselves.
    assert rules == set(BUILT_IN) - OF_RULES
    views = {
        f"failure-{shot.name}.webp": parse_qs(shot.query)["view"][0]
        for shot in FAILURES
    }
    for title, _, named in modes:
        pictures = re.findall(r"images/(.+?)\)", contents[title])
        shown = {views[name] for name in pictures}
        assert shown
        assert shown <= set(named.lower().split(", ")), title
