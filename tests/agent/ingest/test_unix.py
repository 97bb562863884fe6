"""The UNIX socket: its path, access control, and fairness."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.agent.protocol.fakes import Agent
from tests.agents import DEADLINE
from tests.users import replies

from kaywatch import wire
from kaywatch_agent.errors import StartError
from kaywatch_agent.ingest import shortage, unix
from kaywatch_agent.ingest.config import IngestConfig
from kaywatch_agent.ingest.quotas import Quotas
from kaywatch_agent.ingest.unix import UnixListener

CLIENT = bytes(range(16))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: a socket's has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kw-") as result:
        yield Path(result)


@contextlib.asynccontextmanager
async def listening(config: IngestConfig) -> AsyncIterator[tuple[Agent, UnixListener]]:
    agent = Agent()
    listener = UnixListener(agent.intake)
    agent.telemetry.include(listener.metrics)
    listener.start(config)
    committing = asyncio.create_task(commit(agent))
    try:
        yield agent, listener
    finally:
        committing.cancel()
        await listener.stop()


async def commit(agent: Agent) -> None:
    """Aggregate and commit what has arrived, again and again."""
    while True:
        agent.commit()
        await asyncio.sleep(0.005)


async def exchange(path: str, *messages: bytes) -> list[dict[str, object]]:
    """Send messages; return all replies until the agent disconnects."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"".join(map(wire.frame, messages)))
    async with asyncio.timeout(DEADLINE):
        data = await reader.read()
    writer.close()
    return replies(data)


async def until(condition: object) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def hello() -> bytes:
    return wire.hello(
        client=CLIENT, service="s", host="h", pid=1, start=1.0, sdk="x", tags={}
    )


def row(text: str = "n") -> bytes:
    return wire.pack({"type": "batch", "events": [{"node": text, "seconds": 0.1}]})


# -- the path ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["0660", "0600", "0666"])
async def test_the_socket_has_its_mode_whatever_the_umask(
    folder: Path, mode: str
) -> None:
    before = os.umask(0o027)
    try:
        async with listening(IngestConfig(str(folder / "s"), mode=mode)):
            status = os.lstat(folder / "s").st_mode
            assert stat.S_IMODE(status) == int(mode, 8)
            assert stat.S_ISSOCK(status)
            assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to any group")
async def test_the_socket_belongs_to_the_group(folder: Path) -> None:
    async with listening(IngestConfig(str(folder / "s"), group="4242")):
        assert os.lstat(folder / "s").st_gid == 4242


@pytest.mark.parametrize("target", ["a socket", "a file", "nothing"])
async def test_a_symbolic_link_at_the_path_is_neither_followed_nor_removed(
    folder: Path, target: str
) -> None:
    elsewhere, path = folder / "elsewhere", folder / "s"
    if target == "a file":
        elsewhere.write_text("precious")
    elif target == "a socket":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(elsewhere))
    path.symlink_to(elsewhere)
    before = os.lstat(elsewhere) if target != "nothing" else None

    with pytest.raises(StartError, match="is a symbolic link, which is not followed"):
        async with listening(IngestConfig(str(path))):
            pass

    assert path.is_symlink()
    assert (os.lstat(elsewhere) if before else None) == before
    assert elsewhere.exists() is (target != "nothing")


async def test_a_file_that_replaced_the_socket_is_not_removed(folder: Path) -> None:
    path = folder / "s"
    async with listening(IngestConfig(str(path))) as (_, listener):
        path.unlink()
        path.write_text("somebody else's")
        listener.stop_accepting()
    assert path.read_text() == "somebody else's"


async def test_a_socket_without_a_listener_is_replaced(folder: Path) -> None:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with listening(IngestConfig(str(path))):
        pass
    assert not path.exists()


# -- quotas --------------------------------------------------------------------------


async def test_a_process_over_the_connection_limit_gets_an_error_and_is_closed(
    folder: Path,
) -> None:
    path = str(folder / "s")
    async with listening(IngestConfig(path, connections_per_process=2)) as result:
        agent, listener = result
        connections = [await asyncio.open_unix_connection(path) for _ in range(2)]
        await until(lambda: agent.counted("connections_total") == 2)
        (refusal,) = await exchange(path)
        assert refusal["code"] == "over_quota"
        assert "connections_per_process" in str(refusal["text"])
        assert agent.counted("ingest_refused_total", "process_connections") == 1
        assert agent.counted("connections_total") == 2
        # One leaves, and there is room again.
        connections.pop()[1].close()
        await until(lambda: len(listener.connections) == 1)
        reader, writer = await asyncio.open_unix_connection(path)
        await until(lambda: agent.counted("connections_total") == 3)
        for _, opened in (*connections, (reader, writer)):
            opened.close()


