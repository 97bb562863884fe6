"""docs/operations.md: its commands work, and its quotes exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import Agent, running_agent
from tests.docs.configuration import DOCS
from tests.metrics import declared_metrics
from tests.servers import require

import kaywatch_agent.cli.doctor
from kaywatch_agent.config import parse

PAGE = "".join(
    (DOCS / name).read_text() for name in ("operations.md", "troubleshooting.md")
)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
BACKUPS = re.findall(
    r"^(?:sqlite3|python3) .*VACUUM.*$|^sqlite3 .*$", PAGE, re.MULTILINE
)
STORE = "/var/lib/kaywatch/kaywatch.db"


@pytest.fixture(scope="module")
def busy(installed: str) -> Iterator[Agent]:
    """An agent with data in its store."""
    with running_agent(installed) as agent:
        agent.run(
            "import kaywatch\n"
            "for i in range(500):\n"
            "    with kaywatch.execution('g', f'n{i % 5}'): pass\n"
            "kaywatch.flush(10)"
        )
        yield agent


@pytest.mark.parametrize("command", BACKUPS)
def test_a_backup_of_a_running_agent_is_complete(
    busy: Agent, tmp_path: Path, installed: str, command: str
) -> None:
    require("sqlite3")
    copy = tmp_path / "kaywatch.db"
    here = command.replace(STORE, busy.store).replace("/backup/kaywatch.db", str(copy))
    here = here.replace("python3 ", f"{shlex.quote(sys.executable)} ")
    subprocess.run(here, shell=True, check=True)
    expected = busy.executions()

    with running_agent(installed, "--store", str(copy)) as restored:
        assert restored.executions() == expected
        assert sum(expected.values()) == 500


def test_the_page_has_three_backup_commands() -> None:
    assert len(BACKUPS) == 3


def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    (text,) = (text for kind, text in BLOCKS if kind == "toml")

    assert list(parse(text).notify.receivers) == ["ops"]


def test_the_prometheus_rules_use_existing_metrics(
    tmp_path: Path,
) -> None:
    (text,) = (text for kind, text in BLOCKS if kind == "yaml")
    rules = tmp_path / "kaywatch.rules.yml"
    rules.write_text(text)
    names = set(re.findall(r"kaywatch_\w+", PAGE))

    assert names <= {*declared_metrics()}
    subprocess.run([require("promtool"), "check", "rules", str(rules)], check=True)


def test_quoted_results_of_the_doctor_exist() -> None:
    table = PAGE.partition("| result |")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    (folder,) = kaywatch_agent.cli.doctor.__path__
    source = "".join(path.read_text() for path in sorted(Path(folder).glob("*.py")))
    # The code splits long strings over several lines.
    source = re.sub(r'"\s+f?"', "", source)

    assert len(quoted) >= 10
    assert [text for text in quoted if text not in source] == []
