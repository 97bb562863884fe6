"""Measure how the agent's CPU grows with the number of clients, and of series.

The clients send at a constant rate over the UNIX socket, from a few processes, and as
often as the agent asks for. `python -m tests.bench.plots` draws the figures.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests.agents import Agent, running_agent
from tests.bench.paced_clients import ClientShare, running_load
from tests.bench.report import OURS, Row, format_number, summarize
from tests.bench.rounds import Effort, Measurements, interleave
from tests.bench.usage import cpu_seconds, resident_mb

__all__ = [
    "CLIENTS",
    "CLIENT_RATE",
    "SERIES",
    "TOTAL_RATE",
    "client_row_name",
    "measure",
    "series_row_name",
]

CLIENTS = (50, 500, 5_000)
CLIENT_RATE = 20  # events per second of each of them
CLIENT_NODES = 20  # the same ones in all clients
SERIES = (1_000, 10_000, 50_000)
TOTAL_RATE = 20_000  # events per second of all series
SERIES_CLIENTS = 40  # each has its own share of the series
PROCESSES = 4  # the default limit is 2,000 connections of one process
# With 5,000 clients, the agent asks each for a longer interval, 500 at every tick.
SETTLE_SECONDS = 15
MEASURE_SECONDS = 10
ROUNDS = 2

# All series come from one user and few processes, whose default limits are lower. Some
# more series are the agent's own.
CONFIG = f"""
[ingest]
rate_per_process = "0"
[limits]
series = {max(SERIES) + 1_000}
series_per_user = {max(SERIES)}
series_per_client = {max(SERIES)}
"""


@dataclass(frozen=True)
class LoadPoint:
    """A load whose cost is measured.

    Attributes:
        clients: the number of clients.
        rate: events per second of each client.
        nodes: how many nodes each client records.
        distinct: whether each client has nodes of its own, or all have the same.
    """

    clients: int
    rate: float
    nodes: int
    distinct: bool = False

    def shares(self, socket: str, processes: int) -> list[ClientShare]:
        """Return the clients of each process."""
        bounds = [self.clients * n // processes for n in range(processes + 1)]
        return [
            ClientShare(
                socket, first, end - first, self.rate, self.nodes, self.distinct
            )
            for first, end in pairwise(bounds)
        ]


def client_row_name(clients: int) -> str:
    """Return the name of the row for a number of clients."""
    return f"agent CPU, {clients:,} clients with {CLIENT_RATE} events/s each"


def series_row_name(series: int) -> str:
    """Return the name of the row for a number of series."""
    return f"agent CPU, {series:,} series with {TOTAL_RATE:,} events/s in all"


@contextlib.contextmanager
def _agent_for_load() -> Iterator[Agent]:
    """Run an agent that allows few users and processes to send everything."""
    # The agent inherits the limit; it needs two descriptors per connection.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        config = Path(folder) / "kaywatch.toml"
        config.write_text(CONFIG)
        with running_agent(
            sys.executable, "--config", str(config), fork=False
        ) as agent:
            yield agent


def _measure_point(
    point: LoadPoint, processes: int, settle: float, seconds: float
) -> Measurements:
    """Return CPU, memory and received events of an agent under a steady load."""
    with (
        _agent_for_load() as agent,
        running_load(point.shares(agent.socket, processes)) as load,
    ):
        assert agent.process is not None
        pid = agent.process.pid
        time.sleep(settle)
        sent, cpu = sum(each.count_sent() for each in load), cpu_seconds(pid)
        started = time.monotonic()
        time.sleep(seconds)
        events = sum(each.count_sent() for each in load) - sent
        took, used = time.monotonic() - started, cpu_seconds(pid) - cpu
        memory = resident_mb(pid)
        sent = sum(each.end() for each in load)
        executions = agent.executions()
    assert "__other__" not in executions, "the agent allows fewer series"
    return {
        "core": used / took * 100,
        "event": used / events * 1e9,
        "rate": events / took,
        "resident": memory,
        "lost": 1 - sum(executions.values()) / sent,
    }


def _row(name: str, samples: list[Measurements]) -> Row:
    """Return the row of one point, with the other figures as a note."""
    event, rate, resident = (
        format_number(summarize(OURS, [each[key] for each in samples]).median or 0)
        for key in ("event", "rate", "resident")
    )
    lost = max(each["lost"] for each in samples)
    note = f"{event} ns per event at {rate} events/s, {resident} MB, {lost:.2%} lost"
    cores = [each["core"] for each in samples]
    return Row(name, "% of a core", summarize(OURS, cores, note))


def _points(effort: Effort) -> dict[str, LoadPoint]:
    """Return the loads by the names of their rows."""
    clients = SERIES_CLIENTS
    if effort.smoke:
        return {
            client_row_name(10): LoadPoint(10, CLIENT_RATE, CLIENT_NODES),
            series_row_name(20): LoadPoint(2, 500, 10, distinct=True),
        }
    return {
        **{
            client_row_name(number): LoadPoint(number, CLIENT_RATE, CLIENT_NODES)
            for number in CLIENTS
        },
        **{
            series_row_name(number): LoadPoint(
                clients, TOTAL_RATE / clients, number // clients, distinct=True
            )
            for number in SERIES
        },
    }


def measure(effort: Effort) -> list[Row]:
    """Return the rows of all numbers of clients and of series."""
    measures = {
        name: partial(
            _measure_point,
            point,
            effort.whole(PROCESSES, 1),
            effort.whole(SETTLE_SECONDS, 1),
            effort.whole(MEASURE_SECONDS, 1),
        )
        for name, point in _points(effort).items()
    }
    samples = interleave(effort.of(ROUNDS), measures)
    return [_row(name, samples[name]) for name in measures]
