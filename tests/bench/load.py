"""Generate load: batches for an agent, statsd packets for a peer."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.agents import Agent

from kaywatch import wire
from kaywatch._send.broker import Broker, MqttVersion, PacketLimit
from kaywatch._send.mqtt import MqttTransport
from kaywatch._send.packer import Packer
from kaywatch._send.session import FLUSH_INTERVAL, WINDOW_BATCHES
from kaywatch.recorder import Recorder

__all__ = [
    "NODES",
    "ClientConnection",
    "Clients",
    "EventSource",
    "known_series_load",
    "open_channel",
    "send_evenly",
    "sections",
    "statsd_packets",
]

NODES = 50
ACK_TIMEOUT = 30.0
# For 10,000 series: the default limits allow 5,000 of one process.
LOAD_PROCESSES = 2

# Connects, passes the socket to the parent, and runs until the client closes stdin.
CONNECT_SCRIPT = """
import socket, sys
connected = socket.socket(socket.AF_UNIX)
connected.connect(sys.argv[1])
with socket.socket(fileno=int(sys.argv[2])) as parent:
    socket.send_fds(parent, [b"."], [connected.fileno()])
sys.stdin.read()
"""


LETTERS = str.maketrans("0123456789", "abcdefghij")


class EventSource:
    """Records executions of some nodes in rotation, and packs them as our client does.

    One of 50 executions fails. The packed batches share a table of all nodes.
    """

    def __init__(self, nodes: Iterable[int]) -> None:
        """Start without executions; `nodes` are the numbers of the nodes."""
        self._recorder = Recorder()
        self._recorder.open()
        # Numbers of more than 50 nodes would be folded as those of requests.
        self._series = [
            self._recorder.series("checkout", f"node{number}".translate(LETTERS))
            for number in nodes
        ]
        self._packer = Packer(self._recorder)
        self._recorded = 0

    def take(self, events: int) -> dict[str, object]:
        """Return a batch of executions that end now."""
        for number in range(self._recorded, self._recorded + events):
            failed = number % 50 == 0
            self._series[number % len(self._series)].record(
                0.001 * (1 + number % 997),
                int(failed),
                1 + number % 20 // 19,
                "default",
                ("ValueError", "exec") if failed else None,
            )
        self._recorded += events
        batch = self._packer.take()
        assert batch is not None
        return batch.sections


def sections(events: int, nodes: int = NODES) -> dict[str, object]:
    """Return a batch of executions that end now, in a table of its own."""
    return EventSource(range(min(events, nodes))).take(events)


class Clients:
    """Connections to one agent that push batches of one size, and wait for acks.

    Each connection represents one process. All send the same packed batch, so
    generating the load costs less than receiving it.
    """

    def __init__(
        self,
        path: str | Broker,
        clients: int,
        events: int,
        *,
        nodes: int = NODES,
        services: int = 1,
        processes: bool = False,
    ) -> None:
        """Connect.

        Args:
            path: the agent's socket, or the broker that the agent reads from.
            clients: the number of connections.
            events: the number of events per batch.
            nodes: the number of nodes per service.
            services: the number of services, assigned to clients in rotation.
            processes: whether each connection belongs to a process of its own, because
                the agent's limits are per process; otherwise all belong to this one.
        """
        self.events = events
        self._nodes = nodes
        self._connections = [
            ClientConnection(open_channel(path, number, processes), number, services)
            for number in range(clients)
        ]
        for connection in self._connections:
            connection.settle()
        self._sections: dict[str, object] = {}
        self._packed_at = 0.0
        self._turn = 0

    def push(self) -> None:
        """Send the next client's batch."""
        now = time.monotonic()
        # Packed again every second, so that executions end just before they are sent.
        if now > self._packed_at + 1:
            self._sections, self._packed_at = sections(self.events, self._nodes), now
        self._connections[self._turn].push(self.events, self._sections)
        self._turn = (self._turn + 1) % len(self._connections)

    def settle(self) -> None:
        """Wait until all sent batches are committed."""
        for connection in self._connections:
            connection.ask()
        for connection in self._connections:
            connection.settle()

    def close(self) -> None:
        """Send `bye` and disconnect."""
        for connection in self._connections:
            connection.close()


@contextlib.contextmanager
def known_series_load(agent: Agent, series: int) -> Iterator[Callable[[int], None]]:
    """Register series with an agent; yield a function that pushes all each second."""
    clients, each = LOAD_PROCESSES, series // LOAD_PROCESSES
    load = Clients(
        agent.socket, clients, each, nodes=each, services=clients, processes=True
    )
    with contextlib.closing(load):
        send_evenly(load.push, 2 * clients, clients)
        load.settle()
        overflow = agent.executions().get("__other__", 0)
        assert not overflow, f"{overflow:,} executions are counted under __other__"
        yield lambda seconds: send_evenly(load.push, clients * seconds, clients)


def open_channel(
    path: str | Broker, number: int, process: bool = False
) -> _Socket | _Topics:
    client = struct.pack(">QQ", time.time_ns(), number)
    if isinstance(path, Broker):
        return _Topics(path, client)
    return _SocketOfProcess(path, client) if process else _Socket(path, client)


