"""`python -m tests.docs.company GRAPH [--fault NAME]`: one process of a service.

It has a past when it starts (`--past`, in seconds), and goes on until it is stopped, or
with `--past-only` until the present.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import time
import warnings

from tests.docs.company import clock


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("graph")
    parser.add_argument("--fault", default="")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--pause", type=float, default=1.0)
    parser.add_argument("--past", type=float, required=True)
    parser.add_argument("--past-only", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    random.seed(f"{arguments.graph}{arguments.fault}{arguments.seed}")
    clock.start(arguments.past)

    # They keep references to the clock.
    from tests.docs.company.faults import FAULTS
    from tests.docs.company.graphs import GRAPHS
    from tests.docs.company.steps import build

    import kaywatch

    warnings.simplefilter("ignore")  # PocketFlow warns of dead ends.
    kaywatch.instrument()
    if clock.behind() > 0:
        _hide_past_executions()
    behaviours, wiring = GRAPHS[arguments.graph]()
    flow = build(arguments.graph, behaviours, wiring)
    started, is_faulty = time.time(), False
    begin = started + arguments.past - 60 * arguments.minutes
    while not (arguments.past_only and clock.behind() == 0):
        if arguments.fault and not is_faulty and time.time() >= begin:
            FAULTS[arguments.fault](behaviours)
            is_faulty = True
        if is_faulty and arguments.fault == "silent":
            clock.sleep(3600)
        with contextlib.suppress(Exception):
            flow.run({})
        clock.sleep(arguments.pause * random.lognormvariate(0, 0.5))
    kaywatch.flush(60)


def _hide_past_executions() -> None:
    """Report no execution in progress until the clock has caught up.

    This clock moves on by minutes while a batch is packed, so executions would seem to
    have been in progress for as long.
    """
    from kaywatch._process import process

    recorder = process.recorder
    in_flight, recorder.in_flight = recorder.in_flight, set()

    def show() -> None:
        recorder.in_flight = in_flight

    clock.at_present(show)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    main()
