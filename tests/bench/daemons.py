"""Statsd servers beside the agent: started, loaded at a pace, asked what they took in.

Each says itself how many events it has seen, so what the kernel or it dropped is known.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.agents import free_port, until
from tests.bench.load import evenly, statsd_packets
from tests.bench.peers import FOLDER, REMEDY
from tests.bench.usage import cpu_seconds

__all__ = ["DAEMONS", "Daemon", "Load", "loaded", "running", "versions"]

FLUSH_SECONDS = 1.0  # of both


@dataclass(frozen=True)
class Load:
    """What a load did to a daemon.

    Attributes:
        cpu_ns: CPU nanoseconds per event that it took in.
        core_percent: the share of a core while the load lasted.
        lost: the share of the events that it did not take in.
    """

    cpu_ns: float
    core_percent: float
    lost: float


class Daemon:
    """A statsd server, started in a folder of its own; counts what it took in."""

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
    def missing() -> str:
        """Return why it can't be started, empty when it can."""
        raise NotImplementedError

    @staticmethod
    def version() -> str:
        raise NotImplementedError

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Write the configuration; return the command and its environment."""
        raise NotImplementedError

    def received(self) -> int:
        """Return how many events it says it has taken in, up to its last flush."""
        raise NotImplementedError

    def await_ready(self) -> None:
        """Send until it says that something came: UDP tells nothing else."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("127.0.0.1", self.port))

            def arrived() -> int:
                with contextlib.suppress(ConnectionRefusedError):
                    probe.send(b"probe:1|ms")
                return self.received()

            until(arrived, f"{self.process.args} takes events in")
        self.await_flush()

    def await_flush(self, expected: int | None = None) -> int:
        """Wait until `expected` events are in, or no more come; return how many are."""
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
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class NodeStatsd(Daemon):
    """The statsd of npm, with a backend that only keeps its counter."""

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
    """Return the versions of the daemons that are here."""
    return {
        f"the daemon {name}": kind.version()
        for name, kind in DAEMONS.items()
        if not kind.missing()
    }


@contextlib.contextmanager
def running(kind: type[Daemon]) -> Iterator[Daemon]:
    """Run a daemon, ready to take events in."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        daemon = kind(Path(folder))
        try:
            daemon.await_ready()
            yield daemon
        finally:
            daemon.close()


def loaded(daemon: Daemon, per_packet: int, events: int, rate: float) -> Load:
    """Send timers to a daemon.

    Args:
        daemon: one that is idle.
        per_packet: events in one UDP packet.
        events: how many in all.
        rate: events per second.
    """
    already, cpu = daemon.await_flush(), cpu_seconds(daemon.process.pid)
    started = time.monotonic()
    packets = events // per_packet
    sent = packets * per_packet
    evenly(statsd_packets(daemon.port, per_packet), packets, rate / per_packet)
    took = time.monotonic() - started
    # Its flushes are in its figure, as the commits are in ours.
    received = daemon.await_flush(already + sent) - already
    used = cpu_seconds(daemon.process.pid) - cpu
    return Load(used / received * 1e9, used / took * 100, 1 - received / sent)
