"""Measure how long an agent with a large store takes to start, and its memory.

    python -m tests.e2e.large_store [CLIENTS] [SERIES]

Fills a store with clients that all have nodes in flight, and with series, kills the
agent, and starts it again. Fails if the start takes more than 5 s, or if the agent
needs more memory than before.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from pathlib import Path
from typing import Final

from tests.agent.protocol.samples import batch, executions, hello
from tests.agents import Agent, new_agent, until

from kaywatch import wire

CLIENTS: Final = 5_000
SERIES: Final = 10_000
FLIGHTS: Final = 10  # per client
START_SECONDS: Final = 5.0
CONNECTION_CLIENTS: Final = 500


def client_id(number: int) -> bytes:
    return b"large".ljust(8, b"!") + struct.pack(">Q", number)


def exchange(agent: Agent, messages: list[bytes]) -> None:
    """Send messages on a connection, and wait until they are committed."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(120)
        link.connect(agent.socket)
        link.sendall(b"".join(map(wire.frame, messages)))
        link.shutdown(socket.SHUT_WR)
        while link.recv(65_536):
            pass


def fill_clients(agent: Agent, clients: int) -> None:
    for first in range(0, clients, CONNECTION_CLIENTS):
        messages = []
        for number in range(first, min(first + CONNECTION_CLIENTS, clients)):
            client = client_id(number)
            flights = [
                [f"graph-{n}", f"node-{n}", 1e9, f"{number}-{n}"]
                for n in range(FLIGHTS)
            ]
            content = {"executions": None, "table": None, "in_flight": flights}
            messages += [hello(client=client), batch(client=client, **content)]
        exchange(agent, messages)


def fill_series(agent: Agent, series: int) -> None:
    strings = ["", "graph", "default", *(f"node-{n}" for n in range(series))]
    table = {"strings": strings, "series": [[1, 3 + n] for n in range(series)]}
    columns = executions(
        series,
        series=list(range(series)),
        end=[0.0] * series,
        action=[2] * series,
    )
    content = {"executions": columns, "table": wire.pack(table)}
    for seq in range(1, 11):
        exchange(agent, [batch(client=client_id(10**9), seq=seq, **content)])
        time.sleep(1)


def memory(agent: Agent) -> float:
    return float(agent.get("/health")["memory_mb"])


def main() -> int:
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else CLIENTS
    series = int(sys.argv[2]) if len(sys.argv) > 2 else SERIES
    with new_agent() as agent:
        config = agent.folder / "kaywatch.toml"
        config.write_text(f"[limits]\nseries_per_client = {series}\n")
        agent.start("--config", str(config))
        fill_series(agent, series)
        fill_clients(agent, clients)
        until(lambda: len(agent.clients()) > clients, "all clients are known")
        before, size = memory(agent), Path(agent.store).stat().st_size / 1e6
        agent.stop(9)
        started = time.monotonic()
        agent.start("--config", str(config))
        seconds = time.monotonic() - started
        after, known = memory(agent), len(agent.clients())
    print(
        f"{known - 1:,} clients with {FLIGHTS} nodes in flight each, {series:,} series,"
        f" {size:.0f} MB: ready after {seconds:.2f} s,"
        f" memory {after:.0f} MB, {before:.0f} MB before"
    )
    return 0 if seconds <= START_SECONDS and after <= before and known > clients else 1


if __name__ == "__main__":
    raise SystemExit(main())
