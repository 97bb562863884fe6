"""The documentation site: copies of the pages, and the check of its links."""

from __future__ import annotations

from pathlib import Path

import build_site
import pytest
import yaml

ROOT = Path(__file__).parents[2]


def site_of(folder: Path, **bodies: str) -> list[str]:
    for name, body in bodies.items():
        (folder / f"{name}.html").write_text(f"<html><body>{body}</body></html>")
    return list(build_site.check_site(folder))


def test_a_link_to_a_page_and_its_heading_is_valid(tmp_path: Path) -> None:
    problems = site_of(
        tmp_path,
        a='<a href="b.html#there">b</a> <a href="#here">a</a> <h2 id="here">a</h2>',
        b='<h2 id="there">b</h2> <a href="https://example.org/">another site</a>',
    )

    assert problems == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="c.html">c</a>', "a.html: broken link c.html"),
        ('<a href="#gone">a</a>', "a.html: broken link #gone"),
        ('<img src="gone.webp">', "a.html: broken link gone.webp"),
        (
            '<script src="https://cdn.example.org/x.js"></script>',
            "a.html: loads https://cdn.example.org/x.js from another host",
        ),
        (
            '<link rel="stylesheet" href="//fonts.example.org/css">',
            "a.html: loads //fonts.example.org/css from another host",
        ),
    ],
)
def test_a_broken_link_or_a_foreign_resource_is_reported(
    tmp_path: Path, body: str, problem: str
) -> None:
    assert site_of(tmp_path, a=body) == [problem]


def test_a_file_outside_of_docs_is_copied_and_linked(tmp_path: Path) -> None:
    root, copies = tmp_path / "root", tmp_path / "copies"
    (root / "docs").mkdir(parents=True)
    (root / "deploy").mkdir()
    (root / "deploy" / "example.toml").write_text("key = 1\n")
    (root / "README.md").write_text("[a](docs/a.md)\n")
    page = "[x](../deploy/example.toml) [all](../deploy)\n\n```\n[x](no-link)\n```\n"
    (root / "docs" / "a.md").write_text(page)

    build_site.stage(root, copies)

    assert (copies / "index.md").read_text() == "[a](a.md)\n"
    text = (copies / "a.md").read_text()
    assert "[x](files/deploy/example.toml) [all](files/deploy.md)" in text
    assert "[x](no-link)" in text
    assert "key = 1" in (copies / "files" / "deploy.md").read_text()


def test_a_link_to_no_file_names_its_page(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("[a](docs/a.md)\n")

    with pytest.raises(build_site.SiteError, match=r"README.md: broken link docs/a.md"):
        build_site.stage(tmp_path, tmp_path / "copies")


def test_every_page_is_in_the_navigation(tmp_path: Path) -> None:
    build_site.stage(ROOT, tmp_path)

    def pages(entry: object) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        values = entry.values() if isinstance(entry, dict) else entry
        return set().union(*map(pages, values))  # type: ignore[arg-type]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    docs = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
    assert docs <= listed
    assert not [name for name in listed if not (tmp_path / name).is_file()]
