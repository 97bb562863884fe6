"""Receivers for the client libraries: each accepts everything, in a thread."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.agents import free_port

__all__ = ["Datagrams", "datagrams", "otlp", "scraping"]

SCRAPE_INTERVAL = 1.0  # seconds


class Datagrams:
    """A bound datagram socket that counts the received events."""

    def __init__(self, bound: socket.socket, address: str) -> None:
        self.address = address
        self.lines = 0
        self._socket = bound
        self._socket.settimeout(0.1)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        """Read the remaining datagrams, and stop."""
        self._done.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        buffer = bytearray(65_536)
        while True:
            try:
                size = self._socket.recv_into(buffer)
            except TimeoutError:
                if self._done.is_set():
                    return
                continue
            # The client library's own telemetry is not counted.
            if not buffer.startswith(b"datadog.dogstatsd.client"):
                self.lines += buffer.count(b"\n", 0, size - 1) + 1


@contextlib.contextmanager
def datagrams(path: Path | None = None) -> Iterator[Datagrams]:
    """Listen at a UNIX socket, or without a path at a UDP port."""
    family = socket.AF_INET if path is None else socket.AF_UNIX
    bound = socket.socket(family, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0) if path is None else str(path))
    name = bound.getsockname()
    receiver = Datagrams(bound, name if path else f"{name[0]}:{name[1]}")
    try:
        yield receiver
    finally:
        receiver.close()


class Collector(BaseHTTPRequestHandler):
    """Answers every OTLP export with success: an empty message."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def otlp() -> Iterator[str]:
    """Listen for OTLP over HTTP."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def scraping(address: str = "") -> Iterator[str]:
    """Scrape every second, as Prometheus does.

    Args:
        address: the server; by default a free port, scraped once a server listens.
    """
    address = address or f"127.0.0.1:{free_port()}"
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(SCRAPE_INTERVAL):
            # The server may be starting or stopping.
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(address, timeout=5)
                connection.request("GET", "/metrics")
                connection.getresponse().read()
                connection.close()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield address
    finally:
        done.set()
        thread.join()
