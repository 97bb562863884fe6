"""Differences between two cumulative snapshots, for receivers of delta temporality.

Strategy: the spool has cumulative snapshots, and the last one that was sent. The
difference of two of them is sent: a retry, even after a restart, sends the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from kaywatch_agent.export.otlp_exposition import halve_scale

__all__ = ["Deltas"]

DELTA: Final = pb.AGGREGATION_TEMPORALITY_DELTA
_KINDS: Final = ("sum", "histogram", "exponential_histogram")


class Deltas:
    """Turns cumulative values into differences from an earlier snapshot."""

    def __init__(self, previous: Iterable[bytes]) -> None:
        """Read the earlier snapshot.

        Args:
            previous: its encoded requests; none, if everything is new.
        """
        self._previous: dict[tuple[bytes, str, bytes], Any] = {}
        for data in previous:
            for resource, metric in _metrics(
                ExportMetricsServiceRequest.FromString(data)
            ):
                for point in _points(metric):
                    self._previous[_key(resource, metric, point)] = point

    def of(self, data: bytes) -> bytes:
        """Return an encoded request with differences, without points that have none."""
        request = ExportMetricsServiceRequest.FromString(data)
        for resource, metric in _metrics(request):
            kind = metric.WhichOneof("data")
            if kind not in _KINDS:
                continue
            field = getattr(metric, kind)
            field.aggregation_temporality = DELTA
            changed = []
            for point in field.data_points:
                before = self._previous.get(_key(resource, metric, point))
                if _subtract(point, before):
                    changed.append(point.SerializeToString())
            kind_of_point = type(field.data_points[0])
            del field.data_points[:]
            field.data_points.extend(map(kind_of_point.FromString, changed))
        encoded: bytes = request.SerializeToString()
        return encoded


def _subtract(point: Any, before: Any) -> bool:
    """Subtract an earlier point; return whether anything is left."""
    # Another start: the counter began again, in a new store.
    if before is not None and before.start_time_unix_nano == point.start_time_unix_nano:
        if isinstance(point, pb.NumberDataPoint):
            point.as_double -= before.as_double
        else:
            point.count -= before.count
            if point.HasField("sum"):
                point.sum -= before.sum
        if isinstance(point, pb.ExponentialHistogramDataPoint):
            _subtract_buckets(point, before)
        point.start_time_unix_nano = before.time_unix_nano
    if isinstance(point, pb.NumberDataPoint):
        return bool(point.as_double)
    return bool(point.count)


def _subtract_buckets(point: Any, before: Any) -> None:
    while before.scale > point.scale:
        halve_scale(before)
    while point.scale > before.scale:
        halve_scale(point)
    point.zero_count -= before.zero_count
    for new, old in (
        (point.positive, before.positive),
        (point.negative, before.negative),
    ):
        for place, count in enumerate(old.bucket_counts, old.offset - new.offset):
            if count:
                new.bucket_counts[place] -= count


def _metrics(request: Any) -> Iterator[tuple[bytes, Any]]:
    """Yield the metrics of a request, each with its encoded resource."""
    for resource in request.resource_metrics:
        encoded = resource.resource.SerializeToString(deterministic=True)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                yield encoded, metric


def _points(metric: Any) -> Iterable[Any]:
    kind = metric.WhichOneof("data")
    return getattr(metric, kind).data_points if kind in _KINDS else ()


def _key(resource: bytes, metric: Any, point: Any) -> tuple[bytes, str, bytes]:
    labels = type(point)(attributes=point.attributes)
    return resource, metric.name, labels.SerializeToString(deterministic=True)
