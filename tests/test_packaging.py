"""The wheel and the sdist: what is in them, and that they install on each Python."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest
from tests.agents import free_port, new_agent, until
from tests.conftest import ROOT, build
from tests.interpreters import VERSIONS, interpreter

# What a package may hold: code, the mark of types, the protocol, systemd's units.
SUFFIXES = {".py", ".typed", ".md", ".service", ".socket", ".conf"}

# Debian 12's Python 3.11.2 does not know the argument yet.
SAFELY: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}

COMPILE = """
import compileall, sys
sys.exit(not compileall.compile_dir(sys.argv[1], force=True, quiet=1))
"""
PUSH = """
import kaywatch
with kaywatch.execution("g", "n"):
    kaywatch.observe("size", 3)
assert kaywatch.flush(10), kaywatch.client_stats()
"""


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Path) -> Any:
    (raw,) = (b for n, b in contents(wheel).items() if n.endswith("/METADATA"))
    return message_from_string(raw.decode())


@pytest.fixture(params=VERSIONS)
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty environment of one of the Pythons; the path of its interpreter."""
    python = interpreter(request.param)
    folder = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


def install(python: Path, what: str) -> None:
    """Install what is named, with all that it needs."""
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    # Most modules of the dependencies are never imported.
    subprocess.run([*pip, "install", "--quiet", "--no-compile", what], check=True)
    subprocess.run([*pip, "check"], check=True, capture_output=True)


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def installed(python: Path) -> set[str]:
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    return {path.name.split("-")[0] for path in site.glob("*.dist-info")}


# -- what is in them -------------------------------------------------------------------


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    names = set(contents(wheel))
    info = {name for name in names if ".dist-info/" in name}

    assert {name.split("/")[0] for name in names - info} == {
        "kaywatch",
        "kaywatch_agent",
    }
    assert {name.partition(".dist-info/")[2] for name in info} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }
    assert {Path(name).suffix for name in names - info} <= SUFFIXES
    assert {
        "kaywatch/_run/sitecustomize.py",
        "kaywatch/py.typed",
        "kaywatch/PROTOCOL.md",
        "kaywatch_agent/__main__.py",
        "kaywatch_agent/py.typed",
        "kaywatch_agent/cli/service/units/kaywatch.service",
        "kaywatch_agent/cli/service/units/user/kaywatch.service",
    } <= names


def test_the_sdist_holds_what_is_needed_to_test_it_and_no_leftovers(
    sdist: Path,
) -> None:
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]

    assert {name.split("/")[0] for name in names} == {
        *("agent", "client", "deploy", "docs", "tests", ".ci", ".gitignore"),
        *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "PKG-INFO"),
        *("README.md", "pyproject.toml"),
    }
    assert not [name for name in names if re.search(r"__pycache__|\.(pyc|db)$", name)]


def test_the_sdist_builds_the_same_wheel(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, **SAFELY)
    (tree,) = tmp_path.iterdir()
    again = build("wheel", tree, tmp_path / "again")

    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_the_metadata_say_what_an_index_shows(wheel: Path) -> None:
    found = metadata(wheel)

    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found.get_payload() == (ROOT / "README.md").read_text()
    versions = {
        c.rpartition(" ")[2] for c in found.get_all("Classifier") if ":: 3." in c
    }
    assert versions == set(VERSIONS)
    (own,) = (need for need in found.get_all("Requires-Dist") if "extra" not in need)
    assert own.startswith("msgpack")


# -- on each Python --------------------------------------------------------------------


def test_the_client_and_then_the_agent_install_and_work(
    wheel: Path, environment: Path
) -> None:
    install(environment, str(wheel))
    check_client(environment)
    install(environment, f"{wheel}[agent]")
    check_agent(environment)


def check_client(environment: Path) -> None:
    """Check that the plain install is the client alone."""
    command = environment.parent / "kaywatch"

    assert installed(environment) == {"kaywatch", "msgpack"}
    used = ran(environment, "-W", "error", "-c", PUSH.partition("assert")[0])
    assert (used.returncode, used.stderr) == (0, "")
    for arguments in (["serve"], ["status"], ["--help"], []):
        refused = ran(command, *arguments)
        assert refused.returncode == 1
        assert "pip install 'kaywatch[agent]'" in refused.stderr
        assert "Traceback" not in refused.stderr
    watched = ran(command, "run", "--", environment, "-c", "print(1)")
    assert (watched.returncode, watched.stdout, watched.stderr) == (0, "1\n", "")


def check_agent(environment: Path) -> None:
    """Check that the agent starts as users start it, and counts."""
    (site,) = environment.parent.parent.glob("lib/python*/site-packages")

    for package in ("kaywatch", "kaywatch_agent"):
        compiled = ran(environment, "-W", "error", "-c", COMPILE, site / package)
        assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    command, address = environment.parent / "kaywatch", f"127.0.0.1:{free_port()}"
    with new_agent(str(environment)) as agent:
        agent.url = f"http://{address}"
        process = subprocess.Popen(
            [
                *(command, "serve", "--socket", agent.socket, "--http", address),
                *("--store", agent.store),
            ]
        )
        try:
            until(Path(agent.socket).exists, "the agent listens")
            agent.run(PUSH)
            until(lambda: agent.executions() == {"n": 1}, "what was pushed is counted")
            assert "healthy" in ran(command, "status", "--url", agent.url).stdout
        finally:
            process.terminate()
            assert process.wait(20) == 0
