"""Copy incoming messages to captures, without delaying the senders.

A copy waits in its capture's bounded queue while the connection is congested. When the
queue is full, copies are dropped and counted; the capture receives the count.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from kaywatch import wire
from kaywatch._version import __version__
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = ["CaptureConnection", "Mirror"]

# A hundred full batches: half a second at five million events per second.
MAX_WAITING: Final = 16 * 1024 * 1024

# Each capture costs a copy of every incoming message.
MAX_CAPTURES: Final = 4

# A copy exceeds its message by at most this many bytes.
ENVELOPE: Final = 200

# Small copies go to the socket together: a system call costs more than a join.
CHUNK: Final = 256 * 1024


class CaptureConnection(Protocol):
    """The connection over which a capture receives its copies."""

    @property
    def congested(self) -> bool:
        """Whether the peer must read before more is sent."""

    def send(self, data: bytes) -> None:
        """Queue bytes for the peer."""


class _CopyQueue:
    """The copies that have not been sent to one capture yet."""

    def __init__(self, connection: CaptureConnection) -> None:
        self.missed = 0
        self._connection = connection
        self._waiting: deque[bytes] = deque()
        self._bytes = 0

    def room_for(self, size: int) -> bool:
        """Whether the queue has room for `size` more bytes."""
        return self._bytes + size <= MAX_WAITING

    def put(self, frame: bytes) -> None:
        """Send a frame, now or when the connection is no longer congested."""
        if not self._waiting and not self._connection.congested:
            self._connection.send(frame)
        elif self.room_for(len(frame)):
            self._waiting.append(frame)
            self._bytes += len(frame)

    def drain(self) -> None:
        """Send queued frames until the connection is congested."""
        while self._waiting and not self._connection.congested:
            chunk: list[bytes] = []
            size = 0
            while self._waiting and size < CHUNK:
                chunk.append(self._waiting.popleft())
                size += len(chunk[-1])
            self._bytes -= size
            self._connection.send(b"".join(chunk))


class CaptureMetrics(Metrics):
    """Metrics of captures."""

    captures = Gauge("kaywatch_captures", "Captures in progress.")
    copied = Counter(
        "kaywatch_captured_messages_total", "Copies of messages queued for captures."
    )
    missed = Counter(
        "kaywatch_capture_missed_total",
        "Copies dropped because a capture does not keep up.",
    )


class Mirror:
    """All captures in progress; false if there are none."""

    def __init__(self) -> None:
        self._queues: dict[CaptureConnection, _CopyQueue] = {}
        self.metrics = CaptureMetrics()
        self.metrics.captures.set_function(lambda: len(self._queues))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, connection: CaptureConnection, now: float) -> str:
        """Start a capture; return the reason for a refusal, or an empty string."""
        if connection in self._queues:
            return ""
        if len(self._queues) >= MAX_CAPTURES:
            return f"{MAX_CAPTURES} captures are in progress, which is the maximum"
        self._queues[connection] = _CopyQueue(connection)
        connection.send(wire.frame(wire.captured(at=now, agent=__version__)))
        return ""

    def remove(self, connection: CaptureConnection) -> None:
        """End the capture of a connection, if it has one."""
        self._queues.pop(connection, None)

    def copy(self, message: bytes, connection: int, now: float) -> None:
        """Copy a message to all captures."""
        for queue in self._queues.values():
            # Checked before the copy is made, so that a dropped copy costs nothing.
            if not queue.room_for(len(message) + ENVELOPE):
                queue.missed += 1
                self.metrics.missed.add()
                continue
            copied = wire.captured(
                at=now, connection=connection, message=message, missed=queue.missed
            )
            queue.put(wire.frame(copied))
            self.metrics.copied.add()

    def copy_end(self, connection: int, now: float) -> None:
        """Report the end of a connection to all captures."""
        for queue in self._queues.values():
            queue.put(wire.frame(wire.captured(at=now, connection=connection)))

    def send_heartbeat(self, now: float) -> None:
        """Send the number of dropped copies, which also keeps the capture alive."""
        for queue in self._queues.values():
            queue.put(wire.frame(wire.captured(at=now, missed=queue.missed)))

    def resume(self, connection: CaptureConnection) -> None:
        """Send more copies over a connection that is no longer congested."""
        queue = self._queues.get(connection)
        if queue is not None:
            queue.drain()
