"""The images in the documents show what the receiver sends now."""

from __future__ import annotations

import html
import re
import struct
from pathlib import Path

import pytest
from tests.docs.slack_images import FOLDER, digest, fact, pages, source
from tests.docs.slack_page import mrkdwn, page

PAGE = Path(__file__).parents[2] / "docs" / "receivers.md"
LARGEST = 300_000


@pytest.mark.parametrize("name", sorted(pages()))
def test_an_image_shows_the_current_message(name: str) -> None:
    """If not: `make images`, and look at them."""
    png = (FOLDER / f"{name}.png").read_bytes()
    assert source(png) == digest(pages()[name])
    width, height = struct.unpack(">II", png[16:24])
    assert width == 1080
    assert 300 < height < 1500
    assert len(png) < LARGEST


def test_every_image_is_shown_and_described() -> None:
    shown = re.findall(r"!\[([^\]]+)\]\(images/([\w-]+)\.png\)", PAGE.read_text())
    assert sorted(name for _, name in shown) == sorted(pages())
    assert all(len(text) > 20 for text, _ in shown)
    assert sorted(p.stem for p in FOLDER.glob("slack-*.png")) == sorted(pages())


def test_a_page_has_all_of_the_message_s_text() -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", pages()["slack-firing"]))
    for output in (
        "🔴 [FIRING] node-success-rate: shop / checkout / pay",
        "success rate 84.2 %, below 95.0 % (32 of 203 failed in 5m)",
        "since 11:59 UTC",
        "Dashboard · Runbook · Silence",
        "TimeoutError 21",
        "pay -> retry",
        f"critical · episode 1 · {fact().id} · worker-3",
    ):
        assert output in text
    assert "+2 more" in pages()["slack-storm"]
    assert "#388e3c" in pages()["slack-resolved"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*a b* _c_", "<b>a b</b> <i>c</i>"),
        ("<https://x/?a=1&amp;b=2|Go>", '<a href="https://x/?a=1&amp;b=2">Go</a>'),
        ("a &lt;!channel&gt;\nb_c_d 2*3*4", "a &lt;!channel&gt;<br>\nb_c_d 2*3*4"),
        (":red_circle: x", "🔴 x"),
    ],
)
def test_slack_s_markup(text: str, expected: str) -> None:
    assert mrkdwn(text) == expected


def test_a_block_that_isn_t_drawn_is_no_gap() -> None:
    blocks = [{"type": "divider"}]
    payload = {"text": "x", "attachments": [{"color": "#fff", "blocks": blocks}]}
    with pytest.raises(ValueError, match="divider"):
        page(payload, "now")