class ClientConnection:
    """The session of one simulated client, which sends its hello at once.

    Attributes:
        interval: seconds between two batches, as the agent last asked for.
    """

    def __init__(self, channel: _Socket | _Topics, number: int, services: int) -> None:
        self._service = f"bench{number % services}"
        self._client = channel.client
        self._seq = 0
        self._acked = -1
        self._recorded = 0
        self.interval = FLUSH_INTERVAL
        self._channel = channel
        hello = wire.hello(
            client=self._client,
            service=self._service,
            host="bench",
            pid=0,
            start=time.time(),
            sdk="bench",
            tags={},
        )
        self._channel.send(hello)

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
        # The agent does not acknowledge a batch twice, even if asked.
        expected, end = (
            self._seq if seq is None else seq,
            time.monotonic() + ACK_TIMEOUT,
        )
        while self._acked < expected:
            self._handle(self._channel.receive())
            late = f"no ack of {expected} within {ACK_TIMEOUT} s, only of {self._acked}"
            assert time.monotonic() < end, late

    def handle_received(self) -> None:
        """Handle the messages that have arrived; do not wait for any."""
        while (message := self._channel.receive_now()) is not None:
            self._handle(message)

    def _handle(self, message: dict[str, Any]) -> None:
        assert message["type"] != "error", message
        if message["type"] == "ack":
            self._acked = message["seq"]
        elif message["type"] == "slow":
            self.interval = max(FLUSH_INTERVAL, message["seconds"])

    def close(self) -> None:
        self._channel.send(wire.bye(self._client, self._seq))
        self._channel.close()


class _Socket:
    """Carries the messages of one connection over a UNIX socket."""

    window = 0  # the maximum number of unacknowledged batches; 0: no limit

    def __init__(self, path: str, client: bytes) -> None:
        self.client = client
        self._received = bytearray()
        self._socket = self._connect(path)
        self._socket.settimeout(ACK_TIMEOUT)

    def _connect(self, path: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
        return connection

    def send(self, message: bytes) -> None:
        self._socket.sendall(wire.frame(message))

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> dict[str, Any]:
        while (message := self._next()) is None:
            self._read()
        return message

    def receive_now(self) -> dict[str, Any] | None:
        """Return the next message if it has arrived."""
        if (message := self._next()) is None:
            self._socket.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                self._read()
            self._socket.settimeout(ACK_TIMEOUT)
            message = self._next()
        return message

    def _read(self) -> None:
        part = self._socket.recv(65_536)
        assert part, "the agent disconnected"
        self._received += part

    def _next(self) -> dict[str, Any] | None:
        if len(self._received) < 4 or len(self._received) < 4 + self._size():
            return None
        end = 4 + self._size()
        message = bytes(self._received[4:end])
        del self._received[:end]
        return wire.decode(message)

    def _size(self) -> int:
        size: int = struct.unpack_from(">I", self._received)[0]
        return size


class _SocketOfProcess(_Socket):
    """A connection that the kernel attributes to another process."""

    def _connect(self, path: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(ACK_TIMEOUT)
            command = [sys.executable, "-I", "-S", "-c", CONNECT_SCRIPT, path]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            _, (number,), _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=number)

    def close(self) -> None:
        super().close()
        self._process.communicate(timeout=ACK_TIMEOUT)


class _Topics:
    """Carries the messages of one client over a broker."""

    window = WINDOW_BATCHES

    def __init__(self, broker: Broker, client: bytes) -> None:
        self.client = client
        self._transport = MqttTransport(broker, MqttVersion(), PacketLimit(), client)
        self._received: list[bytes] = []

    def send(self, message: bytes) -> None:
        self._transport.send(message)
        self._take(0.0)
        end = time.monotonic() + ACK_TIMEOUT
        while self._transport.backlog:
            self._take(0.05)
            assert time.monotonic() < end, "the broker accepts nothing"

    def close(self) -> None:
        self._transport.close()

    def receive(self) -> dict[str, Any]:
        end = time.monotonic() + ACK_TIMEOUT
        while not self._received:
            self._take(0.05)
            assert time.monotonic() < end, "no reply"
        return wire.decode(self._received.pop(0))

    def receive_now(self) -> dict[str, Any] | None:
        """Return the next message if it has arrived."""
        self._take(0.0)
        return wire.decode(self._received.pop(0)) if self._received else None

    def _take(self, seconds: float) -> None:
        """Take the agent's messages; ignore changes of its status."""
        received = self._transport.receive(seconds)
        self._received += [one for one in received if isinstance(one, bytes)]


def statsd_packets(port: int, per_packet: int) -> Callable[[], None]:
    """Return a function that sends the next packet of timers over UDP."""
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


def send_evenly(send: Callable[[], None], times: int, per_second: float) -> None:
    """Call `send` a number of times, at an even rate."""
    started = time.monotonic()
    for number in range(times):
        ahead = started + number / per_second - time.monotonic()
        # Shorter sleeps take longer than requested.
        if ahead > 0.001:
            time.sleep(ahead)
        send()
