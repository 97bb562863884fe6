"""What an event costs the agent, from the socket to the commit, beside statsd servers.

The agent, and each peer, is the real daemon in a process of its own; its CPU is read
from the kernel. Two peers in this process have no socket: the same events as msgpack
rows that are counted in Python dicts, and prometheus_client's histogram.
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
from tests.bench.daemons import DAEMONS, Daemon, Load, loaded, running
from tests.bench.load import Clients, evenly
from tests.bench.loops import dict_loop, histogram_loop
from tests.bench.report import OURS, Figure, Promise, Row, absent, figure
from tests.bench.rounds import Effort, Measured, in_turns
from tests.bench.usage import cpu_seconds, resident_mb

BATCHES = {5_000: 20_000_000, 500: 4_000_000, 50: 1_000_000}  # size: events in all
LOOPED = 100_000  # in this process
PACED = 100_000  # to each daemon
PACE = 20_000  # events per second, which all of them can take
PROCESSES = 500
PROCESS_RATE = 20  # events per second of each
PROCESS_SECONDS = 10  # in which the agent looks at each process once
SUSTAINED_SECONDS = 4
IDLE_SECONDS = 10
SETTLE_SECONDS = 2  # until what a start brings is over


def agent_pid(agent: Agent) -> int:
    assert agent.process is not None
    return agent.process.pid


@contextlib.contextmanager
def unlimited_agent() -> Iterator[Agent]:
    """Run an agent that reads as fast as it can: all load comes from one process."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        config = Path(folder) / "kaywatch.toml"
        config.write_text('[ingest]\nrate_per_process = "0"\n')
        with running_agent(sys.executable, "--config", str(config)) as agent:
            yield agent


