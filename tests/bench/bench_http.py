"""What reading costs: scrapes and lists with 10,000 series, and the loop meanwhile.

    python tests/bench/bench_http.py [series]

The server runs here, and its readers in a process of their own, so that they don't
share an interpreter. "Loop held" is the longest that a coroutine which sleeps for 1 ms
at a time was late: what a client that pushes would have waited.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable

import numpy as np

from kaywatch_agent.aggregate.aggregator import HISTORY_STEPS, STEP_SECONDS, View
from kaywatch_agent.aggregate.clients import Client
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.aggregate.step import Step, reduce
from kaywatch_agent.feed import Feed
from kaywatch_agent.health import Health
from kaywatch_agent.model import Columns, ErrorKey, Kind, SeriesKey
from kaywatch_agent.telemetry import Telemetry
from kaywatch_agent.web.server import WebServer

SERIES = 10_000
ROUNDS = 5
PROMETHEUS = "application/openmetrics-text;version=1.0.0"
PATHS = (
    ("/health", "", ""),
    ("/metrics", "", ""),
    ("/metrics", PROMETHEUS, "gzip"),
    ("/api/v1/nodes", "", ""),
    ("/api/v1/nodes", "", "gzip"),
    ("/api/v1/nodes?window=1m", "", ""),
    ("/api/v1/nodes?window=5m", "", ""),
    ("/api/v1/nodes?window=1h", "", ""),
    ("/api/v1/nodes/node-17/stats?window=1h", "", ""),
    ("/api/v1/graphs", "", ""),
    ("/api/v1/export", "", ""),
    ("/api/v1/query?metric=p95", "", ""),
    ("/api/v1/query?metric=throughput&node=node-17", "", ""),
    ("/api/v1/clients", "", ""),
    ("/api/v1/stream?limit=1", "", ""),
)

READER = """
import http.client, sys, time, zlib
port, path, accept, encoding, rounds = sys.argv[1:]
headers = {"Accept": accept, "Accept-Encoding": encoding}
headers = {name: value for name, value in headers.items() if value}
times = []
for _ in range(int(rounds)):
    connection = http.client.HTTPConnection("127.0.0.1", int(port))
    started = time.perf_counter()
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    times.append(time.perf_counter() - started)
    assert response.status == 200, body[:500]
    assert not encoding or zlib.decompress(body, 31)
times.sort()
print(times[len(times) // 2], times[-1], len(body))
"""


class Synthetic:
    """An agent that has seen many nodes, each busy all the time."""

    def __init__(self, series: int) -> None:
        self.registry = Registry(Limits(series=series + 1, series_per_client=series))
        for n in range(series):
            graph = f"graph-{n % 200}"
            key = SeriesKey(Kind.NODE, f"service-{n % 5}", graph, f"node-{n}")
            self.registry.row(key, "")
        self.registry.actions.number("default")
        self.registry.errors.number(ErrorKey("ValueError", "exec"))
        self.now = 1_700_000_000.0
        self.health = Health(self.now - 3600)
        self.feed = Feed(Telemetry())
        totals = self._step(series, 100)
        # One step object serves for all of the hour: it costs no memory here, and
        # reading it costs what reading 360 different ones does.
        step = self._step(series, 2)
        last = int(self.now // STEP_SECONDS)
        steps = {last - n: step for n in range(HISTORY_STEPS)}
        since = self.now - 7200
        self._view = View(self.now, since, totals, steps, self.registry, (), {})
        self._clients = [
            Client(f"{n:032x}", f"service-{n % 5}", pid=n, events=n, recorded=n)
            for n in range(1, 2_001)
        ]

    def view(self) -> View:
        return self._view

    def clients(self) -> Iterable[Client]:
        return self._clients

    def clock(self) -> float:
        return self.now

    def _step(self, series: int, times: int) -> Step:
        random = np.random.default_rng(1)
        size = series * times
        failed = random.random(size) < 0.01
        return reduce(
            Columns(
                np.repeat(np.arange(series), times),
                np.full(size, self.now),
                random.lognormal(-2, 1, size),
                failed.astype(np.uint8),
                1 + (random.random(size) < 0.1).astype(np.int64),
                np.where(failed, 0, 1),
                failed.astype(np.int64),
            )
        )


async def _held(longest: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        longest[0] = max(longest[0], time.perf_counter() - before - 0.001)


async def _measure(server: WebServer, port: int, *asked: str) -> str:
    longest = [0.0]
    watch = asyncio.create_task(_held(longest))
    reader = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", READER, str(port), *asked, str(ROUNDS)),
        stdout=asyncio.subprocess.PIPE,
    )
    reading = asyncio.create_task(reader.communicate())
    while not reading.done():
        if "stream" in asked[0]:
            server.publish()
        await asyncio.wait([reading], timeout=0.05)
    watch.cancel()
    median, worst, size = map(float, reading.result()[0].split())
    what = " ".join([asked[0], *("OpenMetrics" for _ in asked[1][:1]), asked[2]])
    return (
        f"{what:47} {median * 1e3:7.1f} ms  worst {worst * 1e3:7.1f} ms"
        f"  {size / 1e6:6.2f} MB  loop held {longest[0] * 1e3:5.1f} ms"
    )


async def _run(series: int) -> None:
    server = WebServer(Synthetic(series), Telemetry(), "bench")
    _, port = await server.start("127.0.0.1", 0)
    print(f"{series:,} series, each with 100 executions and in all 360 steps")
    try:
        for asked in PATHS:
            print(await _measure(server, port, *asked), flush=True)
    finally:
        await server.stop()


def main() -> None:
    """Print the figures."""
    asyncio.run(_run(int(sys.argv[1]) if len(sys.argv) > 1 else SERIES))


if __name__ == "__main__":
    main()
