"""What an event costs the agent, from the socket's bytes to committed steps.

Peers, in the same run: the same events as msgpack rows that are counted one by one in
Python dicts, as hand-written aggregators do, and as prometheus_client's histogram.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgpack
from prometheus_client import CollectorRegistry, Histogram

from kaywatch import wire
from kaywatch._packer import Packer
from kaywatch.recorder import Recorder
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.app import tune_allocator
from kaywatch_agent.pipeline import Pipeline
from kaywatch_agent.telemetry import Telemetry

BATCH = 5_000
NODES = 50
SECONDS = 1.5


class FakePeer:
    pid = 1

    def exited(self) -> bool:
        return False

    def sample(self) -> None:
        return None

    def close(self) -> None: ...


class FakeLink:
    peer = FakePeer()
    backlog = 0

    def send(self, data: bytes) -> None: ...
    def close(self) -> None: ...


def sections(events: int) -> dict[str, object]:
    """Return a batch of executions as our client packs it."""
    recorder = Recorder()
    recorder.open_gate()
    for number in range(events):
        series = recorder.series("checkout", f"node{number % NODES}")
        failed = number % 50 == 0
        series.record(
            0.001 * (1 + number % 997),
            int(failed),
            1 + number % 20 // 19,
            "default",
            ("ValueError", "exec") if failed else None,
        )
    taken = Packer(recorder).take()
    assert taken is not None
    return taken.sections


def frames(events: int, start: int = 1, client: int = 1) -> Callable[[int], bytes]:
    """Return a function that makes the frame of batch `seq`."""
    part = sections(events)
    name = client.to_bytes(16, "big")

    def make(seq: int) -> bytes:
        return wire.frame(
            wire.batch(
                client=name,
                seq=seq,
                sent=time.time(),
                service="bench",
                recorded=seq * events,
                sections=part,
            )
        )

    return make


def pipeline() -> Pipeline:
    aggregator = Aggregator(Registry(Limits()), time.time())
    return Pipeline(
        aggregator, Telemetry(), commit=lambda delta: None, hurry=lambda: None
    )


def measure(events: int, clients: int, commit_every: int) -> float:
    """Return CPU nanoseconds per event; `commit_every` in batches."""
    pipe = pipeline()
    conversations = [pipe.open(FakeLink()) for _ in range(clients)]
    makers = [frames(events, client=n + 1) for n in range(clients)]
    batches = max(clients, int(400_000 / events) // clients * clients)
    made = [
        (conversations[n % clients], makers[n % clients](n // clients + 1))
        for n in range(batches)
    ]
    started = time.process_time()
    for number, (conversation, frame) in enumerate(made, 1):
        conversation.receive(frame)
        if number % commit_every == 0:
            pipe.commit()
    pipe.commit()
    used = time.process_time() - started
    assert pipe.aggregator.events == batches * events
    return used / (batches * events) * 1e9


def rows() -> list[dict[str, Any]]:
    return [
        {
            "graph": "checkout",
            "node": f"node{number % NODES}",
            "seconds": 0.001 * (1 + number % 997),
            "outcome": "ok",
            "attempts": 1,
            "action": "default",
        }
        for number in range(BATCH)
    ]


def dict_loop() -> float:
    payload = msgpack.packb(rows())
    counts: dict[tuple[str, str], list[float]] = {}
    started = time.process_time()
    repeat = 20
    for _ in range(repeat):
        for row in msgpack.unpackb(payload):
            entry = counts.setdefault((row["graph"], row["node"]), [0, 0.0, 0.0, 9e9])
            seconds = row["seconds"]
            entry[0] += 1
            entry[1] += seconds
            entry[2] = max(entry[2], seconds)
            entry[3] = min(entry[3], seconds)
    return (time.process_time() - started) / (repeat * BATCH) * 1e9


def prometheus_client_loop() -> float:
    histogram = Histogram(
        "seconds", "s", ["graph", "node"], registry=CollectorRegistry()
    )
    children = {
        f"node{n}": histogram.labels(graph="checkout", node=f"node{n}")
        for n in range(NODES)
    }
    given = rows()
    started = time.process_time()
    for row in given:
        children[row["node"]].observe(row["seconds"])
    return (time.process_time() - started) / BATCH * 1e9


def main() -> None:
    tune_allocator()
    best = min(measure(BATCH, 1, 10) for _ in range(5))
    peers = {
        "msgpack rows, a dict loop": min(dict_loop() for _ in range(3)),
        "prometheus_client histogram": min(prometheus_client_loop() for _ in range(3)),
    }
    print(f"kaywatch agent, batches of {BATCH}: {best:.0f} ns CPU per event")
    for name, figure in peers.items():
        print(f"  {name}: {figure:.0f} ns, {figure / best:.1f} times as much")
    small = min(measure(20, 500, 500) for _ in range(3))
    share = small * 500 * 20 / 1e9
    print(
        f"500 clients with 20 events/s each: {small:.0f} ns per event,"
        f" {share:.1%} of a core"
    )


if __name__ == "__main__":
    main()
