"""Runs `kaywatch` commands in forks of a process that has imported the agent.

Strategy: an agent imports for half a second, and tests run hundreds of them. So each
worker of pytest starts one process that imports all of it (`tests/fork_server.py`), and
forks it for each command. Such a command is a process as any other, with environment,
files, signals and exit code of its own; only at its end, Python's modules are not
cleared. `tests/test_packaging.py`, `tests/systemd` and the tests of the demo start and
end it as users do, and so do benchmarks.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

__all__ = ["Fork", "Process", "run", "start", "start_interpreter"]

PID_WIDTH = 10
SERVER = Path(__file__).parent / "fork_server.py"


class Fork:
    """A running command, with the methods of `subprocess.Popen`."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status  # where the server writes the exit code

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._await(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it runs for longer.
        """
        code = self._await(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _await(self, seconds: float | None) -> int | None:
        if (
            self.returncode is None
            and select.select([self._status], [], [], seconds)[0]
        ):
            self.returncode = int(os.read(self._status, 100))
            os.close(self._status)
        return self.returncode


Process = Fork | subprocess.Popen[bytes]


def start(
    python: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int,
    stderr: int,
    has_terminal: bool = False,
) -> Fork:
    """Start `kaywatch` with arguments.

    Args:
        python: the interpreter.
        arguments: of the command.
        env: its environment, in place of this process's.
        cwd: its working directory, in place of this process's.
        stdin: a file descriptor; by default, nothing.
        stdout: a file descriptor.
        stderr: a file descriptor.
        has_terminal: whether stdin becomes its controlling terminal.
    """
    status, status_of_server = os.pipe()
    environment = dict(os.environ if env is None else env)
    request = {
        "arguments": ["kaywatch", *arguments],
        "environment": environment,
        "folder": str(cwd or Path.cwd()),
        "has_terminal": has_terminal,
    }
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        if stdin == subprocess.DEVNULL:
            stdin = nothing
        socket.send_fds(
            _server(python, environment.get("SSL_CERT_FILE")),
            [json.dumps(request).encode()],
            [status_of_server, stdin, stdout, stderr],
        )
    finally:
        os.close(status_of_server)
        os.close(nothing)
    return Fork(int(os.read(status, PID_WIDTH)), status)


def start_interpreter(
    python: str, *arguments: str, stdout: int, stderr: int
) -> subprocess.Popen[bytes]:
    """Start `kaywatch` as users do: benchmarks measure its start, memory and CPU."""
    return subprocess.Popen(
        [python, "-m", "kaywatch_agent", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )


def run(
    python: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run `kaywatch` with arguments, and return its exit code and output.

    Raises:
        subprocess.TimeoutExpired: it ran for longer than `timeout` seconds.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        files = {"stdout": out.fileno(), "stderr": err.fileno()}
        process = start(python, *arguments, env=env, cwd=cwd, **files)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


@cache
def _server(python: str, certificates: str | None) -> socket.socket:
    """Start a server; aiohttp reads the file of certificates when it is imported."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        process = subprocess.Popen(
            [python, str(SERVER), str(there.fileno())],
            pass_fds=[there.fileno()],
            env=os.environ | ({"SSL_CERT_FILE": certificates} if certificates else {}),
            stdin=subprocess.DEVNULL,
            # Not in the package's folder, from where it would import other modules.
            cwd="/",
        )
    atexit.register(_stop, here, process)
    assert here.recv(1), "the server has imported the agent"
    return here


def _stop(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    connection.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
