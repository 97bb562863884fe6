"""Run the worst clients that the protocol permits, one for each kind of content.

    python -m tests.e2e.worst_client --minutes 10 [--kinds actions,errors] [--together]

Each client sends as much as it can of one kind of content, under as many names as it
can, for an equal share of the time. The memory of the agent and its store must stay
within the documented bounds, and another client must get its acknowledgements in time;
otherwise the exit code is 1. Each kind has its own agent, because all of them use the
same quotas of one process; with `--together`, one agent gets all.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from tests.agent.protocol.samples import (
    FAILURE,
    batch,
    executions,
    hello,
    points,
    runs,
)
from tests.agents import Agent, new_agent, until
from tests.brokers import Access, run_broker
from tests.mqtt import is_listening, settings

from kaywatch import wire

# docs/operations.md: idle, history, counts, details and failures.
MEMORY_MB: Final = 71 + 105 + (2_000_000 + 110 * 5_000) * 200e-6 + 128 + 60
STORE_MB: Final = 200.0
ACK_SECONDS: Final = 2.5

ITEMS: Final = 5_000  # the protocol's limit of a list


def name(*parts: object, size: int = wire.MAX_NAME) -> str:
    """Return a long name that is unique."""
    return "-".join(map(str, parts)).ljust(size, "x")


def client_id(number: int) -> bytes:
    return b"worst".ljust(8, b"!") + struct.pack(">Q", number)


def in_flight(n: int) -> bytes:
    """The nodes in flight of one of 200 clients."""
    flights = [[name("g"), name(i), 1e9, name(n, i)] for i in range(ITEMS)]
    return send(n % 200, n, in_flight=flights)


def loops(n: int) -> bytes:
    """The loops of one of 200 clients."""
    visited = [[name("g"), name(i), 9, name(n, i)] for i in range(ITEMS)]
    return send(200 + n % 200, n, loops=visited)


def topologies(n: int) -> bytes:
    """Each topology is of another graph."""
    nodes = [name(n, i, size=100) for i in range(4_000)]
    edges = [[nodes[0], "a", other] for other in nodes[:ITEMS]]
    return send(400, n, topologies=[{"graph": f"g{n}", "nodes": nodes, "edges": edges}])


def tags(n: int) -> bytes:
    """Each message is the hello of another client."""
    many = {name(n, i): "\U0001f600" * wire.MAX_NAME for i in range(16)}
    return hello(client=client_id(10_000 + n), tags=many)


def client_ids(n: int) -> bytes:
    """Each message has another client id, and nothing else."""
    return hello(client=client_id(10**6 + n), tags=None)


def services(n: int) -> bytes:
    """Each execution is of another service."""
    rows = [{"graph": name(n), "node": name(n, i), "seconds": 1.0} for i in range(10)]
    return send(403, n, service=name(n, "s"), events=rows)


def series(n: int) -> bytes:
    """Rows of other nodes, with the longest names."""
    rows = [
        {"graph": name(n), "node": name(n, i), "seconds": 1.0, "action": name(i, n)}
        for i in range(1_000)
    ]
    return send(401, n, events=rows)


def strings(n: int) -> list[str]:
    return ["", *(f"{n}-{i}" for i in range(ITEMS))]


@cache
def nodes() -> list[str]:
    return [f"n{i}" for i in range(ITEMS)]


def table(names: list[str], **lists: Any) -> bytes:
    """Return a table with other names and 5,000 nodes."""
    series = [[0, len(names) + i] for i in range(ITEMS)]
    return wire.pack({"strings": names + nodes(), "series": series, **lists})


def every_node(**changed: Any) -> dict[str, bytes]:
    columns = {"end": [0.0] * ITEMS, "action": [0] * ITEMS}
    return executions(ITEMS, series=list(range(ITEMS)), **{**columns, **changed})


def actions(n: int) -> bytes:
    """Each action is new, and of another node."""
    columns = every_node(action=[1 + i for i in range(ITEMS)])
    return send(404, n, executions=columns, table=table(strings(n)))


def errors(n: int) -> bytes:
    """Each error is new, and of another node."""
    kinds = [[i, "exec" if i else ""] for i in range(ITEMS + 1)]
    columns = every_node(error=[1 + i for i in range(ITEMS)], outcome=[1] * ITEMS)
    return send(409, n, executions=columns, table=table(strings(n), errors=kinds))


def pairs(n: int) -> bytes:
    """Each node takes another one of 1,000 actions each time."""
    columns = every_node(action=[1 + (n * 7 + i) % 1_000 for i in range(ITEMS)])
    return send(410, n, executions=columns, table=table(strings(0)))


def durations(n: int) -> bytes:
    """Each node takes another duration each time, from 1 us to a day."""
    seconds = [1e-6 * 1.022 ** ((n * 7 + i) % 1_150) for i in range(ITEMS)]
    return send(411, n, executions=every_node(seconds=seconds), table=table([""]))


def run_ends(n: int) -> bytes:
    """Each end of a run is new, and of another graph."""
    places = list(range(1, ITEMS + 1))
    columns = runs(
        ITEMS,
        graph=places,
        end=[0.0] * ITEMS,
        reason=places,
        node=places,
        action=places,
    )
    names = {"strings": strings(n)}
    return send(405, n, executions=None, table=wire.pack(names), runs=columns)


def metrics(n: int) -> bytes:
    """Each metric is new, with the most and longest labels."""
    labels = {name("label", i): name(n, i) for i in range(16)}
    kinds = ("observe", "count", "gauge")
    entries = [[kinds[i % 3], 1 + i, 0, 0, labels] for i in range(500)]
    names = {"strings": strings(n), "points": entries}
    columns = points(500, series=list(range(500)), time=[0.0] * 500)
    return send(406, n, executions=None, table=wire.pack(names), points=columns)


def models(n: int) -> bytes:
    """Each call is of another language model."""
    calls = ("llm_calls", "llm_input_tokens", "llm_output_tokens", "llm_cost_usd")
    entries = [
        ["count", 1 + i % 4, 0, 0, {"model": name(n, i), "provider": name(n)}]
        for i in range(2_000)
    ]
    names = {"strings": ["", *calls], "points": entries}
    columns = points(2_000, series=list(range(2_000)), time=[0.0] * 2_000)
    return send(407, n, executions=None, table=wire.pack(names), points=columns)


def drops(n: int) -> bytes:
    """Each drop has another reason; resource usage is sent as well."""
    reasons = {name(n, i): 1 for i in range(1_000)}
    return send(408, n, drops=reasons, process={"cpu": float(n), "rss": n})


def broker_clients(n: int) -> bytes:
    """Each client behind a broker is new, and leaves details."""
    flights = [[name("g"), name(i), 1e9, name(n, i)] for i in range(100)]
    return send(10**7 + n, 0, in_flight=flights, events=[{"node": "b", "seconds": 1}])


def failures(n: int) -> bytes:
    """The longest failures."""
    one = {**FAILURE, "message": "\U0001f600" * 500, "traceback": "x" * 4_000}
    return send(
        402, n, failures=[{**one, "path": [name(n, i) for i in range(50)]}] * 200
    )


def send(client: int, n: int, **content: Any) -> bytes:
    """Return an empty batch of a client, together with its content."""
    sound = {"service": "worst", "executions": None, "table": None}
    return batch(client=client_id(client), seq=n + 1, **{**sound, **content})


Kind = Callable[[int], bytes]

KINDS: Final[tuple[Kind, ...]] = (
    in_flight,
    loops,
    topologies,
    tags,
    client_ids,
    services,
    series,
    actions,
    errors,
    pairs,
    durations,
    run_ends,
    metrics,
    models,
    drops,
    failures,
)

# Published to a broker, in the topic of each client.
BROKER_KINDS: Final[tuple[Kind, ...]] = (broker_clients,)


@dataclass
class Observation:
    """The measurements while one kind of content was sent."""

    kind: str
    messages: int = 0
    memory_mb: float = 0.0
    store_mb: float = 0.0
    ack_seconds: float = 0.0  # the longest wait of a polite client

    @property
    def problems(self) -> list[str]:
        """Return the measurements that exceed their bounds."""
        figures = {
            "memory, MB": (self.memory_mb, MEMORY_MB),
            "store, MB": (self.store_mb, STORE_MB),
            "longest wait for an ack, s": (self.ack_seconds, ACK_SECONDS),
        }
        return [
            f"{self.kind}: {what}: {value:.1f}, at most {bound:.1f}"
            for what, (value, bound) in figures.items()
            if value > bound
        ]


# Another process, because quotas are per process.
POLITE: Final = """
import kaywatch, sys, threading, time
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
longest = 0.0
while True:
    with kaywatch.execution("g", "polite"):
        pass
    started = time.monotonic()
    assert kaywatch.flush(30)
    longest = max(longest, time.monotonic() - started)
    if ended.wait(0.5):
        break
