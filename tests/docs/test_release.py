"""The files of a release agree on its version and date."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from tests.interpreters import VERSIONS

import kaywatch

ROOT = Path(__file__).parents[2]


def test_the_version_is_that_of_the_changelog_and_the_citation() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    version, date = re.findall(r"^## (\d\S*) - (\S+)$", changelog, re.MULTILINE)[0]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())

    assert version == kaywatch.__version__ == citation["version"]
    assert date == str(citation["date-released"])


def test_the_supported_minor_version_is_this_one() -> None:
    minor = ".".join(kaywatch.__version__.split(".")[:2])

    assert f"| {minor} | yes |" in (ROOT / "SECURITY.md").read_text()


def test_a_version_of_the_changelog_is_read_in_two_minutes() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()

    for section in changelog.split("\n## ")[1:]:
        # 240 words a minute, with some room for code.
        assert len(section.split()) < 600, section.splitlines()[0]


def test_the_supported_pythons_are_stated_in_the_docs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["requires-python"] == f">={VERSIONS[0]}"
    stated = f"({', '.join(VERSIONS[:-1])} or {VERSIONS[-1]})"
    assert stated in (ROOT / "docs" / "operations.md").read_text()
