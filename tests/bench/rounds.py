"""How much is measured, and in which order: ours and the peers' in turns."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor
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
    "progress",
    "python",
]

Measured = dict[str, float]
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
PROGRESS_SECONDS = 2.0  # between two lines on stderr


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        rounds: how often each measure is taken.
        share: of the full number of events, seconds or series, from 0 to 1.
        peers: whether peers are measured too.
    """

    rounds: int
    share: float = 1.0
    peers: bool = True

    def of(self, full: int, least: int = 1) -> int:
        """Return the share of `full`, at least `least`."""
        return max(least, int(full * self.share))

    def whole(self, full: int, smoke: int) -> int:
        """Return `full`, which a promise is about; less where figures say nothing."""
        return full if self.peers else smoke


FULL = Effort(rounds=3)
QUICK = Effort(rounds=3, share=0.1)
# For the test that all of it runs: its figures say nothing.
SMOKE = Effort(rounds=1, share=0.005, peers=False)


def in_turns(rounds: int, measures: Mapping[K, Callable[[], T]]) -> dict[K, list[T]]:
    """Take each measure once a round, each round beginning with another one.

    So a neighbour that is noisy for a while meets all of them.
    """
    names = list(measures)
    found: dict[K, list[T]] = {name: [] for name in names}
    said = 0.0
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if time.monotonic() > said + PROGRESS_SECONDS:
                said = time.monotonic()
                progress(f"  round {number + 1} of {rounds}: {name}")
            found[name].append(measures[name]())
    return found


def alone(measure: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in a fresh process, for its memory or its threads."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, *arguments).result()


def python(*arguments: str) -> Measured:
    """Run Python; return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: Measured = json.loads(done.stdout)
    return found


def progress(text: str) -> None:
    """Say on stderr what is under way."""
    print(text, file=sys.stderr, flush=True)
