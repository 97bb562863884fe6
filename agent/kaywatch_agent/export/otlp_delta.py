"""Differences between two cumulative snapshots, for receivers of delta temporality.

Strategy: the spool has cumulative snapshots, and the last one that was sent. The
difference of two of them is sent: a retry, even after a restart, sends the same.

All points of a snapshot have the same time, so an encoded point consists of what
precedes its time (labels and start) and of what follows it (the value). Points with
equal values are left out, and differences of numbers calculated, without decoding them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from kaywatch_agent.export.otlp_points import TAGS, halve_scale
from kaywatch_agent.protobuf import Field, message_types

__all__ = ["Deltas", "count_points"]

DELTA: Final = pb.AGGREGATION_TEMPORALITY_DELTA
_KINDS: Final[Mapping[str, Any]] = {
    "sum": pb.NumberDataPoint,
    "histogram": pb.HistogramDataPoint,
    "exponential_histogram": pb.ExponentialHistogramDataPoint,
}
_POINTS: Final = Field("data_points", "bytes", 1, repeated=True)
_TEMPORALITY: Final = Field("aggregation_temporality", "int32", 2)
# An ExportMetricsServiceRequest with encoded points.
messages: Final = message_types(
    "kaywatch.otlp",
    {
        "Points": (_POINTS, _TEMPORALITY, Field("is_monotonic", "bool", 3)),
        "Metric": (
            Field("name", "string", 1),
            Field("description", "string", 2),
            Field("unit", "string", 3),
            Field("gauge", "Points", 5),
            Field("sum", "Points", 7),
            Field("histogram", "Points", 9),
            Field("exponential_histogram", "Points", 10),
        ),
        "Scope": (
            Field("scope", "bytes", 1),
            Field("metrics", "Metric", 2, repeated=True),
        ),
        "Resource": (
            Field("resource", "bytes", 1),
            Field("scope_metrics", "Scope", 2, repeated=True),
        ),
        "Request": (Field("resource_metrics", "Resource", 1, repeated=True),),
    },
)
_FIXED: Final = struct.Struct("<BQ")  # a tag, and a time
_DOUBLE: Final = struct.Struct("<Bd")  # a tag, and a value


# The values of a metric's points by what precedes their times: another start is that of
# a new counter. The garbage collector ignores a table of bytes, and pauses for longer
# with one of 100,000 tuples.
_Values = dict[bytes, bytes]


class Deltas:
    """Turns cumulative values into differences from an earlier snapshot."""

    def __init__(self, previous: Iterable[bytes], before: int, time: int) -> None:
        """Read the earlier snapshot.

        Args:
            previous: its encoded requests; none, if everything is new.
            before: the time of its points, Unix nanoseconds.
            time: the time of the points of the other snapshot.
        """
        self._before = _FIXED.pack(TAGS[1], before)
        self._start = _FIXED.pack(TAGS[0], before)
        self._time = _FIXED.pack(TAGS[1], time)
        self._previous: dict[tuple[bytes, str], _Values] = {}
        for data in previous:
            for resource, metric in _metrics(messages.Request.FromString(data)):
                values = self._previous.setdefault((resource, metric.name), {})
                for point in _cumulative(metric)[1].data_points:
                    head, _, value = point.partition(self._before)
                    values[head] = value

    def of(self, data: bytes) -> bytes:
        """Return an encoded request with differences, without points that have none."""
        request = messages.Request.FromString(data)
        for resource, metric in _metrics(request):
            kind, field = _cumulative(metric)
            if kind:
                field.aggregation_temporality = DELTA
                values = self._previous.get((resource, metric.name), {})
                points = [
                    delta
                    for point in field.data_points
                    if (delta := self._delta(kind, point, values))
                ]
                del field.data_points[:]
                field.data_points.extend(points)
        encoded: bytes = request.SerializeToString()
        return encoded

    # -- inside ------------------------------------------------------------------------

    def _delta(self, kind: str, data: bytes, values: _Values) -> bytes:
        """Return the difference of a point, encoded; nothing if it has none."""
        head, _, value = data.partition(self._time)
        before = values.get(head)
        if before is None:
            return data if _has_value(kind, data, value) else b""
        if before == value:
            return b""
        if kind == "sum":
            tag, number = _DOUBLE.unpack(value)
            difference = _DOUBLE.pack(tag, number - _DOUBLE.unpack(before)[1])
            # The start is the last of what precedes the time.
            return head[: -_FIXED.size] + self._start + self._time + difference
        decode = _KINDS[kind].FromString
        # The last one of two starts counts.
        point = decode(head + self._start + self._time + value)
        _subtract(point, decode(before))
        # Only an exemplar may have changed.
        encoded: bytes = point.SerializeToString()
        return encoded if point.count else b""


def count_points(data: bytes) -> int:
    """Return the number of points in an encoded request."""
    return sum(
        len(getattr(metric, kind).data_points)
        for _, metric in _metrics(messages.Request.FromString(data))
        for kind in ("gauge", *_KINDS)
        if metric.HasField(kind)
    )


def _has_value(kind: str, point: bytes, value: bytes) -> bool:
    if kind == "sum":
        return bool(_DOUBLE.unpack(value)[1])
    return bool(_KINDS[kind].FromString(point).count)


def _subtract(point: Any, before: Any) -> None:
    """Subtract an earlier point of a histogram."""
    point.count -= before.count
    if point.HasField("sum"):
        point.sum -= before.sum
    if isinstance(point, pb.ExponentialHistogramDataPoint):
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
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                yield resource.resource, metric


def _cumulative(metric: Any) -> tuple[str, Any]:
    """Return the kind of a metric, and its points; none of a gauge."""
    for kind in _KINDS:
        if metric.HasField(kind):
            return kind, getattr(metric, kind)
    return "", messages.Points()