print(longest)
"""


@contextlib.contextmanager
def polite_client(agent: Agent) -> Iterator[list[float]]:
    """Run a client that records little; list its longest wait for an ack."""
    child, acks = agent.spawn(POLITE), []
    yield acks
    output, _ = child.communicate(timeout=60)
    acks.append(float(output))


class Streams:
    """The connections of one process; each has at most 1,000 client ids."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._links: list[socket.socket] = []
        self._sent = 0

    def send(self, message: bytes, number: int) -> None:
        if self._sent % 900 == 0:
            self._connect()
        try:
            self._exchange(message)
        except ConnectionError:
            # The agent refuses one more connection, but remembers their clients.
            self.close()
            self._connect()
            self._exchange(message)
        self._sent += 1

    def close(self) -> None:
        for link in self._links:
            link.close()
        self._links.clear()

    def _exchange(self, message: bytes) -> None:
        self._links[-1].sendall(wire.frame(message))
        read_all(self._links[-1])

    def _connect(self) -> None:
        self._links.append(socket.socket(socket.AF_UNIX))
        self._links[-1].connect(self._agent.socket)


class Topics:
    """The topics of clients behind a broker."""

    def __init__(self, access: Access) -> None:
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.connect(access.host, access.port)
        self._client.loop_start()

    def send(self, message: bytes, number: int) -> None:
        client = client_id(10**7 + number).hex()
        topic = wire.topic("kaywatch", client, "up")
        self._client.publish(topic, message, qos=1).wait_for_publish(60)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def observe(
    agent: Agent,
    kind: Kind,
    seconds: float,
    most: int = 10**9,
    at: Access | None = None,
) -> Observation:
    """Send one kind of content; return the measurements.

    Args:
        agent: the agent.
        kind: the kind of content.
        seconds: how long to send.
        most: the maximum number of messages to send.
        at: the broker to send to; None for the socket.
    """
    seen = Observation(kind.__name__)
    due = time.monotonic()
    end = due + seconds
    with contextlib.closing(Topics(at) if at else Streams(agent)) as sender:
        while time.monotonic() < end and seen.messages < most:
            sender.send(kind(seen.messages), seen.messages)
            seen.messages += 1
            if time.monotonic() > due:
                due = time.monotonic() + 1
                measure(agent, seen)
        measure(agent, seen)
    return seen


