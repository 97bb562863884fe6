"""A real agent in a process of its own, for tests: started, asked, stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests import forks
from tests.forks import Fork

from kaywatch.query import fetch

DEADLINE = 20.0


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
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Agent:
    """One `kaywatch serve`."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.python = python
        self.socket = str(folder / "ingest.sock")
        self.store = str(folder / "kaywatch.db")
        self.url = ""
        self.options: tuple[str, ...] = ()  # of each start
        self.variables: dict[str, str] = {}  # of those who push here
        self.log: list[dict[str, Any]] = []
        self.process: Fork | None = None
        self._children: list[subprocess.Popen[str]] = []

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    @property
    def environment(self) -> dict[str, str]:
        """What an instrumented process needs to find this agent."""
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
        self.process = forks.start(
            *(self.python, "serve", "--socket", self.socket),
            *("--http", "127.0.0.1:0", "--store", self.store),
            *(*self.options, *options),
            stdout=log_of_process,
            stderr=log_of_process,
        )
        os.close(log_of_process)
        threading.Thread(target=self._read, args=(log,), daemon=True).start()
        serving = until(
            lambda: self._logged("serving") or self.process.poll() is not None,
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
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)

    def get(self, path: str, **parameters: object) -> Any:
        """Return the JSON at a path."""
        return fetch(path, parameters, self.url)

    def node(self, name: str, **parameters: object) -> Any:
        return self.get(f"/api/v1/nodes/{name}/stats", **parameters)

    def clients(self) -> list[dict[str, Any]]:
        response: list[dict[str, Any]] = self.get("/api/v1/clients")["clients"]
        return response

    def executions(self) -> dict[str, int]:
        """Return how many executions of each node were counted."""
        nodes = self.get("/api/v1/export")["nodes"]
        return {name: node["total_executions"] for name, node in nodes.items()}

    def run(self, code: str, *arguments: str, **environment: str) -> str:
        """Run a Python program that pushes here; return what it printed."""
        return self._run("-c", code, *arguments, **environment)

    def run_script(self, script: Path, *arguments: str) -> str:
        """Run a Python file that pushes here; return what it printed."""
        return self._run(str(script), *arguments)

    def _run(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [self.python, *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return done.stdout

    def command(self, *arguments: str, code: int = 0) -> str:
        """Run a command of `kaywatch`; return all that it printed."""
        done = forks.run(self.python, *arguments, env=self.environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def spawn(
        self, code: str, *arguments: str, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a Python program that pushes here, with pipes to talk to it."""
        child = subprocess.Popen(
            [self.python, "-u", "-c", code, *arguments],
            env={**self.environment, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._children.append(child)
        return child

    def close(self) -> None:
        """End what this agent started, and itself."""
        for child in self._children:
            child.kill()
            with contextlib.suppress(BrokenPipeError), child:
                pass
        if self.process is not None:
            self.stop(signal.SIGKILL)

    def _read(self, log: int) -> None:
        with open(log) as lines:
            for line in lines:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.log.append({"event": line.rstrip()})

    def _logged(self, event: str) -> dict[str, Any] | None:
        return next((line for line in list(self.log) if line["event"] == event), None)


@contextlib.contextmanager
def new_agent(python: str = sys.executable) -> Iterator[Agent]:
    """Yield an agent to be started; its folder is short, for the socket's path."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        agent = Agent(Path(folder), python)
        try:
            yield agent
        finally:
            agent.close()


@contextlib.contextmanager
def running_agent(python: str = sys.executable, *options: str) -> Iterator[Agent]:
    """Run an agent within the block."""
    with new_agent(python) as agent:
        yield agent.start(*options)
