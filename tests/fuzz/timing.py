"""Try mutated inputs on each target, and print how long the slowest took.

    python -m tests.fuzz.timing [INPUTS] [SEED]

An input that takes longer than 100 ms of CPU time would hold up the event loop, and
with it the acks of all clients; then this fails, and prints the input.
"""

from __future__ import annotations

import random
import sys
import time
import warnings
from collections.abc import Callable
from typing import Final, NamedTuple

from tests.fuzz.seeds import mutated, seeds
from tests.fuzz.targets import TARGETS

INPUTS: Final = 100_000
MAX_MILLISECONDS: Final = 100.0


class Slowest(NamedTuple):
    """The input that took the longest, in milliseconds of CPU time."""

    milliseconds: float
    data: bytes


def find_slowest(
    target: Callable[[bytes], None],
    valid: list[bytes],
    inputs: int,
    chance: random.Random,
) -> Slowest:
    """Try a number of mutated inputs; return the slowest."""
    slowest = Slowest(0.0, b"")
    for _ in range(inputs):
        data = mutated(valid, chance)
        started = time.thread_time()
        target(data)
        milliseconds = (time.thread_time() - started) * 1e3
        if milliseconds > slowest.milliseconds:
            slowest = Slowest(milliseconds, data)
    return slowest


def main() -> int:
    inputs = int(sys.argv[1]) if len(sys.argv) > 1 else INPUTS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    warnings.simplefilter("error")  # as in tests
    failed = False
    for name, target in TARGETS.items():
        valid = seeds(name)
        slowest = find_slowest(target, valid, inputs, random.Random(seed))
        print(f"{name}: {inputs:,} inputs, slowest {slowest.milliseconds:.1f} ms")
        if slowest.milliseconds > MAX_MILLISECONDS:
            print(f"  {slowest.data!r}")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
