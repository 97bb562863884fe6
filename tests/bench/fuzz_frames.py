"""Push mutated frames through a session, and print how they were handled.

    python -m tests.bench.fuzz_frames [frames] [seed]

Each frame must count as exactly one message, without an exception or a long delay. A
valid client on the same connection must be served normally between them.
"""

from __future__ import annotations

import collections
import random
import resource
import struct
import sys
import time
import warnings
from typing import Any

import msgpack
from tests.agent.protocol.fakes import Agent, Conversation, Counted
from tests.flights import Endless

from kaywatch import wire
from kaywatch._send.packer import Packer
from kaywatch.recorder import Failure, Recorder, Topology

FRAMES = 1_000_000
PROBE_EVERY = 1_000
TICK_EVERY = 10_000
CLIENT = bytes(range(16))
PROBE = b"the valid client"
REPLACEMENTS = (
    b"\xc0\xc1\xc4\xc6\xca\xcb\xcf\xd3\xd9\xdb\xdc\xdd\xde\xdf\x80\x90\xa0\xff"
)


class FakePeer:
    pid = 1
    uid = 1
    started = 0.0
    trusted = False

    def has_exited(self) -> bool:
        return True

    def sample(self) -> None:
        return None

    def close(self) -> None: ...


class FakeLink:
    """Keeps the replies, and whether the connection was closed."""

    def __init__(self) -> None:
        self.peer = FakePeer()
        self.backlog = 0
        self.closed = False
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True


def pack_columns(events: int) -> bytes:
    """Return a batch with all sections, packed by our client."""
    recorder = Recorder()
    recorder.open()
    for number in range(events):
        series = recorder.series("checkout", f"node{number % 7}")
        error = ("ValueError", "exec") if number % 5 == 0 else None
        series.record(0.01 * number, int(error is not None), 1 + number % 3, "a", error)
        usual = series.number, time.time(), 0.5, 0, 1, "a", None
        recorder.pending.phased.record((*usual, 0.1, 0.2, 0.1, number))
        recorder.point("observe", "size", "checkout", "", {"shop": "de"})(number)
    recorder.run_ended("checkout", 1.5, 0, "no_successors", "node6", "a", 7)
    recorder.add_failure(
        Failure(1.5, "checkout", "node0", "E", "why", "exec", 1, 1, "r-1")
    )
    recorder.add_topology(Topology("checkout", "node0", ("node0", "node1"), ()))
    recorder.in_flight.add(Endless("checkout", "node1", time.time()))
    batch = Packer(recorder).take()
    assert batch is not None
    # Without a sequence number; otherwise all but the first would be duplicates.
    return wire.pack({"type": "batch", "service": "fuzz", **batch.sections})


def batch(client: bytes, seq: int, sections: dict[str, object]) -> bytes:
    return wire.batch(
        client=client,
        seq=seq,
        sent=time.time(),
        service="fuzz",
        recorded=seq,
        sections=sections,
        drops={"buffer_full": 1},
    )


def sound_messages() -> list[bytes]:
    """Return one valid message of each type, the interesting ones several times."""
    row = {"graph": "checkout", "node": "pay", "seconds": 0.5, "outcome": "ok"}
    point = {"metric": "size", "value": 3.5, "labels": {"shop": "de"}}
    hello = wire.hello(
        client=CLIENT,
        service="fuzz",
        host="web1",
        pid=12,
        start=1.5,
        sdk="fuzz/1",
        tags={"release": "r7"},
    )
    rows = wire.pack({"type": "batch", "service": "fuzz", "events": [row, point, row]})
    return [
        *(pack_columns(1), pack_columns(5), pack_columns(40), rows, rows, hello),
        batch(CLIENT, 1, {"events": [row]}),
        *(wire.flush(CLIENT), wire.bye(CLIENT, 3, {"unpackable": 1})),
    ]


def mutate(sound: list[bytes], chance: random.Random) -> bytes:
    """Return a message with some bytes changed, removed, repeated or replaced."""
    data = bytearray(chance.choice(sound))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(8)
        if kind == 0:
            data[at : at + 1] = bytes((chance.randrange(256),))
        elif kind == 1:
            del data[at : at + chance.randint(1, 16)]
        elif kind == 2:
            data[at:at] = data[at : at + chance.randint(1, 32)]
        elif kind == 3:
            data[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 4:
            data[at : at + 1] = bytes((chance.choice(REPLACEMENTS),))
        elif kind == 5:
            data[at : at + 8] = struct.pack("<d", chance.choice(FLOATS))
        elif kind == 6:
            other = chance.choice(sound)
            start = chance.randrange(len(other))
            data[at : at + 8] = other[start : start + chance.randint(1, 64)]
        elif at < len(data):
            data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


FLOATS = (0.0, -0.0, -1.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 1e18)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"), "", "x" * 300),
    *(b"", CLIENT, [], [[]], {}, {"": None}, [1, "a", b"b"], {"series": b"\0\0"}),
)


