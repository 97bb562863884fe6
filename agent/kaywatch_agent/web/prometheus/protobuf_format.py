"""Prometheus's protobuf format, with native histograms.

Each family is a message `io.prometheus.client.MetricFamily` after its length. Counters
and histograms have the time at which they were zero, so that a receiver may count from
there; the values of histograms are our own buckets without loss.

Sources: prometheus.io/docs/instrumenting/exposition_formats, "Protobuf format", and
prometheus.io/docs/specs/native_histograms.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from kaywatch_agent.aggregate.bucket import Dimension
from kaywatch_agent.aggregate.native_histogram import (
    ZERO_THRESHOLD,
    BucketSpans,
    NativeHistogram,
    native_histograms,
)
from kaywatch_agent.model.series import Labels
from kaywatch_agent.protobuf import Field, message_types, varint
from kaywatch_agent.web.prometheus.exposition import (
    CLASSIC_EXPONENTS,
    Chunks,
    Exemplar,
    SampleFamily,
    SeriesTable,
    Value,
)

__all__ = ["ProtobufExposition", "messages"]

# The fields that we use, of io/prometheus/client/metrics.proto and, for times, of
# google/protobuf/timestamp.proto.
messages: Final = message_types(
    "io.prometheus.client",
    {
        "Timestamp": (Field("seconds", "int64", 1), Field("nanos", "int32", 2)),
        "LabelPair": (Field("name", "string", 1), Field("value", "string", 2)),
        "Exemplar": (
            Field("label", "LabelPair", 1, repeated=True),
            Field("value", "double", 2),
            Field("timestamp", "Timestamp", 3),
        ),
        "Gauge": (Field("value", "double", 1),),
        "Counter": (
            Field("value", "double", 1),
            Field("exemplar", "Exemplar", 2),
            Field("created_timestamp", "Timestamp", 3),
        ),
        "Bucket": (
            Field("cumulative_count", "uint64", 1),
            Field("upper_bound", "double", 2),
            Field("exemplar", "Exemplar", 3),
        ),
        "BucketSpan": (Field("offset", "sint32", 1), Field("length", "uint32", 2)),
        "Histogram": (
            Field("sample_count", "uint64", 1),
            Field("sample_sum", "double", 2),
            Field("bucket", "Bucket", 3, repeated=True),
            Field("schema", "sint32", 5),
            Field("zero_threshold", "double", 6),
            Field("zero_count", "uint64", 7),
            Field("negative_span", "BucketSpan", 9, repeated=True),
            Field("negative_delta", "sint64", 10, repeated=True),
            Field("positive_span", "BucketSpan", 12, repeated=True),
            Field("positive_delta", "sint64", 13, repeated=True),
            Field("created_timestamp", "Timestamp", 15),
            Field("exemplars", "Exemplar", 16, repeated=True),
        ),
        "Metric": (
            Field("label", "LabelPair", 1, repeated=True),
            Field("gauge", "Gauge", 2),
            Field("counter", "Counter", 3),
            Field("histogram", "Histogram", 7),
        ),
        "MetricFamily": (
            Field("name", "string", 1),
            Field("help", "string", 2),
            Field("type", "int32", 3),
            Field("metric", "Metric", 4, repeated=True),
        ),
    },
)
# MetricType, encoded like a number.
TYPES: Final = {"counter": 0, "gauge": 1, "histogram": 4}

# Precedes the length of each metric in a family: field 4, delimited.
METRIC: Final = bytes([4 << 3 | 2])

# In a sample, its bytes are the first ones that are those of a double.
PLACEHOLDER: Final = 1.0
_pack: Final = struct.Struct("<d").pack
_encode_length: Final = lru_cache(maxsize=4_096)(varint)


class ProtobufExposition:
    """Writes families as messages."""

    def __init__(self, *, classic: bool, gzip: bool = False) -> None:
        """Start.

        Args:
            classic: whether histograms have classic buckets beside the native ones.
            gzip: whether to compress the messages.
        """
        self.classic = classic
        self._chunks = Chunks(gzip=gzip)

    def groups(self, table: SeriesTable) -> ProtobufGroups:
        """Return what writes the families of some groups."""
        return ProtobufGroups(self, table)

    def samples(self, family: SampleFamily) -> None:
        """Write a family."""
        number = _encode_number(family.type, family.created)
        values = sorted(family.values.items())
        metrics = (
            _encode_labels(zip(family.labels, key, strict=True)) + number.encode(value)
            for key, value in values
            if math.isfinite(value)
        )
        self.family(family.name, family.type, family.help, metrics)

    def family(self, name: str, type: str, help: str, metrics: Iterable[bytes]) -> None:
        """Write a family with encoded samples, unless there are none.

        Fields of a message may be encoded one by one and joined.
        """
        parts = [METRIC + _length(metric) + metric for metric in metrics]
        if parts:
            head = messages.MetricFamily(name=name, help=help, type=TYPES[type])
            data = b"".join((head.SerializeToString(), *parts))
            self._chunks.write(_length(data) + data)

    def chunks(self) -> list[bytes]:
        """End the exposition, and return it."""
        return self._chunks.end()


class ProtobufGroups:
    """Writes families of some groups of series."""

    def __init__(self, exposition: ProtobufExposition, table: SeriesTable) -> None:
        self._exposition = exposition
        self._table = table
        self._labels = list(map(_encode_labels, table.labels))
        self._counters = [_encode_number("counter", time) for time in table.created]

    def counter(self, name: str, help: str, values: Iterable[Value]) -> None:
        """Write a counter with one value per group."""
        metrics = (
            labels + number.encode(value)
            for labels, number, value in zip(
                self._labels, self._counters, values, strict=True
            )
            if value is not None and math.isfinite(value)
        )
        self._exposition.family(name, "counter", help, metrics)

    def gauge(self, name: str, help: str, values: Iterable[Value]) -> None:
        """Write a gauge with one value per group."""
        number = _encode_number("gauge", 0.0)
        metrics = (
            labels + number.encode(value)
            for labels, value in zip(self._labels, values, strict=True)
            if value is not None and math.isfinite(value)
        )
        self._exposition.family(name, "gauge", help, metrics)

    def split(
        self, name: str, help: str, label: str, columns: Mapping[str, Iterable[Value]]
    ) -> None:
        """Write a counter with a column for each value of `label`."""
        more = [_encode_labels([(label, value)]) for value in columns]
        metrics = (
            labels + extra + number.encode(value)
            for labels, number, *values in zip(
                self._labels, self._counters, *columns.values(), strict=True
            )
            if all(value is not None and math.isfinite(value) for value in values)
            for extra, value in zip(more, values, strict=True)
        )
        self._exposition.family(name, "counter", help, metrics)

    def counted(
        self, name: str, help: str, dimension: Dimension, label: Callable[[int], Labels]
    ) -> None:
        """Write a counter of a dimension; `label` returns the labels of a number."""
        more = cache(lambda number: _encode_labels(label(number)))
        exemplars = self._table.error_exemplars if dimension is Dimension.ERROR else {}
        metrics = (
            self._labels[group]
            + more(number)
            + self._counters[group].encode(count, exemplars.get((group, number)))
            for group, number, count in self._table.stats.counted(dimension)
        )
        self._exposition.family(name, "counter", help, metrics)

    def histogram(self, name: str, help: str) -> None:
        """Write the distribution of the values."""
        self._exposition.family(name, "histogram", help, self._histograms())

    def summary(self, name: str, help: str) -> None:
        """Write the distribution of the values, of which some may be negative.

        The text formats have no more than its count and sum.
        """
        self.histogram(name, help)

    # -- inside ------------------------------------------------------------------------

    def _histograms(self) -> Iterator[bytes]:
        stats, below = self._table.stats, None
        if self._exposition.classic:
            below = stats.counts_at_most(np.exp2(CLASSIC_EXPONENTS)).tolist()
        for group, (labels, created, native, count, total) in enumerate(
            zip(
                self._labels,
                self._table.created,
                native_histograms(stats),
                stats.executions.tolist(),
                stats.total.tolist(),
                strict=True,
            )
        ):
            if not math.isfinite(total):
                continue
            metric = messages.Metric()
            message = metric.histogram
            message.sample_count, message.sample_sum = count, total
            _set_time(message.created_timestamp, created)
            _set_buckets(message, native)
            exemplar = self._table.exemplars.get(group)
            if exemplar is not None:
                _set_exemplar(message.exemplars.add(), exemplar)
            if below is not None:
                _add_classic(message, below[group], exemplar)
            yield labels + metric.SerializeToString()


class _Number(NamedTuple):
    """The encoded value of a counter or gauge: what precedes and follows the number.

    A double takes eight bytes whatever its value, so that another one can be put in its
    place. Encoding each value on its own takes four times as long.
    """

    before: bytes
    after: bytes

    def encode(self, value: float, exemplar: Exemplar | None = None) -> bytes:
        """Return a value as a field of a metric."""
        encoded = self.before + _pack(value) + self.after
        if exemplar is None:
            return encoded
        metric = messages.Metric.FromString(encoded)
        _set_exemplar(metric.counter.exemplar, exemplar)
        with_exemplar: bytes = metric.SerializeToString()
        return with_exemplar


@lru_cache(maxsize=4_096)
def _encode_number(type: str, created: float) -> _Number:
    """Return what encodes values of a type; a counter was created at a time."""
    metric = messages.Metric()
    field = getattr(metric, type)
    field.value = PLACEHOLDER
    if type == "counter":
        _set_time(field.created_timestamp, created)
    before, _, after = metric.SerializeToString().partition(_pack(PLACEHOLDER))
    return _Number(before, after)


def _add_classic(message: Any, below: list[int], exemplar: Exemplar | None) -> None:
    """Add cumulative buckets; that of +Inf is implied."""
    for exponent, count in zip(CLASSIC_EXPONENTS, below, strict=True):
        bucket = message.bucket.add(cumulative_count=count, upper_bound=2.0**exponent)
        if exemplar is not None and exemplar.value <= bucket.upper_bound:
            # Versions of Prometheus before 2.51 read exemplars from here only.
            _set_exemplar(bucket.exemplar, exemplar)
            exemplar = None


def _length(data: bytes) -> bytes:
    return _encode_length(len(data))


def _set_buckets(message: Any, native: NativeHistogram) -> None:
    """Set the native buckets of a histogram."""
    message.schema = native.schema
    message.zero_threshold = ZERO_THRESHOLD
    message.zero_count = native.zero_count
    _add_spans(message.negative_span, native.negative)
    message.negative_delta.extend(native.negative.deltas)
    _add_spans(message.positive_span, native.positive)
    message.positive_delta.extend(native.positive.deltas)


def _add_spans(field: Any, part: BucketSpans) -> None:
    for offset, length in zip(part.offsets, part.lengths, strict=True):
        field.add(offset=offset, length=length)


def _encode_labels(labels: Iterable[tuple[str, str]]) -> bytes:
    metric = messages.Metric()
    _set_labels(metric.label, labels)
    encoded: bytes = metric.SerializeToString()
    return encoded


def _set_labels(field: Any, labels: Iterable[tuple[str, str]]) -> None:
    for name, value in labels:
        field.add(name=name, value=value)


def _set_time(timestamp: Any, time: float) -> None:
    seconds, fraction = divmod(time, 1.0)
    timestamp.seconds, timestamp.nanos = int(seconds), int(fraction * 1e9)


def _set_exemplar(message: Any, exemplar: Exemplar) -> None:
    _set_labels(message.label, exemplar.labels)
    message.value = exemplar.value
    _set_time(message.timestamp, exemplar.time)
