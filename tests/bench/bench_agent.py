"""Measure the agent's cost per event from socket to commit; compare with statsd.

The agent and the statsd servers are real daemons in their own processes; their CPU is
read from the kernel. Two peers run in this process without a socket: a loop that counts
msgpack rows in dicts, and prometheus_client's histogram.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.agents import Agent, running_agent
from tests.bench.daemons import DAEMONS, Daemon, Load, measure_load, run_daemon
from tests.bench.load import Clients, send_evenly
from tests.bench.loops import dict_loop, histogram_loop
from tests.bench.report import OURS, Figure, Promise, Row, missing_figure, summarize
from tests.bench.rounds import Effort, Measurements, interleave
from tests.bench.usage import cpu_seconds, resident_mb

BATCHES = {5_000: 20_000_000, 500: 4_000_000, 50: 1_000_000}  # size: total events
LOOP_EVENTS = 100_000  # events of the peers in this process
PACED_EVENTS = 100_000  # events for each daemon
PACE = 20_000  # events per second, a rate that all daemons can receive
PROCESSES = 500
PROCESS_RATE = 20  # events per second and process
PROCESS_SECONDS = 10  # in this time the agent samples each process once
SUSTAINED_SECONDS = 4
IDLE_SECONDS = 10
SETTLE_SECONDS = 2  # until the work of the start is done


def agent_pid(agent: Agent) -> int:
    assert agent.process is not None
    return agent.process.pid


@contextlib.contextmanager
def unlimited_agent() -> Iterator[Agent]:
    """Run an agent without a rate limit, since all load comes from one process."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        config = Path(folder) / "kaywatch.toml"
        config.write_text('[ingest]\nrate_per_process = "0"\n')
        with running_agent(
            sys.executable, "--config", str(config), fork=False
        ) as agent:
            yield agent


def measure_agent(
    clients: int, batch: int, events: int, rate: float = math.inf
) -> Load:
    """Push to an agent.

    Args:
        clients: the number of clients, which push in rotation.
        batch: events in one batch.
        events: the total number of events.
        rate: events per second.
    """
    with unlimited_agent() as agent:
        senders = Clients(agent.socket, clients, batch)
        for _ in range(clients):
            senders.push()
        senders.settle()
        already = sum(agent.executions().values())
        cpu, started = cpu_seconds(agent_pid(agent)), time.monotonic()
        batches = events // batch
        send_evenly(senders.push, batches, rate / batch)
        senders.settle()
        took = time.monotonic() - started
        used = cpu_seconds(agent_pid(agent)) - cpu
        senders.close()
        received = sum(agent.executions().values()) - already
    sent = batches * batch
    return Load(used / received * 1e9, used / took * 100, 1 - received / sent)


def measure_throughput(seconds: float) -> float:
    """Return events per second of wall-clock time, with the agent on its own core."""
    with unlimited_agent() as agent, reserve_core(agent_pid(agent)):
        clients = Clients(agent.socket, 4, 5_000)
        clients.settle()
        started, pushed = time.monotonic(), 0
        while time.monotonic() < started + seconds:
            clients.push()
            pushed += clients.events
        clients.settle()
        took = time.monotonic() - started
        clients.close()
    return pushed / took


@contextlib.contextmanager
def reserve_core(pid: int) -> Iterator[None]:
    """Pin a process to the last core, and this process to the other cores."""
    cores = os.sched_getaffinity(0)
    if len(cores) == 1:
        yield
        return
    last = max(cores)
    os.sched_setaffinity(pid, {last})
    os.sched_setaffinity(0, cores - {last})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def measure_idle_agent(seconds: float) -> Measurements:
    """Return the start time of an agent, and its memory and CPU while it is idle."""
    started = time.monotonic()
    with running_agent(fork=False) as agent:
        ready = time.monotonic() - started
        time.sleep(SETTLE_SECONDS)
        return {"ready": ready, **measure_idle_process(agent_pid(agent), seconds)}


def measure_idle_process(pid: int, seconds: float) -> Measurements:
    before = cpu_seconds(pid)
    time.sleep(seconds)
    used = cpu_seconds(pid) - before
    return {"resident": resident_mb(pid), "core": used / seconds * 100}


def start_daemons(stack: contextlib.ExitStack) -> dict[str, Daemon]:
    """Start the installed statsd servers; they are idle while others are measured."""
    return {
        name: stack.enter_context(run_daemon(kind))
        for name, kind in DAEMONS.items()
        if not kind.missing()
    }