def loaded_agent(clients: int, batch: int, events: int, rate: float = math.inf) -> Load:
    """Push to an agent.

    Args:
        clients: how many, in turns.
        batch: events in one batch.
        events: how many in all.
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
        evenly(senders.push, batches, rate / batch)
        senders.settle()
        took = time.monotonic() - started
        used = cpu_seconds(agent_pid(agent)) - cpu
        senders.close()
        received = sum(agent.executions().values()) - already
    sent = batches * batch
    return Load(used / received * 1e9, used / took * 100, 1 - received / sent)


def sustained(seconds: float) -> float:
    """Return events per second by the wall clock, the agent on a core of its own."""
    with unlimited_agent() as agent, own_core(agent_pid(agent)):
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
def own_core(pid: int) -> Iterator[None]:
    """Keep a process on the last core, and this one off it, where there are two."""
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


def idle(seconds: float) -> Measured:
    """Return how soon an agent is ready, and what it uses when there is nothing."""
    started = time.monotonic()
    with running_agent() as agent:
        ready = time.monotonic() - started
        time.sleep(SETTLE_SECONDS)
        return {"ready": ready, **idle_process(agent_pid(agent), seconds)}


def idle_process(pid: int, seconds: float) -> Measured:
    before = cpu_seconds(pid)
    time.sleep(seconds)
    used = cpu_seconds(pid) - before
    return {"resident": resident_mb(pid), "core": used / seconds * 100}


def start_daemons(stack: contextlib.ExitStack) -> dict[str, Daemon]:
    """Start the statsd servers that are here; they idle while others are measured."""
    return {
        name: stack.enter_context(running(kind))
        for name, kind in DAEMONS.items()
        if not kind.missing()
    }


def measure_events(effort: Effort) -> list[Row]:
    """Return the rows of CPU per event."""
    loops = {
        "msgpack rows, a dict loop": partial(dict_loop, effort.of(LOOPED, 5_000)),
        "prometheus_client": partial(histogram_loop, effort.of(LOOPED, 5_000)),
    }
    ours = {
        size: partial(loaded_agent, 1, size, effort.of(events, 2 * size))
        for size, events in BATCHES.items()
    }
    measurements = in_turns(effort.rounds, {**ours, **loops})
    looped = tuple(figure(name, measurements[name]) for name in loops)
    return [
        Row(
            f"agent CPU an event, batches of {size:,}",
            "ns",
            cpu_figure(OURS, measurements[size]),
            Promise(100) if size == 5_000 else None,
            looped if size == 5_000 else (),
        )
        for size in BATCHES
    ]


def measure_paced(effort: Effort, daemons: dict[str, Daemon]) -> Row:
    """Return the row of as many events for all daemons, at a pace they can take."""
    events = effort.of(PACED)
    loads = {
        f"{name}, {size} a packet": partial(loaded, daemon, size, events, PACE)
        for name, daemon in daemons.items()
        for size in (1, 20)
    }
    ours = {OURS: partial(loaded_agent, 1, 50, events, PACE)}
    return Row(
        f"agent CPU an event, {events:,} at {PACE:,}/s, batches of 50",
        "ns",
        *beside(cpu_figure, in_turns(effort.rounds, {**ours, **loads})),
    )


def measure_processes(effort: Effort, daemons: dict[str, Daemon]) -> Row:
    """Return the row of many processes that each send once a second."""
    processes = effort.whole(PROCESSES, 5)
    rate = processes * PROCESS_RATE
    events = rate * effort.whole(PROCESS_SECONDS, 1)
    loads = {
        f"{name}, 1 a packet": partial(loaded, daemon, 1, events, rate)
        for name, daemon in daemons.items()
    }
    ours = {OURS: partial(loaded_agent, processes, PROCESS_RATE, events, rate)}
    return Row(
        f"{processes} processes, {PROCESS_RATE} events/s each",
        "% of a core",
        *beside(core_figure, in_turns(effort.rounds, {**ours, **loads}), Promise(6)),
    )


def measure_fastest(effort: Effort) -> Row:
    """Return the row of as many events as can be."""
    flat_out = partial(sustained, effort.of(SUSTAINED_SECONDS * 1000) / 1000)
    measurements = in_turns(effort.rounds, {"as fast as can be": flat_out})
    return Row(
        "taken in and committed, agent on one core",
        "events/s",
        *(figure(OURS, samples) for samples in measurements.values()),
        Promise(5_000_000, at_least=True),
    )


def measure_idle(effort: Effort, daemons: dict[str, Daemon]) -> list[Row]:
    """Return the rows of a daemon that has nothing to do."""
    seconds = effort.of(IDLE_SECONDS, effort.whole(5, 1))
    measurements = in_turns(
        effort.rounds,
        {
            OURS: partial(idle, seconds),
            **{
                name: partial(idle_process, daemon.process.pid, seconds)
                for name, daemon in daemons.items()
            },
        },
    )

    def figures(key: str) -> tuple[Figure, ...]:
        return tuple(
            figure(name, [each[key] for each in samples])
            for name, samples in measurements.items()
            if key in samples[0]
        )

    resident, core, ready = map(figures, ("resident", "core", "ready"))
    return [
        Row("an idle agent's memory", "MB", resident[0], Promise(70), resident[1:]),
        Row("an idle agent's CPU", "% of a core", core[0], Promise(0.5), core[1:]),
        Row("an agent's start until it is ready", "s", ready[0], Promise(1)),
    ]


def beside(
    shown: Callable[[str, list[Load]], Figure],
    loads: dict[str, list[Load]],
    promise: Promise | None = None,
) -> tuple[Figure, Promise | None, tuple[Figure, ...]]:
    """Return ours, its promise, and the peers."""
    ours, *others = (shown(name, samples) for name, samples in loads.items())
    return ours, promise, tuple(others)


def cpu_figure(name: str, samples: list[Load]) -> Figure:
    return figure(name, [load.cpu_ns for load in samples], _losses(samples))


def core_figure(name: str, samples: list[Load]) -> Figure:
    return figure(name, [load.core_percent for load in samples], _losses(samples))


def _losses(samples: list[Load]) -> str:
    return f"{max(load.lost for load in samples):.2%} lost"


def measure(effort: Effort) -> list[Row]:
    """Return the rows of the agent."""
    with contextlib.ExitStack() as stack:
        daemons = start_daemons(stack)
        among_daemons = [
            measure_paced(effort, daemons),
            measure_processes(effort, daemons),
            *measure_idle(effort, daemons),
        ]
    absentees = tuple(
        absent(name, kind.missing()) for name, kind in DAEMONS.items() if kind.missing()
    )
    return [
        *measure_events(effort),
        measure_fastest(effort),
        *(replace(row, peers=(*row.peers, *absentees)) for row in among_daemons),
    ]
