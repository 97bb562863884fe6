"""What an event costs the agent, from the socket to the commit, beside statsd servers.

The agent, and each peer, is the real daemon in a process of its own; its CPU is read
from the kernel. Two peers in this process have no socket: the same events as msgpack
rows that are counted in Python dicts, and prometheus_client's histogram.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tests.agents import Agent, running_agent
from tests.bench.daemons import DAEMONS, Daemon, Load, loaded, running
from tests.bench.load import Clients, evenly
from tests.bench.loops import dict_loop, histogram_loop
from tests.bench.report import OURS, Figure, Promise, Row, absent, figure
from tests.bench.rounds import Effort, in_turns
from tests.bench.usage import cpu_seconds

BATCHES = {5_000: 20_000_000, 500: 4_000_000, 50: 1_000_000}  # size: events in all
LOOPED = 100_000  # in this process
METRICS = 100_000  # to each statsd server
PACE = 50_000  # metrics per second, which both servers can take
PROCESSES = 500
PROCESS_RATE = 20  # events per second of each
PROCESS_SECONDS = 6
SUSTAINED_SECONDS = 4


def agent_pid(agent: Agent) -> int:
    assert agent.process is not None
    return agent.process.pid


def per_event(batch: int, events: int) -> float:
    """Return the agent's CPU nanoseconds per event, in batches of one client."""
    with running_agent() as agent:
        clients = Clients(agent.socket, 1, batch)
        clients.push()
        clients.settle()
        before = cpu_seconds(agent_pid(agent))
        for _ in range(events // batch):
            clients.push()
        clients.settle()
        used = cpu_seconds(agent_pid(agent)) - before
        clients.close()
        counted = sum(agent.executions().values())
        assert counted == (events // batch + 1) * batch, counted
    return used / (events // batch * batch) * 1e9


def sustained(seconds: float) -> float:
    """Return events per second by the wall clock, the agent on a core of its own."""
    with running_agent() as agent, own_core(agent_pid(agent)):
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


def many_processes(clients: int, seconds: int) -> float:
    """Return the share of a core, in percent, that many small clients take."""
    with running_agent() as agent:
        senders = Clients(agent.socket, clients, PROCESS_RATE)
        before, started = cpu_seconds(agent_pid(agent)), time.monotonic()
        # Each sends once a second, and no two at the same time.
        evenly(senders.push, clients * seconds, clients)
        senders.settle()
        used = cpu_seconds(agent_pid(agent)) - before
        took = time.monotonic() - started
        senders.close()
    return used / took * 100


def start_daemons(stack: contextlib.ExitStack) -> dict[str, Daemon]:
    """Start the statsd servers that are here; they idle while others are measured."""
    return {
        name: stack.enter_context(running(kind))
        for name, kind in DAEMONS.items()
        if not kind.missing()
    }


def measure_events(effort: Effort, daemons: dict[str, Daemon]) -> list[Row]:
    """Return the rows of CPU per event."""
    ours = {
        f"batches of {size:,}": partial(per_event, size, effort.of(events, 2 * size))
        for size, events in BATCHES.items()
    }
    loops = {
        "msgpack rows, a dict loop": partial(dict_loop, effort.of(LOOPED, 5_000)),
        "prometheus_client": partial(histogram_loop, effort.of(LOOPED, 5_000)),
    }
    servers = {
        f"{name}, {size} a packet": partial(
            loaded, daemon, size, effort.of(METRICS), PACE
        )
        for name, daemon in daemons.items()
        for size in (1, 20)
    }
    found = in_turns(effort.rounds, {**ours, **loops})
    loads = in_turns(effort.rounds, servers)
    beside = {
        5_000: tuple(figure(name, found[name]) for name in loops),
        50: tuple(cpu_figure(name, samples) for name, samples in loads.items()),
    }
    return [
        Row(
            f"agent CPU an event, {name}",
            "ns",
            figure(OURS, found[name]),
            Promise(100) if size == 5_000 else None,
            beside.get(size, ()),
        )
        for size, name in zip(BATCHES, ours, strict=True)
    ]


def measure_rates(effort: Effort, daemons: dict[str, Daemon]) -> list[Row]:
    """Return the rows of a steady stream: as fast as can be, and of many processes."""
    flat_out = partial(sustained, effort.of(SUSTAINED_SECONDS * 1000) / 1000)
    fastest = in_turns(effort.rounds, {"flat out": flat_out})
    seconds = effort.of(PROCESS_SECONDS, 3 if effort.peers else 1)
    processes = effort.of(PROCESSES, PROCESSES if effort.peers else 5)
    rate = processes * PROCESS_RATE
    what = f"{processes} processes, {PROCESS_RATE} events/s each"
    ours = in_turns(effort.rounds, {what: partial(many_processes, processes, seconds)})
    loads = in_turns(
        effort.rounds,
        {
            f"{name}, {rate:,}/s, 1 a packet": partial(
                loaded, daemon, 1, rate * seconds, rate
            )
            for name, daemon in daemons.items()
        },
    )
    return [
        Row(
            "taken in and committed, agent on one core",
            "events/s",
            figure(OURS, fastest["flat out"]),
            Promise(5_000_000, at_least=True),
        ),
        Row(
            what,
            "% of a core",
            figure(OURS, ours[what]),
            Promise(6),
            tuple(core_figure(name, samples) for name, samples in loads.items()),
        ),
    ]


def cpu_figure(name: str, samples: list[Load]) -> Figure:
    return figure(name, [load.cpu_ns for load in samples], _losses(samples))


def core_figure(name: str, samples: list[Load]) -> Figure:
    return figure(name, [load.core_percent for load in samples], _losses(samples))


def _losses(samples: list[Load]) -> str:
    return f"{max(load.lost for load in samples):.2%} lost"


def measure(effort: Effort) -> list[Row]:
    """Return the rows of the agent."""
    with contextlib.ExitStack() as stack:
        daemons = start_daemons(stack) if effort.peers else {}
        rows = measure_events(effort, daemons) + measure_rates(effort, daemons)
    absentees = [
        absent(name, kind.missing())
        for name, kind in DAEMONS.items()
        if effort.peers and kind.missing()
    ]
    return [replace(row, peers=(*row.peers, *absentees)) for row in rows]
