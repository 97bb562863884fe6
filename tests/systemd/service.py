"""kaywatch as a service of a box: installed, started, asked, put back to the start."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.systemd.box import Box

FOLDER = "/opt/kaywatch"
PYTHON = f"{FOLDER}/bin/python"
KAYWATCH = f"{FOLDER}/bin/kaywatch"
UNIT = "kaywatch.service"
UNITS = ("kaywatch.socket", "kaywatch-http.socket", UNIT)
# What the service imports, with what these import.
MODULES = (
    *("kaywatch_agent.__main__", "kaywatch_agent.app", "kaywatch_agent.cli.main"),
    *("kaywatch_agent.cli.commands.serve", "kaywatch_agent.web.check"),
    *("kaywatch._process", "kaywatch.query", "msgpack", "uvloop", "encodings.idna"),
)

# A client that records until its stdin ends, and then prints the count.
CLIENT = """
import sys, threading, time, kaywatch
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
kaywatch.count("began")
print("began", flush=True)
recorded = 0
while not (ended.is_set() and recorded):
    for _ in range(20):
        with kaywatch.execution("g", "work"):
            pass
        recorded += 1
    time.sleep(0.05)
assert kaywatch.flush(60)
print(recorded)
"""

# Connects until its stdin ends, and then prints the count and the failures.
CONNECTOR = """
import socket, sys, threading, time
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
print("began", flush=True)
tried, failed = 0, []
while not ended.is_set():
    tried += 1
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect("/run/kaywatch/ingest.sock")
        except OSError as error:
            failed.append(repr(error))
    time.sleep(0.004)
print(tried, failed)
"""

# A client of 100 MiB, connected until its stdin ends.
HELD = """
import os, sys, time
os.environ["KAYWATCH_SERVICE"] = "held"
block = bytearray(100 * 1024 * 1024)
import kaywatch
with kaywatch.execution("g", "held"):
    pass
assert kaywatch.flush(30)
print("began", flush=True)
sys.stdin.read()
"""

# Requests each path that it reads from stdin, and prints the response as a line. An
# agent that starts may take events before it answers HTTP.
QUERY = """
import json, sys, time
from kaywatch.errors import AgentUnreachable
from kaywatch.query import fetch
for path in sys.stdin:
    end = time.monotonic() + 60
    while True:
        try:
            response = fetch(path.strip())
            break
        except AgentUnreachable:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
    print(json.dumps(response), flush=True)
