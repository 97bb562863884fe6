"""Outages of real servers on a shortened clock: exact totals, named refusals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import cramjam
import pytest
from tests.agent.web.serving import Served, serving
from tests.agents import until
from tests.prometheus import NATIVE, Prometheus, VictoriaMetrics

from kaywatch_agent.config import parse
from kaywatch_agent.export.encoding import encode_labels, encode_sample, messages
from kaywatch_agent.export.metrics import RemoteWriteMetrics
from kaywatch_agent.export.remote_write import RemoteWrite
from kaywatch_agent.export.spool import Spool
from kaywatch_agent.notify.http import HttpClient

EXECUTIONS = "kaygraph_node_executions_total"
DURATIONS = "kaygraph_node_duration_seconds"
STEP = 60.0  # seconds of the clock between two snapshots
BEFORE, AFTER = 3, 3  # snapshots before and after the outage


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as result:
        yield result


@pytest.fixture(params=[Prometheus, VictoriaMetrics])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Prometheus]:
    options = {
        Prometheus: (NATIVE, "--web.enable-remote-write-receiver"),
        VictoriaMetrics: (),
    }[request.param]
    result = request.param(tmp_path, (), *options)
    try:
        result.start()
        yield result
    finally:
        result.kill()


class Outage:
    """One agent's exports, on a clock of its own."""

    def __init__(
        self, server: Prometheus, served: Served, folder: Path, seconds: float
    ) -> None:
        table = f"[[export.remote_write]]\nurl = '{server.url}/api/v1/write'\n"
        self.is_native = not isinstance(server, VictoriaMetrics)
        kind = "native" if self.is_native else "classic"
        text = f"{table}name = 'it'\nhistograms = '{kind}'"
        (config,) = parse(text).export.remote_write
        self.metrics = RemoteWriteMetrics()
        self.recorded = 0
        self.snapshots = 0
        steps = BEFORE + AFTER + seconds / STEP
        self.clock = Clock(time.time() - steps * STEP)
        self.http = HttpClient()
        self._served = served
        self.write = RemoteWrite(
            config,
            Spool(folder / "spool"),
            snapshot=lambda: served.call(served.server.application.snapshot),
            http=self.http,
            metrics=self.metrics,
            clock=self.clock,
        )

    async def take(self) -> None:
        """Record one more execution, and take a snapshot a step later."""
        self._served.send_rows({"graph": "g", "node": "n", "seconds": 0.1})
        self.recorded += 1
        self.clock.now += STEP
        await self.write.take()
        self.snapshots += 1

    async def push_from_elsewhere(self) -> None:
        """Store a sample of now: the server's newest one is of another host."""
        encoded = encode_labels("elsewhere_total", (), {"instance": "web-2"})
        sample = encode_sample(encoded, 1.0, int(self.clock.now * 1000))
        body = messages.WriteRequest(
            timeseries=[messages.TimeSeries.FromString(sample)]
        ).SerializeToString()
        response = await self.http.post(
            self.write.config.url, bytes(cramjam.snappy.compress_raw(body))
        )
        assert response.status == 204

    def dropped(self) -> dict[str, float]:
        return {key[1]: n for key, n in self.metrics.dropped.samples().items()}


@pytest.mark.parametrize("seconds", [600.0, 7200.0])
async def test_an_outage_doubles_nothing_and_its_refusals_are_named(
    server: Prometheus, served: Served, tmp_path: Path, seconds: float
) -> None:
    outage = Outage(server, served, tmp_path, seconds)
    async with aclosing(outage.http):
        for _ in range(BEFORE):
            await outage.take()
            await outage.write.send_all()
        server.kill()
        for _ in range(int(seconds / STEP)):
            await outage.take()
        assert outage.write.lag() == pytest.approx(seconds - STEP, abs=1.0)
        server.start()
        await outage.push_from_elsewhere()
        await outage.write.send_all()
        is_refused = seconds > 3600.0 and not isinstance(server, VictoriaMetrics)
        rejected = dict(outage.write.rejected)
        for _ in range(AFTER):
            await outage.take()
            await outage.write.send_all()

    now = str(outage.clock.now)

    def value(expression: str) -> float | None:
        samples = server.ask("query", query=expression, time=now)["result"]
        return float(samples[0]["value"][1]) if len(samples) == 1 else None

    total = f'{EXECUTIONS}{{node="n"}}'
    until(lambda: value(total) == outage.recorded, "the total is exact")
    durations = (
        f'histogram_count({DURATIONS}{{node="n"}})'
        if outage.is_native
        else f'{DURATIONS}_count{{node="n"}}'
    )
    assert value(durations) == outage.recorded
    assert value(f'resets({EXECUTIONS}{{node="n"}}[4h])') == 0
    stored = value(f'count_over_time({EXECUTIONS}{{node="n"}}[4h])')
    assert stored is not None
    if is_refused:
        assert outage.dropped().keys() == {"too_old"}
        # An hour of the curve is missing, and nothing else.
        assert outage.snapshots - stored == pytest.approx(3600 / STEP, abs=2 * AFTER)
    else:
        assert outage.dropped() == {}
        # And the zero at the beginning. VictoriaMetrics loses what it accepted in the
        # seconds before a SIGKILL.
        lost = BEFORE + 1 if isinstance(server, VictoriaMetrics) else 0
        assert 0 <= outage.snapshots + 1 - stored <= lost
    # It is over once the server has the newest values.
    assert rejected == {}
    assert outage.write.problem == ""
    assert outage.write.lag() == 0.0
