"""Fixtures that several packages of tests share."""

from __future__ import annotations

import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import Agent, running_agent
from tests.brokers import KINDS, Broker, running_broker

ROOT = Path(__file__).parent.parent

# A shell lets its background jobs ignore Ctrl-C, and so would all that we start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def build(target: str, tree: Path, folder: Path) -> Path:
    """Build a wheel or an sdist from a tree, without an environment of its own."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=tree,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree."""
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, built from this tree."""
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has the wheel installed, and its dependencies from this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install"),
            *("--quiet", "--no-deps", "--no-index", str(wheel)),
        ],
        check=True,
    )
    # A plain path line: found after the wheel, and its own .pth files, such as that
    # of the editable install, are not read.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(python)


@pytest.fixture
def agent(installed: str) -> Iterator[Agent]:
    """An agent of the installed wheel."""
    with running_agent(installed) as agent:
        yield agent


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A real MQTT broker, of each kind in turn."""
    with running_broker(request.param) as broker:
        yield broker


@pytest.fixture(params=[5, 4], ids=["v5", "v3.1.1"])
def version(request: pytest.FixtureRequest) -> int:
    """A version of MQTT, in MQTT's own numbers."""
    number: int = request.param
    return number
