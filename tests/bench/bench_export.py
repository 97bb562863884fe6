"""Measure the agent's CPU of one snapshot of 10,000 series, for each kind of export.

A snapshot is encoded, written to disk, and sent to a server in another process, which
reads and answers each request at once. Every node has an execution more than in the
snapshot before. The longest pause of the event loop is measured at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from tests.agents import kill_at_end
from tests.bench.bench_http import SERIES, Synthetic
from tests.bench.report import OURS, Row, summarize
from tests.bench.rounds import Effort, Measurements, interleave

from kaywatch_agent.config import parse
from kaywatch_agent.export.metrics import OtlpMetrics, RemoteWriteMetrics
from kaywatch_agent.export.otlp import Otlp
from kaywatch_agent.export.remote_write import RemoteWrite
from kaywatch_agent.export.spool import Spool
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.runtime.metrics import MetricsRegistry
from kaywatch_agent.web.server import WebServer

SNAPSHOTS = 3  # of which the first is not measured: it fills the caches
INTERVAL = 15.0  # seconds, the default
TICK = 0.001  # seconds

SERVER = """
import asyncio
import statistics
async def answer(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).lower()
            length = int(head.partition(b"content-length: ")[2].split(b"\\r")[0])
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    except asyncio.IncompleteReadError:
        writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**24)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

KINDS = {
    "remote write, native histograms": ("remote_write", 'histograms = "native"'),
    "remote write, classic histograms": ("remote_write", 'histograms = "classic"'),
    "OTLP, cumulative": ("otlp", 'temporality = "cumulative"'),
    "OTLP, delta": ("otlp", 'temporality = "delta"'),
}


class Export:
    """One export of many series."""

    def __init__(self, kind: str, line: str, url: str, folder: Path) -> None:
        self.config = parse(f"[[export.{kind}]]\nurl = '{url}'\n{line}").export
        self.folder = folder
        self.now = 0.0

    async def run(self, source: Synthetic) -> Measurements:
        """Return the CPU of a snapshot, and the longest pause, in milliseconds."""
        web = WebServer(source, MetricsRegistry(), "bench")
        http = HttpClient()
        self.now = max(self.now, time.time())
        (target,) = self.config.targets
        is_otlp = bool(self.config.otlp)
        kind = Otlp if is_otlp else RemoteWrite
        export = kind(  # type: ignore[operator]
            target,
            Spool(self.folder),
            snapshot=web.application.snapshot,
            http=http,
            metrics=OtlpMetrics() if is_otlp else RemoteWriteMetrics(),
            clock=lambda: self.now,
        )
        cpu, pauses = [], []
        try:
            for _ in range(SNAPSHOTS):
                self.now += INTERVAL
                source.grow()
                started = time.process_time()
                async with watch_pauses() as longest:
                    await export.take()
                    await export.send_all()
                cpu.append(time.process_time() - started)
                pauses.append(longest())
        finally:
            await http.aclose()
        assert export.problem == "", export.problem
        return {
            "cpu": statistics.mean(cpu[1:]) * 1e3,
            "pause": max(pauses[1:]) * 1e3,
        }


@contextlib.asynccontextmanager
async def watch_pauses() -> AsyncIterator[Callable[[], float]]:
    """Measure how long the event loop does nothing else; yield what returns it.

    It is measured by the CPU of this process, so that others do not count.
    """
    pauses = [0.0]

    async def watch() -> None:
        while True:
            started = time.process_time()
            await asyncio.sleep(TICK)
            pauses.append(time.process_time() - started)

    task = asyncio.create_task(watch())
    try:
        yield lambda: max(pauses)
    finally:
        task.cancel()


def measure_export(kind: str, line: str, url: str, series: int) -> Measurements:
    """Return the CPU of a snapshot and the longest pause, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        export = Export(kind, line, url, Path(folder))
        source = Synthetic(series)
        gc.collect()
        gc.freeze()  # as an agent does at its start
        return asyncio.run(export.run(source))


def measure(effort: Effort) -> list[Row]:
    """Return a row for each kind of export."""
    series = effort.whole(SERIES, 100)
    command = [sys.executable, "-c", SERVER]
    with kill_at_end(
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/write"
        measurements = interleave(
            effort.rounds,
            {
                what: partial(measure_export, kind, line, url, series)
                for what, (kind, line) in KINDS.items()
            },
        )
    rows = []
    for what, rounds in measurements.items():
        took = [each["cpu"] for each in rounds]
        share = statistics.median(took) / 1e3 / INTERVAL
        note = f"{share:.1%} of a core at {INTERVAL:.0f} s"
        name = f"CPU of a snapshot, {what}, {series:,} series"
        rows.append(Row(name, "ms", summarize(OURS, took, note)))
        pauses = [each["pause"] for each in rounds]
        name = f"longest pause of the event loop, {what}, {series:,} series"
        rows.append(Row(name, "ms", summarize(OURS, pauses)))
    return rows
