"""Those who watch what comes in: each gets copies, at no delay for those who send.

A copy waits in its observer's bounded queue while the connection is congested. Once
that is full, copies are left out and counted, and the observer is told how many.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from kaywatch import wire
from kaywatch._version import __version__
from kaywatch_agent.runtime.metrics import Counter, Gauge, Metrics

__all__ = ["Observed", "Mirror"]

# A hundred full batches: half a second at five million events a second.
MAX_WAITING: Final = 16 * 1024 * 1024

# Each costs a copy of all that comes in.
MAX_OBSERVERS: Final = 4

# What a copy is larger than its message, at most.
ENVELOPE: Final = 200

# Small copies go to the socket together: a system call costs more than a join.
CHUNK: Final = 256 * 1024


class Observed(Protocol):
    """What is needed of an observer's connection."""

    @property
    def congested(self) -> bool:
        """Whether it should be sent no more until it has read some."""

    def send(self, data: bytes) -> None:
        """Queue bytes for it."""


class _Queue:
    """What one observer has not been sent yet."""

    def __init__(self, link: Observed) -> None:
        self.missed = 0
        self._link = link
        self._waiting: deque[bytes] = deque()
        self._bytes = 0

    def room_for(self, size: int) -> bool:
        """Whether so many bytes more may be put."""
        return self._bytes + size <= MAX_WAITING

    def put(self, frame: bytes) -> None:
        """Send a frame, now or later."""
        if not self._waiting and not self._link.congested:
            self._link.send(frame)
        elif self.room_for(len(frame)):
            self._waiting.append(frame)
            self._bytes += len(frame)

    def pump(self) -> None:
        """Send what waits, as far as the connection takes it."""
        while self._waiting and not self._link.congested:
            chunk: list[bytes] = []
            size = 0
            while self._waiting and size < CHUNK:
                chunk.append(self._waiting.popleft())
                size += len(chunk[-1])
            self._bytes -= size
            self._link.send(b"".join(chunk))


class CaptureMetrics(Metrics):
    """What is counted of captures."""

    captures = Gauge("kaywatch_captures", "Captures under way now.")
    copied = Counter(
        "kaywatch_captured_messages_total", "Copies of messages handed to captures."
    )
    missed = Counter(
        "kaywatch_capture_missed_total",
        "Copies left out since a capture does not keep up.",
    )


class Mirror:
    """All that capture at the moment; false when nobody does."""

    def __init__(self) -> None:
        self._queues: dict[Observed, _Queue] = {}
        self.metrics = CaptureMetrics()
        self.metrics.captures.set_function(lambda: len(self._queues))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, link: Observed, now: float) -> str:
        """Take in an observer; return why not, if so."""
        if link in self._queues:
            return ""
        if len(self._queues) >= MAX_OBSERVERS:
            return f"{MAX_OBSERVERS} captures are under way already"
        self._queues[link] = _Queue(link)
        link.send(wire.frame(wire.captured(at=now, agent=__version__)))
        return ""

    def remove(self, link: Observed) -> None:
        """Drop an observer, if it is one."""
        self._queues.pop(link, None)

    def copy(self, message: bytes, connection: int, now: float) -> None:
        """Hand a message that came in to all observers."""
        for queue in self._queues.values():
            # Asked before the copy is made: one that is left out costs nothing.
            if not queue.room_for(len(message) + ENVELOPE):
                queue.missed += 1
                self.metrics.missed.add()
                continue
            copied = wire.captured(
                at=now, connection=connection, message=message, missed=queue.missed
            )
            queue.put(wire.frame(copied))
            self.metrics.copied.add()

    def ended(self, connection: int, now: float) -> None:
        """Say that a connection is gone."""
        for queue in self._queues.values():
            queue.put(wire.frame(wire.captured(at=now, connection=connection)))

    def tell(self, now: float) -> None:
        """Say once a second that the capture goes on, and what it has missed."""
        for queue in self._queues.values():
            queue.put(wire.frame(wire.captured(at=now, missed=queue.missed)))

    def resume(self, link: Observed) -> None:
        """An observer has read what it was sent."""
        queue = self._queues.get(link)
        if queue is not None:
            queue.pump()
