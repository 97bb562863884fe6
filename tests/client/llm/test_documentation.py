"""The examples of docs/llm.md work, and it documents every metric."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kaywatch.prices import Price, load
from kaywatch_agent.web.api.llm import COUNTS, DISTRIBUTIONS, DOLLARS, PER_RUN
from kaywatch_agent.web.prometheus.families import LLM_COUNTS

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "llm.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
RECORDED = {
    *re.findall(
        r'"(llm_\w+)"',
        "".join(
            (ROOT / "client" / "kaywatch" / "_llm" / f"{name}.py").read_text()
            for name in ("calls", "costs", "meter")
        ),
    )
}


@pytest.mark.parametrize("code", SNIPPETS)
def test_a_snippet_runs(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    # There is no agent here.
    assert [line for line in lines if "kaywatch cannot send" not in line] == []


def test_every_metric_is_documented_and_served() -> None:
    section = TEXT.partition("## What is recorded")[2].partition("**Wasted**")[0]
    documented = set(re.findall(r"`(llm_\w+)`", section))

    assert documented == RECORDED
    assert {*COUNTS, *DOLLARS, *DISTRIBUTIONS, *PER_RUN} == RECORDED
    assert set(LLM_COUNTS) == {*COUNTS, *DOLLARS}


def test_the_example_of_a_file_names_every_key(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    path = tmp_path / "prices.toml"
    path.write_text(example)

    assert set(load(str(path))) == {"my-model-1.5"}
    (example_keys,) = tomllib.loads(example).values()
    assert set(example_keys) == {field.name for field in dataclasses.fields(Price)}
