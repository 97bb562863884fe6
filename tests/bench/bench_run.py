"""Measure the cost of `kaywatch run` at the start of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.bench.report import Row, overhead
from tests.bench.rounds import Effort, interleave

from kaywatch.launch import FOLDER

STARTS = 20  # per round
COMMAND = str(Path(sys.executable).parent / "kaywatch")
PLAIN = dict(os.environ)
BELOW = {**PLAIN, "PYTHONPATH": FOLDER}
PYTHON = (sys.executable, "-c", "pass")
FRAMEWORK = (sys.executable, "-c", "import pocketflow")
RUN = (COMMAND, "run", "--", *PYTHON)


def measure_start(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run a command; return its duration in milliseconds."""
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
    measurements = interleave(
        effort.rounds * effort.of(STARTS),
        {name: partial(measure_start, *case) for name, case in cases.items()},
    )
    rows = {
        "overhead per start of Python below `kaywatch run`": ("below", "bare"),
        "the same, with an import of PocketFlow": ("framework below", "framework"),
        "`kaywatch run` itself, including the start below it": ("run", "bare"),
    }
    return [
        Row(what, "ms", overhead(measurements[name], measurements[than], "ms"))
        for what, (name, than) in rows.items()
    ]
