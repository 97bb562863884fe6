"""/metrics in protobuf: the same numbers as in text, and more about them."""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.samples import Sample
from tests.agent.web.conftest import fill
from tests.agent.web.prometheus.test_metrics import PAY, parse_metrics
from tests.agent.web.serving import ANYWHERE, Served, serving

from kaywatch_agent.web.prometheus.protobuf_format import messages

# What Prometheus 2.42 sends if it reads native histograms.
ACCEPT = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
    "encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
TYPE = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily;"
    " encoding=delimited"
)
Key = tuple[str, frozenset[tuple[str, str]]]


def decode(body: bytes) -> Iterator[Any]:
    """Yield the families of a body: each has its length before it, in base 128."""
    at = 0
    while at < len(body):
        size = shift = 0
        while True:
            byte, at = body[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield messages.MetricFamily.FromString(body[at : at + size])
        at += size


def families(served: Served, **headers: str) -> dict[str, Any]:
    """Return the families by name."""
    answer = served.ask("/metrics", {"Accept": ACCEPT, **headers})
    assert (answer.status, answer.headers["Content-Type"]) == (200, TYPE)
    body = answer.body
    if answer.headers["Content-Encoding"] == "gzip":
        body = gzip.decompress(body)
    result = {family.name: family for family in decode(body)}
    assert result
    return result


def labels(metric: Any) -> dict[str, str]:
    return {pair.name: pair.value for pair in metric.label}


def one(family: Any, **wanted: str) -> Any:
    """Return the one sample with all these labels."""
    (metric,) = [m for m in family.metric if wanted.items() <= labels(m).items()]
    return metric


def flatten(family: Any) -> Iterator[tuple[Key, float]]:
    """Yield the samples of a family, named as in text."""
    for metric in family.metric:
        key = frozenset(labels(metric).items())
        if metric.HasField("histogram"):
            yield (f"{family.name}_count", key), metric.histogram.sample_count
            yield (f"{family.name}_sum", key), metric.histogram.sample_sum
        elif metric.HasField("counter"):
            yield (family.name, key), metric.counter.value
        else:
            yield (family.name, key), metric.gauge.value


def in_text(samples: dict[str, list[Sample]]) -> dict[Key, float]:
    """Return the samples of a scrape in text, without buckets."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for each in samples.values()
        for sample in each
        if not sample.name.endswith("_bucket")
    }


def is_of_process(key: Key) -> bool:
    """Return whether a metric changes from one request to the next."""
    return key[0].startswith(("kaywatch_http_", "kaywatch_process_"))


def test_all_numbers_are_those_of_the_text_format(shop: Served) -> None:
    binary = {
        key: value for each in families(shop).values() for key, value in flatten(each)
    }
    text = in_text(parse_metrics(shop))

    # A sum that may decrease is no part of a summary, but it is of a histogram.
    assert {key for key in text if not is_of_process(key)} <= set(binary)
    assert {key[0] for key in set(binary) - set(text)} <= {"kaygraph_observation_sum"}
    for key, value in text.items():
        if not is_of_process(key):
            assert binary[key] == value, key


def test_a_compressed_scrape_is_the_same(shop: Served) -> None:
    packed = families(shop, **{"Accept-Encoding": "gzip"})
    plain = families(shop)

    assert set(packed) == set(plain)
    name = "kaygraph_node_duration_seconds"
    assert packed[name] == plain[name]


def test_histograms_are_native_and_have_classic_buckets_on_request() -> None:
    name = "kaygraph_node_duration_seconds"
    found = []
    for classic in (False, True):
        config = replace(ANYWHERE, classic_histograms=classic)
        with serving(config=config) as served:
            fill(served)
            found.append(one(families(served)[name], **PAY).histogram)
    native, both = found

    # 0.125, 0.25, 1.0 and 2.0 seconds, each on the upper bound of its bucket.
    assert (native.schema, native.sample_count, native.zero_count) == (5, 4, 0)
    assert [(s.offset, s.length) for s in native.positive_span] == [
        (-96, 1),
        (31, 1),
        (63, 1),
        (31, 1),
    ]
    assert list(native.positive_delta) == [1, 0, 0, 0]
    assert not native.bucket
    assert list(both.positive_delta) == list(native.positive_delta)
    bounds = [2.0**e for e in range(-10, 10)]
    assert [bucket.upper_bound for bucket in both.bucket] == bounds
    assert [bucket.cumulative_count for bucket in both.bucket] == [
        sum(seconds <= bound for seconds in (0.125, 0.25, 1.0, 2.0)) for bound in bounds
    ]


def test_counters_and_histograms_have_the_time_when_they_were_zero() -> None:
    now = [1_800_000_000.0]
    with serving(clock=lambda: now[0]) as served:
        served.send_rows({"graph": "g", "node": "old", "seconds": 1.0})
        now[0] += 100
        served.send_rows({"graph": "g", "node": "old", "seconds": 1.0})
        now[0] += 10.5
        served.send_rows({"graph": "g", "node": "new", "seconds": 1.0})
        found = families(served)

    counter = found["kaygraph_node_executions_total"]
    histogram = found["kaygraph_node_duration_seconds"]
    for node, created in (("old", 1_800_000_000.0), ("new", 1_800_000_100.0)):
        for value in (
            one(counter, node=node).counter,
            one(histogram, node=node).histogram,
        ):
            time_ = value.created_timestamp
            assert time_.seconds + time_.nanos / 1e9 == created
    agent = one(found["kaywatch_events_total"]).counter.created_timestamp
    assert agent.seconds == 1_800_000_000


def test_failures_are_exemplars_with_their_run_and_trace(served: Served) -> None:
    ended = time.time()
    failure = {"graph": "checkout", "node": "pay", "type": "KeyError", "phase": "post"}
    ids = {"run": "run-7", "trace_id": "5b8efff798038103d269b633813fc60c"}
    served.receive(
        [
            {
                "type": "batch",
                "v": 1,
                "client": b"exemplary-client",
                "seq": 1,
                "service": "shop",
                "recorded": 1,
                "events": [
                    {
                        "graph": "checkout",
                        "node": "pay",
                        "seconds": 0.25,
                        "outcome": "error",
                        "error": "KeyError",
                        "phase": "post",
                    }
                ],
                "failures": [
                    {**failure, "time": ended, "seconds": 0.25, **ids},
                    {**failure, "time": ended - 5, "seconds": 0.5, "run": "run-6"},
                    {**failure, "time": ended + 1, "run": "x" * 200},
                ],
            }
        ]
    )
    found = families(served)

    (exemplar,) = one(
        found["kaygraph_node_duration_seconds"], **PAY
    ).histogram.exemplars
    error = one(found["kaygraph_errors_total"], **PAY).counter
    assert error.value == 1
    for result, value in ((exemplar, 0.25), (error.exemplar, 1.0)):
        assert labels(result) == ids
        assert result.value == value
        seconds = result.timestamp.seconds + result.timestamp.nanos / 1e9
        assert math.isclose(seconds, ended, abs_tol=1e-6)


def test_a_custom_metric_is_a_histogram_whatever_its_sign(served: Served) -> None:
    for value in (-0.5, 9.0, 0.0):
        served.send_rows({"metric": "score_change", "value": value})

    histogram = one(
        families(served)["kaygraph_observation"], metric="score_change"
    ).histogram
    assert (histogram.sample_count, histogram.sample_sum) == (3, 8.5)
    assert histogram.zero_count == 1
    assert sum(span.length for span in histogram.negative_span) == 1
    assert sum(span.length for span in histogram.positive_span) == 1


@pytest.mark.parametrize("accept", [ACCEPT, "text/plain"])
def test_only_what_is_durable_is_exported(accept: str) -> None:
    """A crash sets back what is not, and Prometheus would count it twice."""
    with serving() as served:
        agent = served.source.agent

        def count() -> float:
            if accept == ACCEPT:
                family = families(served)["kaygraph_node_executions_total"]
                return float(one(family, node="n").counter.value)
            samples = parse_metrics(served)["kaygraph_node_executions_total"]
            (value,) = [s.value for s in samples if s.labels["node"] == "n"]
            return float(value)

        served.send_rows({"graph": "g", "node": "n", "seconds": 1.0})
        assert count() == 1
        agent.slow = True
        served.send_rows({"graph": "g", "node": "n", "seconds": 1.0})
        assert served.node("n")["total_executions"] == 2
        assert count() == 1
        served.call(lambda: agent.end(broken=True))
        assert count() == 1
        agent.slow = False
        served.call(agent.commit)
        assert count() == 2
