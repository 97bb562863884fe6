"""Loads: batches over sockets to an agent, and statsd lines to a peer."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator

from kaywatch import wire
from kaywatch._send.broker import Broker, Dialect
from kaywatch._send.mqtt import MqttTransport
from kaywatch._send.packer import Packer
from kaywatch._send.session import WINDOW_BATCHES
from kaywatch.recorder import Recorder

__all__ = ["Clients", "NODES", "evenly", "sections", "statsd_packets"]

NODES = 50
ACK_TIMEOUT = 30.0


def sections(events: int, nodes: int = NODES) -> dict[str, object]:
    """Return a batch of executions that end now, as our client packs it."""
    recorder = Recorder()
    recorder.open_gate()
    for number in range(events):
        series = recorder.series("checkout", f"node{number % nodes}")
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


class Clients:
    """Connections to one agent that push batches of one size, and await the acks.

    They stand for so many processes; they pack nothing of their own meanwhile, so the
    load is cheaper to make than to take.
    """

    def __init__(
        self,
        path: str | Broker,
        clients: int,
        events: int,
        *,
        nodes: int = NODES,
        services: int = 1,
    ) -> None:
        """Connect.

        Args:
            path: the agent's socket, or the broker that it takes from.
            clients: how many.
            events: in each batch.
            nodes: of each service.
            services: that the clients are of, in turns.
        """
        self.events = events
        self._nodes = nodes
        self._connections = [
            _Connection(path, number, f"bench{number % services}")
            for number in range(clients)
        ]
        self._sections: dict[str, object] = {}
        self._packed_at = 0.0
        self._turn = 0

    def push(self) -> None:
        """Send the next client's batch."""
        now = time.monotonic()
        # Anew each second, so that executions end when they are sent, or nearly so.
        if now > self._packed_at + 1:
            self._sections, self._packed_at = sections(self.events, self._nodes), now
        self._connections[self._turn].push(self.events, self._sections)
        self._turn = (self._turn + 1) % len(self._connections)

    def settle(self) -> None:
        """Wait until all that was sent is committed."""
        for connection in self._connections:
            connection.ask()
        for connection in self._connections:
            connection.settle()

    def close(self) -> None:
        """Say goodbye, and hang up."""
        for connection in self._connections:
            connection.close()


class _Connection:
    def __init__(self, path: str | Broker, number: int, service: str) -> None:
        self._service = service
        self._client = struct.pack(">QQ", time.time_ns(), number)
        self._seq = 0
        self._acked = -1
        self._recorded = 0
        self._channel: _Socket | _Topics
        if isinstance(path, str):
            self._channel = _Socket(path)
        else:
            self._channel = _Topics(path, self._client)
        hello = wire.hello(
            client=self._client,
            service=service,
            host="bench",
            pid=0,
            start=time.time(),
            sdk="bench",
            tags={},
        )
        self._channel.send(hello)
        self.settle()

    def push(self, events: int, sections: dict[str, object]) -> None:
        if self._channel.window and self._seq - self._acked >= self._channel.window:
            self.ask()
            self.settle(self._seq - self._channel.window // 2)
        self._seq += 1
        self._recorded += events
        batch = wire.batch(
            client=self._client,
            seq=self._seq,
            sent=time.time(),
            service=self._service,
            recorded=self._recorded,
            sections=sections,
        )
        self._channel.send(batch)

    def ask(self) -> None:
        self._channel.send(wire.flush(self._client))

    def settle(self, seq: int | None = None) -> None:
        # What was acknowledged once is not again, however often one asks.
        while self._acked < (self._seq if seq is None else seq):
            message = self._channel.receive()
            assert message["type"] != "error", message
            if message["type"] == "ack":
                acked = message["seq"]
                assert isinstance(acked, int)
                self._acked = acked

    def close(self) -> None:
        self._channel.send(wire.bye(self._client, self._seq))
        self._channel.close()


class _Socket:
    """Carries the messages of one connection over a UNIX socket."""

    window = 0  # batches that may be under way; any number

    def __init__(self, path: str) -> None:
        self._received = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ACK_TIMEOUT)
        self._socket.connect(path)

    def send(self, message: bytes) -> None:
        self._socket.sendall(wire.frame(message))

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> dict[str, object]:
        while len(self._received) < 4 or len(self._received) < 4 + self._size():
            part = self._socket.recv(65_536)
            assert part, "the agent hung up"
            self._received += part
        end = 4 + self._size()
        message = bytes(self._received[4:end])
        del self._received[:end]
        return wire.decode(message)

    def _size(self) -> int:
        size: int = struct.unpack_from(">I", self._received)[0]
        return size


class _Topics:
    """Carries the messages of one client by way of a broker."""

    window = WINDOW_BATCHES

    def __init__(self, broker: Broker, client: bytes) -> None:
        self._transport = MqttTransport(broker, Dialect(), client)
        self._received: list[bytes] = []

    def send(self, message: bytes) -> None:
        self._transport.send(message)
        self._received += self._transport.pump(0.0)
        while self._transport.backlog:
            self._received += self._transport.pump(0.05)

    def close(self) -> None:
        self._transport.close()

    def receive(self) -> dict[str, object]:
        end = time.monotonic() + ACK_TIMEOUT
        while not self._received:
            self._received += self._transport.pump(0.05)
            assert time.monotonic() < end, "no answer"
        return wire.decode(self._received.pop(0))


def statsd_packets(port: int, per_packet: int) -> Callable[[], None]:
    """Return what sends the next packet of timers over UDP."""
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.connect(("127.0.0.1", port))
    packets = _packets(per_packet)

    def send() -> None:
        sending.send(next(packets))

    return send


def _packets(per_packet: int) -> Iterator[bytes]:
    lines = [
        f"node{number % NODES}:{1 + number % 997}|ms".encode()
        for number in range(NODES * 997)
    ]
    starts = range(0, len(lines) - per_packet + 1, per_packet)
    packets = [b"\n".join(lines[start : start + per_packet]) for start in starts]
    while True:
        yield from packets


def evenly(send: Callable[[], None], times: int, per_second: float) -> None:
    """Call `send` so many times, at an even pace."""
    started = time.monotonic()
    for number in range(times):
        ahead = started + number / per_second - time.monotonic()
        # Sleeping for less than this takes longer than it says.
        if ahead > 0.001:
            time.sleep(ahead)
        send()