"""


class Service:
    """The agent of one box, by its units."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self._query: subprocess.Popen[str] | None = None
        self._started: list[subprocess.Popen[str]] = []
        self._cursor = ""

    def begin(self) -> Service:
        """Forget the log so far."""
        # An entry that no unit has: before systemd 253, the first that fits after a
        # cursor is left out.
        self.box.run("systemd-cat", "--identifier=test", "echo", "a test begins")
        self.box.run("journalctl", "--sync")
        mark = ("--identifier=test", "--lines=1", "--show-cursor")
        output = self.box.run("journalctl", *mark)
        self._cursor = output.rpartition("-- cursor: ")[2].strip()
        return self

    def start(self) -> Service:
        self.box.run("systemctl", "start", "kaywatch.socket", UNIT)
        return self

    def configure(self, text: str) -> None:
        """Write the configuration."""
        self.box.write("/etc/kaywatch/kaywatch.toml", text)

    def drop_in(self, text: str, unit: str = UNIT) -> None:
        """Change a unit, as `systemctl edit` does."""
        self.box.write(f"/run/systemd/system/{unit}.d/test.conf", text)
        self.box.run("systemctl", "daemon-reload")

    def show(self, *properties: str) -> dict[str, str]:
        return self.box.show(UNIT, *properties)

    @property
    def pid(self) -> int:
        """The agent's, as the box numbers it; 0 for none."""
        return int(self.show("MainPID")["MainPID"])

    @property
    def status(self) -> str:
        return self.show("StatusText")["StatusText"]

    def journal(self, **fields: str) -> list[dict[str, Any]]:
        """Return the entries of the unit whose fields have these values."""
        expected = [f"{name}={value}" for name, value in fields.items()]
        text = self.log("--output=json", "--all", *expected)
        return [_entry(line) for line in text.splitlines() if line[:1] == "{"]

    def log(self, *options: str) -> str:
        """Return what the journal shows of the unit since the test began."""
        self.box.run("journalctl", "--sync")
        since = f"--cursor={self._cursor}"
        return self.box.run("journalctl", "--unit", UNIT, since, *options)

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        # One process for all requests: to start Python takes longer than to ask.
        if self._query is None or self._query.poll() is not None:
            self.close()
            self._query = subprocess.Popen(
                self.box.inside(PYTHON, "-c", QUERY),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._query.stdin is not None and self._query.stdout is not None
        self._query.stdin.write(f"{path}\n")
        self._query.stdin.flush()
        line = self._query.stdout.readline()
        assert line, f"no response to {path}"
        return json.loads(line)

    def close(self) -> None:
        """End the process that requests. Idempotent."""
        query, self._query = self._query, None
        if query is not None:
            query.communicate(timeout=30)

    def python(self, code: str, *, user: str = "root", group: str = "root") -> str:
        """Run a program as a user; return its output."""
        return self.box.run(*self._as(user, group), PYTHON, "-c", code)

    def spawn(
        self, code: str, *, user: str = "root", group: str = "root"
    ) -> subprocess.Popen[str]:
        """Start a program that runs until its stdin ends; wait for its first line."""
        child = subprocess.Popen(
            self.box.inside(*self._as(user, group), PYTHON, "-c", code),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "began\n"
        return child

    def end(self, child: subprocess.Popen[str]) -> str:
        """End a program of `spawn`; return its last output."""
        output, _ = child.communicate(timeout=90)
        assert child.returncode == 0
        self._started.remove(child)
        return output

    def executions(self, node: str = "work") -> int:
        nodes = self.get("/api/v1/export")["nodes"]
        return int(nodes.get(node, {}).get("total_executions", 0))

    def serving(self) -> bool:
        """Whether the agent has reported that it is serving."""
        state = self.show("ActiveState", "SubState")
        return state == {"ActiveState": "active", "SubState": "running"}

    def reset(self) -> None:
        """Put it back to how it was installed."""
        for child in self._started:
            child.kill()
            child.communicate()
        self._started.clear()
        box = self.box
        box.run("systemctl", "stop", *UNITS, code=None)
        box.run("systemctl", "reset-failed", *UNITS, code=None)
        box.run("sh", "-c", "rm -rf /run/systemd/system/kaywatch* /var/lib/*/kaywatch")
        box.run("sh", "-c", "rm -rf /etc/kaywatch/kaywatch.toml /etc/kaywatch/*/*")
        box.run("systemctl", "daemon-reload")

    def _as(self, user: str, group: str) -> tuple[str, ...]:
        options = ("--reuid", user, "--regid", group, "--clear-groups")
        return ("setpriv", *options) if user != "root" else ()


def _entry(line: str) -> dict[str, Any]:
    # What has control characters is a list of bytes.
    values = json.loads(line).items()
    return {k: bytes(v).decode() if isinstance(v, list) else v for k, v in values}


@contextlib.contextmanager
def installed_service(wheel: Path) -> Iterator[Service]:
    """Boot a box, and install kaywatch and its units there."""
    with contextlib.closing(_Stopping(Box())) as stopping:
        box = stopping.box.start()
        _install(wheel, box.root)
        box.run(KAYWATCH, "service", "install")
        for user, groups in (("app", "kaywatch"), ("stranger", "")):
            options = ["--groups", groups] if groups else []
            box.run("useradd", "--no-create-home", *options, user)
        with contextlib.closing(Service(box)) as service:
            yield service


class _Stopping:
    def __init__(self, box: Box) -> None:
        self.box = box

    def close(self) -> None:
        self.box.stop()


def _install(wheel: Path, root: Path) -> None:
    """Install the wheel below /opt: a service doesn't see home folders."""
    with tempfile.TemporaryDirectory(prefix="kw-venv-") as folder:
        venv = Path(folder, "kaywatch")  # the folder itself is for us alone
        python = venv / "bin" / "python"
        subprocess.run([_python(), "-m", "venv", "--without-pip", venv], check=True)
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--python", str(python), "install"),
                *("--quiet", "--no-compile", f"{wheel}[agent]"),
            ],
            check=True,
        )
        # The service may not write bytecode; of the dependencies, it needs a part.
        code = f"import {', '.join(MODULES)}"
        subprocess.run([python, "-c", code], check=True)
        command = venv / "bin" / "kaywatch"
        command.write_text(command.read_text().replace(str(venv), FOLDER))
        shutil.copytree(venv, root / FOLDER.lstrip("/"), symlinks=True)


def _python() -> str:
    """Return a Python that no home folder holds."""
    for result in (getattr(sys, "_base_executable", ""), "/usr/bin/python3"):
        path = os.path.realpath(result)
        if path.startswith(("/home/", "/root/")) or not os.path.exists(path):
            continue
        code = "import sys; sys.exit(sys.version_info < (3, 11))"
        if subprocess.run([path, "-c", code]).returncode == 0:
            return path
    reason = "no Python 3.11 or newer outside of home folders (Debian's python3)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
