"""The UNIX socket's client side, which never blocks."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaywatch import ConfigurationError, wire
from kaywatch._send.transport import UnixTransport, candidates, check_unix


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        yield str(Path(folder) / "s")


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        yield listening


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ("/run/kaywatch.sock", "unknown scheme ''"),
        ("http://localhost", "unknown scheme 'http'"),
        ("unix://run/kaywatch.sock", "three slashes"),
        ("unix:relative", "absolute"),
        ("unix:///" + "x" * 120, "at most 107 bytes, not 121"),
    ],
)
def test_invalid_endpoint_is_rejected_with_the_fix(endpoint: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        check_unix(endpoint)


def test_system_socket_is_tried_before_the_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/x")
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert list(candidates(None)) == [
        "/run/kaywatch/ingest.sock",
        "/x/kaywatch/ingest.sock",
        "/h/.local/state/kaywatch/ingest.sock",
    ]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert list(candidates(None))[1].startswith(f"/run/user/{os.geteuid()}/")
    assert list(candidates("unix:///y/s")) == ["/y/s"]


def test_missing_socket_is_an_os_error(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        UnixTransport(path)


def test_messages_are_framed_in_both_directions(
    path: str, listener: socket.socket
) -> None:
    transport = UnixTransport(path)
    agent, _ = listener.accept()
    with agent:
        transport.send(b"hello")
        transport.receive(0.0)
        assert agent.recv(100) == b"\x00\x00\x00\x05hello"
        assert transport.backlog == 0

        frames = wire.frame(b"one") + wire.frame(b"") + wire.frame(b"three")
        received = []
        for position in range(len(frames)):
            agent.sendall(frames[position : position + 1])
            received += transport.receive(1.0)
        assert received == [b"one", b"", b"three"]
    transport.close()


def test_agent_that_does_not_read_never_blocks_the_client(
    path: str, listener: socket.socket
) -> None:
    transport = UnixTransport(path)
    message = os.urandom(4_000_000)
    transport.send(message)
    for _ in range(3):
        transport.receive(0.0)
    assert transport.backlog > 0

    agent, _ = listener.accept()
    with agent:
        received = b""
        while len(received) < len(message) + 4:
            received += agent.recv(1_000_000)
            transport.receive(0.0)
        assert received[4:] == message
    assert transport.backlog == 0
    transport.close()


def test_closed_connection_is_an_os_error(path: str, listener: socket.socket) -> None:
    transport = UnixTransport(path)
    agent, _ = listener.accept()
    agent.close()
    with pytest.raises(ConnectionError):
        transport.receive(1.0)
    transport.close()
    transport.close()


def test_oversized_frame_is_rejected(path: str, listener: socket.socket) -> None:
    transport = UnixTransport(path)
    agent, _ = listener.accept()
    with agent:
        agent.sendall(b"HTTP/1.1 400")
        with pytest.raises(ConnectionError, match="a frame of"):
            transport.receive(1.0)
    transport.close()


def test_message_sent_before_a_close_is_received(
    path: str, listener: socket.socket
) -> None:
    transport = UnixTransport(path)
    agent, _ = listener.accept()
    agent.sendall(wire.frame(b"you may not"))
    agent.close()
    transport.send(b"hello")

    assert transport.receive(1.0) == [b"you may not"]
    with pytest.raises(ConnectionError):
        [transport.receive(1.0) for _ in range(10)]
    transport.close()
