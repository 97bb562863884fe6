"""Measure what one host costs: bytes per second and the agents' CPU, by each way.

A host is a process with 100 nodes and 100 executions per second, which are recorded by
the client. Each host has an agent of its own, which writes to a server every 15 s; or
all hosts send to one agent over a real broker. A real Prometheus receives the series of
100 hosts by remote write, and a real collector receives them by OTLP. docs/fleet.md
multiplies the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.agents import Agent, free_port, kill_at_end, running_agent
from tests.bench.bench_agent import agent_pid
from tests.bench.bench_export import INTERVAL, SNAPSHOTS, Export
from tests.bench.bench_http import SERIES, Synthetic
from tests.bench.report import OURS, Row, missing_figure, summarize
from tests.bench.rounds import Effort
from tests.bench.usage import cpu_seconds, resident_mb
from tests.brokers import Mosquitto, run_broker
from tests.collectors import collector
from tests.mqtt import agent_at
from tests.prometheus import NATIVE, running_prometheus
from tests.servers import find

HOSTS = 10  # of one agent over MQTT
NODES = 100
RATE = 100  # executions per second and host
SECONDS = 45  # three intervals of an export
WARM_UP = 10.0  # seconds
BATCH = 2.0  # seconds, in which a collector forwards everything

HOST = """
import sys, time
import kaywatch
from kaywatch._process import process
kaywatch.instrument(service="checkout")
nodes, rate = int(sys.argv[1]), float(sys.argv[2])
letters = str.maketrans("0123456789", "abcdefghij")
names = [f"node{n}".translate(letters) for n in range(nodes)]
started, number = time.monotonic(), 0
while True:
    while number < (time.monotonic() - started) * rate:
        failed = number % 50 == 0
        process.recorder.series("orders", names[number * 7 % nodes]).record(
            0.001 * (1 + number * 13 % 997),
            int(failed),
            1 + number % 20 // 19,
            "default",
            ("ValueError", "exec") if failed else None,
        )
        number += 1
    time.sleep(0.01)
