"""Compare a p95 of 10,000 series over an hour with a real Prometheus.

Both have the same data: the bucket of `bench_http` 360 times, and native histograms
with its counts and a sample every ten seconds, sent by remote write. Both compute the
same values, which is checked. CPU time is measured, because a request may use several
cores of either.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cramjam
import numpy as np
from tests.bench import series as many
from tests.bench.bench_http import SERIES, serve_series
from tests.bench.report import OURS, Row, missing_figure, summarize
from tests.bench.rounds import Effort, interleave
from tests.bench.usage import cpu_seconds
from tests.prometheus import NATIVE, Prometheus, running_prometheus
from tests.servers import find

from kaywatch_agent.aggregate.group_stats import GroupStats
from kaywatch_agent.aggregate.native_histogram import native_histograms
from kaywatch_agent.export.encoding import (
    encode_histogram,
    encode_labels,
    write_requests,
)

PEER = "Prometheus"
NOW = 1_700_000_000  # of the view of `bench_http`
STEP = 10
POINTS = 360

# The path of our query, and the peer's with its parameters.
P95 = "histogram_quantile(0.95, sum({}))"
CHART = "p95 of all series over an hour, 360 points"
VALUE = "p95 of all series over an hour, one value"
ASKED: dict[str, tuple[str, str, dict[str, object]]] = {
    CHART: (
        "/api/v1/query?metric=p95",
        "query_range",
        {
            "query": P95.format(f"rate(seconds[{2 * STEP}s])"),
            "start": NOW - 3600 + 2 * STEP,
            "end": NOW,
            "step": STEP,
        },
    ),
    VALUE: (
        "/api/v1/query?metric=p95&step=1h",
        "query",
        {"query": P95.format("increase(seconds[1h])"), "time": NOW},
    ),
}


def measure(effort: Effort) -> list[Row]:
    """Return a row for a chart, and one for a single value."""
    series = effort.whole(SERIES, 50)
    measures: dict[tuple[str, str], Callable[[], float]] = {}
    with serve_series(series) as port, _filled_peer(series) as peer:
        for what in ASKED:
            measures[what, OURS] = partial(_measure_ours, port, what)
            _check(series, what, _ask_ours(port, what))
            if peer is not None:
                measures[what, PEER] = partial(_measure_peer, peer, what)
                _check(series, what, _ask_peer(peer, what))
        found = interleave(effort.rounds, measures)
    missing = missing_figure(PEER, "not installed")
    return [
        Row(
            f"{what}, {series:,} series",
            "ms of CPU",
            summarize(OURS, found[what, OURS]),
            None,
            (summarize(PEER, found[what, PEER]) if peer is not None else missing,),
        )
        for what in ASKED
    ]


@contextlib.contextmanager
def _filled_peer(series: int) -> Iterator[Prometheus | None]:
    """Run a Prometheus with the histograms, if it is installed."""
    if find("prometheus") is None:
        yield None
        return
    options = [NATIVE, "--web.enable-remote-write-receiver"]
    with (
        tempfile.TemporaryDirectory() as folder,
        running_prometheus(Path(folder), (), *options) as peer,
    ):
        for request in _requests(series):
            _post(f"{peer.url}/api/v1/write", request)
        yield peer


def _requests(series: int) -> Iterator[bytes]:
    """Yield an hour of cumulative histograms, as requests of remote write."""
    bucket = many.make_bucket(series, 2, NOW)
    names = [
        encode_labels("seconds", [("node", many.letters(n))], {}) for n in range(series)
    ]
    for point in range(POINTS + 1):
        counts = point * bucket.fact_counts
        stats = GroupStats(np.arange(series), series)
        stats.add(bucket._replace(fact_counts=counts))
        sums = zip(
            names,
            native_histograms(stats),
            (point * bucket.executions).tolist(),
            (point * bucket.total).tolist(),
            strict=True,
        )
        time_ms = (NOW - 3600 + point * STEP) * 1000
        yield from write_requests([encode_histogram(*each, time_ms) for each in sums])


def _post(url: str, request: bytes) -> None:
    body = bytes(cramjam.snappy.compress_raw(request))
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)):
        pass


def _ask_ours(port: int, what: str) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", ASKED[what][0])
    response = json.loads(connection.getresponse().read())
    connection.close()
    (only,) = response["series"]
    return [value for _, value, _ in only["points"] if value is not None]


def _ask_peer(peer: Prometheus, what: str) -> list[float]:
    _, path, parameters = ASKED[what]
    with urllib.request.urlopen(
        f"{peer.url}/api/v1/{path}?{urlencode(parameters)}"
    ) as r:
        (only,) = json.load(r)["data"]["result"]
    samples: list[Any] = only.get("values") or [only["value"]]
    return [float(value) for _, value in samples]


def _check(series: int, what: str, values: list[float]) -> None:
    """Check that all values are the p95 of the bucket, with which both were filled."""
    exact = float(np.quantile(many.make_columns(series, 2, NOW).value, 0.95))
    assert len(values) >= (POINTS - 3 if what == CHART else 1), (what, len(values))
    # A histogram's bucket is 2.2 % wide; in a smoke test, values are far apart.
    assert np.allclose(values, exact, rtol=0.03 if series > 1_000 else 0.3), what


def _measure_ours(port: int, what: str) -> float:
    started = time.process_time()
    _ask_ours(port, what)
    return (time.process_time() - started) * 1e3


def _measure_peer(peer: Prometheus, what: str) -> float:
    started = cpu_seconds(peer.pid)
    _ask_peer(peer, what)
    return (cpu_seconds(peer.pid) - started) * 1e3
