"""The services of the company, and how their processes are started."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.agents import Agent, kill_at_end

__all__ = ["FAULTY", "PRODUCTION", "Service", "record_hour", "running"]


# A little more than an hour, so that nothing in the last one is new.
PAST_SECONDS = 3700.0

# Recording an hour takes far less.
RECORD_SECONDS = 600


class Service(NamedTuple):
    """Some processes of one service.

    Attributes:
        name: the service's.
        graph: the graph that they run.
        fault: what is wrong with it; empty for nothing.
        minutes: how long ago the fault began.
        pause: the median of the seconds between two runs of a process.
        processes: their number.
        past: how many seconds of work they have behind them.
    """

    name: str
    graph: str
    fault: str = ""
    minutes: float = 0.0
    pause: float = 1.0
    processes: int = 1
    past: float = PAST_SECONDS


# What a company looks like on a bad day.
PRODUCTION = (
    Service("assistant", "answer", "masked", 25, 1.5, 3),
    Service("checkout", "order", "failing", 12, 0.8, 2),
    Service("indexing", "documents", pause=1.0, processes=2),
    Service("support", "ticket", pause=1.0),
    Service("stock", "order", "stuck"),
)

# One service for each failure mode. A fault lasts for most of the window of its rule,
# which is an hour for some.
FAULTY = (
    Service("checkout", "order", "failing", 12, 0.8, 2),
    Service("payroll", "documents", "low-traffic", 24, 120),
    Service("indexing", "documents", "died"),
    Service("newsletter", "ticket", "silent"),
    Service("support", "ticket", "dead-end", 14),
    Service("claims", "answer", "never-reached"),
    Service("research", "answer", "runaway", 4),
    Service("stock", "order", "stuck"),
    Service("assistant", "answer", "masked", 25, 1.0, 2),
    Service("reviews", "ticket", "drift", 20),
    Service("writer", "ticket", "waste", 50),
    Service("search", "answer", "slow", 9),
    Service("thumbnails", "documents", "memory"),
)


@contextlib.contextmanager
def running(agent: Agent, services: Iterable[Service]) -> Iterator[None]:
    """Run the processes of services within the block."""
    with _started(agent, services):
        yield


def record_hour(agent: Agent, services: Iterable[Service]) -> None:
    """Let services work for an hour without their faults, which takes some seconds."""
    healthy = [service._replace(fault="") for service in services]
    with _started(agent, healthy, "--past-only") as processes:
        for process in processes:
            assert process.wait(RECORD_SECONDS) == 0


# -- inside --------------------------------------------------------------------------


@contextlib.contextmanager
def _started(
    agent: Agent, services: Iterable[Service], *options: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(kill_at_end(_start(agent, service, number, *options)))
            for service in services
            for number in range(service.processes)
        ]


def _start(
    agent: Agent, service: Service, number: int, *options: str
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(agent.python, "-m", "tests.docs.company", service.graph, *options),
            *("--fault", service.fault, "--minutes", str(service.minutes)),
            *("--pause", str(service.pause), "--seed", str(number)),
            *("--past", str(service.past)),
        ],
        env={
            **agent.environment,
            "KAYWATCH_SERVICE": service.name,
            "KAYGRAPH_COLLECT_METRICS": "true",
        },
    )
