"""The agent as its own client, against listeners that are well and that are not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.agents import DEADLINE, kill_at_end

from kaywatch import wire
from kaywatch_agent.ingest import probe
from kaywatch_agent.ingest.probe import Probe

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
FLUSH = wire.frame(wire.flush())
OTHER = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
    server.bind(sys.argv[1])
    server.listen()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path() -> Iterator[str]:
    """Where a socket may be: a path that is short enough for one."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        yield os.path.join(folder, "s")


@asynccontextmanager
async def serve_socket(path: str, serve: Serve) -> AsyncIterator[None]:
    async def handle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_unix_server(handle, path):
        yield


async def look(path: str) -> str:
    return await Probe(path, lambda _: None).check()


async def test_an_acknowledged_probe_is_healthy(path: str) -> None:
    output: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        output.append(await reader.readexactly(len(FLUSH)))
        # Any other message is not an answer.
        writer.write(wire.frame(wire.slow(2.0)) + wire.frame(wire.ack(0, b"")))
        await reader.read()

    async with serve_socket(path, serve):
        assert await look(path) == ""
    assert output == [FLUSH]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"", "IncompleteReadError"),
        (b"\0\0\0\1\xc1", "FormatError"),
        (b"GET ", "IncompleteReadError"),
        (
            wire.frame(wire.error(wire.ErrorCode.UNKNOWN_TYPE, "no such type")),
            "no such type",
        ),
    ],
)
async def test_a_listener_that_disconnects_or_sends_garbage_is_unhealthy(
    path: str, reply: bytes, words: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(FLUSH))
        writer.write(reply)

    async with serve_socket(path, serve):
        result = await look(path)
    assert result.startswith(f"{path}: ")
    assert words in result


async def test_a_listener_that_never_answers_is_unhealthy(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "DEADLINE", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serve_socket(path, serve):
        assert await look(path) == f"{path}: nothing was acknowledged within 0.1 s"


async def test_a_missing_path_or_a_path_without_a_socket_is_reported(path: str) -> None:
    assert await look(path) == (
        f"{path} was deleted: restart the agent to create it again"
    )
    os.mknod(path)
    assert "ConnectionRefusedError" in await look(path)


@pytest.fixture
def other(path: str) -> Iterator[int]:
    """The pid of another process that listens there."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with kill_at_end(process):
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid


async def test_another_process_listening_on_the_path_is_reported(
    path: str, other: int
) -> None:
    assert await look(path) == (
        f"{path}: process {other} listens there instead of this one"
    )


async def test_failures_are_reported_each_time_and_probed_more_often(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "RETRY", 0.01)
    reports: list[str] = []
    task = asyncio.create_task(Probe(path, reports.append).run())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.frame(wire.ack(0, b"")))
        await reader.read()

    async with asyncio.timeout(DEADLINE):
        while len(reports) < 3:
            await asyncio.sleep(0.01)
        async with serve_socket(path, serve):
            while reports[-1]:
                await asyncio.sleep(0.01)
    task.cancel()
    assert all("was deleted" in problem for problem in reports[:-1])
