"""The examples of docs/logging.md work, and its tables are complete."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kaywatch import logs

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "logging.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_snippet_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_every_event_and_no_other_is_documented() -> None:
    source = (ROOT / "client" / "kaywatch" / "logs" / "_events.py").read_text()
    events = set(re.findall(r'"((?:node|graph)_[a-z_]+)"', source))
    table = TEXT.partition("## Events")[2].partition("`duration` is")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]

    assert set(re.findall(r"`(\w+)`", "".join(rows))) == events - {"node_id"}


def test_every_public_name_and_argument_is_documented() -> None:
    for name in logs.__all__:
        assert name in TEXT or name == "FORMAT"
    arguments = {
        *inspect.signature(logs.setup_production_logging).parameters,
        *inspect.signature(logs.setup_structured_logging).parameters,
    }
    for name in arguments:
        assert f"{name}=" in TEXT, name
