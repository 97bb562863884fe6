"""Encodes parts of OTLP's points: labels, numbers, exponential histograms.

Source: opentelemetry-proto, metrics/v1/metrics.proto.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from kaywatch_agent.aggregate.native_histogram import ZERO_THRESHOLD
from kaywatch_agent.export.dense_histogram import DenseHistogram
from kaywatch_agent.model.series import Labels
from kaywatch_agent.web.prometheus.exposition import Exemplar

__all__ = [
    "AGENT",
    "NUMBER",
    "TAGS",
    "key_values",
    "encode_attributes",
    "halve_scale",
    "histogram_point",
    "split_service",
]

AGENT: Final = "kaywatch"  # the service of the agent's own metrics

# start_time_unix_nano (2) and time_unix_nano (3), both fixed64, then as_double (4).
NUMBER: Final = struct.Struct("<BQBQBd")
TAGS: Final = (2 << 3 | 1, 3 << 3 | 1, 4 << 3 | 1)


def split_service(labels: Labels) -> tuple[str, Labels]:
    """Return the service of labels, and the others."""
    rest = tuple([pair for pair in labels if pair[0] != "service" and pair[1]])
    service = next((value for name, value in labels if name == "service"), "")
    return service or AGENT, rest


def encode_attributes(kind: Any, labels: Labels) -> bytes:
    """Return labels, encoded as a point without anything else."""
    return b"".join([_encode_attribute(kind, pair) for pair in labels])


@lru_cache(maxsize=100_000)
def _encode_attribute(kind: Any, pair: tuple[str, str]) -> bytes:
    encoded: bytes = kind(attributes=key_values((pair,))).SerializeToString()
    return encoded


def key_values(labels: Iterable[tuple[str, str]]) -> Iterator[KeyValue]:
    """Yield labels as attributes."""
    for name, value in labels:
        yield KeyValue(key=name, value=AnyValue(string_value=value))


def histogram_point(
    distribution: DenseHistogram, count: int, total: float, exemplar: Exemplar | None
) -> pb.ExponentialHistogramDataPoint:
    """Return a point without labels and times.

    Args:
        distribution: of the values.
        count: the number of values.
        total: the sum of the values.
        exemplar: one of the values.
    """
    point = pb.ExponentialHistogramDataPoint(
        count=count,
        scale=distribution.scale,
        zero_count=distribution.zero_count,
        zero_threshold=ZERO_THRESHOLD,
    )
    for buckets, dense in (
        (point.positive, distribution.positive),
        (point.negative, distribution.negative),
    ):
        if dense.counts:
            buckets.offset = dense.offset
            buckets.bucket_counts.extend(dense.counts)
    # Its sum is no counter, if some values are negative.
    if not distribution.negative.counts:
        point.sum = total
    if exemplar is not None:
        _add_exemplar(point, exemplar)
    return point


def halve_scale(point: Any) -> None:
    """Merge each two buckets that one of the next lower scale covers."""
    point.scale -= 1
    for buckets in (point.positive, point.negative):
        counts = list(buckets.bucket_counts)
        if not counts:
            continue
        first = buckets.offset >> 1
        merged = [0] * (((buckets.offset + len(counts) - 1) >> 1) - first + 1)
        for place, count in enumerate(counts, buckets.offset):
            merged[(place >> 1) - first] += count
        buckets.offset = first
        del buckets.bucket_counts[:]
        buckets.bucket_counts.extend(merged)


def _add_exemplar(point: Any, exemplar: Exemplar) -> None:
    added = point.exemplars.add(
        as_double=exemplar.value, time_unix_nano=int(exemplar.time * 1e9)
    )
    labels = dict(exemplar.labels)
    # As long as a UUID, and written like one.
    with contextlib.suppress(ValueError):  # not the id of a trace of OpenTelemetry
        added.trace_id = UUID(labels.get("trace_id", "")).bytes
        del labels["trace_id"]
    added.filtered_attributes.extend(key_values(labels.items()))
