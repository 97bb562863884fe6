"""A real agent in a process of its own, for tests: started, asked, stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, AnyStr
from urllib.parse import urlsplit

from tests import forks
from tests.forks import Process

from kaywatch.query import fetch

# Costs nothing unless a test fails; a loaded machine takes its time.
DEADLINE = 60.0


def until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Return the condition's value once it is true; fail after `deadline` seconds.

    The longer it has waited, the less often it looks: a condition that takes an HTTP
    request or a command would keep a core busy.
    """
    started = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - started
        assert waited < deadline, f"not within {deadline} s: {what}"
        time.sleep(min(max(0.01, waited / 10), 0.1))
    return value


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1.

    It is below the ports that the kernel gives to those who ask for any, so nobody else
    gets it before its server listens, or while its server restarts; and a client that
    connects while nobody listens can't be given the same port and talk to itself.
    """
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    while True:
        port = random.SystemRandom().randrange(10_000, int(ephemeral[0]))
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process unless it has ended, and close its pipes."""
    process.kill()
    with contextlib.suppress(BrokenPipeError), process:
        pass


@contextlib.contextmanager
def kill_at_end(
    process: subprocess.Popen[AnyStr],
) -> Iterator[subprocess.Popen[AnyStr]]:
    """Kill a process at the end of the block, also when the block fails.

    Otherwise, a failed test would leave a process that is still running: a
    ResourceWarning, and so a failure, of a later test.
    """
    try:
        yield process
    finally:
        kill(process)


class Agent:
    """One `kaywatch serve`."""

    def __init__(
        self, folder: Path, python: str = sys.executable, *, fork: bool = True
    ) -> None:
        self.folder = folder
        self._launch = forks.start if fork else forks.start_interpreter
        self.python = python
        self.socket = str(folder / "ingest.sock")
        self.store = str(folder / "kaywatch.db")
        self.url = ""
        self.options: tuple[str, ...] = ()  # of each start
        self.variables: dict[str, str] = {}  # of those who push here
        self.log: list[dict[str, Any]] = []
        self.process: Process | None = None
        self._children: list[subprocess.Popen[str]] = []

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of an instrumented process that finds this agent."""
        return {
            **os.environ,
            "KAYWATCH_ENDPOINT": self.endpoint,
            "KAYWATCH_URL": self.url,
            "PYTHONWARNINGS": "",
            **self.variables,
        }

    def start(self, *options: str) -> Agent:
        """Start it, and wait until it serves."""
        self.log.clear()
        log, log_of_process = os.pipe()
        self.process = self._launch(
            *(self.python, "serve", "--socket", self.socket),
            *("--http", "127.0.0.1:0", "--store", self.store),
            *(*self.options, *options),
            stdout=log_of_process,
            stderr=log_of_process,
        )
        os.close(log_of_process)
        threading.Thread(target=self._read, args=(log,), daemon=True).start()
        serving = until(
            lambda: self._find_logged("serving") or self.process.poll() is not None,
            "the agent serves",
        )
        assert isinstance(serving, dict), self.log
        self.url = serving["http"]
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE)
        self.process = None
        return code

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection to it, for what `get` doesn't ask for."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=DEADLINE)

    def get(self, path: str, **parameters: object) -> Any:
        """Return the JSON at a path."""
        return fetch(path, parameters, self.url)

    def node(self, name: str, **parameters: object) -> Any:
        return self.get(f"/api/v1/nodes/{name}/stats", **parameters)

    def clients(self) -> list[dict[str, Any]]:
        """Return all clients; none of a process that ended is still connected.

        A process sends its goodbye, isn't told that it arrived, and ends: the agent may
        read it later.
        """
        clients: list[dict[str, Any]] = []

        def is_settled() -> bool:
            clients[:] = self.get("/api/v1/clients")["clients"]
            done = {
                child.pid for child in self._children if child.returncode is not None
            }
            return not any(
                each["pid"] in done and each["state"] == "connected" for each in clients
            )

        until(is_settled, "no client of an ended process is connected")
        return clients

    def executions(self) -> dict[str, int]:
        """Return how many executions of each node were counted."""
        nodes = self.get("/api/v1/export")["nodes"]
        return {name: node["total_executions"] for name, node in nodes.items()}

    def run(self, code: str, *arguments: str, **environment: str) -> str:
        """Run a Python program that pushes to this agent; return its output."""
        return self._run("-c", code, *arguments, **environment)

    def run_script(self, script: Path, *arguments: str) -> str:
        """Run a Python file that pushes to this agent; return its output."""
        return self._run(str(script), *arguments)

    def _run(self, *arguments: str, **environment: str) -> str:
        child = self.start_process(
            *(self.python, *arguments),
            environment=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = child.communicate(timeout=DEADLINE)
        assert child.returncode == 0, errors
        assert not errors, errors
        return str(output)

    def command(self, *arguments: str, code: int = 0) -> str:
        """Run a command of `kaywatch`; return all that it printed."""
        done = forks.run(self.python, *arguments, env=self.environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def spawn(
        self, code: str, *arguments: str, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a Python program that pushes here, with pipes to talk to it."""
        return self.start_process(
            *(self.python, "-u", "-c", code, *arguments),
            environment=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start_process(
        self, *command: str, environment: Mapping[str, str] = {}, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a process that finds this agent, and is killed no later than it.

        Args:
            *command: the program and its arguments.
            environment: variables in addition to those of `environment`.
            **options: of `subprocess.Popen`.
        """
        variables = {**self.environment, **environment}
        child = subprocess.Popen(command, env=variables, text=True, **options)
        self._children.append(child)
        return child

    def close(self) -> None:
        """Stop this agent and the processes it started."""
        for child in self._children:
            kill(child)
        if self.process is not None:
            self.stop(signal.SIGKILL)

    def _read(self, log: int) -> None:
        with open(log) as lines:
            for line in lines:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.log.append({"event": line.rstrip()})

    def _find_logged(self, event: str) -> dict[str, Any] | None:
        return next((line for line in list(self.log) if line["event"] == event), None)


@contextlib.contextmanager
def new_agent(python: str = sys.executable, *, fork: bool = True) -> Iterator[Agent]:
    """Yield an agent to be started; its folder is short, for the socket's path."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        agent = Agent(Path(folder), python, fork=fork)
        try:
            yield agent
        finally:
            agent.close()


@contextlib.contextmanager
def running_agent(
    python: str = sys.executable, *options: str, fork: bool = True
) -> Iterator[Agent]:
    """Run an agent within the block."""
    with new_agent(python, fork=fork) as agent:
        yield agent.start(*options)
