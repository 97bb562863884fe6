"""A way to a server on 127.0.0.1 that can be cut, frozen and healed, for tests."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator

from tests.agents import free_port
from tests.brokers import HOST

__all__ = ["Way", "way_to"]

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: close sends a reset

# MQTT's CONNECT: its type, a length of one or two bytes, and the name with the version.
CONNECT = 0x10
NAME = b"\x00\x04MQTT\x05"
UNKNOWN_VERSION = b"\x20\x02\x00\x01"  # a CONNACK as 3.1.1 has it


class Way:
    """Forwards connections until a test cuts them."""

    def __init__(self, port: int, only_old: bool = False) -> None:
        """Begin to forward.

        Args:
            port: where to.
            only_old: refuse MQTT 5, as a broker does that knows 3.1.1 alone.
        """
        self.port = free_port()
        self.accepted = 0
        self._to = port
        self._only_old = only_old
        self._lock = threading.Lock()
        self._frozen = False
        self._listening: socket.socket | None = None
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self.restore()

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        with self._lock:
            listening, self._listening = self._listening, None
            pairs, self._pairs = self._pairs, set()
        if listening is not None:
            # `close` alone would leave the thread in its `accept`.
            listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):  # it has just ended by itself
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    end.shutdown(socket.SHUT_RD)

    def freeze(self) -> None:
        """Forward nothing, without closing connections."""
        self._frozen = True

    def restore(self) -> None:
        """Forward again. Idempotent."""
        self._frozen = False
        if self._listening is None:
            self._listening = socket.create_server((HOST, self.port), backlog=1024)
            threading.Thread(
                target=self._accept, args=(self._listening,), daemon=True
            ).start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._forward, args=(near,), daemon=True).start()

    def _forward(self, near: socket.socket) -> None:
        with near, socket.socket() as far:
            try:
                far.connect((HOST, self._to))
            except OSError:
                return
            pair = (near, far)
            with self._lock:
                if self._listening is None:
                    return
                self._pairs.add(pair)
            with contextlib.suppress(OSError):
                self._copy(near, far)
            with self._lock:
                self._pairs.discard(pair)

    def _copy(self, near: socket.socket, far: socket.socket) -> None:
        if self._only_old:
            first = near.recv(65_536)
            if first[:1] == bytes([CONNECT]) and NAME in first[:12]:
                near.sendall(UNKNOWN_VERSION)
                return
            far.sendall(first)
        other = {near: far, far: near}
        while True:
            readable, _, _ = select.select([near, far], [], [], 0.05)
            if self._frozen:
                threading.Event().wait(0.05)
                continue
            for end in readable:
                data = end.recv(65_536)
                if not data:
                    return
                other[end].sendall(data)


@contextlib.contextmanager
def way_to(port: int, only_old: bool = False) -> Iterator[Way]:
    """Forward a port to another within the block."""
    way = Way(port, only_old)
    try:
        yield way
    finally:
        way.cut()
