"""How much is measured, and in which order: ours and the peers' in turns."""

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
    "Measured",
    "alone",
    "in_turns",
    "next_line",
    "progress",
    "python",
]

Measured = dict[str, float]
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
PROGRESS_SECONDS = 2.0  # between two lines on stderr
PYTHON_SECONDS = 600.0  # of one program that measures
CLEANUP_SECONDS = 60.0  # of a process that is out of time, for what it has started


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        rounds: how often each measure is taken.
        share: of the full number of events, seconds or series, from 0 to 1.
        seconds: that one module may take.
        smoke: whether the figures say nothing: all of it runs, as small as can be.
    """

    rounds: int
    share: float = 1.0
    seconds: float = 3_600.0
    smoke: bool = False

    def of(self, full: int, least: int = 1) -> int:
        """Return the share of `full`, at least `least`."""
        return max(least, int(full * self.share))

    def whole(self, full: int, smoke: int) -> int:
        """Return `full`, which a promise is about; less where figures say nothing."""
        return smoke if self.smoke else full


FULL = Effort(rounds=3)
QUICK = Effort(rounds=3, share=0.1, seconds=1_200.0)
SMOKE = Effort(rounds=1, share=0.005, seconds=90.0, smoke=True)


def in_turns(rounds: int, measures: Mapping[K, Callable[[], T]]) -> dict[K, list[T]]:
    """Take each measure once a round, each round beginning with another one.

    So a neighbour that is noisy for a while meets all of them.
    """
    names = list(measures)
    result: dict[K, list[T]] = {name: [] for name in names}
    output = 0.0
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if time.monotonic() > output + PROGRESS_SECONDS:
                output = time.monotonic()
                progress(f"  round {number + 1} of {rounds}: {name}")
            result[name].append(measures[name]())
    return result


def alone(seconds: float, measure: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in a fresh process, for its memory or its threads.

    Raises:
        TimeoutError: it took longer than `seconds`; what it had started is stopped.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        future = pool.submit(_within, seconds, measure, *arguments)
        if not wait([future], seconds + CLEANUP_SECONDS).done:
            for child in multiprocessing.active_children():
                child.kill()
            raise TimeoutError(f"not done within {seconds:.0f} s, and not stoppable")
        return future.result()


def _within(seconds: float, measure: Callable[..., T], *arguments: Any) -> T:
    """Call a function in this process's main thread, interrupted when time is up."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done within {seconds:.0f} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return measure(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def next_line(process: subprocess.Popen[str], seconds: float) -> str:
    """Return the next line that a process prints; fail without one in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    assert ready, f"no line within {seconds:.0f} s from {process.args!r}"
    return process.stdout.readline()


def python(*arguments: str) -> Measured:
    """Run Python; return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PYTHON_SECONDS,
    )
    document: Measured = json.loads(done.stdout)
    return document


def progress(text: str) -> None:
    """Say on stderr what is under way."""
    print(text, file=sys.stderr, flush=True)
