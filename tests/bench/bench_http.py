"""Measure HTTP requests with 10,000 series, and the stalls of the event loop.

Our server has an hour of history, with every series in every bucket. The readers, and
prometheus_client as the peer, run in their own processes, so that they don't share an
interpreter with it. Stalls are measured on a real agent that is scraped while every
series gets new events each second: `/health`, which the event loop answers itself, is
requested all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial

from tests.agents import Agent, free_port, running_agent
from tests.bench import series as many
from tests.bench.load import known_series_load
from tests.bench.receivers import scraping
from tests.bench.report import OURS, Figure, Promise, Row, summarize
from tests.bench.rounds import Effort, Measurements, interleave, next_line, run_python

from kaywatch_agent.aggregate.bucket import merge
from kaywatch_agent.aggregate.event_stream import EventStream
from kaywatch_agent.aggregate.history import ClosedBucket, History
from kaywatch_agent.aggregate.view import BUCKET_SECONDS, HISTORY_BUCKETS, View
from kaywatch_agent.backtesting import Backtester
from kaywatch_agent.model.client import Client
from kaywatch_agent.notify.config import NotifyConfig
from kaywatch_agent.notify.delivery import Delivery
from kaywatch_agent.rules.load import load
from kaywatch_agent.rules.loop import Alerting
from kaywatch_agent.runtime.health import Health
from kaywatch_agent.runtime.metrics import MetricsRegistry
from kaywatch_agent.web.config import HttpConfig
from kaywatch_agent.web.server import WebServer
from kaywatch_agent.web.view import AgentUsage

SERIES = 10_000
CLIENTS = 2_000
READS = 5  # requests per round, of which the median counts
PROMETHEUS = "application/openmetrics-text;version=1.0.0"
PEER = "prometheus_client"
SCRAPES = {
    "scrape": ("/metrics", "", ""),
    "scrape with the headers of Prometheus": ("/metrics", PROMETHEUS, "gzip"),
}
READINGS = {
    path: (path, "", "")
    for path in (
        "/health",
        "/api/v1/nodes",
        "/api/v1/nodes?window=5m",
        "/api/v1/nodes?window=1h",
        "/api/v1/nodes?limit=100&window=1h&sort=error_rate",
        "/api/v1/graphs",
        "/api/v1/export",
        "/api/v1/query?metric=p95",
        "/api/v1/clients",
    )
}
# Those that concern few series have a promise.
FEW_READINGS = {
    path: (path, "", "")
    for path in (
        "/api/v1/nodes?limit=100",
        "/api/v1/nodes?limit=100&window=1h",
        "/api/v1/graphs?limit=50&window=1h",
        "/api/v1/problems",
        f"/api/v1/nodes/node-{many.letters(17)}/stats?window=1h",
        f"/api/v1/graphs/graph-{many.letters(17)}/stats?window=1h",
        f"/api/v1/query?metric=p95&node=node-{many.letters(17)}",
    )
}
LOAD_SECONDS = 15  # of load on the agent

READER = """
import http.client, json, statistics, sys, time, zlib
port, path, accept, encoding, reads = sys.argv[1:]
headers = {"Accept": accept, "Accept-Encoding": encoding}
headers = {name: value for name, value in headers.items() if value}
times = []
for _ in range(int(reads)):
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    started = time.perf_counter()
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    times.append(time.perf_counter() - started)
    assert response.status == 200, body[:500]
    assert not encoding or zlib.decompress(body, 31)
print(json.dumps({"ms": statistics.median(times) * 1e3, "mb": len(body) / 1e6}))
"""

HISTOGRAMS = """
import sys
from prometheus_client import Histogram, start_http_server
port, series = map(int, sys.argv[1:])
histogram = Histogram("seconds", "s", ["service", "graph", "node"])
for n in range(series):
    names = f"service-{n % 5}", f"graph-{n % 200}", f"node-{n}"
    histogram.labels(*names).observe(0.1)
start_http_server(port, "127.0.0.1")
print("ready", flush=True)
sys.stdin.read()
"""

PROBE = """
import contextlib, glob, http.client, json, sys, time
host, port = sys.argv[1].removeprefix("http://").split(":")
end = time.monotonic() + float(sys.argv[2])
connection = http.client.HTTPConnection(host, int(port), timeout=30)

def waited():
    # Seconds that the agent's threads, and this one, were ready and had no core.
    total = 0
    for path in ["/proc/self/schedstat", *glob.glob(sys.argv[3])]:
        with contextlib.suppress(OSError), open(path) as file:
            total += int(file.read().split()[1])
    return total / 1e9

times, own = [], []
while time.monotonic() < end:
    waits, started = waited(), time.perf_counter()
    connection.request("GET", "/health")
    connection.getresponse().read()
    times.append(time.perf_counter() - started)
    own.append(times[-1] - (waited() - waits))
    time.sleep(0.002)
