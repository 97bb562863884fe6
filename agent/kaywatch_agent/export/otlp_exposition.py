"""Messages of OTLP: sums, gauges and exponential histograms of one snapshot.

Strategy: the labels of a group are encoded once, and each point is joined of encoded
parts. Making a message for each of 130,000 points would take seconds.

Source: opentelemetry-proto, metrics/v1/metrics.proto, and the data model of metrics
("ExponentialHistogram").
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from kaywatch._version import __version__
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.native_histogram import (
    ZERO_THRESHOLD,
    BucketSpans,
    native_histograms,
)
from kaywatch_agent.export.gen_ai import (
    CALLS,
    GenAiNames,
    gen_ai_labels,
    gen_ai_names,
)
from kaywatch_agent.model.series import Labels
from kaywatch_agent.protobuf import varint
from kaywatch_agent.web.prometheus.exposition import (
    Exemplar,
    SampleFamily,
    SeriesTable,
    Value,
)

__all__ = ["OtlpExposition", "OtlpFormat", "downscale"]

# In one request, unless a single metric has more.
POINTS_PER_REQUEST: Final = 5_000
CUMULATIVE: Final = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
MIN_SCALE: Final = -10  # of the data model
AGENT: Final = "kaywatch"  # the service of the agent's own metrics

_UNITS: Final = {"seconds": "s", "bytes": "By"}
# start_time_unix_nano (2) and time_unix_nano (3), both fixed64, then as_double (4).
_NUMBER: Final = struct.Struct("<BQBQBd")
_TAGS: Final = (2 << 3 | 1, 3 << 3 | 1, 4 << 3 | 1)
_length: Final = lru_cache(maxsize=4_096)(varint)


class OtlpFormat(NamedTuple):
    """How metrics are encoded.

    Attributes:
        is_sent: returns whether a metric is sent, by its name.
        max_buckets: of an exponential histogram, for each sign.
        gen_ai: which of OpenTelemetry's names are added to ours.
        resource: attributes of all resources.
        own_resource: further attributes of the agent's own metrics.
    """

    is_sent: Callable[[str], bool]
    max_buckets: int
    gen_ai: GenAiNames
    resource: Mapping[str, str]
    own_resource: Mapping[str, str]


class _Family(NamedTuple):
    """What the points of a metric have in common."""

    name: str
    help: str
    kind: str  # the field of Metric: sum, gauge, exponential_histogram or histogram
    unit: str


class OtlpExposition:
    """Collects the current values of all metrics.

    Attributes:
        time: of the points, Unix nanoseconds.
        format: how metrics are encoded.
    """

    def __init__(self, time: int, format: OtlpFormat) -> None:
        """Start with nothing.

        Args:
            time: of the points, Unix milliseconds.
            format: how metrics are encoded.
        """
        self.time = time * 1_000_000
        self.format = format
        # Encoded points by service and family.
        self._points: dict[str, dict[_Family, list[bytes]]] = {}
        self._calls: dict[Labels, int] = {}

    def groups(self, table: SeriesTable) -> OtlpGroups:
        """Return what writes the families of some groups."""
        return OtlpGroups(self, table)

    def samples(self, family: SampleFamily) -> None:
        """Write a family."""
        kind = "sum" if family.type == "counter" else "gauge"
        for key, value in family.values.items():
            labels = tuple(zip(family.labels, key, strict=True))
            self.number(family.name, family.help, kind, labels, value, family.created)

    def number(
        self, name: str, help: str, kind: str, labels: Labels, value: Value,
        created: float,
    ) -> None:  # fmt: skip
        """Add a value of a sum or a gauge."""
        if value is None or not math.isfinite(value) or not self.format.is_sent(name):
            return
        start = int(created * 1e9) if kind == "sum" else 0
        point = _NUMBER.pack(_TAGS[0], start, _TAGS[1], self.time, _TAGS[2], value)
        service, rest = _split_service(labels)
        attributes = _encode_attributes(pb.NumberDataPoint, rest)
        self.add(service, _Family(name, help, kind, _unit(name)), attributes + point)
        if name == CALLS:
            self._calls[labels] = int(value)
        for other in gen_ai_names(self.format.gen_ai, name):
            # The conventions have histograms of tokens; only their sums are known.
            data = pb.HistogramDataPoint(
                start_time_unix_nano=start,
                time_unix_nano=self.time,
                count=self._calls.get(labels, 0),
                sum=value,
            ).SerializeToString()
            attributes = _encode_attributes(
                pb.HistogramDataPoint, gen_ai_labels(other, rest)
            )
            family = _Family(other.name, help, "histogram", other.unit)
            self.add(service, family, attributes + data)

    def histogram(self, name: str, help: str, labels: Labels, point: Any) -> None:
        """Add an exponential histogram, under all its names."""
        if not self.format.is_sent(name):
            return
        service, rest = _split_service(labels)
        data: bytes = point.SerializeToString()
        names = [(name, _unit(name), rest)]
        names += [
            (other.name, other.unit, gen_ai_labels(other, rest))
            for other in gen_ai_names(self.format.gen_ai, name)
        ]
        for each, unit, attributes in names:
            encoded = _encode_attributes(pb.ExponentialHistogramDataPoint, attributes)
            family = _Family(each, help, "exponential_histogram", unit)
            self.add(service, family, encoded + data)

    def add(self, service: str, family: _Family, point: bytes) -> None:
        """Add an encoded point."""
        families = self._points.setdefault(service, {})
        families.setdefault(family, []).append(point)

    def chunks(self) -> list[bytes]:
        """Return the requests, each with a limited number of points."""
        requests: list[bytes] = []
        for service, families in self._points.items():
            metrics, size = b"", 0
            for family, points in families.items():
                if size and size + len(points) > POINTS_PER_REQUEST:
                    requests.append(self._request(service, metrics))
                    metrics, size = b"", 0
                metrics += _field(2, _encode_metric(family, points))
                size += len(points)
            requests.append(self._request(service, metrics))
        return requests

    # -- inside ------------------------------------------------------------------------

    def _request(self, service: str, metrics: bytes) -> bytes:
        attributes = {"service.name": service, **self.format.resource}
        if service == AGENT:
            attributes.update(self.format.own_resource)
        resource = Resource(attributes=_attributes(attributes.items()))
        scope = pb.ScopeMetrics()
        scope.scope.name, scope.scope.version = "kaywatch", __version__
        scope_metrics = _field(2, scope.SerializeToString() + metrics)
        return _field(1, _field(1, resource.SerializeToString()) + scope_metrics)


class OtlpGroups:
    """Writes families of some groups of series."""

    def __init__(self, exposition: OtlpExposition, table: SeriesTable) -> None:
        self._exposition = exposition
        self._table = table

    def counter(self, name: str, help: str, values: Iterable[Value]) -> None:
        """Write a counter with one value per group."""
        self._numbers(name, help, "sum", values)

    def gauge(self, name: str, help: str, values: Iterable[Value]) -> None:
        """Write a gauge with one value per group."""
        self._numbers(name, help, "gauge", values)

    def split(
        self, name: str, help: str, label: str, columns: Mapping[str, Iterable[Value]]
    ) -> None:
        """Write a counter with a column for each value of `label`."""
        for column, values in columns.items():
            self._numbers(name, help, "sum", values, ((label, column),))

    def counted(
        self, name: str, help: str, dimension: Dimension, label: Callable[[int], Labels]
    ) -> None:
        """Write a counter of a dimension; `label` returns the labels of a number."""
        table = self._table
        for group, number, count in table.stats.counted(dimension):
            labels = (*table.labels[group], *label(number))
            created = table.created[group]
            self._exposition.number(name, help, "sum", labels, count, created)

    def histogram(self, name: str, help: str) -> None:
        """Write the distribution of the values."""
        exposition, table = self._exposition, self._table
        if not exposition.format.is_sent(name):
            return
        limit = exposition.format.max_buckets
        for group, native in enumerate(native_histograms(table.stats)):
            total = float(table.stats.total[group])
            if not math.isfinite(total):
                continue
            point = pb.ExponentialHistogramDataPoint(
                start_time_unix_nano=int(table.created[group] * 1e9),
                time_unix_nano=exposition.time,
                count=int(table.stats.executions[group]),
                scale=native.schema,
                zero_count=native.zero_count,
                zero_threshold=ZERO_THRESHOLD,
            )
            _set_buckets(point.positive, native.positive)
            _set_buckets(point.negative, native.negative)
            # Its sum is no counter, if some values are negative.
            if not point.negative.bucket_counts:
                point.sum = total
            downscale(point, limit)
            _add_exemplar(point, table.exemplars.get(group))
            exposition.histogram(name, help, tuple(table.labels[group]), point)

    def summary(self, name: str, help: str) -> None:
        """Write the distribution of the values, of which some may be negative."""
        self.histogram(name, help)

    # -- inside ------------------------------------------------------------------------

    def _numbers(
        self,
        name: str,
        help: str,
        kind: str,
        values: Iterable[Value],
        more: Labels = (),
    ) -> None:
        table = self._table
        for labels, created, value in zip(
            table.labels, table.created, values, strict=True
        ):
            self._exposition.number(name, help, kind, (*labels, *more), value, created)


def downscale(point: Any, max_buckets: int) -> None:
    """Merge neighbouring buckets until there are few enough of each sign."""
    parts = point.positive, point.negative
    # Buckets below and above one never become the same.
    while point.scale > MIN_SCALE and (
        max(len(part.bucket_counts) for part in parts) > max_buckets
    ):
        halve_scale(point)


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


def _set_buckets(buckets: Any, spans: BucketSpans) -> None:
    """Set all buckets from the first to the last, with empty ones.

    Our bucket `i` ends where the next one begins, and OpenTelemetry's `i` begins there.
    """
    if not spans.offsets:
        return
    buckets.offset = spans.offsets[0] - 1
    counts: list[int] = []
    deltas, count = iter(spans.deltas), 0
    for number, (offset, length) in enumerate(
        zip(spans.offsets, spans.lengths, strict=True)
    ):
        counts += [0] * (offset if number else 0)
        for _ in range(length):
            count += next(deltas)
            counts.append(count)
    buckets.bucket_counts.extend(counts)


def _add_exemplar(point: Any, exemplar: Exemplar | None) -> None:
    if exemplar is not None:
        added = point.exemplars.add(
            as_double=exemplar.value, time_unix_nano=int(exemplar.time * 1e9)
        )
        attributes = dict(exemplar.labels)
        # As long as a UUID, and written like one.
        with contextlib.suppress(ValueError):  # not the id of a trace of OpenTelemetry
            added.trace_id = UUID(attributes.get("trace_id", "")).bytes
            del attributes["trace_id"]
        added.filtered_attributes.extend(_attributes(attributes.items()))


def _encode_metric(family: _Family, points: Sequence[bytes]) -> bytes:
    metric = pb.Metric(name=family.name, description=family.help, unit=family.unit)
    field = getattr(metric, family.kind)
    field.SetInParent()
    if family.kind != "gauge":
        field.aggregation_temporality = CUMULATIVE
    if family.kind == "sum":
        field.is_monotonic = True
    # Parts of a message may be joined: here, the points of its field.
    number = pb.Metric.DESCRIPTOR.fields_by_name[family.kind].number
    encoded: bytes = metric.SerializeToString()
    return encoded + _field(number, b"".join(_field(1, point) for point in points))


def _field(number: int, data: bytes) -> bytes:
    return _length(number << 3 | 2) + _length(len(data)) + data


def _split_service(labels: Labels) -> tuple[str, Labels]:
    """Return the service of labels, and the others."""
    rest = tuple([pair for pair in labels if pair[0] != "service" and pair[1]])
    service = next((value for name, value in labels if name == "service"), "")
    return service or AGENT, rest


@lru_cache(maxsize=100_000)
def _encode_attributes(kind: Any, labels: Labels) -> bytes:
    point = kind(attributes=_attributes(labels))
    encoded: bytes = point.SerializeToString()
    return encoded


def _attributes(labels: Iterable[tuple[str, str]]) -> Iterator[KeyValue]:
    for name, value in labels:
        yield KeyValue(key=name, value=AnyValue(string_value=value))


def _unit(name: str) -> str:
    return _UNITS.get(name.removesuffix("_total").rpartition("_")[2], "")
