"""Communication with systemd, tested with a socket of our own."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.protocol.fakes import Agent
from tests.agents import DEADLINE, free_port, kill_at_end, until
from tests.servers import require

from kaywatch_agent.ingest.config import IngestConfig
from kaywatch_agent.ingest.unix import UnixListener
from kaywatch_agent.runtime.health import Health
from kaywatch_agent.runtime.journal import encode, field_name, printable
from kaywatch_agent.runtime.supervision import StatusCounts, Supervision
from kaywatch_agent.runtime.systemd import Notifier, is_journal

COUNTS = StatusCounts(events=0, series=56, clients=3, firing=1)


class Manager:
    """Receives the messages to the service manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self.socket.settimeout(DEADLINE)

    def hears(self) -> dict[str, str]:
        lines = self.socket.recv(65536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        path = f"{folder}/notify"
        manager = Manager(path if request.param == "path" else f"@{path}")
        with manager.socket:
            yield manager


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1", "HOME": "/"}
    notifier = Notifier.take(environment)
    assert environment == {"HOME": "/"}
    yield notifier
    notifier.close()


def test_systemd_is_notified_of_start_reload_and_stop(
    manager: Manager, notifier: Notifier
) -> None:
    supervision = Supervision(notifier)
    health = Health(started=0.0)
    health.expect("tick", within=10)
    line = "0 events/s, 56 series, 3 clients, 1 alerts firing"

    supervision.serving(0.0, COUNTS)
    assert manager.hears() == {"READY": "1", "STATUS": line}
    supervision.tick(2.0, COUNTS._replace(events=5000), health.status(2.0))
    busy = line.replace("0 events/s", "2,500 events/s", 1)
    assert manager.hears() == {"WATCHDOG": "1", "STATUS": busy}
    supervision.reloading()
    heard = manager.hears()
    assert heard.pop("RELOADING") == "1"
    assert int(heard.pop("MONOTONIC_USEC")) > 0 and not heard
    supervision.reloaded("limits.serie: unknown key\nSTOPPING=1")
    problem = "configuration not reloaded: limits.serie: unknown key STOPPING=1"
    assert manager.hears() == {"READY": "1", "STATUS": problem}
    health.report("store", 3.0, "the disk is full")
    supervision.tick(3.0, COUNTS._replace(events=5000), health.status(3.0))
    output = f"{line}; {problem}; store: the disk is full"
    assert manager.hears() == {"WATCHDOG": "1", "STATUS": output}
    supervision.reloaded()
    assert manager.hears()["READY"] == "1"
    supervision.stopping()
    assert manager.hears()["STOPPING"] == "1"


@pytest.mark.parametrize(("stage", "fed"), [("rules", False), ("ingest", True)])
def test_the_watchdog_is_fed_unless_a_restart_would_help(
    manager: Manager, notifier: Notifier, stage: str, fed: bool
) -> None:
    health = Health(started=0.0)
    health.expect(stage, within=60)

    Supervision(notifier).tick(61.0, COUNTS, health.status(61.0))

    heard = manager.hears()
    assert ("WATCHDOG" in heard) == fed
    assert heard["STATUS"].startswith("unhealthy: ")


async def test_more_time_is_asked_for_while_a_commit_takes_long(
    manager: Manager, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.runtime.supervision.EXTEND_EVERY", 0.05)
    done = asyncio.Event()

    async def commit() -> None:
        await done.wait()

    work = asyncio.create_task(commit())
    waiting = asyncio.create_task(Supervision(notifier).wait(work, 0.01))
    for _ in range(3):
        heard = await asyncio.to_thread(manager.hears)
        assert heard == {"EXTEND_TIMEOUT_USEC": "10000000"}
    assert not waiting.done()
    done.set()
    await asyncio.wait_for(waiting, 5)


async def test_without_systemd_nothing_is_notified_and_waits_are_short() -> None:
    notifier = Notifier.take({})
    assert not notifier
    notifier.send(READY="1")

    never = asyncio.create_task(asyncio.sleep(3600))
    await asyncio.wait_for(Supervision(notifier).wait(never, 0.01), 5)
    never.cancel()


def test_an_absent_or_blocked_systemd_is_harmless(
    manager: Manager, notifier: Notifier
) -> None:
    for _ in range(10_000):  # more than its queue holds
        notifier.send(WATCHDOG="1", STATUS="x" * 500)
    manager.socket.close()
    notifier.send(WATCHDOG="1")


# -- sockets ---------------------------------------------------------------------------

ADOPT = """
import os
from kaywatch_agent.errors import StartError
from kaywatch_agent.runtime.systemd import inherited_sockets
try:
    found = inherited_sockets()
    print({n: [s.getsockname() for s in held] for n, held in found.items()})
    print([s.get_inheritable() for held in found.values() for s in held])
except StartError as error:
    print(error)
print([name for name in os.environ if name.startswith("LISTEN_")])
"""


def run_activated(*options: str) -> list[str]:
    """Run ADOPT below systemd's own program for it, by a first connection."""
    program = require("systemd-socket-activate")
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        path = f"{folder}/s"
        known = [o.replace("SOCKET", path) for o in options]
        activated = subprocess.Popen(
            [program, *known, sys.executable, "-c", ADOPT],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        kind = socket.SOCK_DGRAM if "--datagram" in options else socket.SOCK_STREAM
        with (
            kill_at_end(activated) as process,
            socket.socket(socket.AF_UNIX, kind) as client,
        ):
            until(lambda: client.connect_ex(path) == 0, "it listens")
            if kind == socket.SOCK_DGRAM:
                client.send(b"x")
            output, _ = process.communicate(timeout=DEADLINE)
        return output.replace(path, "SOCKET").splitlines()


def test_the_sockets_that_systemd_holds_are_taken_by_their_names() -> None:
    output = run_activated(
        "--listen=SOCKET", f"--listen=127.0.0.1:{free_port()}", "--fdname=ingest:http"
    )

    assert output[0].startswith("{'ingest': ['SOCKET'], 'http': [('127.0.0.1', ")
    assert output[1:] == ["[False, False]", "[]"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--fdname=else"], "a socket named 'else', expected ingest or http: set File"),
        (
            ["--fdname=http"],
            "on the socket that systemd passes as http: its socket unit needs",
        ),
        (
            ["--fdname=ingest", "--datagram"],
            "that systemd passes as ingest: its socket",
        ),
        (
            ["--listen=SOCKETx", "--fdname=ingest:ingest"],
            "several sockets named ingest",
        ),
    ],
)
def test_an_unusable_inherited_socket_is_an_error_with_a_fix(
    options: list[str], complaint: str
) -> None:
    output = run_activated("--listen=SOCKET", *options)

    assert complaint in output[0]
    assert output[1] == "[]"


async def test_a_socket_that_is_held_stays_when_the_agent_goes() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="kw-") as folder,
        socket.socket(socket.AF_UNIX) as held,
        socket.socket(socket.AF_UNIX) as early,
        socket.socket(socket.AF_UNIX) as late,
    ):
        path = f"{folder}/s"
        held.bind(path)
        held.listen()
        os.chmod(path, 0o600)
        early.connect(path)  # waits in the socket
        for agents in (1, 2):
            listener = UnixListener(Agent().intake)
            listener.adopt(held.dup(), IngestConfig(path))
            if agents == 2:
                late.connect(path)
            while not listener.metrics.connections.value:
                await asyncio.sleep(0.01)
            await listener.stop()
            assert listener.path == path
            assert os.stat(path).st_mode & 0o777 == 0o600