times.sort()
at = lambda share: times[int(share * (len(times) - 1))] * 1e3
figures = {"median": at(0.5), "p99": at(0.99), "longest": at(1), "own": max(own) * 1e3}
print(json.dumps(figures))
"""


class Synthetic:
    """The view of an agent with many nodes that are always active."""

    def __init__(self, series: int) -> None:
        self.now = 1_700_000_000.0
        self.health = Health(self.now - 3600)
        self.event_stream = EventStream()
        self.alerting = Alerting(load({}), min_severity={}, clock=self.clock)
        self.delivery = Delivery(
            NotifyConfig(),
            alerts=self.alerting.alerts_for,
            healthy=lambda: True,
            request_commit=lambda: None,
            clock=self.clock,
        )
        self.backtest = Backtester(None, lambda: load({})).run
        self.reload: Callable[[], list[str]] = list
        # One compressed bucket is used for the whole hour. This saves memory here;
        # it is decompressed as often as 360 different buckets.
        step = ClosedBucket.of(many.make_bucket(series, 2, self.now))
        last = int(self.now // BUCKET_SECONDS)
        self._view = View(
            self.now,
            self.now - 7200,
            many.make_bucket(series, 100, self.now),
            History({last - n: step for n in range(HISTORY_BUCKETS)}),
            many.fill_registry(series),
            (),
            {},
        )
        self._view = self._view._replace(durable_totals=self._view.totals)
        self.clients = [
            Client(f"{n:032x}", f"service-{n % 5}", pid=n, events=n, recorded=n)
            for n in range(1, CLIENTS + 1)
        ]

    def grow(self) -> None:
        """Add an execution to every node."""
        series = len(self._view.registry.keys)
        more = many.make_bucket(series, 1, self.now)
        totals = merge([self._view.durable_totals, more])
        self._view = self._view._replace(durable_totals=totals)

    def view(self) -> View:
        return self._view

    def socket(self) -> str:
        return ""

    def usage(self) -> AgentUsage:
        return AgentUsage(0, 0, 0, 0.0)

    def clock(self) -> float:
        return self.now


@contextlib.contextmanager
def serve_series(series: int) -> Iterator[int]:
    """Serve many series from a thread; yield the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = WebServer(Synthetic(series), MetricsRegistry(), "bench")
    starting = server.start(HttpConfig("127.0.0.1:0"))
    start = asyncio.run_coroutine_threadsafe(starting, loop)
    try:
        yield int(start.result(20).rpartition(":")[2])
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def serve_histograms(series: int) -> Iterator[int]:
    """Serve many histograms of prometheus_client; yield the port."""
    port = free_port()
    command = [sys.executable, "-c", HISTOGRAMS, str(port), str(series)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert next_line(process, 30) == "ready\n"
        yield port
        process.communicate("", timeout=20)


def measure_requests(
    port: int, request: tuple[str, str, str], reads: int
) -> Measurements:
    """Send a request several times; return its duration and the response's size."""
    return run_python("-c", READER, str(port), *request, str(reads))


def measure(effort: Effort) -> list[Row]:
    """Return the rows of scrapes, of other requests, and of the event loop."""
    series, reads = effort.whole(SERIES, 50), effort.whole(READS, 1)
    with serve_series(series) as ours, serve_histograms(series) as peer:
        measurements = interleave(
            effort.rounds,
            {
                **{
                    (what, who): partial(measure_requests, port, asked, reads)
                    for what, asked in SCRAPES.items()
                    for who, port in ((OURS, ours), (PEER, peer))
                },
                **{
                    (what, OURS): partial(measure_requests, ours, asked, reads)
                    for what, asked in {**READINGS, **FEW_READINGS}.items()
                },
            },
        )
    figures = {
        key: summarize_requests(key[1], samples)
        for key, samples in measurements.items()
    }
    return [
        *(
            Row(
                f"{what}, {series:,} series",
                "ms",
                figures[what, OURS],
                Promise(300),
                (figures[what, PEER],),
            )
            for what in SCRAPES
        ),
        *(Row(f"GET {what}", "ms", figures[what, OURS]) for what in READINGS),
        *(
            Row(f"GET {what}", "ms", figures[what, OURS], Promise(50))
            for what in FEW_READINGS
        ),
        *stall_rows(effort),
    ]


def summarize_requests(who: str, samples: list[Measurements]) -> Figure:
    size = f"{samples[0]['mb']:.2f} MB"
    return summarize(who, [each["ms"] for each in samples], size)


@contextlib.contextmanager
def probe_health(agent: Agent, seconds: int) -> Iterator[Measurements]:
    """Request `/health` all the time; yield a dict that has the times at the end."""
    result: Measurements = {}
    assert agent.process is not None
    threads = f"/proc/{agent.process.pid}/task/*/schedstat"
    with subprocess.Popen(
        [sys.executable, "-c", PROBE, agent.url, str(seconds), threads],
        stdout=subprocess.PIPE,
        text=True,
    ) as probe:
        yield result
        result.update(json.loads(probe.communicate(timeout=seconds + 60)[0]))


def measure_stalls(series: int, seconds: int) -> Measurements:
    """Return the response times of the event loop of an agent under load."""
    with running_agent(fork=False) as agent:
        address = agent.url.removeprefix("http://")
        with (
            known_series_load(agent, series) as push,
            scraping(address),
            probe_health(agent, seconds) as result,
        ):
            push(seconds)
    return result


def stall_rows(effort: Effort) -> list[Row]:
    """Return the row of the longest stall of the event loop."""
    series = effort.whole(SERIES, 50)
    seconds = effort.of(LOAD_SECONDS, effort.whole(5, 1))
    what = f"longest stall of the event loop, {series:,} series per second"
    measures = {what: partial(measure_stalls, series, seconds)}
    measurements = interleave(effort.rounds, measures)[what]
    usual = max(each["p99"] for each in measurements)
    longest = [each["longest"] for each in measurements]
    own = max(each["own"] for each in measurements)
    note = (
        f"99 % of responses within {usual:.1f} ms;"
        f" at most {own:.1f} ms without the waits for a core"
    )
    return [Row(what, "ms", summarize(OURS, longest, note), Promise(50))]
