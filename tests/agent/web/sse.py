"""A stream of server-sent events, read by hand."""

from __future__ import annotations

import socket

from tests.agent.web.serving import Served
from tests.agents import DEADLINE


class EventReader:
    """One stream; `buffer` bytes wait for it, by default many."""

    def __init__(self, served: Served, path: str, buffer: int = 0) -> None:
        self.connection = socket.socket()
        if buffer:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.connection.settimeout(DEADLINE)
        self.connection.connect((served.host, served.port))
        self.connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        self._file = self.connection.makefile("rb")

    def headers(self) -> list[bytes]:
        """Return the status line and the headers."""
        return list(iter(lambda: self._file.readline().strip(), b""))

    def block(self) -> dict[str, str]:
        """Return the fields of the next event; none at the end."""
        fields = {}
        for line in iter(self._file.readline, b""):
            if line == b"\n":
                return fields
            name, _, value = line.decode().rstrip("\n").partition(":")
            fields[name] = value.removeprefix(" ")
        return fields

    def close(self) -> None:
        self._file.close()
        self.connection.close()
