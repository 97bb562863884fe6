"""Problems with sending are logged when they begin, change and end."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kaywatch
from kaywatch._process import Process
from kaywatch._send.batches import Batches
from kaywatch._send.connecting import connector
from kaywatch._send.connection import AgentConnection
from kaywatch._send.identity import new_identity
from kaywatch._send.problems import GRACE, QUIET, Problems, unreachable
from kaywatch._send.session import AgentHistory
from kaywatch._settings import Settings, settings_from_environment
from kaywatch.recorder import Recorder
from kaywatch.testing import MemoryTransport


@pytest.fixture
def path() -> Iterator[Path]:
    # Shorter than pytest's folders: a socket's path has at most 107 bytes.
    folder = Path(f"/tmp/kw-problems-{os.getpid()}")
    folder.mkdir()
    yield folder / "s"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def connection_to(path: Path, history: AgentHistory | None = None) -> AgentConnection:
    recorder = Recorder()
    recorder.series("g", "n").record(0.1)
    batches = Batches(new_identity("shop", "here", {}), recorder)
    connect = connector(f"unix://{path}", batches.identity.client)
    return AgentConnection(batches, connect, history)


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def test_each_reason_is_logged_once_with_the_path_and_the_fix(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connection = connection_to(path)
    for second in range(20):
        connection.step(float(second))
    assert connection.error == caplog.messages[0].removeprefix("kaywatch cannot send: ")

    listen(path).close()  # leaves the file
    for second in range(20, 40):
        connection.step(float(second))
    assert connection.error in caplog.messages[1]

    missing, refused = caplog.messages
    assert missing == (
        f"kaywatch cannot send: {path}: No such file or directory; start an agent with"
        " `kaywatch serve`, or set KAYWATCH_ENDPOINT to its socket"
    )
    assert refused == (
        f"kaywatch cannot send: {path}: Connection refused; no agent listens there;"
        " start it"
    )


def test_a_restart_of_the_agent_is_not_logged_and_an_outage_is(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connection = connection_to(path, AgentHistory(reached=True))
    connection.step(0.0)
    connection.step(GRACE - 1)
    assert connection.error
    assert not caplog.messages
    connection.step(GRACE + 2)
    assert len(caplog.messages) == 1


def test_an_end_is_logged_if_the_problem_was(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems()
    problems.report(0.0, "passes", at_once=False)
    problems.resolve(1.0)
    assert not caplog.messages
    for start in (10.0, 30.0):  # also a second time
        problems.report(start, "wrong", at_once=True)
        problems.report(start + 2, "wrong", at_once=True)
        problems.resolve(start + 7)
        problems.resolve(start + 8)
    assert caplog.messages == 2 * [
        "kaywatch cannot send: wrong",
        "kaywatch sends again, after 7 s",
    ]
    assert problems.text == ""


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.EACCES, "Permission denied; add this process's user to the socket's"),
        (errno.EAGAIN, "temporarily unavailable; the agent accepts no connections"),
        (errno.EMFILE, "Too many open files; this process has too many open files"),
        (errno.ENOTDIR, "Not a directory"),
    ],
)
def test_a_socket_that_exists_is_the_reason(number: int, fix: str) -> None:
    errors = {
        "/run/a": OSError(number, os.strerror(number)),
        "/run/b": OSError(errno.ENOENT, "No such file"),
    }
    text = str(unreachable(errors))
    assert text.startswith("/run/a: ")
    assert fix in text
    assert "/run/b" not in text


def test_without_any_socket_all_paths_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
    text = str(unreachable({"/run/a": missing, "/run/b": missing}))
    assert "/run/a: No such file" in text
    assert "/run/b: No such file" in text


def test_drops_are_logged_when_they_begin_and_after_a_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems = Problems()
    for second in range(100):
        problems.report_drops(float(second), {"buffer_full": second})
    assert len(caplog.messages) == 1
    assert "kaywatch drops events (buffer_full, 1 so far): " in caplog.messages[0]
    problems.report_drops(100 + QUIET, {"buffer_full": 200, "rejected": 1})
    assert len(caplog.messages) == 3
    problems.report_drops(101 + 2 * QUIET, {"buffer_full": 200, "rejected": 1})
    assert len(caplog.messages) == 3


def test_an_error_of_ours_is_logged_once_and_is_in_the_statistics(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch._send.sender.FLUSH_INTERVAL", 0.01)

    def connect() -> MemoryTransport:
        raise ZeroDivisionError("ours")

    process = Process(Settings(connect=connect))
    process.recorder.series("g", "n").record(0.1)
    assert not process.flush(0.3)
    assert process.stats()["error"] == "ZeroDivisionError: ours"
    process.stop(0.0)
    assert caplog.messages.count("kaywatch failed to send; retrying") == 1


PROGRAM = """
import logging, sys, kaywatch
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
kaywatch.instrument(modules=["json"])
with kaywatch.execution("g", "n"): pass
print("runs", flush=True)
"""

TYPOS = [
    ("KAYWATCH_ENDPOINT", "unxi:///run/kaywatch.sock", "unknown scheme 'unxi'"),
    ("KAYWATCH_ENDPOINT", "unix://[", "the path must be absolute"),
    ("KAYWATCH_ENDPOINT", "unix://run/kaywatch.sock", "three slashes"),
    ("KAYWATCH_ENDPOINT", "mqtt://:1", "the host is missing"),
    ("KAYWATCH_ENDPOINT", "mqtts://host:99999/x", "the port is not"),
    ("KAYWATCH_TAGS", "zone", "KAYWATCH_TAGS: expected key=value"),
    ("KAYWATCH_FAILURES", "all", "KAYWATCH_FAILURES=all: expected type or message"),
]


@pytest.mark.parametrize(("variable", "value", "warning"), TYPOS)
def test_a_typo_in_the_environment_is_logged_and_the_application_runs(
    variable: str, value: str, warning: str
) -> None:
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("KAYWATCH")},
        "KAYWATCH_ENDPOINT": "unix:///nowhere/s",
        variable: value,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "runs\n" in done.stdout
    logged = done.stdout + done.stderr  # the latter before logging is set up
    assert logged.count(warning) == 1, logged


def test_a_typo_of_a_broker_s_variable_does_not_raise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAYWATCH_MQTT_KEY", "/a/key")
    Process(settings_from_environment()).configure(endpoint="mqtts://broker/kaywatch")
    with pytest.raises(kaywatch.ConfigurationError, match="unknown scheme"):
        Process(settings_from_environment()).configure(endpoint="mqttt://broker")
    # A later call with another setting does not check the variables again.
    monkeypatch.setenv("KAYWATCH_ENDPOINT", "typo")
    Process(settings_from_environment()).configure(service="shop")