def read_all(link: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while link.recv(65_536, socket.MSG_DONTWAIT):
            pass


def measure(agent: Agent, seen: Observation) -> None:
    health = agent.get("/health")
    files = Path(agent.store).parent.glob(f"{Path(agent.store).name}*")
    store_mb = sum(file.stat().st_size for file in files) / 1e6
    seen.memory_mb = max(seen.memory_mb, health["memory_mb"])
    seen.store_mb = max(seen.store_mb, store_mb)


@contextlib.contextmanager
def agent_with_broker() -> Iterator[tuple[Agent, Access]]:
    """Run an agent that listens on a socket and on a broker."""
    with run_broker("mosquitto") as broker, new_agent() as agent:
        config = agent.folder / "kaywatch.toml"
        config.write_text(settings(broker.access()))
        agent.start("--config", str(config))
        until(lambda: is_listening(agent), "the agent listens on the broker")
        yield agent, broker.access()


HEAD: Final = (
    f"{'kind':14} {'messages':>9} {'memory':>8} {'store':>8} {'acks':>8}  result\n"
    f"{'(at most)':14} {'':9} {MEMORY_MB:5.0f} MB {STORE_MB:5.0f} MB"
    f" {ACK_SECONDS:6.1f} s"
)


def run_kinds(kinds: list[Kind], seconds: float) -> list[str]:
    """Run each kind with one agent; return the measurements that exceed a bound."""
    problems = []
    with agent_with_broker() as (agent, access):
        for kind in kinds:
            with polite_client(agent) as acks:
                at = access if kind in BROKER_KINDS else None
                seen = observe(agent, kind, seconds, at=at)
            seen.ack_seconds = max(acks)
            problems += seen.problems
            print(
                f"{seen.kind:14} {seen.messages:9,} {seen.memory_mb:5.0f} MB"
                f" {seen.store_mb:5.0f} MB {seen.ack_seconds:6.2f} s "
                f" {'FAIL' if seen.problems else 'pass'}",
                flush=True,
            )
    return problems


def main() -> int:
    known = {kind.__name__: kind for kind in (*KINDS, *BROKER_KINDS)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kinds", default=",".join(known))
    parser.add_argument("--together", action="store_true", help="one agent for all")
    options = parser.parse_args()
    kinds = [known[name] for name in options.kinds.split(",")]
    seconds = options.minutes * 60 / len(kinds)
    print(HEAD, flush=True)
    problems = []
    for group in [kinds] if options.together else [[kind] for kind in kinds]:
        problems += run_kinds(group, seconds)
    print("\n".join(problems or ["all within the bounds"]))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
