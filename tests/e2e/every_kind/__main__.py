"""An application with a node of every kind, which counts its own executions.

    python tests/e2e/every_kind --rounds 10

It knows nothing of who may watch it. At its end it prints its counts, and a digest of
all that its graphs returned, raised and left behind: the same for the same seed and
rounds. PocketFlow must be installed, and a module `kaygraph` be in the path.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
import warnings
from typing import Any

import flows
import graphs
from ledger import Trouble, ledger

SCENARIOS = [*flows.SCENARIOS, *graphs.SCENARIOS]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds per round")
    parser.add_argument("--verbose", action="store_true", help="log and warn of all")
    options = parser.parse_args()
    if options.verbose:
        logging.basicConfig(level="DEBUG", format="%(name)s %(levelname)s %(message)s")
        warnings.simplefilter("always")
    else:
        logging.disable()
        warnings.simplefilter("ignore")  # of actions that lead nowhere, on purpose

    digests = {scenario.__name__: hashlib.sha256() for scenario in SCENARIOS}
    end = time.monotonic() + options.seconds
    rounds = 0
    while rounds < options.rounds and time.monotonic() < end:
        for scenario in SCENARIOS:
            seen = run(scenario, f"{options.seed}/{rounds}")
            digests[scenario.__name__].update(repr(seen).encode())
        rounds += 1
        time.sleep(options.pause)
    results = {name: digest.hexdigest() for name, digest in digests.items()}
    print(json.dumps({"rounds": rounds, "results": results, "counts": ledger.rows()}))


def run(scenario: Any, seed: str) -> Any:
    """Return the result of a scenario, or its exception."""
    try:
        return scenario(seed)
    except (Trouble, KeyboardInterrupt, TimeoutError) as error:
        return [(type(e).__name__, e.args) for e in (error, error.__cause__) if e]


if __name__ == "__main__":
    main()