# -- the journal -----------------------------------------------------------------------


def test_an_entry_keeps_values_apart() -> None:
    data = encode({"MESSAGE": "a", "KAYWATCH_X": "b\nPRIORITY=0"})

    size = (12).to_bytes(8, "little")
    assert data == b"MESSAGE=a\nKAYWATCH_X\n" + size + b"b\nPRIORITY=0\n"


def test_a_field_has_a_name_that_the_journal_takes() -> None:
    assert field_name("took_seconds") == "KAYWATCH_TOOK_SECONDS"
    assert field_name("a-b=\n") == "KAYWATCH_A_B__"
    assert len(field_name("x" * 100)) == 64


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\t", r"a\nb\r\t"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u2028\u202e", r"\u2028\u202e"),
        ("größer, 你好", "größer, 你好"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_stderr_is_the_journal_when_systemd_sets_journal_stream(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        status = os.fstat(file.fileno())
        right = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(file.fileno(), right)
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": "1:2"})
        assert not is_journal(file.fileno(), {})


def test_the_console_shows_control_characters_of_names() -> None:
    code = (
        "import structlog; from kaywatch_agent.runtime.logs import *\n"
        "set_up(LogConfig(format='console'))\n"
        "structlog.get_logger('x').info('event', name='a\\x1b[31m\\nlevel=error')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "\x1b" not in done.stderr and "x1b[31m" in done.stderr
    assert done.stderr.count("\n") == 1
