"""Snapshots that wait: a bounded amount of disk, whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import cramjam
import pytest
from tests.agent.web.serving import Served, serving
from tests.metrics import metric_value
from tests.receivers import Receivers, Reply

from kaywatch_agent.config import parse
from kaywatch_agent.export.encoding import messages
from kaywatch_agent.export.metrics import RemoteWriteMetrics
from kaywatch_agent.export.remote_write import RemoteWrite
from kaywatch_agent.export.spool import Spool
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.runtime.metrics import MetricsRegistry

NAME = "kaygraph_node_executions_total"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Writer:
    """One `RemoteWrite`, and what it counts."""

    def __init__(
        self, url: str, folder: Path, served: Served, http: HttpClient
    ) -> None:
        table = f"[[export.remote_write]]\nurl = '{url}/write'\nmax_disk = '1MB'\n"
        (config,) = parse(table + "name = 'prom'").export.remote_write
        metrics = RemoteWriteMetrics()
        self.registry = MetricsRegistry()
        self.registry.include(metrics)
        self.clock = Clock()
        self.spool = Spool(folder)
        self.write = RemoteWrite(
            config,
            self.spool,
            snapshot=lambda: served.call(served.server.application.snapshot),
            http=http,
            metrics=metrics,
            clock=self.clock,
        )

    async def take(self) -> None:
        self.clock.now += 15
        await self.write.take()

    def skipped(self) -> float:
        name = "kaywatch_remote_write_skipped_total"
        return metric_value(self.registry, name, "prom")


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(clock=lambda: 1_800_000_000.0) as result:
        result.send_rows({"graph": "g", "node": "n", "seconds": 1.0})
        yield result


@pytest.fixture
async def writer(
    receivers: Receivers, served: Served, tmp_path: Path
) -> AsyncIterator[Writer]:
    async with aclosing(HttpClient()) as http:
        yield Writer(receivers.url, tmp_path / "spool", served, http)


def times(receivers: Receivers) -> list[int]:
    """Return the times of the accepted samples of one series."""
    return [
        sample.timestamp
        for request in receivers.requests
        if request.reply.status < 300
        for series in decode(request.body)
        if any(label.value == NAME for label in series.labels)
        for sample in series.samples
        if sample.value
    ]


def decode(body: bytes) -> Any:
    data = bytes(cramjam.snappy.decompress_raw(body))
    return messages.WriteRequest.FromString(data).timeseries


async def test_snapshots_wait_in_order(writer: Writer, receivers: Receivers) -> None:
    receivers.answer("/write", *[Reply(503, "no")] * 2)
    taken = []
    for _ in range(3):
        await writer.take()
        taken.append(int(writer.clock.now * 1000))
    assert writer.write.lag() == pytest.approx(30, abs=0.1)
    assert writer.spool.size > 0

    await writer.write.send_all()

    assert times(receivers) == taken
    assert (writer.write.lag(), writer.spool.size) == (0, 0)
    assert writer.write.problem == ""
    assert writer.write.completeness() == 1
    failures = "kaywatch_remote_write_failures_total"
    assert metric_value(writer.registry, failures, "prom") == 2


@pytest.mark.parametrize(
    ("used", "due"),
    [(0.0, 64), (0.49, 64), (0.51, 16), (0.76, 4), (0.91, 1), (1.01, 0)],
)
async def test_the_fuller_the_disk_the_fewer_snapshots(
    writer: Writer, used: float, due: int
) -> None:
    writer.spool.add({1: [os.urandom(int(used * 1_000_000))]})

    assert sum(writer.write._is_due(turn) for turn in range(1, 65)) == due


async def test_no_snapshot_is_older_than_another(
    writer: Writer, receivers: Receivers
) -> None:
    await writer.take()
    writer.clock.now -= 3600
    await writer.take()
    assert writer.write.problem == "the clock was set back"
    assert writer.skipped() == 1
    writer.clock.now += 3600
    await writer.take()
    assert writer.write.problem == ""
    await writer.write.send_all()
    assert times(receivers) == sorted(times(receivers))
    assert len(times(receivers)) == 2


async def test_a_damaged_snapshot_does_not_stop_the_others(
    writer: Writer, receivers: Receivers, tmp_path: Path
) -> None:
    for _ in range(3):
        await writer.take()
    *_, middle, _ = sorted((tmp_path / "spool").iterdir())
    middle.write_bytes(b"\xff\xff\xff")

    await writer.write.send_all()

    assert len(times(receivers)) == 2
    assert writer.skipped() == 1


async def test_a_folder_that_cannot_be_written_to_is_a_problem(
    writer: Writer, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "spool")
    await writer.take()
    assert writer.write.problem.startswith("cannot write a snapshot: ")
    (tmp_path / "spool").mkdir()
    await writer.take()
    assert writer.write.problem == ""
