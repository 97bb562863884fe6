"""Snapshots: every value of /metrics, births and ends of series."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from tests.agent.web.conftest import STRANGE, fill
from tests.agent.web.prometheus.test_metrics import parse_metrics
from tests.agent.web.serving import Served, serving

from kaywatch_agent.export.encoding import (
    SERIES_PER_REQUEST,
    encode_labels,
    key_of,
    messages,
)
from kaywatch_agent.export.exposition import (
    HistogramFormat,
    PreviousSnapshot,
    RemoteWriteExposition,
)
from kaywatch_agent.web.prometheus import families

CLASSIC = HistogramFormat(native=False, max_buckets=160)
NATIVE = HistogramFormat(native=True, max_buckets=160)
MORE = {"job": "kaywatch", "instance": "web-1", "epoch": "17"}
STALE = struct.pack("<Q", 0x7FF0000000000002)
Key = frozenset[tuple[str, str]]


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as result:
        yield result


def take(
    served: Served,
    time: int,
    previous: PreviousSnapshot | None = None,
    histograms: HistogramFormat = NATIVE,
    is_sent: Any = lambda name: True,
) -> tuple[list[Any], PreviousSnapshot]:
    """Return the series of a snapshot, and what the next one needs of it."""
    exposition = RemoteWriteExposition(time, MORE, is_sent, histograms, previous)
    families.write(served.call(served.server.application.snapshot), exposition)
    requests = [*exposition.births(), *exposition.chunks()]

    def read() -> Iterator[Any]:
        for request in requests:
            yield from messages.WriteRequest.FromString(request).timeseries

    series = list(read())
    assert all(1 <= len(s.samples) + len(s.histograms) <= 1 for s in series)
    return series, PreviousSnapshot(time, exposition.keys, read)


def labels(series: Any) -> dict[str, str]:
    return {label.name: label.value for label in series.labels}


def samples(series: Iterable[Any], name: str) -> dict[Key, list[tuple[int, float]]]:
    """Return times and values of a metric, by its labels."""
    result: dict[Key, list[tuple[int, float]]] = {}
    for each in series:
        pairs = labels(each)
        if pairs.pop("__name__") == name:
            key = frozenset(pairs.items())
            points = [(s.timestamp, s.value) for s in each.samples]
            points += [(h.timestamp, float(h.count_int)) for h in each.histograms]
            result.setdefault(key, []).extend(points)
    return result


def now_ms(served: Served) -> int:
    return int(served.source.clock() * 1000)


def is_of_process(name: str) -> bool:
    """Return whether a metric changes from one request to the next."""
    return name.startswith(("kaywatch_http_", "kaywatch_process_"))


def test_a_snapshot_has_every_value_of_a_scrape(served: Served) -> None:
    fill(served)
    expected = {
        (name, frozenset({**s.labels, **MORE}.items()) - {("graph", ""), ("node", "")}
            - {(k, "") for k in s.labels}): s.value
        for name, each in parse_metrics(served).items()
        for s in each
        if not is_of_process(name)
    }  # fmt: skip
    time = now_ms(served) + 10_000
    series, _ = take(served, time, histograms=CLASSIC)
    found = {}
    for each in series:
        pairs = labels(each)
        name = pairs.pop("__name__")
        (sample,) = each.samples
        if sample.timestamp == time and not is_of_process(name):
            found[name, frozenset(pairs.items())] = sample.value

    assert found == expected
    assert {dict(key)["node"] for name, key in found if "node" in dict(key)} >= set(
        STRANGE
    )


def test_labels_are_sorted_and_complete(served: Served) -> None:
    fill(served)
    series, _ = take(served, now_ms(served) + 1)
    for each in series:
        names = [label.name for label in each.labels]
        assert names == sorted(names)
        assert len(names) == len(set(names))
        assert all(label.value for label in each.labels)
        assert {"__name__", *MORE} <= set(names)


def test_a_label_of_a_metric_does_not_hide_the_host_s() -> None:
    encoded = encode_labels("m", [("instance", "mine"), ("node", "n")], MORE)
    pairs = labels(messages.TimeSeries.FromString(encoded))
    assert pairs["instance"] == "web-1"
    assert pairs["exported_instance"] == "mine"


def test_a_new_counter_begins_with_zero_and_no_other_does() -> None:
    clock = [1_800_000_000.0]
    name = "kaygraph_node_executions_total"

    with serving(clock=lambda: clock[0]) as served:

        def count(node: str) -> None:
            served.send_rows({"graph": "g", "node": node, "seconds": 1.0})

        count("a")
        clock[0] += 5
        first, previous = take(served, now_ms(served))
        ((born, zero), last) = next(iter(samples(first, name).values()))
        assert (born, zero) == (1_800_000_000_000, 0.0)
        assert last == (now_ms(served), 1.0)

        clock[0] += 15
        served.send_rows()
        clock[0] += 15
        count("a")
        count("b")
        second, _ = take(served, now_ms(served), previous)
        by_node = {dict(key)["node"]: v for key, v in samples(second, name).items()}
        assert by_node["a"] == [(now_ms(served), 2.0)]
        (born, zero), last = by_node["b"]
        assert zero == 0.0 and previous.time < born < now_ms(served)
        assert last == (now_ms(served), 1.0)
        # So does a histogram.
        durations = samples(second, "kaygraph_node_duration_seconds")
        by_node = {dict(key)["node"]: v for key, v in durations.items()}
        assert [value for _, value in by_node["b"]] == [0.0, 1.0]
        assert len(by_node["a"]) == 1


def test_a_counter_that_ended_begins_after_its_end() -> None:
    """Its end and its zero would be two values of one time, which a server rejects."""
    clock = [1_800_000_000.0]
    name = "kaygraph_node_executions_total"
    with serving(clock=lambda: clock[0]) as served:
        served.send_rows({"graph": "g", "node": "a", "seconds": 1.0})
        _, previous = take(served, now_ms(served) + 1)
        clock[0] += 5
        gone, previous = take(
            served, now_ms(served), previous, is_sent=lambda each: each != name
        )
        ((end,),) = samples(gone, name).values()
        clock[0] += 5
        back, _ = take(served, now_ms(served), previous)
    (((born, zero), last),) = samples(back, name).values()
    assert end[0] < born < last[0]
    assert (math.isnan(end[1]), zero, last[1]) == (True, 0.0, 1.0)


def test_an_old_counter_does_not_begin_long_ago() -> None:
    clock = [1_800_000_000.0]
    with serving(clock=lambda: clock[0]) as served:
        served.send_rows({"graph": "g", "node": "a", "seconds": 1.0})
        clock[0] += 86_400
        series, _ = take(served, now_ms(served))
        points = samples(series, "kaygraph_node_executions_total")
        assert list(points.values()) == [[(now_ms(served), 1.0)]]


def test_a_series_that_is_gone_ends(served: Served) -> None:
    fill(served)
    time = now_ms(served)
    _, previous = take(served, time)
    rest, after = take(
        served, time + 1000, previous, is_sent=lambda name: "node" not in name
    )
    ended = [
        each
        for each in rest
        if each.samples and struct.pack("<d", each.samples[0].value) == STALE
    ]

    assert len({key_of(each.SerializeToString()) for each in ended}) == len(ended)
    names = {labels(each)["__name__"] for each in ended}
    assert "kaygraph_node_duration_seconds" in names
    assert names and all("node" in name for name in names)
    assert {sample.timestamp for each in ended for sample in each.samples} == {
        time + 1000
    }
    assert len(ended) == len(previous.keys - after.keys)
    # It ends once.
    last, _ = take(served, time + 2000, after, is_sent=lambda name: "node" not in name)
    assert not [s for s in last if s.samples and math.isnan(s.samples[0].value)]


def test_histograms_are_native_with_few_enough_buckets(served: Served) -> None:
    for n in range(1, 400):
        row = {"graph": "g", "node": "a", "seconds": 1.05**n / 1e3}
        served.send_rows(row)
    limit = HistogramFormat(native=True, max_buckets=20)
    series, _ = take(served, now_ms(served), histograms=limit)
    (histogram,) = [
        each.histograms[0]
        for each in series
        if labels(each)["__name__"] == "kaygraph_node_duration_seconds"
        and each.histograms[0].count_int
    ]
    assert histogram.count_int == 399
    assert 10 < len(histogram.positive_deltas) <= 20
    assert len(histogram.positive_deltas) == sum(
        span.length for span in histogram.positive_spans
    )


def test_a_snapshot_is_split_into_requests() -> None:
    with serving() as served:
        rows = [{"graph": "g", "node": f"n{n}", "seconds": 1.0} for n in range(1_500)]
        served.send_rows(*rows)
        exposition = RemoteWriteExposition(
            now_ms(served) + 1, MORE, lambda name: True, NATIVE, None
        )
        families.write(served.call(served.server.application.snapshot), exposition)
    sizes = [
        len(messages.WriteRequest.FromString(request).timeseries)
        for request in exposition.chunks()
    ]
    assert len(sizes) > 2
    assert max(sizes) == SERIES_PER_REQUEST
