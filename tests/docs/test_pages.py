"""The pages of the documentation: links, tables, and figures that agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.bench.document import HIGHLIGHTS, HIGHLIGHTS_TABLE

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "client" / "kaywatch" / "PROTOCOL.md",
    ROOT / "examples" / "README.md",
    *(ROOT / "deploy").rglob("*.md"),
]
CODE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading))
        .lower()
        .replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text())):
        target, _, anchor = link.partition("#")
        if "://" in link or target.startswith("mailto:"):
            continue
        file = page if not target else page.parent / target
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_has_its_header(page: Path) -> None:
    # A blank line within a table ends it: the rest is shown as text.
    blocks = re.split(r"\n\s*\n", CODE.sub("", page.read_text()))
    for block in blocks:
        rows = [line for line in block.splitlines() if line.startswith("|")]
        if rows:
            assert re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", rows[1]), rows[0]


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached:
            continue
        reached.add(page)
        if page.suffix == ".md":
            targets = [
                link.partition("#")[0] for link in LINK.findall(page.read_text())
            ]
            waiting += [
                page.parent / target
                for target in targets
                if target and "://" not in target and (page.parent / target).is_file()
            ]
    missing = {page.resolve() for page in (ROOT / "docs").rglob("*.md")} - reached
    assert not missing


def test_the_readme_has_the_figures_of_the_benchmarks() -> None:
    rows: dict[str, str] = {}
    for row in (ROOT / "docs" / "benchmarks.md").read_text().splitlines():
        if row.startswith("| "):
            # The first table has the figures; later ones compare.
            rows.setdefault(row.split("|")[1].strip(), row)
    match = HIGHLIGHTS_TABLE.search((ROOT / "README.md").read_text())
    assert match
    table = match[0].strip().splitlines()
    shown = {row.split("|")[1].strip(): row for row in table}
    for what, label in HIGHLIGHTS.items():
        cells = shown[label].split("|")
        assert cells[2].strip() in rows[what]
        for peer in cells[3].strip().split("; "):
            assert peer in rows[what]
