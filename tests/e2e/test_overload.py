"""Many clients, floods, and clients that read nothing do not delay other clients."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from tests.agent.protocol.samples import batch, executions, hello
from tests.agents import Agent, until

from kaywatch import wire

SECONDS = 3.0

# Several clients in one process. Each has the connection and the backoff of a real one.
CROWD = """
import os, sys, time
from kaywatch._send.batches import Batches
from kaywatch._send.connecting import connector
from kaywatch._send.connection import AgentConnection
from kaywatch._send.identity import new_identity
from kaywatch.recorder import Recorder

class Member:
    def __init__(self):
        recorder = Recorder()
        recorder.open()
        self.record = recorder.series("g", "n").record
        self.batches = Batches(new_identity("crowd", "here", {}), recorder)
        connect = connector(sys.argv[1], self.batches.identity.client)
        self.connection = AgentConnection(self.batches, connect)

members = [Member() for _ in range(int(sys.argv[2]))]
for _ in sys.stdin:
    for member in members:
        member.record(0.1)
    waiting, started = members, time.monotonic()
    while waiting and time.monotonic() - started < 60:
        for member in waiting:
            member.connection.step(time.monotonic())
        waiting = [one for one in waiting if not one.batches.is_drained()]
        time.sleep(0.01)
    print(len(waiting), round(time.monotonic() - started, 3), flush=True)
"""


@contextlib.contextmanager
def connected(agent: Agent) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(agent.socket)
        yield link


def flush_seconds(agent: Agent, rounds: int) -> list[float]:
    """Return the seconds of each flush of a process that records little."""
    printed = agent.run(
        f"""
import kaywatch, time
for n in range({rounds}):
    with kaywatch.execution("g", "polite"):
        pass
    started = time.monotonic()
    assert kaywatch.flush(10)
    print(time.monotonic() - started)
"""
    )
    return [float(line) for line in printed.split()]


def test_a_client_that_floods_does_not_delay_the_others(agent: Agent) -> None:
    stop, sent = threading.Event(), [0]

    def flood() -> None:
        client = os.urandom(16)
        with connected(agent) as link:
            link.sendall(wire.frame(hello(client=client)))
            while not stop.is_set():
                sent[0] += 1
                packed = batch(client=client, seq=sent[0], executions=executions(5_000))
                link.sendall(wire.frame(packed))
                with contextlib.suppress(BlockingIOError):
                    link.recv(65_536, socket.MSG_DONTWAIT)

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        until(lambda: sent[0] > 20, "the flood runs")
        took = flush_seconds(agent, 10)
    finally:
        stop.set()
        flooder.join()

    assert len(took) == 10
    assert agent.executions()["polite"] == 10
    counted = agent.get("/api/v1/clients")["clients"]
    assert max(client["events"] for client in counted) >= 5_000 * 20


def test_a_thousand_connections_are_all_served(agent: Agent) -> None:
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(connected(agent)) for _ in range(1_000)]
        for link in links:
            client = os.urandom(16)
            packed = batch(client=client, seq=1, executions=executions(3))
            link.sendall(wire.frame(hello(client=client)) + wire.frame(packed))
        until(
            lambda: sum(agent.executions().values()) == 3_000,
            "all events of all connections are counted",
        )
        flush_seconds(agent, 1)
        states = [client["state"] for client in agent.clients()]
        assert states.count("connected") == 1_000


def test_a_thousand_clients_that_reconnect_together_are_all_served(
    agent: Agent,
) -> None:
    processes = [agent.spawn(CROWD, agent.endpoint, "250") for _ in range(4)]

    def record() -> None:
        """Let each client record an event, and wait until all are acknowledged."""
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            waiting, seconds = process.stdout.readline().split()
            assert waiting == "0", f"after {seconds} s"

    record()
    agent.stop(signal.SIGKILL)
    agent.start()
    record()
    assert agent.executions() == {"n": 2_000}
    clients = agent.clients()
    assert [client["state"] for client in clients] == ["connected"] * 1_000
    assert {client["events"] for client in clients} == {2}


@pytest.mark.parametrize("size", [1, wire.MAX_FRAME])
def test_a_client_that_reads_nothing_delays_no_other(agent: Agent, size: int) -> None:
    with connected(agent) as link:
        link.settimeout(SECONDS)
        client, end = os.urandom(16), time.monotonic() + SECONDS
        frame = wire.frame(b"\xc1" * size)  # each is answered with an error
        link.sendall(wire.frame(hello(client=client)))
        with contextlib.suppress(TimeoutError):
            while time.monotonic() < end:
                link.sendall(frame * max(1, 65_536 // len(frame)))
        flush_seconds(agent, 3)

    assert agent.executions() == {"polite": 3}
    memory = agent.get("/health")
    assert memory["status"] == "healthy", memory["stages"]


def test_frames_at_the_limit_are_taken(agent: Agent) -> None:
    with connected(agent) as link:
        client = os.urandom(16)
        rows = [{"node": "n", "seconds": 1.0, "graph": "x" * 170}] * 20_000
        packed = batch(client=client, seq=1, executions=None, table=None, events=rows)
        assert 0.7 * wire.MAX_FRAME < len(packed) <= wire.MAX_FRAME
        link.sendall(wire.frame(packed))
        until(lambda: agent.executions() == {"n": 20_000}, "all of it is counted")


def test_few_file_descriptors_are_reported_until_there_are_more(agent: Agent) -> None:
    assert agent.process is not None
    pid = agent.process.pid
    few = len(os.listdir(f"/proc/{pid}/fd")) + 12
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        # Opened in advance, because HTTP may get no file descriptor either.
        connection = agent.connection()
        connection.request("GET", "/health")
        connection.getresponse().read()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, limits[1]))
        for _ in range(30):
            stack.enter_context(connected(agent))

        def problem() -> str:
            connection.request("GET", "/health")
            health = json.loads(connection.getresponse().read())
            return str(health["stages"]["connections"]["problem"])

        until(lambda: "no file descriptor is left" in problem(), "it is reported")
        connection.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    flush_seconds(agent, 1)
    until(lambda: not agent.get("/health")["stages"]["connections"]["problem"], "over")