"""
EXPORTS = {
    "an agent per host, without export": "",
    "an agent per host, remote write": "remote_write",
    "an agent per host, OTLP": "otlp",
}
NEEDS = {
    "series": ("series of a node, with native histograms", "series"),
    "memory": ("memory of Prometheus by remote write", "bytes per series"),
    "cpu": ("CPU of Prometheus by remote write", "us per sample"),
}
RECEIVER = "--web.enable-remote-write-receiver"
CENTRAL = f"one agent for {HOSTS} hosts over MQTT, each host"


class Sink:
    """A server that accepts everything, and counts the bytes of its requests."""

    def __init__(self) -> None:
        self.bytes = 0
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                self.rfile.read(length)
                sink.bytes += length + len(self.requestline) + len(str(self.headers))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/metrics"

    @contextlib.contextmanager
    def serve(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


@dataclass
class Relay:
    """Passes connections on to a port, and counts the bytes of both directions."""

    target: int
    server: socket.socket = field(
        default_factory=lambda: socket.create_server(("127.0.0.1", 0))
    )
    bytes: int = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server.getsockname()[1])

    def run(self) -> None:
        """Accept connections until the server is closed."""
        with contextlib.suppress(OSError):
            while True:
                one, _ = self.server.accept()
                other = socket.create_connection(("127.0.0.1", self.target))
                for pair in ((one, other), (other, one)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError), source:
            while data := source.recv(65_536):
                self.bytes += len(data)
                target.sendall(data)


@contextlib.contextmanager
def relayed(port: int) -> Iterator[Relay]:
    relay = Relay(port)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        yield relay
    finally:
        relay.server.shutdown(socket.SHUT_RDWR)
        relay.server.close()
        thread.join()


@contextlib.contextmanager
def hosts(agent: Agent, number: int, endpoint: str) -> Iterator[None]:
    """Run applications that send to an endpoint."""
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            child = agent.start_process(
                *(sys.executable, "-c", HOST, str(NODES), str(RATE)),
                environment={"KAYWATCH_ENDPOINT": endpoint},
            )
            stack.enter_context(kill_at_end(child))
        yield


@dataclass(frozen=True)
class Cost:
    """What one host costs.

    Attributes:
        cpu: the agent's, in percent of a core.
        bytes: per second, over the network.
        broker: its CPU, in percent of a core.
    """

    cpu: float
    bytes: float
    broker: float = 0.0


def observe(
    agent: Agent, count: Callable[[], int], seconds: float, broker: int = 0
) -> Cost:
    """Return what an agent uses for a time, once its clients have settled.

    Args:
        agent: the agent.
        count: returns the bytes of its network so far.
        seconds: how long to measure.
        broker: the pid of the broker in between; 0 for none.
    """
    pids = [agent_pid(agent), *([broker] if broker else ())]
    time.sleep(min(WARM_UP, seconds))
    cpu, before, started = [*map(cpu_seconds, pids)], count(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - started
    used = [
        (cpu_seconds(pid) - spent) / took * 100
        for pid, spent in zip(pids, cpu, strict=True)
    ]
    return Cost(used[0], (count() - before) / took, sum(used[1:]))


def measure_host(export: str, seconds: float) -> Cost:
    """Return what a host with an agent of its own costs."""
    sink = Sink()
    with tempfile.TemporaryDirectory(prefix="kw-") as folder, sink.serve():
        config = Path(folder) / "kaywatch.toml"
        table = f'[[export.{export}]]\nurl = "{sink.url}"\n' if export else ""
        config.write_text(table)
        options = sys.executable, "--config", str(config)
        with (
            running_agent(*options, fork=False) as agent,
            hosts(agent, 1, agent.endpoint),
        ):
            return observe(agent, lambda: sink.bytes, seconds)


def measure_central(number: int, seconds: float) -> Cost:
    """Return what hosts cost that send to one agent over MQTT."""
    with run_broker() as broker, agent_at(broker) as agent:
        assert isinstance(broker, Mosquitto)
        url = broker.access().url("kaywatch")
        with relayed(broker.port) as relay:
            endpoint = url.replace(f":{broker.port}", f":{relay.port}")
            with hosts(agent, number, endpoint):
                assert broker.process is not None
                pid = broker.process.pid
                cost = observe(agent, lambda: relay.bytes, seconds, pid)
                events = sum(agent.executions().values())
    assert events > number * RATE * seconds / 2, events
    return cost


def measure_prometheus(nodes: int) -> dict[str, float]:
    """Return what a Prometheus needs that receives many series by remote write."""
    with tempfile.TemporaryDirectory(prefix="kw-") as name:
        folder = Path(name)
        with running_prometheus(folder, (), NATIVE, RECEIVER) as server:
            memory = resident_mb(server.pid)
            url = f"{server.url}/api/v1/write"
            line = 'histograms = "native"'
            export = Export("remote_write", line, url, folder / "spool")
            source = Synthetic(nodes)
            asyncio.run(export.run(source))  # creates the series
            cpu = cpu_seconds(server.pid)
            asyncio.run(export.run(source))
            used = cpu_seconds(server.pid) - cpu
            series = server.ask("status/tsdb")["headStats"]["numSeries"]
            return {
                "series": series / nodes,
                "memory": (resident_mb(server.pid) - memory) * 1e6 / series,
                "cpu": used / SNAPSHOTS / series * 1e6,
            }


def measure_collector(nodes: int) -> float:
    """Return the CPU of a collector for each host, in percent of a core."""
    sink = Sink()
    with tempfile.TemporaryDirectory(prefix="kw-") as name, sink.serve():
        port = free_port()
        with collector(sink.url.removesuffix("/v1/metrics"), port) as process:
            url = f"http://127.0.0.1:{port}/v1/metrics"
            line = 'temporality = "cumulative"'
            export = Export("otlp", line, url, Path(name))
            source = Synthetic(nodes)
            asyncio.run(export.run(source))
            time.sleep(BATCH)
            cpu, before = cpu_seconds(process.pid), sink.bytes
            asyncio.run(export.run(source))
            time.sleep(BATCH)
            used = cpu_seconds(process.pid) - cpu
            assert sink.bytes > before
    return used / SNAPSHOTS / INTERVAL / (nodes / NODES) * 100


def measure(effort: Effort) -> list[Row]:
    """Return the rows of one host."""
    seconds = float(effort.of(SECONDS, 2))
    costs = {what: measure_host(kind, seconds) for what, kind in EXPORTS.items()}
    rows = []
    if find("mosquitto") is None:
        missing = missing_figure(OURS, "mosquitto is not installed")
        rows.append(Row(f"agent CPU, {CENTRAL}", "% of a core", missing))
    else:
        number = effort.whole(HOSTS, 2)
        idle, busy = (measure_central(n, seconds) for n in (1, number))
        # Without what an agent uses anyway.
        cpu = (busy.cpu - idle.cpu) / (number - 1)
        costs[CENTRAL] = Cost(cpu, busy.bytes / number)
        figure = summarize(OURS, [busy.broker / number])
        rows.append(Row("CPU of mosquitto, each host", "% of a core", figure))
    for what, cost in costs.items():
        figure = summarize(OURS, [cost.cpu])
        rows.append(Row(f"agent CPU, {what}", "% of a core", figure))
        if cost.bytes:
            figure = summarize(OURS, [cost.bytes])
            rows.append(Row(f"traffic, {what}", "bytes/s", figure))
    if find("prometheus") is not None:
        needs = measure_prometheus(effort.whole(SERIES, 100))
        for key, (what, unit) in NEEDS.items():
            rows.append(Row(what, unit, summarize(OURS, [needs[key]])))
    figure = summarize(OURS, [measure_collector(effort.whole(SERIES, 100))])
    rows.append(Row("CPU of a collector by OTLP, each host", "% of a core", figure))
    return rows
