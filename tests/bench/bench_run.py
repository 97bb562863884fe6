"""What `kaywatch run` costs at the start of a process, in milliseconds.

    python -m tests.bench.bench_run

Medians of alternating runs, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from kaywatch.launch import FOLDER

ROUNDS = 60
COMMAND = str(Path(sys.executable).parent / "kaywatch")
# Compiled, as `pip install` leaves it.
PLAIN = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
BELOW = {**PLAIN, "PYTHONPATH": FOLDER}
PYTHON = [sys.executable, "-c", "pass"]
FRAMEWORK = [sys.executable, "-c", "import pocketflow"]

CASES = {
    "python": (PYTHON, PLAIN),
    "python, below kaywatch run": (PYTHON, BELOW),
    "python, imports pocketflow": (FRAMEWORK, PLAIN),
    "python, imports pocketflow, below kaywatch run": (FRAMEWORK, BELOW),
    "kaywatch run -- python": ([COMMAND, "run", "--", *PYTHON], PLAIN),
}


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, (command, environment) in CASES.items():
            start = time.perf_counter()
            subprocess.run(command, env=environment, check=True)
            taken[name].append(time.perf_counter() - start)
    for name, seconds in taken.items():
        print(f"{name:48} {statistics.median(seconds) * 1e3:7.2f} ms")


if __name__ == "__main__":
    main()
