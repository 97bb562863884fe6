"""Measure MQTT: compare a broker with the socket, and an agent with junk on its topics.

Broker and agent are real, in their own processes. CPU is that of the agent only.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from functools import partial

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from tests.agents import Agent, running_agent
from tests.bench.bench_agent import agent_pid
from tests.bench.daemons import Load
from tests.bench.load import Clients
from tests.bench.report import OURS, Row, missing_figure, summarize
from tests.bench.rounds import Effort, Measurements, interleave
from tests.bench.usage import cpu_seconds
from tests.brokers import Mosquitto, run_broker
from tests.mqtt import agent_at
from tests.servers import find

from kaywatch._send.broker import Broker, parse

BATCHES = {5_000: 5_000_000, 50: 100_000}  # size: total events
CLIENTS = 4
JUNK_PER_SECOND = 1_000
JUNK_SECONDS = 10
SOCKET = "over the UNIX socket"


@contextlib.contextmanager
def run_agent(by_broker: bool) -> Iterator[tuple[Agent, str | Broker]]:
    """Run an agent; yield it and the address to push to."""
    if not by_broker:
        with running_agent(fork=False) as agent:
            yield agent, agent.socket
        return
    with run_broker() as broker, agent_at(broker) as agent:
        yield agent, parse(broker.access().url("kaywatch"))


def measure_load(by_broker: bool, batch: int, events: int) -> tuple[Load, float]:
    """Return the agent's load, and events per second of wall-clock time."""
    with run_agent(by_broker) as (agent, where):
        clients = Clients(where, CLIENTS, batch)
        clients.settle()
        cpu, started = cpu_seconds(agent_pid(agent)), time.monotonic()
        batches = max(1, events // batch)
        for _ in range(batches):
            clients.push()
        clients.settle()
        took = time.monotonic() - started
        used = cpu_seconds(agent_pid(agent)) - cpu
        clients.close()
        received = sum(agent.executions().values())
    sent = batches * batch
    load = Load(used / received * 1e9, used / took * 100, 1 - received / sent)
    return load, received / took


class JunkPublisher:
    """Publishes random payloads on random and on real topics below the prefix."""

    def __init__(self, port: int, per_second: float) -> None:
        self._stop = threading.Event()
        self._per_second = per_second
        self.sent = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def _run(self) -> None:
        rng = random.Random(1)
        started = time.monotonic()
        while not self._stop.is_set():
            due = (time.monotonic() - started) * self._per_second
            while self.sent < due:
                name = rng.choice((f"{rng.getrandbits(128):032x}", "cron", "agent"))
                leaf = rng.choice(("up", "rows", "gone", "down", "x"))
                payload = rng.randbytes(rng.choice((0, 10, 200, 2_000)))
                self._client.publish(f"kaywatch/v1/{name}/{leaf}", payload, qos=1)
                self.sent += 1
            self._stop.wait(0.01)


def measure_with_junk(per_second: float, seconds: float) -> Measurements:
    """Return the agent's CPU and the duration of a flush, with junk messages."""
    with run_broker() as broker, agent_at(broker) as agent:
        assert isinstance(broker, Mosquitto)
        clients = Clients(parse(broker.access().url("kaywatch")), 1, 50)
        junk = JunkPublisher(broker.port, per_second) if per_second else None
        cpu, started, flushes = cpu_seconds(agent_pid(agent)), time.monotonic(), []
        pushed = 0
        while time.monotonic() < started + seconds:
            before = time.monotonic()
            clients.push()
            pushed += clients.events
            clients.settle()
            flushes.append(time.monotonic() - before)
            time.sleep(0.05)
        took = time.monotonic() - started
        used = cpu_seconds(agent_pid(agent)) - cpu
        if junk is not None:
            junk.close()
        clients.close()
        assert sum(agent.executions().values()) == pushed
    flushes.sort()
    return {"core": used / took * 100, "flush": flushes[len(flushes) // 2] * 1e3}


def measure(effort: Effort) -> list[Row]:
    """Return the rows of MQTT."""
    if find("mosquitto") is None and os.environ.get("CI") != "true":
        missing = missing_figure(OURS, "mosquitto is not installed")
        return [Row("agent CPU per event over MQTT", "ns", missing)]
    rows = []
    for size, events in BATCHES.items():
        measurements = interleave(
            effort.rounds,
            {
                by_broker: partial(
                    measure_load, by_broker, size, effort.of(events, 2 * size)
                )
                for by_broker in (True, False)
            },
        )
        loads = {
            way: [load.cpu_ns for load, _ in measurements[way]] for way in measurements
        }
        lost = max(load.lost for load, _ in measurements[True])
        rows.append(
            Row(
                f"agent CPU per event over MQTT, batches of {size:,}",
                "ns",
                summarize(OURS, loads[True], f"{lost:.2%} lost"),
                peers=(summarize(SOCKET, loads[False]),),
            )
        )
        rates = {way: [rate for _, rate in measurements[way]] for way in measurements}
        rows.append(
            Row(
                f"throughput over MQTT, {CLIENTS} clients, batches of {size:,}",
                "events/s",
                summarize(OURS, rates[True]),
                peers=(summarize(SOCKET, rates[False]),),
            )
        )
    seconds = JUNK_SECONDS * max(effort.share, 0.05)
    quiet = "without junk"
    junk_samples = interleave(
        effort.rounds,
        {
            OURS: partial(measure_with_junk, JUNK_PER_SECOND, seconds),
            quiet: partial(measure_with_junk, 0, seconds),
        },
    )
    for key, what, unit in (
        ("core", "agent CPU", "% of a core"),
        ("flush", "flush of a client", "ms"),
    ):
        samples = {who: [one[key] for one in junk_samples[who]] for who in junk_samples}
        rows.append(
            Row(
                f"{what} with {JUNK_PER_SECOND:,} junk messages/s",
                unit,
                summarize(OURS, samples[OURS]),
                peers=(summarize(quiet, samples[quiet]),),
            )
        )
    return rows