def event_rows(effort: Effort) -> list[Row]:
    """Return the rows of CPU per event."""
    loops = {
        "msgpack rows, dict loop": partial(dict_loop, effort.of(LOOP_EVENTS, 5_000)),
        "prometheus_client": partial(histogram_loop, effort.of(LOOP_EVENTS, 5_000)),
    }
    ours = {
        size: partial(measure_agent, 1, size, effort.of(events, 2 * size))
        for size, events in BATCHES.items()
    }
    measurements = interleave(effort.rounds, {**ours, **loops})
    looped = tuple(summarize(name, measurements[name]) for name in loops)
    return [
        Row(
            f"agent CPU per event, batches of {size:,}",
            "ns",
            cpu_figure(OURS, measurements[size]),
            Promise(100) if size == 5_000 else None,
            looped if size == 5_000 else (),
        )
        for size in BATCHES
    ]


def paced_row(effort: Effort, daemons: dict[str, Daemon]) -> Row:
    """Return the row of the same events for all daemons, at a rate they can receive."""
    events = effort.of(PACED_EVENTS)
    loads = {
        f"{name}, {size} per packet": partial(measure_load, daemon, size, events, PACE)
        for name, daemon in daemons.items()
        for size in (1, 20)
    }
    ours = {OURS: partial(measure_agent, 1, 50, events, PACE)}
    return Row(
        f"agent CPU per event, {events:,} at {PACE:,}/s, batches of 50",
        "ns",
        *compare_with_peers(cpu_figure, interleave(effort.rounds, {**ours, **loads})),
    )


def processes_row(effort: Effort, daemons: dict[str, Daemon]) -> Row:
    """Return the row of many processes that send once a second."""
    processes = effort.whole(PROCESSES, 5)
    rate = processes * PROCESS_RATE
    events = rate * effort.whole(PROCESS_SECONDS, 1)
    loads = {
        f"{name}, 1 per packet": partial(measure_load, daemon, 1, events, rate)
        for name, daemon in daemons.items()
    }
    ours = {OURS: partial(measure_agent, processes, PROCESS_RATE, events, rate)}
    return Row(
        f"agent CPU, {processes} processes with {PROCESS_RATE} events/s each",
        "% of a core",
        *compare_with_peers(
            core_figure, interleave(effort.rounds, {**ours, **loads}), Promise(6)
        ),
    )


def throughput_row(effort: Effort) -> Row:
    """Return the row of the maximum throughput."""
    flat_out = partial(measure_throughput, effort.of(SUSTAINED_SECONDS * 1000) / 1000)
    measurements = interleave(effort.rounds, {"maximum throughput": flat_out})
    return Row(
        "events received and committed, agent on one core",
        "events/s",
        *(summarize(OURS, samples) for samples in measurements.values()),
        Promise(5_000_000, at_least=True),
    )


def idle_rows(effort: Effort, daemons: dict[str, Daemon]) -> list[Row]:
    """Return the rows of idle daemons."""
    seconds = effort.of(IDLE_SECONDS, effort.whole(5, 1))
    measurements = interleave(
        effort.rounds,
        {
            OURS: partial(measure_idle_agent, seconds),
            **{
                name: partial(measure_idle_process, daemon.process.pid, seconds)
                for name, daemon in daemons.items()
            },
        },
    )

    def figures(key: str) -> tuple[Figure, ...]:
        return tuple(
            summarize(name, [each[key] for each in samples])
            for name, samples in measurements.items()
            if key in samples[0]
        )

    resident, core, ready = map(figures, ("resident", "core", "ready"))
    return [
        Row("idle agent, memory", "MB", resident[0], Promise(70), resident[1:]),
        Row("idle agent, CPU", "% of a core", core[0], Promise(0.5), core[1:]),
        Row("start of an agent until it is ready", "s", ready[0], Promise(1)),
    ]


def compare_with_peers(
    shown: Callable[[str, list[Load]], Figure],
    loads: dict[str, list[Load]],
    promise: Promise | None = None,
) -> tuple[Figure, Promise | None, tuple[Figure, ...]]:
    """Return the figure of kaywatch, its promise, and the peers' figures."""
    ours, *others = (shown(name, samples) for name, samples in loads.items())
    return ours, promise, tuple(others)


def cpu_figure(name: str, samples: list[Load]) -> Figure:
    return summarize(name, [load.cpu_ns for load in samples], _losses(samples))


def core_figure(name: str, samples: list[Load]) -> Figure:
    return summarize(name, [load.core_percent for load in samples], _losses(samples))


def _losses(samples: list[Load]) -> str:
    return f"{max(load.lost for load in samples):.2%} lost"


def measure(effort: Effort) -> list[Row]:
    """Return the rows of the agent."""
    with contextlib.ExitStack() as stack:
        daemons = start_daemons(stack)
        among_daemons = [
            paced_row(effort, daemons),
            processes_row(effort, daemons),
            *idle_rows(effort, daemons),
        ]
    absentees = tuple(
        missing_figure(name, kind.missing())
        for name, kind in DAEMONS.items()
        if kind.missing()
    )
    return [
        *event_rows(effort),
        throughput_row(effort),
        *(replace(row, peers=(*row.peers, *absentees)) for row in among_daemons),
    ]
