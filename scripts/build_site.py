"""Builds the documentation site into `build/site`, and checks every link in it.

Strategy: the pages are written for the repository, whose files they link to. They are
copied to `build/docs`, together with each file outside `docs/` that a link leads to;
links are rewritten to the copies. Zensical renders them; it replaces Material for
MkDocs, whose support by the same authors ended in November 2026. Then the links of the
HTML are checked, and nothing may be loaded from another host: the site works offline.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote

__all__ = ["SiteError", "build_site", "check_site", "stage"]

ROOT: Final = Path(__file__).parents[1]
COPIES: Final = ROOT / "build" / "docs"
SITE: Final = ROOT / "build" / "site"

_LINK: Final = re.compile(r'(\]\(|(?:src|srcset)=")([^)"\s#]+)(?=[)"#])')
# Tests find some examples by a second word, which the renderer does not understand.
_SECOND_WORD: Final = re.compile(r"^( *```\w+) .*$", re.MULTILINE)
_FENCE: Final = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
_COLOUR: Final = re.compile(r"\x1b\[[\d;]*m")
_DECORATION: Final = re.compile(r"^[\s│─╰╭┬]*$")
# Attributes that make a browser load a resource when it shows the page.
_LOADED: Final = {("img", "src"), ("script", "src"), ("source", "srcset")}


class SiteError(Exception):
    """The site cannot be built, or has broken links; the text lists them."""


def build_site() -> int:
    """Build the site; return the number of its pages.

    Raises:
        SiteError: a page, a link or the configuration is invalid.
    """
    stage(ROOT, COPIES)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        # Without colours, lines of decoration and, for broken links, a traceback.
        report = _COLOUR.sub("", done.stdout) or done.stderr
        lines = [line for line in report.splitlines() if not _DECORATION.match(line)]
        raise SiteError("\n".join(lines))
    problems = list(check_site(SITE))
    if problems:
        raise SiteError("\n".join(problems))
    return len([*SITE.rglob("*.html")])


# -- copies of the pages ---------------------------------------------------------------


def stage(root: Path, copies: Path) -> None:
    """Copy the pages, and the files that they link to, with links to the copies."""
    shutil.rmtree(copies, ignore_errors=True)
    docs = root / "docs"
    waiting = [root / "README.md", *docs.rglob("*.md"), *docs.glob("*.css")]
    staged = set[Path]()
    while waiting:
        source = waiting.pop()
        if source in staged:
            continue
        staged.add(source)
        target = copies / _place(source, root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            target.write_text(_listing(source))
        elif source.suffix == ".md":
            text, linked = _with_copied_links(source, root)
            target.write_text(text)
            waiting += linked
        else:
            shutil.copy(source, target)


def _place(source: Path, root: Path) -> Path:
    """Return where the copy of a file is, relative to the folder of copies."""
    path = source.relative_to(root)
    if path.parts[0] == "docs":
        return path.relative_to("docs")
    if path == Path("README.md"):
        return Path("index.md")
    # In a folder of their own: SECURITY.md is not `docs/security.md`.
    return Path("files", path.with_suffix(".md") if source.is_dir() else path)


def _with_copied_links(source: Path, root: Path) -> tuple[str, list[Path]]:
    """Return the text of a page with rewritten links, and the files they lead to."""
    linked: list[Path] = []
    here = (root / _place(source, root)).parent

    def rewrite(match: re.Match[str]) -> str:
        before, link = match.groups()
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        target = (source.parent / link).resolve()
        if target.is_dir() and (target / "README.md").exists():
            target /= "README.md"
        if not target.exists():
            raise SiteError(f"{source.relative_to(root)}: broken link {link}")
        linked.append(target)
        return before + os.path.relpath(root / _place(target, root), here)

    # Every second part is a block of code, in which nothing is a link.
    parts = _FENCE.split(source.read_text())
    parts[::2] = [_LINK.sub(rewrite, part) for part in parts[::2]]
    parts[1::2] = [_SECOND_WORD.sub(r"\1", part) for part in parts[1::2]]
    return "".join(parts), linked


def _listing(folder: Path) -> str:
    """Return a page that shows the files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    shown = [
        f"## {path.relative_to(folder)}\n\n```\n{path.read_text().rstrip()}\n```\n"
        for path in files
    ]
    return "\n".join([f"# {folder.name}\n", *shown])


# -- links of the site -----------------------------------------------------------------


class _Page(HTMLParser):
    """Collects the ids, links and loaded resources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids = set[str]()
        self.links = set[str]()
        self.loaded = set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the attributes of one element."""
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.add(values["href"])
        self.loaded |= {values[a] for t, a in _LOADED if t == tag and a in values}


def check_site(site: Path) -> Iterator[str]:
    """Yield each broken link, and each resource that is loaded from another host."""
    pages = {path: _Page(path.read_text()) for path in site.rglob("*.html")}
    # The navigation repeats a broken link on every page.
    reported = set[tuple[Path, str]]()
    for path, page in pages.items():
        # Its links are absolute, because a server shows it at any address.
        if path.name == "404.html":
            continue
        name = path.relative_to(site)
        for link in sorted(page.links | page.loaded):
            if link.startswith(("http:", "https:", "//", "mailto:", "data:")):
                if link in page.loaded and not link.startswith("data:"):
                    yield f"{name}: loads {link} from another host"
                continue
            file, _, anchor = unquote(link).partition("#")
            target = path if not file else Path(os.path.normpath(path.parent / file))
            if target.is_dir():
                target /= "index.html"
            known = not anchor or target not in pages or anchor in pages[target].ids
            if (target, anchor) in reported or (target.is_file() and known):
                continue
            reported.add((target, anchor))
            yield f"{name}: broken link {link}"


def main() -> None:
    """Build the site, and report its place or its errors."""
    try:
        pages = build_site()
    except SiteError as error:
        sys.exit(f"build_site: {error}")
    print(f"{SITE.relative_to(ROOT)}: {pages} pages")


if __name__ == "__main__":
    main()
