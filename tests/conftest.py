"""Fixtures that several packages of tests share."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.agents import Agent, new_agent
from tests.brokers import KINDS, Broker, run_broker
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent

# One worker runs all tests of each of these files, because their fixtures take seconds
# to make: otherwise, each worker would make them. (With pytest 9, xdist_group and
# `--dist loadgroup` of pytest-xdist 3.8 have no effect.)
BY_FILE = (
    "tests/agent/cli/top/test_top.py",
    "tests/agent/simulation/test_backtest.py",
    "tests/agent/web/",
    "tests/client/llm/test_sdks.py",
    "tests/docs/test_operations.py",
    "tests/docs/test_reference.py",
    "tests/e2e/page/",
    "tests/e2e/test_app_servers.py",
    "tests/e2e/test_attacks.py",
    "tests/e2e/test_graphs.py",
    "tests/e2e/test_readme.py",
    "tests/e2e/test_traces.py",
    "tests/test_deploy_grafana.py",
)
# One worker runs them all: booting the box and installing takes a while.
BOX = "tests/systemd/"
# What takes one worker longest, in this order: other workers would wait for it at the
# end if it began late.
FIRST = (
    BOX,
    "tests/e2e/page/test_shell.py",
    "tests/e2e/test_failure_modes.py",
    "tests/e2e/test_readme.py",
    "tests/e2e/test_app_servers.py",
    "tests/e2e/page/",
    "tests/agent/simulation/test_week.py",
    *BY_FILE,
)
# Folders whose tests mostly use the CPU; tests of other folders mostly wait. The folder
# with the shortest tests is the last.
SHORT = ("fuzz", "docs", "agent", "client")
# Of all short tests, this share comes after the last one that waits.
AT_END = 0.2

# Some images set it; without bytecode, each process compiles its imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Beside other workers, any example may take long.
settings.register_profile(
    "kaywatch", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("kaywatch")

# Garbage collections take half of the time in which a worker collects its tests.
gc.disable()

# A shell lets its background jobs ignore Ctrl-C, and nohup makes a command ignore
# SIGHUP. All that we start would ignore them, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


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


class Scheduling(LoadScopeScheduling):
    """Hands out tests one by one, except tests that share an expensive fixture."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(BOX):
            return BOX
        return nodeid.partition("::")[0] if nodeid.startswith(BY_FILE) else nodeid

    def _reschedule(self, node: Any) -> None:
        # Otherwise, each end of a test counts all that its worker has ever been given.
        work = self.assigned_work[node]
        for scope in [scope for scope, tests in work.items() if all(tests.values())]:
            del work[scope]
        super()._reschedule(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    config.option.loadscopereorder = False  # the order is that of the collection
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, and mix tests that wait with tests that use the CPU.

    While some workers wait, others then use the cores.
    """
    long, waiting, short = [], [], []
    for item in items:
        if item.nodeid.startswith(FIRST):
            long.append(item)
        elif item.nodeid.split("/")[1] in SHORT:
            short.append(item)
        else:
            waiting.append(item)
    long.sort(
        key=lambda item: next(
            place for place, path in enumerate(FIRST) if item.nodeid.startswith(path)
        )
    )
    short.sort(key=lambda item: SHORT.index(item.nodeid.split("/")[1]))
    places = {item: n / len(short) for n, item in enumerate(short)}
    for n, item in enumerate(waiting):
        places[item] = (1 - AT_END) * n / len(waiting)
    items[:] = [*long, *sorted(places, key=places.__getitem__)]


def pytest_collection_finish() -> None:
    """Collect garbage again, except among the objects that exist now: they remain."""
    gc.freeze()
    gc.enable()


def make_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """Return a folder that the first worker of pytest-xdist fills for all of them."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree."""
    folder = make_once(tmp_path_factory, "wheel", lambda at: build("wheel", ROOT, at))
    return next(folder.iterdir())


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, built from this tree."""
    folder = make_once(tmp_path_factory, "sdist", lambda at: build("sdist", ROOT, at))
    return next(folder.iterdir())


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has the wheel installed, and its dependencies from this one."""
    folder = make_once(tmp_path_factory, "venv", lambda at: install(wheel, at))
    return str(folder / "bin" / "python")


def install(wheel: Path, folder: Path) -> None:
    """Install the wheel in a new environment, with the dependencies of this one."""
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


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 28 hours of history and three outages; tests only read it."""
    from tests.agent.simulation.history import record

    def write(folder: Path) -> None:
        folder.mkdir()
        record(folder / "kaywatch.db")

    return make_once(tmp_path_factory, "past", write) / "kaywatch.db"


@pytest.fixture
def stopped_agent(installed: str) -> Iterator[Agent]:
    """An agent of the installed wheel, to be started."""
    with new_agent(installed) as agent:
        yield agent


@pytest.fixture
def agent(stopped_agent: Agent) -> Agent:
    """A running agent of the installed wheel."""
    return stopped_agent.start()


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A real MQTT broker, of each kind in turn."""
    with run_broker(request.param) as broker:
        yield broker


@pytest.fixture(params=[5, 4], ids=["v5", "v3.1.1"])
def version(request: pytest.FixtureRequest) -> int:
    """A version of MQTT, in MQTT's own numbers."""
    number: int = request.param
    return number
