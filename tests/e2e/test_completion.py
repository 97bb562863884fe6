"""Shell completion, as docs/commands.md sets it up, in a real bash."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT

KAYWATCH = Path(sys.executable).parent / "kaywatch"
# Let bash complete a line as on a press of TAB, and print the candidates.
COMPLETE = """
shopt -s progcomp
{setup}
COMP_WORDS=({line}) COMP_CWORD={last} COMPREPLY=()
_kaywatch_completion kaywatch 2>/dev/null  # compopt is for a real completion
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def setup_line(shell: str) -> str:
    """Return the line of the documentation for a shell."""
    text = (ROOT / "docs" / "commands.md").read_text()
    found = re.search(rf"\| {shell} \| `([^`]*)` \|", text)
    assert found is not None, shell
    return found[1]


def run(*command: str) -> str:
    path = f"{KAYWATCH.parent}:/usr/bin:/bin"
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kaywatch sta", ["status", "stats"]),
        ("kaywatch rules exp", ["export"]),
        ("kaywatch rules export --hist", ["--histograms"]),
        ("kaywatch rules export --histograms c", ["classic"]),
    ],
)
def test_bash_completes_commands_options_and_values(
    line: str, expected: list[str]
) -> None:
    script = COMPLETE.format(
        setup=setup_line("bash"), line=line, last=len(line.split()) - 1
    )
    assert run("bash", "-c", script).split() == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_documented_shell_has_a_script(shell: str) -> None:
    variable = re.search(r"_KAYWATCH_COMPLETE=\w+", setup_line(shell))
    assert variable is not None
    script = run("env", variable[0], str(KAYWATCH))
    assert f"_KAYWATCH_COMPLETE={shell}_complete" in script
