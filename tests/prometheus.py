"""Debian's Prometheus and VictoriaMetrics, for tests: started, asked, killed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.agents import DEADLINE, free_port, kill, until
from tests.servers import require

__all__ = [
    "Prometheus",
    "VictoriaMetrics",
    "running_prometheus",
    "running_victoria_metrics",
]

# The features that native histograms and exemplars need in this version.
NATIVE = "--enable-feature=native-histograms,exemplar-storage"

Samples = list[tuple[dict[str, str], float]]


class Prometheus:
    """One `prometheus`, which scrapes some targets once a second."""

    name = "Prometheus"
    ready_path = "/-/ready"

    def __init__(
        self,
        folder: Path,
        targets: Sequence[str],
        *options: str,
        opener: urllib.request.OpenerDirector | None = None,
    ) -> None:
        self.folder = folder
        self.options = options
        self.port = free_port()
        scheme = "http" if opener is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._opener = opener or urllib.request.build_opener()
        self._process: subprocess.Popen[bytes] | None = None
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [
                {
                    "job_name": "kaywatch",
                    "static_configs": [{"targets": list(targets)}],
                }
            ],
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        until(self._is_ready, f"{self.name} is ready")

    @property
    def pid(self) -> int:
        """Its process, while it runs."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            kill(process)

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of a path below /api/v1."""
        target = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with self._opener.open(target, timeout=DEADLINE) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None

    def query(self, expression: str) -> Samples:
        """Return the labels and values of an instant query."""
        result = self.ask("query", query=expression)["result"]
        return [(item["metric"], float(item["value"][1])) for item in result]

    def value(self, expression: str) -> float | None:
        """Return the value of a query with one sample; None without any."""
        samples = self.query(expression)
        if not samples:
            return None
        ((_, value),) = samples
        return value

    def log(self) -> str:
        """Return what it logged."""
        return (self.folder / "log").read_text()

    def _command(self) -> list[str]:
        return [
            require("prometheus"),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            *self.options,
        ]

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            with self._opener.open(f"{self.url}{self.ready_path}", timeout=DEADLINE):
                return True
        except OSError:
            return False


class VictoriaMetrics(Prometheus):
    """One `victoria-metrics`: the configuration and the API are those of Prometheus."""

    name = "VictoriaMetrics"
    ready_path = "/health"

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of a path below /api/v1, with the samples of this second."""
        return super().ask(path, **parameters, nocache="1")

    def _command(self) -> list[str]:
        return [
            require("victoria-metrics"),
            f"-promscrape.config={self.folder / 'prometheus.yml'}",
            f"-storageDataPath={self.folder / 'data'}",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            *self.options,
        ]


@contextlib.contextmanager
def running_victoria_metrics(
    folder: Path, targets: Sequence[str] = ()
) -> Iterator[VictoriaMetrics]:
    """Run a VictoriaMetrics within the block; see `running_prometheus`."""
    server = VictoriaMetrics(folder, targets)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def running_prometheus(
    folder: Path,
    targets: Sequence[str] = (),
    *options: str,
    opener: urllib.request.OpenerDirector | None = None,
) -> Iterator[Prometheus]:
    """Run a Prometheus within the block.

    Args:
        folder: for its data and its log.
        targets: `host:port` of what it scrapes.
        *options: of its command.
        opener: asks it over TLS.
    """
    server = Prometheus(folder, targets, *options, opener=opener)
    try:
        server.start()
        yield server
    finally:
        server.kill()
