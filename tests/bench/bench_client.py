"""What an event costs the application: the hot call, and the whole process.

Peers, in the same run: prometheus_client's bound histogram, a statsd datagram over a
UNIX socket, and a line for `logging` to a file, as hand-written monitoring does.
"""

from __future__ import annotations

import logging
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram
from tests.agents import running_agent

from kaywatch.recorder import Recorder

EVENTS = 100_000
REPEAT = 7


def median_ns(prepare: Callable[[], None], call: Callable[[float], object]) -> float:
    """Return the median over runs of the nanoseconds per call, the loop's included."""
    figures = []
    for _ in range(REPEAT):
        prepare()
        started = time.perf_counter()
        for _ in range(EVENTS):
            call(0.1)
        figures.append((time.perf_counter() - started) / EVENTS * 1e9)
    return statistics.median(figures)


def hot_call() -> float:
    recorder = Recorder()
    record = recorder.series("checkout", "pay").record

    def empty() -> None:
        recorder.forget()
        recorder.open_gate()
        # The sender's part, waking and draining, is in the whole process's figure.
        recorder._gates[7][0] = 10**9

    return median_ns(empty, record)


def peers(folder: Path) -> dict[str, float]:
    histogram = Histogram("s", "s", ["node"], registry=CollectorRegistry())
    observe = histogram.labels(node="pay").observe
    sink = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sink.bind(str(folder / "statsd"))
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    client.connect(str(folder / "statsd"))
    client.setblocking(False)

    def statsd(seconds: float) -> None:
        try:
            client.send(f"checkout.pay:{seconds * 1000}|ms".encode())
        except BlockingIOError:
            sink.recv(100)

    log = logging.getLogger("bench")
    log.propagate = False
    log.addHandler(logging.FileHandler(folder / "log"))
    log.setLevel(logging.INFO)

    def line(seconds: float) -> None:
        log.info("Node pay: completed in %.3fs", seconds)

    def nothing() -> None: ...

    return {
        "prometheus_client histogram": median_ns(nothing, observe),
        "statsd datagram": median_ns(nothing, statsd),
        "a line of logging": median_ns(nothing, line),
    }


WHOLE = f"""
import time, kaywatch
from kaywatch._process import process
record = process.recorder.series("checkout", "pay").record
record(0.1)
kaywatch.flush()
started = time.process_time()
for _ in range(10):
    for _ in range({EVENTS}):
        record(0.1)
    time.sleep(0.05)
assert kaywatch.flush(10)
used = time.process_time() - started
assert not kaywatch.client_stats()["dropped"]
print(used / (10 * {EVENTS}) * 1e9)
"""


def whole_process() -> float:
    """Return CPU ns per event of a process that records, packs, sends, gets acks."""
    with running_agent() as agent:
        return statistics.median(float(agent.run(WHOLE)) for _ in range(5))


def import_ms(module: str) -> float:
    """Return how long an import takes in a fresh interpreter, in milliseconds."""
    code = (
        "import time; t = time.perf_counter();"
        f"import {module}; print(time.perf_counter() - t)"
    )
    figures = [
        float(subprocess.run([sys.executable, "-c", code], stdout=-1).stdout)
        for _ in range(9)
    ]
    return statistics.median(figures) * 1e3


def main() -> None:
    call = hot_call()
    print(f"kaywatch, the hot call: {call:.0f} ns")
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        for name, figure in peers(Path(folder)).items():
            print(f"  {name}: {figure:.0f} ns, {figure / call:.1f} times as much")
    print(f"kaywatch, CPU of the whole process: {whole_process():.0f} ns per event")
    for module in ("kaywatch", "asyncio", "prometheus_client"):
        print(f"import {module}: {import_ms(module):.1f} ms")


if __name__ == "__main__":
    main()
