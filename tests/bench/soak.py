"""Watch memory and CPU of an agent under a steady load; check that all events arrive.

python -m tests.bench.soak [MINUTES] [EVENTS_PER_SECOND]
"""

from __future__ import annotations

import statistics
import sys
import time

import psutil
from tests.agents import running_agent

PROCESSES = 4
NODES = 50
FLUSH_SECONDS = 60  # for the workers to flush and exit

WORKER = """
import sys, time, kaywatch
from kaywatch._process import process
rate, seconds, nodes = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
letters = str.maketrans("0123456789", "abcdefghij")  # numbers would be folded
names = [f"node{n}".translate(letters) for n in range(nodes)]
calls = [process.recorder.series("checkout", name).record_plain for name in names]
started, sent = time.monotonic(), 0
while (passed := time.monotonic() - started) < seconds:
    due = int(passed * rate)
    for n in range(sent, due):
        failed = n % 100 == 0
        error = ("ValueError", "exec") if failed else None
        calls[n % nodes](0.001 * (1 + n % 997), int(failed), 1, "default", error)
    sent = due
    time.sleep(0.01)
assert kaywatch.flush(10), kaywatch.client_stats()
print(kaywatch.client_stats()["recorded"])
"""


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 50_000
    with running_agent(fork=False) as agent:
        assert agent.process is not None
        watched = psutil.Process(agent.process.pid)
        idle = watched.memory_info().rss / 1e6
        print(f"idle: {idle:.1f} MB")
        workers = [
            agent.spawn(WORKER, str(rate / PROCESSES), str(minutes * 60), str(NODES))
            for _ in range(PROCESSES)
        ]
        started = time.monotonic()
        cpu_before = sum(watched.cpu_times()[:2])
        resident = []
        deadline = started + minutes * 60 + FLUSH_SECONDS
        while any(worker.poll() is None for worker in workers):
            assert time.monotonic() < deadline, "workers don't exit"
            time.sleep(min(10.0, minutes * 6))
            resident.append(watched.memory_info().rss / 1e6)
            passed = time.monotonic() - started
            used = sum(watched.cpu_times()[:2]) - cpu_before
            health = agent.get("/health")["status"]
            print(
                f"{passed:6.0f} s: {resident[-1]:6.1f} MB,"
                f" {used / passed:.1%} of a core, {health}",
                flush=True,
            )
        recorded = sum(int(w.stdout.read()) for w in workers if w.stdout is not None)
        counted = sum(agent.executions().values())
        used = sum(watched.cpu_times()[:2]) - cpu_before
        third = len(resident) // 3
        print(f"recorded {recorded:,}, counted {counted:,}")
        print(f"{used / recorded * 1e9:.0f} ns CPU per event")
        print(
            f"memory, first third {statistics.median(resident[:third]):.1f} MB,"
            f" last third {statistics.median(resident[-third:]):.1f} MB"
        )
        assert recorded == counted


if __name__ == "__main__":
    main()