def replace_value(sound: list[bytes], chance: random.Random) -> bytes:
    """Return valid msgpack with one value replaced."""
    message = wire.decode(chance.choice(sound))
    packed: bytes = msgpack.packb(alter(message, chance), use_bin_type=True)
    return packed


def alter(value: Any, chance: random.Random) -> Any:
    """Return a value with one part removed or replaced, at any depth."""
    if chance.random() < 0.1:
        return chance.choice(VALUES)
    if isinstance(value, dict) and value:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if key == "table":
            table = alter(msgpack.unpackb(value[key]), chance)
            return {**value, key: msgpack.packb(table, use_bin_type=True)}
        return {**value, key: alter(value[key], chance)}
    if isinstance(value, list) and value:
        at = chance.randrange(len(value))
        return [*value[:at], alter(value[at], chance), *value[at + 1 :]]
    if isinstance(value, bytes) and value:
        return mutate([value], chance)
    if isinstance(value, float):
        return chance.choice(FLOATS)
    return chance.choice(VALUES)


class Fuzz:
    """One agent with one connection at a time, and the expected counts."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = time.time()
        self.agent = Agent(clock=lambda: self.now)
        self.pipeline = self.agent.pipeline
        self.link = FakeLink()
        self.conversation: Conversation = self.agent.open(self.link)
        self.sound = sound_messages()
        self.messages = 0  # the expected count
        self.slowest = 0.0
        self.probes = 0

    def frame(self) -> None:
        """Push one hostile frame, sometimes in pieces."""
        make = self.chance.choice((replace_value, mutate))
        frame = wire.frame(make(self.sound, self.chance))
        cut = self.chance.randrange(len(frame)) if self.chance.random() < 0.1 else 0
        started = time.thread_time()
        if cut:
            self.conversation.receive(frame[:cut])
        self.conversation.receive(frame[cut:])
        self.slowest = max(self.slowest, time.thread_time() - started)
        self.messages += 1

    def probe(self) -> None:
        """Check that a valid client is served on the fuzzed connection."""
        self.probes += 1
        assert not self.link.closed
        self.link.sent.clear()
        sections: dict[str, object] = {"events": [{"node": "n", "seconds": 1}]}
        self.conversation.receive(wire.frame(batch(PROBE, self.probes, sections)))
        self.agent.commit()
        self.messages += 1
        client = self.pipeline.clients.get(PROBE.hex())
        assert client is not None
        assert client.events == self.probes
        assert wire.frame(wire.ack(self.probes, PROBE)) in self.link.sent

    def tick(self) -> None:
        """Advance by a second, and open a new connection."""
        self.now += 1
        started = time.thread_time()
        self.agent.tick()
        self.agent.committed.clear()  # otherwise the stand-in dominates the peak
        self.slowest = max(self.slowest, time.thread_time() - started)
        self._out_of_step()
        self.conversation.close()
        self.link = FakeLink()
        self.conversation = self.agent.open(self.link)

    def _out_of_step(self) -> None:
        """End the connection with an oversized frame, noise, and unframed bytes."""
        oversized = wire.frame(bytes(wire.MAX_FRAME + 1))
        noise = self.chance.randbytes(1_000)
        self.conversation.receive(oversized + wire.frame(noise) + b"GET / HTTP/1.1\r\n")
        self.messages += 3
        assert self.link.closed
        # Data that still arrives is ignored.
        self.conversation.receive(noise)

    def counted(self) -> int:
        """Return the number of messages that the agent has counted."""
        return int(self.agent.telemetry.total("kaywatch_messages_total"))


def count_by_label(telemetry: Counted, name: str) -> dict[str, int]:
    for metric, values in telemetry.collect():
        if metric.name == name:
            return {labels[0]: int(count) for labels, count in sorted(values.items())}
    return {}


def main() -> None:
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else FRAMES
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    warned: collections.Counter[str] = collections.Counter()
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_: warned.update([str(message)])
    fuzz = Fuzz(seed)
    started = time.process_time()
    for number in range(1, frames + 1):
        fuzz.frame()
        if number % PROBE_EVERY == 0:
            fuzz.probe()
        if number % TICK_EVERY == 0:
            fuzz.tick()
    fuzz.tick()
    used = time.process_time() - started
    assert fuzz.counted() == fuzz.messages, (fuzz.counted(), fuzz.messages)
    telemetry = fuzz.agent.telemetry
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{frames:,} frames in {used:.0f} s CPU, {frames / used:,.0f} a second")
    print(f"  (including their creation); seed {seed}, peak {peak} MB,")
    print(f"  slowest frame: {fuzz.slowest * 1e3:.1f} ms")
    print(f"messages: {count_by_label(telemetry, 'kaywatch_messages_total')}")
    print(f"rejected: {count_by_label(telemetry, 'kaywatch_rejected_total')}")
    print(f"events accepted: {int(telemetry.get('kaywatch_events_total')):,}")
    print(f"clients: {len(fuzz.pipeline.clients):,}")
    print(f"valid batches in between, all acknowledged: {fuzz.probes:,}")
    print(f"warnings: {dict(warned)}")


if __name__ == "__main__":
    main()
