"""The files of the web page: types, caching, compression, and an agent without them."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from tests.agent.web.serving import Served
from tests.conftest import ROOT

from kaywatch_agent.rules.metrics import METRICS
from kaywatch_agent.web.pages import dashboard

SCRIPT = "console.log('ä');\n" * 100


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with one script, in a folder with a secret."""
    (tmp_path / "secret").write_text("secret")
    page = tmp_path / "page"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html>the page")
    (page / "assets" / "main.js").write_text(SCRIPT)
    monkeypatch.setattr(dashboard, "FOLDER", page)
    return page


def test_the_page_accepts_every_parameter(shop: Served, folder: Path) -> None:
    for path in ("/", "/?graph=checkout", "/?graph=a&graph=b&view=%3Cscript%3E"):
        answer = shop.ask(path)
        assert (answer.status, answer.body) == (200, b"<!doctype html>the page")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]


def test_a_script_is_sent_once_until_it_changes(shop: Served, folder: Path) -> None:
    first = shop.ask("/assets/main.js")
    assert (first.status, first.body.decode()) == (200, SCRIPT)
    assert first.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert first.headers["Cache-Control"] == "no-cache"

    etag = first.headers["ETag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = shop.ask("/assets/main.js", {"If-None-Match": known})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == etag

    (folder / "assets" / "main.js").write_text("changed")
    changed = shop.ask("/assets/main.js", {"If-None-Match": etag})
    assert (changed.status, changed.body) == (200, b"changed")


def test_a_script_is_compressed(shop: Served, folder: Path) -> None:
    plain = shop.ask("/assets/main.js")
    answer = shop.ask("/assets/main.js", {"Accept-Encoding": "gzip"})

    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.body).decode() == SCRIPT
    assert answer.headers["ETag"] != plain.headers["ETag"]


@pytest.mark.parametrize(
    "name", ["main.css", "..%2F..%2Fsecret", "%2e%2e%2fsecret", "%2Fetc%2Fpasswd"]
)
def test_no_other_file_is_served(shop: Served, folder: Path, name: str) -> None:
    assert shop.ask(f"/assets/{name}").status == 404


def test_without_its_files_the_page_shows_how_to_build_it(
    shop: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "FOLDER", tmp_path)

    answer = shop.ask("/?graph=checkout")
    assert answer.status == 200
    assert b"make page" in answer.body
    assert shop.ask("/assets/main.js").status == 404


def test_the_page_knows_which_metrics_of_rules_have_no_chart() -> None:
    source = (ROOT / "agent/dashboard/src/alerts/condition.ts").read_text()
    (names,) = re.findall(r"NOT_STORED = new Map\(\[(.*?)\n\]\);", source, re.DOTALL)
    without = {name for name, metric in METRICS.items() if metric.compute is None}
    assert set(re.findall(r'"(\w+)"', names)) == without
