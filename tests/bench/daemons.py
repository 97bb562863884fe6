"""Start statsd servers, load them at a rate, and read how many events they received.

Each server reports the number of received events, so losses are known.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.agents import free_port, until
from tests.bench.load import send_evenly, statsd_packets
from tests.bench.peers import FOLDER, REMEDY
from tests.bench.usage import cpu_seconds

__all__ = ["DAEMONS", "Daemon", "Load", "measure_load", "run_daemon", "versions"]

FLUSH_SECONDS = 1.0  # the flush interval of both servers


@dataclass(frozen=True)
class Load:
    """The cost of a load.

    Attributes:
        cpu_ns: CPU nanoseconds per received event.
        core_percent: the share of a core during the load.
        lost: the share of events that were not received.
    """

    cpu_ns: float
    core_percent: float
    lost: float


class Daemon(ABC):
    """A statsd server in its own folder, which counts the received events."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        command, environment = self.command()
        with (folder / "output").open("w") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @staticmethod
    @abstractmethod
    def missing() -> str:
        """Return why the server can't be started; empty if it can."""

    @staticmethod
    @abstractmethod
    def version() -> str:
        """Return the version of the server."""

    @abstractmethod
    def command(self) -> tuple[list[str], dict[str, str]]:
        """Write the configuration; return the command and its environment."""

    @abstractmethod
    def received(self) -> int:
        """Return the number of received events, as reported at the last flush."""

    def await_ready(self) -> None:
        """Send until the server reports an event, because UDP reports no success."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("127.0.0.1", self.port))

            def arrived() -> int:
                with contextlib.suppress(ConnectionRefusedError):
                    probe.send(b"probe:1|ms")
                return self.received()

            until(arrived, f"{self.process.args} receives events")
        self.await_flush()

    def await_flush(self, expected: int | None = None) -> int:
        """Wait for `expected` events, or until no more arrive; return the number."""
        now, changed = self.received(), time.monotonic()
        while time.monotonic() < changed + 2 * FLUSH_SECONDS:
            time.sleep(0.1)
            before, now = now, self.received()
            if before != now:
                changed = time.monotonic()
            if now == expected:
                break
        return now

    def close(self) -> None:
        """Stop the server."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class NodeStatsd(Daemon):
    """npm's statsd, with a backend that only stores its counter."""

    BACKEND = """
        const fs = require('fs');
        exports.init = (started, config, events) => {
          events.on('flush', (at, metrics) => fs.appendFileSync(
            'received', metrics.counters['statsd.metrics_received'] + '\\n'));
          return true;
        };
    """

    @staticmethod
    def missing() -> str:
        if shutil.which("node") is None:
            return "node is not installed"
        folder = FOLDER / "node_modules" / "statsd"
        return "" if folder.is_dir() else f"npm's statsd is {REMEDY}"

    @staticmethod
    def version() -> str:
        text = (FOLDER / "node_modules" / "statsd" / "package.json").read_text()
        return str(json.loads(text)["version"])

    def command(self) -> tuple[list[str], dict[str, str]]:
        (self.folder / "backend.js").write_text(self.BACKEND)
        settings = {
            "port": self.port,
            "address": "127.0.0.1",
            "mgmt_port": free_port(),
            "mgmt_address": "127.0.0.1",
            "flushInterval": 1000,
            "percentThreshold": [95],
            "backends": [str(self.folder / "backend.js")],
        }
        (self.folder / "config.js").write_text(json.dumps(settings))
        program = FOLDER / "node_modules" / "statsd" / "stats.js"
        return ["node", str(program), str(self.folder / "config.js")], {}

    def received(self) -> int:
        path = self.folder / "received"
        return sum(map(int, path.read_text().split())) if path.exists() else 0


class Collectd(Daemon):
    """Debian's collectd with its statsd plugin, writing CSV."""

    ROOT = FOLDER / "collectd"
    CONFIGURATION = """
        Hostname "bench"
        FQDNLookup false
        BaseDir "{folder}"
        PIDFile "{folder}/pid"
        PluginDir "{root}/usr/lib/collectd"
        TypesDB "{root}/usr/share/collectd/types.db"
        Interval 1
        LoadPlugin statsd
        <Plugin statsd>
          Host "127.0.0.1"
          Port "{port}"
          DeleteTimers true
          TimerPercentile 95.0
          TimerUpper true
          TimerSum true
          TimerCount true
        </Plugin>
        LoadPlugin csv
        <Plugin csv>
          DataDir "{folder}/csv"
        </Plugin>
    """

    @classmethod
    def missing(cls) -> str:
        program = cls.ROOT / "usr/sbin/collectd"
        return "" if program.exists() else f"Debian's collectd-core is {REMEDY}"

    @classmethod
    def version(cls) -> str:
        program = str(cls.ROOT / "usr/sbin/collectd")
        done = subprocess.run(
            [program, "-h"],
            env={**os.environ, **cls.libraries()},
            capture_output=True,
            text=True,
            timeout=20,
        )
        match = re.search(r"collectd (\d[\d.]*\d)", done.stdout)
        return match[1] if match else "unknown"

    @classmethod
    def libraries(cls) -> dict[str, str]:
        folders = cls.ROOT.glob("usr/lib/*-linux-gnu*")
        return {"LD_LIBRARY_PATH": ":".join(map(str, folders))}

    def command(self) -> tuple[list[str], dict[str, str]]:
        configuration = self.folder / "collectd.conf"
        configuration.write_text(
            self.CONFIGURATION.format(
                folder=self.folder, root=self.ROOT, port=self.port
            )
        )
        program = str(self.ROOT / "usr/sbin/collectd")
        return [program, "-f", "-C", str(configuration)], self.libraries()

    def received(self) -> int:
        total = 0.0
        for path in self.folder.glob("csv/bench/statsd/*-count-*"):
            with path.open() as rows:
                values = [float(row[1]) for row in list(csv.reader(rows))[1:]]
            total += sum(value for value in values if not math.isnan(value))
        return round(total)


DAEMONS: dict[str, type[Daemon]] = {"statsd": NodeStatsd, "collectd": Collectd}


def versions() -> dict[str, str]:
    """Return the versions of the installed daemons."""
    return {
        f"the daemon {name}": kind.version()
        for name, kind in DAEMONS.items()
        if not kind.missing()
    }


@contextlib.contextmanager
def run_daemon(kind: type[Daemon]) -> Iterator[Daemon]:
    """Run a daemon that is ready to receive events."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        daemon = kind(Path(folder))
        try:
            daemon.await_ready()
            yield daemon
        finally:
            daemon.close()


def measure_load(daemon: Daemon, per_packet: int, events: int, rate: float) -> Load:
    """Send timers to a daemon.

    Args:
        daemon: an idle daemon.
        per_packet: events in one UDP packet.
        events: the total number of events.
        rate: events per second.
    """
    already, cpu = daemon.await_flush(), cpu_seconds(daemon.process.pid)
    started = time.monotonic()
    packets = events // per_packet
    sent = packets * per_packet
    send_evenly(statsd_packets(daemon.port, per_packet), packets, rate / per_packet)
    took = time.monotonic() - started
    # The figure includes flushes, as ours includes commits.
    received = daemon.await_flush(already + sent) - already
    used = cpu_seconds(daemon.process.pid) - cpu
    return Load(used / received * 1e9, used / took * 100, 1 - received / sent)
