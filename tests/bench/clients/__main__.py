"""Record events with one client library, and print the cost as JSON.

    python -m tests.bench.clients NAME ADDRESS EVENTS

Events are recorded in bursts, with pauses in which the library's thread can send. All
libraries record the same events: durations of ten nodes of one graph.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time

from tests.bench.clients.client import Client
from tests.bench.usage import resident_mb

NODES = [f"node{number}" for number in range(10)]
BURST = 100_000
PAUSE = 0.05  # seconds
SECONDS = 0.0123


def main() -> None:
    name, address, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
    module = importlib.import_module(f"tests.bench.clients.{name}")
    client: Client = module.connect(address, NODES)
    for record in client.records:
        record(SECONDS)
    client.settle()
    thread, started = 0.0, time.process_time()
    for burst in bursts(events):
        before = time.thread_time()
        for _ in range(burst // len(NODES)):
            for record in client.records:
                record(SECONDS)
        thread += time.thread_time() - before
        time.sleep(PAUSE)
    client.settle()
    used = time.process_time() - started
    report = {
        "thread_ns": thread / events * 1e9,
        "process_ns": used / events * 1e9,
        "resident_mb": resident_mb(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }
    print(json.dumps(report), flush=True)
    # Work at exit, such as a last export, is not measured.
    os._exit(0)


def bursts(events: int) -> list[int]:
    whole, rest = divmod(events, BURST)
    return [BURST] * whole + [rest] * bool(rest)


if __name__ == "__main__":
    main()
