"""Exponential histograms: fewer buckets, and differences, keep every count."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from tests.agent.protocol.samples import calm
from tests.receivers import Receivers, Reply

from kaywatch_agent.config import parse
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.export.client import Unavailable
from kaywatch_agent.export.otlp import OtlpReason, OtlpTransfer
from kaywatch_agent.export.otlp_delta import Deltas
from kaywatch_agent.export.otlp_points import halve_scale
from kaywatch_agent.notify.http import HttpClient

INDEXES = st.lists(st.integers(-300, 300), max_size=40)


def histogram(
    indexes: list[int], limit: int, time: int
) -> pb.ExponentialHistogramDataPoint:
    counts = Counter(indexes)
    point = pb.ExponentialHistogramDataPoint(
        scale=5, count=len(indexes), start_time_unix_nano=1, time_unix_nano=time
    )
    if counts:
        point.positive.offset = min(counts)
        span = range(min(counts), max(counts) + 1)
        point.positive.bucket_counts.extend(counts[index] for index in span)
    downscale(point, limit)
    return point


def downscale(point: pb.ExponentialHistogramDataPoint, limit: int) -> None:
    while len(point.positive.bucket_counts) > limit:
        halve_scale(point)


def buckets(point: pb.ExponentialHistogramDataPoint) -> Counter[int]:
    numbered = enumerate(point.positive.bucket_counts, point.positive.offset)
    return Counter({index: count for index, count in numbered if count})


def request(*points: pb.ExponentialHistogramDataPoint) -> bytes:
    result = ExportMetricsServiceRequest()
    metric = result.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    metric.exponential_histogram.data_points.extend(points)
    metric.exponential_histogram.aggregation_temporality = 2
    encoded: bytes = result.SerializeToString()
    return encoded


@calm
@given(INDEXES, st.integers(2, 200))
def test_merged_buckets_are_those_of_the_lower_scale(
    indexes: list[int], limit: int
) -> None:
    point = histogram(indexes, limit, 1)

    assert len(point.positive.bucket_counts) <= limit
    shift = 5 - point.scale
    assert buckets(point) == Counter(index >> shift for index in indexes)


@calm
@given(INDEXES, INDEXES, st.integers(2, 200))
def test_a_difference_has_the_values_in_between(
    before: list[int], more: list[int], limit: int
) -> None:
    earlier = histogram(before, limit, 1)
    later = histogram(before + more, limit, 2)
    data = Deltas([request(earlier)], 1, 2).of(request(later))

    metric = ExportMetricsServiceRequest.FromString(data).resource_metrics[0]
    field = metric.scope_metrics[0].metrics[0].exponential_histogram
    assert field.aggregation_temporality == pb.AGGREGATION_TEMPORALITY_DELTA
    if not more:
        assert not field.data_points
        return
    (point,) = field.data_points
    assert (point.count, point.start_time_unix_nano) == (len(more), 1)
    assert buckets(point) == Counter(index >> (5 - point.scale) for index in more)


async def test_answers_of_a_collector(receivers: Receivers) -> None:
    text = f"[[export.otlp]]\nurl = '{receivers.url}/v1/metrics'"
    (config,) = parse(text).export.otlp
    receivers.answer(
        "/v1/metrics", Reply(503, "busy"), Reply(400, "no"), Reply(413, "")
    )
    data = request(histogram([1], 160, 1))
    http = HttpClient()
    try:
        transfer = OtlpTransfer(iter([data, b"", data, data]), config, http)
        with pytest.raises(Unavailable, match=r"^HTTP 503: busy$"):
            await transfer.send()
        await transfer.send()
    finally:
        await http.aclose()

    assert transfer.dropped == {OtlpReason.REJECTED: 1, OtlpReason.TOO_LARGE: 1}
    assert (transfer.accepted, transfer.message) == (1, "")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("temporality = 'both'", "export.otlp[0].temporality"),
        ("gen_ai_names = 'yes'", "export.otlp[0].gen_ai_names"),
        ("labels = {}", "export.otlp[0].labels"),
        ("interval = '1ms'", "export.otlp.interval"),
    ],
)
def test_wrong_settings_are_named(line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[[export.otlp]]\nurl = 'http://c:4318/v1/metrics'\n{line}")
    assert problem in str(caught.value)
