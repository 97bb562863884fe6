"""Run measurements in interleaved rounds, with a deadline."""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = [
    "FULL",
    "QUICK",
    "SMOKE",
    "Effort",
    "Measurements",
    "run_in_process",
    "interleave",
    "next_line",
    "report_progress",
    "run_python",
]

Measurements = dict[str, float]
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
PROGRESS_SECONDS = 2.0  # between two lines on stderr
PYTHON_SECONDS = 600.0  # for one measuring program
CLEANUP_SECONDS = 60.0  # after its deadline, for a process to stop its children


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        rounds: the number of rounds.
        share: the share of the full number of events, seconds or series, from 0 to 1.
        seconds: the deadline of a module.
        smoke: whether everything runs with the minimal size; figures are meaningless.
    """

    rounds: int
    share: float = 1.0
    seconds: float = 3_600.0
    smoke: bool = False

    def of(self, full: int, least: int = 1) -> int:
        """Return the share of `full`, at least `least`."""
        return max(least, int(full * self.share))

    def whole(self, full: int, smoke: int) -> int:
        """Return `full`, the size that a promise requires; `smoke` in a smoke test."""
        return smoke if self.smoke else full


FULL = Effort(rounds=3)
QUICK = Effort(rounds=3, share=0.1, seconds=1_200.0)
SMOKE = Effort(rounds=1, share=0.005, seconds=90.0, smoke=True)


def interleave(rounds: int, measures: Mapping[K, Callable[[], T]]) -> dict[K, list[T]]:
    """Run all measures once per round, each round starting with a different one.

    This way, temporary load on the machine affects all measures alike.
    """
    names = list(measures)
    result: dict[K, list[T]] = {name: [] for name in names}
    output = 0.0
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if time.monotonic() > output + PROGRESS_SECONDS:
                output = time.monotonic()
                report_progress(f"  round {number + 1} of {rounds}: {name}")
            result[name].append(measures[name]())
    return result


def run_in_process(seconds: float, measure: Callable[..., T], *arguments: Any) -> T:
    """Call a module's function in a new process.

    Raises:
        TimeoutError: it took longer than `seconds`. Its children are stopped.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        future = pool.submit(_run_until_deadline, seconds, measure, *arguments)
        if not wait([future], seconds + CLEANUP_SECONDS).done:
            for child in multiprocessing.active_children():
                child.kill()
            raise TimeoutError(f"not done within {seconds:.0f} s, and does not stop")
        return future.result()


def _run_until_deadline(
    seconds: float, measure: Callable[..., T], *arguments: Any
) -> T:
    """Call a function in the main thread; interrupt it at the deadline."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done within {seconds:.0f} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return measure(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def next_line(process: subprocess.Popen[str], seconds: float) -> str:
    """Return the next line of a process's output; fail if there is none in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    assert ready, f"no line within {seconds:.0f} s from {process.args!r}"
    return process.stdout.readline()


def run_python(*arguments: str) -> Measurements:
    """Run Python; return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PYTHON_SECONDS,
    )
    document: Measurements = json.loads(done.stdout)
    return document


def report_progress(text: str) -> None:
    """Print the current step to stderr."""
    print(text, file=sys.stderr, flush=True)