async def test_the_limit_of_unfinished_frames_is_reported_to_the_client(
    folder: Path,
) -> None:
    path = str(folder / "s")
    async with listening(IngestConfig(path)) as (agent, listener):
        unfinished = wire.frame(bytes(wire.MAX_FRAME))[:-200_000]
        links = []
        for _ in range(9):  # of 4 MiB each
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(unfinished)
            links.append((reader, writer))
        await until(lambda: agent.counted("ingest_refused_total", "memory") == 1)
        await until(lambda: len(listener.connections) == 8)
        buffered = listener._usage._processes[os.getpid()].buffered
        assert buffered <= 32 * 2**20
        for _, writer in links:
            writer.transport.abort()
        await until(lambda: not listener.connections)
        assert not listener._usage._processes


async def test_a_fast_sender_is_throttled_without_loss(
    folder: Path,
) -> None:
    path = str(folder / "s")
    config = IngestConfig(path, rate_per_process="20kB")
    async with listening(config) as (agent, listener):
        reader, writer = await asyncio.open_unix_connection(path)
        message = wire.frame(row("n" * 100))
        count = 50_000 // len(message)
        writer.write(message * count)
        await until(lambda: agent.counted("events_total") == count)
        (report,) = replies(await reader.read(65_536))
        assert (report["type"], report["code"]) == ("error", "over_quota")
        assert "rate_per_process" in report["text"]
        assert listener.metrics.throttled.value > 0
        writer.close()


async def test_data_received_before_a_disconnect_is_counted(
    folder: Path,
) -> None:
    path = str(folder / "s")
    async with listening(IngestConfig(path)) as (agent, listener):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(wire.frame(row()) * 20_000)
        writer.close()
        await until(lambda: agent.counted("events_total") == 20_000)
        await until(lambda: not listener.connections)


async def test_all_that_has_arrived_is_taken_in_before_the_end(folder: Path) -> None:
    path = str(folder / "s")
    async with listening(IngestConfig(path)) as (agent, listener):
        _, writer = await asyncio.open_unix_connection(path)
        await until(lambda: listener.connections)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(path)
            other.sendall(wire.frame(row()) * 3_000)
            await until(lambda: agent.counted("received_bytes_total"))
            await listener.read_all()
            agent.commit()
            assert agent.counted("events_total") == 3_000
        writer.close()


async def test_a_fault_of_ours_ends_one_connection_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(folder / "s")
    async with listening(IngestConfig(path)) as (agent, listener):
        take = agent.pipeline.take

        def broken(message: Any, session: Any) -> Any:
            if getattr(message, "service", "") == "bad":
                raise RuntimeError("a fault")
            return take(message, session)

        monkeypatch.setattr(agent.pipeline, "take", broken)
        _, good = await asyncio.open_unix_connection(path)
        bad = {"type": "batch", "service": "bad", "events": []}
        assert await exchange(path, wire.pack(bad)) == []
        good.write(wire.frame(row()))
        await until(lambda: agent.counted("events_total") == 1)
        assert len(listener.connections) == 1
        good.close()


# -- file descriptors ----------------------------------------------------------------


async def test_a_lack_of_descriptors_is_a_problem_until_it_is_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(shortage, "OVER_AFTER", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with capture_logs() as logs:
        async with listening(IngestConfig(str(folder / "s"))) as (_, listener):
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                try:
                    # No number is left for the connection that is accepted.
                    resource.setrlimit(
                        resource.RLIMIT_NOFILE, (client.fileno() + 1, hard)
                    )
                    client.connect(str(folder / "s"))
                    await until(lambda: listener.problem)
                    problem = listener.problem
                    await asyncio.sleep(0.1)
                    assert listener.problem == problem
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert "raise LimitNOFILE" in problem
                await until(lambda: listener.connections)
                await until(lambda: not listener.problem)
    assert [line["event"] for line in logs] == [
        "cannot accept connections",
        "accepting connections again",
    ]


async def test_refused_connections_are_a_problem_while_there_is_no_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortage, "OVER_AFTER", 0.05)
    path = str(folder / "s")
    async with listening(IngestConfig(path)) as (_, listener):
        listener._usage.quotas = Quotas(connections=1)
        _, writer = await asyncio.open_unix_connection(path)
        await until(lambda: listener.connections)
        assert not listener.problem
        (refused,) = await exchange(path)
        assert refused["code"] == "over_quota"
        await asyncio.sleep(0.1)
        assert listener.problem
        writer.close()
        await until(lambda: not listener.problem)
