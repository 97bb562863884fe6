"""The man pages describe every command and option, and are valid man(7)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import build_man
from tests.docs.test_help import OURS
from tests.servers import require

PAGES = build_man.man_pages()


def test_every_command_and_option_is_described() -> None:
    for words, command in OURS.items():
        text = PAGES["-".join(("kaywatch", *words[:1]))].replace("\\-", "-")
        for parameter in command.params:
            for option in (o for o in parameter.opts if o.startswith("-")):
                assert re.search(rf"^\\fB.*{option}\b", text, re.MULTILINE), option
    assert "--endpoint" in PAGES["kaywatch-run"].replace("\\-", "-")


def test_groff_formats_the_pages_without_a_warning(tmp_path: Path) -> None:
    groff = require("groff")
    paths = build_man.write_pages(tmp_path)
    done = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", *paths], capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(r"\x1b\[[\d;]*m|.\x08", "", done.stdout)
    assert "kaywatch silence add node=Draft" in text
    # As man-pages(7) has it: a phrase, by which `apropos` lists the page.
    assert "kaywatch-serve - Run the agent until SIGTERM or SIGINT\n" in text
    assert "78 configuration error" in " ".join(text.split())
