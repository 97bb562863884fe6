"""The services of the company, and how their processes are started."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.agents import Agent, kill_at_end

__all__ = ["FAULTY", "PRODUCTION", "Service", "running"]


# A little more than an hour, so that nothing in the last one is new.
PAST_SECONDS = 3700.0


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
    Service("assistant", "answer", "masked", 9, 1.5, 3),
    Service("checkout", "order", "failing", 12, 0.8, 2),
    Service("indexing", "documents", pause=1.0, processes=2),
    Service("support", "ticket", pause=1.0),
    Service("stock", "order", "stuck"),
)

# One service for each failure mode.
FAULTY = (
    Service("checkout", "order", "failing", 12, 0.8, 2),
    Service("payroll", "documents", "low-traffic", 24, 120),
    Service("indexing", "documents", "died"),
    Service("newsletter", "ticket", "silent", 6),
    Service("support", "ticket", "dead-end", 14),
    Service("claims", "answer", "never-reached"),
    Service("research", "answer", "runaway", 4),
    Service("stock", "order", "stuck"),
    Service("assistant", "answer", "masked", 9, 1.0, 2),
    Service("reviews", "ticket", "drift", 10),
    Service("writer", "ticket", "waste", 15),
    Service("search", "answer", "slow", 9),
    Service("thumbnails", "documents", "memory"),
)


@contextlib.contextmanager
def running(agent: Agent, services: Iterable[Service]) -> Iterator[None]:
    """Run the processes of services within the block."""
    with contextlib.ExitStack() as stack:
        for service in services:
            for number in range(service.processes):
                process = _start(agent, service, number)
                stack.enter_context(kill_at_end(process))
        yield


def _start(agent: Agent, service: Service, number: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(agent.python, "-m", "tests.docs.company", service.graph),
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
