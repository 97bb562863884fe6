"""Simulate a share of an agent's clients in a process of its own.

python -m tests.bench.paced_clients SHARE

SHARE is a `ClientShare` as JSON. The process prints 0 once all of its clients are
connected, and from then on sends. For each line on stdin, it prints the number of
events that it has sent. At the end of stdin, it waits for all acks, prints the number,
and ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.agents import kill_at_end
from tests.bench.load import ClientConnection, EventSource, open_channel
from tests.bench.rounds import next_line

__all__ = ["ClientShare", "LoadProcess", "running_load"]

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0  # until all clients are connected
REPLY_SECONDS = 60.0


@dataclass(frozen=True)
class ClientShare:
    """The clients of one process.

    Attributes:
        socket: the agent's socket.
        first: the number of the first client.
        clients: how many there are.
        rate: events per second of each client.
        nodes: how many nodes each client records.
        distinct: whether each client has nodes of its own, or all have the same.
    """

    socket: str
    first: int
    clients: int
    rate: float
    nodes: int
    distinct: bool


class LoadProcess:
    """A process that simulates a share of the clients."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Wait until its clients are connected."""
        self._process = process
        self._read(START_SECONDS)

    def count_sent(self) -> int:
        """Return how many events it has sent."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read(REPLY_SECONDS)

    def end(self) -> int:
        """Stop sending; return how many events were sent and acknowledged."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._read(REPLY_SECONDS)

    def _read(self, seconds: float) -> int:
        return int(next_line(self._process, seconds))


@contextlib.contextmanager
def running_load(shares: list[ClientShare]) -> Iterator[list[LoadProcess]]:
    """Start a process for each share; yield them when all clients are connected."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(kill_at_end(_start(share))) for share in shares]
        yield [LoadProcess(process) for process in started]


def _start(share: ClientShare) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.bench.paced_clients"),
            json.dumps(dataclasses.asdict(share)),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class _PacedClient:
    """A client that sends at a constant rate, as often as the agent asks for."""

    def __init__(self, number: int, share: ClientShare, events: EventSource) -> None:
        channel = open_channel(share.socket, number)
        self.connection = ClientConnection(channel, number, 1)
        self._events = events
        self._rate = share.rate
        self._started = 0.0
        self.sent = 0

    def start(self, now: float) -> None:
        self._started = now

    def push(self, now: float) -> float:
        """Send what is due; return the time of the next batch."""
        self.connection.handle_received()
        due = int((now - self._started) * self._rate) - self.sent
        if due:
            self.connection.push(due, self._events.take(due))
            self.sent += due
        return now + self.connection.interval

    def finish(self) -> None:
        """Wait until all batches are committed, and disconnect."""
        self.connection.settle()
        self.connection.close()


def _connect(share: ClientShare) -> list[_PacedClient]:
    common = EventSource(range(share.nodes))
    clients = []
    for number in range(share.first, share.first + share.clients):
        own = range(number * share.nodes, (number + 1) * share.nodes)
        events = EventSource(own) if share.distinct else common
        clients.append(_PacedClient(number, share, events))
    for client in clients:
        client.connection.settle()
    return clients


def _send_until_end(clients: list[_PacedClient]) -> None:
    """Send until the end of stdin; answer each line with the number of events."""
    now = time.monotonic()
    queue = []
    for number, client in enumerate(clients):
        client.start(now)
        queue.append((now + (number + 1) / len(clients), number))
    while True:
        due, number = queue[0]
        wait = max(0.0, due - time.monotonic())
        if select.select([sys.stdin], [], [], wait)[0]:
            if not os.read(sys.stdin.fileno(), 64):
                return
            print(sum(client.sent for client in clients), flush=True)
        if (now := time.monotonic()) >= due:
            heapq.heapreplace(queue, (clients[number].push(now), number))


def main() -> None:
    clients = _connect(ClientShare(**json.loads(sys.argv[1])))
    print(0, flush=True)
    _send_until_end(clients)
    for client in clients:
        client.finish()
    print(sum(client.sent for client in clients), flush=True)


if __name__ == "__main__":
    main()
