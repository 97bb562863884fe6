"""Messages of OTLP: sums, gauges and exponential histograms of one snapshot.

Strategy: the labels of a group are encoded once, and each point is joined of encoded
parts. Making a message for each of 130,000 points would take seconds.

Source: opentelemetry-proto, metrics/v1/metrics.proto, and the data model of metrics
("ExponentialHistogram").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Final, NamedTuple

from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from kaywatch._version import __version__
from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.export.dense_histogram import dense_histograms
from kaywatch_agent.export.gen_ai import (
    CALLS,
    GenAiNames,
    gen_ai_labels,
    gen_ai_names,
)
from kaywatch_agent.export.otlp_points import (
    AGENT,
    NUMBER,
    TAGS,
    encode_attributes,
    histogram_point,
    key_values,
    split_service,
)
from kaywatch_agent.model.series import Labels
from kaywatch_agent.protobuf import varint
from kaywatch_agent.web.prometheus.exposition import (
    SampleFamily,
    SeriesTable,
    Value,
)

__all__ = ["OtlpExposition", "OtlpFormat"]

# In one request, unless a single metric has more.
POINTS_PER_REQUEST: Final = 5_000
CUMULATIVE: Final = pb.AGGREGATION_TEMPORALITY_CUMULATIVE

_UNITS: Final = {"seconds": "s", "bytes": "By"}
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


class Family(NamedTuple):
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
        self._points: dict[str, dict[Family, list[bytes]]] = {}
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
        point = NUMBER.pack(TAGS[0], start, TAGS[1], self.time, TAGS[2], value)
        service, rest = split_service(labels)
        attributes = encode_attributes(pb.NumberDataPoint, rest)
        self.add(service, Family(name, help, kind, _unit(name)), attributes + point)
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
            attributes = encode_attributes(
                pb.HistogramDataPoint, gen_ai_labels(other, rest)
            )
            family = Family(other.name, help, "histogram", other.unit)
            self.add(service, family, attributes + data)

    def histogram(self, name: str, help: str, labels: Labels, point: bytes) -> None:
        """Add an encoded exponential histogram, under all its names."""
        service, rest = split_service(labels)
        names = [(name, _unit(name), rest)]
        names += [
            (other.name, other.unit, gen_ai_labels(other, rest))
            for other in gen_ai_names(self.format.gen_ai, name)
        ]
        for each, unit, attributes in names:
            encoded = encode_attributes(pb.ExponentialHistogramDataPoint, attributes)
            family = Family(each, help, "exponential_histogram", unit)
            self.add(service, family, encoded + point)

    def points(self, service: str, name: str, help: str, kind: str) -> list[bytes]:
        """Return the list of encoded points of a metric, to be added to."""
        families = self._points.setdefault(service, {})
        return families.setdefault(Family(name, help, kind, _unit(name)), [])

    def add(self, service: str, family: Family, point: bytes) -> None:
        """Add an encoded point."""
        families = self._points.setdefault(service, {})
        families.setdefault(family, []).append(point)

    def chunks(self) -> list[bytes]:
        """Return the requests, each with a limited number of points."""
        requests: list[bytes] = []
        for service, families in self._points.items():
            metrics, size = b"", 0
            for family, points in families.items():
                if not points:
                    continue
                if size and size + len(points) > POINTS_PER_REQUEST:
                    requests.append(self._request(service, metrics))
                    metrics, size = b"", 0
                metrics += _field(2, _encode_metric(family, points))
                size += len(points)
            if metrics:
                requests.append(self._request(service, metrics))
        return requests

    # -- inside ------------------------------------------------------------------------

    def _request(self, service: str, metrics: bytes) -> bytes:
        attributes = {"service.name": service, **self.format.resource}
        if service == AGENT:
            attributes.update(self.format.own_resource)
        resource = Resource(attributes=key_values(attributes.items()))
        scope = pb.ScopeMetrics()
        scope.scope.name, scope.scope.version = "kaywatch", __version__
        scope_metrics = _field(2, scope.SerializeToString() + metrics)
        return _field(1, _field(1, resource.SerializeToString()) + scope_metrics)


class OtlpGroups:
    """Writes families of some groups of series."""

    def __init__(self, exposition: OtlpExposition, table: SeriesTable) -> None:
        self._exposition = exposition
        self._table = table
        self._encoded: list[tuple[str, bytes]] | None = None

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
        if not self._exposition.format.is_sent(name):
            return
        columns: dict[int, list[tuple[int, int]]] = {}
        for group, number, count in self._table.stats.counted(dimension):
            columns.setdefault(number, []).append((group, count))
        for number, values in columns.items():
            self._add(name, help, "sum", values, label(number))

    def histogram(self, name: str, help: str) -> None:
        """Write the distribution of the values."""
        exposition, table = self._exposition, self._table
        if not exposition.format.is_sent(name):
            return
        dense = dense_histograms(table.stats, exposition.format.max_buckets)
        for group, (labels, created, distribution, count, total) in enumerate(
            zip(
                table.labels,
                table.created,
                dense,
                table.stats.executions.tolist(),
                table.stats.total.tolist(),
                strict=True,
            )
        ):
            if math.isfinite(total):
                exemplar = table.exemplars.get(group)
                point = histogram_point(distribution, count, total, exemplar)
                point.start_time_unix_nano = int(created * 1e9)
                point.time_unix_nano = exposition.time
                data = point.SerializeToString()
                exposition.histogram(name, help, tuple(labels), data)

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
        exposition, table = self._exposition, self._table
        if not exposition.format.is_sent(name):
            return
        if name != CALLS and not gen_ai_names(exposition.format.gen_ai, name):
            self._add(name, help, kind, enumerate(values), more)
            return
        for labels, created, value in zip(
            table.labels, table.created, values, strict=True
        ):
            exposition.number(name, help, kind, (*labels, *more), value, created)

    def _add(
        self,
        name: str,
        help: str,
        kind: str,
        values: Iterable[tuple[int, Value]],
        more: Labels,
    ) -> None:
        """Add points of a metric that has no other names, by number of the group."""
        exposition, created = self._exposition, self._table.created
        attributes = self._attributes()
        own = encode_attributes(pb.NumberDataPoint, split_service(more)[1])
        points = cache(
            lambda service: exposition.points(service, name, help, kind).append
        )
        is_sum, time, pack = kind == "sum", exposition.time, NUMBER.pack
        first, second, third = TAGS
        for group, value in values:
            if value is not None and math.isfinite(value):
                service, encoded = attributes[group]
                start = int(created[group] * 1e9) if is_sum else 0
                data = pack(first, start, second, time, third, value)
                points(service)(encoded + own + data)

    def _attributes(self) -> list[tuple[str, bytes]]:
        """Return the service of each group, and its other labels, encoded."""
        if self._encoded is None:
            self._encoded = []
            for labels in self._table.labels:
                service, rest = split_service(labels)
                encoded = encode_attributes(pb.NumberDataPoint, rest)
                self._encoded.append((service, encoded))
        return self._encoded


def _encode_metric(family: Family, points: Sequence[bytes]) -> bytes:
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


def _unit(name: str) -> str:
    return _UNITS.get(name.removesuffix("_total").rpartition("_")[2], "")
