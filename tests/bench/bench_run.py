"""What `kaywatch run` costs at the start of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.bench.report import Row, more
from tests.bench.rounds import Effort, in_turns

from kaywatch.launch import FOLDER

STARTS = 20  # in one round
COMMAND = str(Path(sys.executable).parent / "kaywatch")
# Compiled, as `pip install` leaves it.
PLAIN = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
BELOW = {**PLAIN, "PYTHONPATH": FOLDER}
PYTHON = (sys.executable, "-c", "pass")
FRAMEWORK = (sys.executable, "-c", "import pocketflow")
RUN = (COMMAND, "run", "--", *PYTHON)


def start(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run a command; return the milliseconds."""
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, timeout=60)
    return (time.perf_counter() - started) * 1e3


def measure(effort: Effort) -> list[Row]:
    """Return a row for each kind of process, and for the command itself."""
    cases = {
        "bare": (PYTHON, PLAIN),
        "below": (PYTHON, BELOW),
        "framework": (FRAMEWORK, PLAIN),
        "framework below": (FRAMEWORK, BELOW),
        "run": (RUN, PLAIN),
    }
    measurements = in_turns(
        effort.rounds * effort.of(STARTS),
        {name: partial(start, *case) for name, case in cases.items()},
    )
    rows = {
        "added to the start of Python below `kaywatch run`": ("below", "bare"),
        "the same, of one that imports PocketFlow": ("framework below", "framework"),
        "`kaywatch run` itself, and the start below it": ("run", "bare"),
    }
    return [
        Row(what, "ms", more(measurements[name], measurements[than], "ms"))
        for what, (name, than) in rows.items()
    ]
