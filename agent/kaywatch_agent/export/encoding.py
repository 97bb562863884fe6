"""Messages of Prometheus remote write 1.0: labels, samples, histograms, requests.

Source: prometheus.io/docs/specs/prw/remote_write_spec, and prompb/types.proto of
Prometheus for native histograms.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from kaywatch_agent.aggregate.native_histogram import ZERO_THRESHOLD, NativeHistogram
from kaywatch_agent.protobuf import Field, message_types, varint
from kaywatch_agent.web.prometheus.exposition import Exemplar

__all__ = [
    "SERIES_PER_REQUEST",
    "STALE",
    "encode_exemplar",
    "encode_histogram",
    "encode_label",
    "encode_labels",
    "encode_request",
    "encode_sample",
    "encoded_series",
    "is_end",
    "exported_name",
    "key_of",
    "may_have_native",
    "merge_labels",
    "messages",
    "pack_value",
    "sample_around",
    "write_requests",
]

messages: Final = message_types(
    "prometheus",
    {
        "Label": (Field("name", "string", 1), Field("value", "string", 2)),
        "Sample": (Field("value", "double", 1), Field("timestamp", "int64", 2)),
        "Exemplar": (
            Field("labels", "Label", 1, repeated=True),
            Field("value", "double", 2),
            Field("timestamp", "int64", 3),
        ),
        "BucketSpan": (Field("offset", "sint32", 1), Field("length", "uint32", 2)),
        "Histogram": (
            Field("count_int", "uint64", 1),
            Field("sum", "double", 3),
            Field("schema", "sint32", 4),
            Field("zero_threshold", "double", 5),
            Field("zero_count_int", "uint64", 6),
            Field("negative_spans", "BucketSpan", 8, repeated=True),
            Field("negative_deltas", "sint64", 9, repeated=True),
            Field("positive_spans", "BucketSpan", 11, repeated=True),
            Field("positive_deltas", "sint64", 12, repeated=True),
            Field("timestamp", "int64", 15),
        ),
        "TimeSeries": (
            Field("labels", "Label", 1, repeated=True),
            Field("samples", "Sample", 2, repeated=True),
            Field("exemplars", "Exemplar", 3, repeated=True),
            Field("histograms", "Histogram", 4, repeated=True),
        ),
        "WriteRequest": (Field("timeseries", "TimeSeries", 1, repeated=True),),
        # The same, with encoded series.
        "EncodedRequest": (Field("timeseries", "bytes", 1, repeated=True),),
    },
)

# Precedes the length of each series in a request: field 1, delimited.
_SERIES: Final = bytes([1 << 3 | 2])
_PLACEHOLDER: Final = 1.0
pack_value: Final = struct.Struct("<d").pack
# The tag and the length of a series, by its length.
_HEADS: Final = [_SERIES + varint(length) for length in range(4_096)]
_HISTOGRAM: Final = bytes([4 << 3 | 2])  # a field of a series
_POSITIVE_SPAN: Final = bytes([11 << 3 | 2])  # fields of a histogram
_NEGATIVE_SPAN: Final = bytes([8 << 3 | 2])
# The field zero_threshold, which every native histogram has.
_NATIVE: Final = bytes([5 << 3 | 1]) + pack_value(ZERO_THRESHOLD)

# As Prometheus's own `max_samples_per_send`.
SERIES_PER_REQUEST: Final = 2_000

# The value that ends a series (Prometheus, model/value, StaleNaN).
(STALE,) = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))


def write_requests(series: list[bytes]) -> Iterator[bytes]:
    """Yield requests with encoded series, a limited number in each."""
    for start in range(0, len(series), SERIES_PER_REQUEST):
        yield encode_request(series[start : start + SERIES_PER_REQUEST])


def encode_request(series: Iterable[bytes]) -> bytes:
    """Return a request with encoded series."""
    return b"".join([part for each in series for part in (_head(len(each)), each)])


def encoded_series(request: bytes) -> Sequence[bytes]:
    """Return the encoded series of a request.

    Raises:
        DecodeError: it is no request.
    """
    series: Sequence[bytes] = messages.EncodedRequest.FromString(request).timeseries
    return series


def may_have_native(request: bytes) -> bool:
    """Return whether a request may have native histograms; False if it has none."""
    return _NATIVE in request


def is_end(series: Any) -> bool:
    """Return whether a series has no sample but the one that ends it."""
    samples = series.samples
    return len(samples) == 1 and pack_value(samples[0].value) == pack_value(STALE)


def key_of(labels: bytes) -> int:
    """Return what stands for encoded labels within this process."""
    return hash(labels)


def encode_labels(
    name: str, labels: Iterable[tuple[str, str]], more: Mapping[str, str]
) -> bytes:
    """Return the labels of a series, encoded as a series without samples.

    Args:
        name: of the metric.
        labels: of the metric; an empty value is the same as no label.
        more: labels of all series; a label of the metric with the same name is called
            `exported_...`, as in a scrape by Prometheus.
    """
    pairs = {**merge_labels(labels, more), "__name__": name}
    return b"".join(map(encode_label, sorted(pairs.items())))


def merge_labels(
    labels: Iterable[tuple[str, str]], more: Mapping[str, str]
) -> dict[str, str]:
    """Return the labels of a series without its name; see `encode_labels`."""
    pairs = {exported_name(label, more): value for label, value in labels if value}
    pairs.update(more)
    return pairs


def exported_name(label: str, more: Mapping[str, str]) -> str:
    """Return the name of a metric's label, if all series have `more`."""
    return f"exported_{label}" if label in more else label


@lru_cache(maxsize=100_000)
def encode_label(pair: tuple[str, str]) -> bytes:
    """Return a label, encoded as a series without anything else."""
    series = messages.TimeSeries()
    series.labels.add(name=pair[0], value=pair[1])
    encoded: bytes = series.SerializeToString()
    return encoded


def encode_sample(labels: bytes, value: float, time: int) -> bytes:
    """Return a series with one sample.

    Args:
        labels: its encoded labels.
        value: any number.
        time: Unix milliseconds.
    """
    before, after = sample_around(time)
    return labels + before + pack_value(value) + after


@lru_cache(maxsize=4_096)
def sample_around(time: int) -> tuple[bytes, bytes]:
    """Return what precedes and follows the packed value of a sample in its series.

    A double takes eight bytes whatever its value; encoding each on its own takes four
    times as long.
    """
    series = messages.TimeSeries()
    series.samples.add(value=_PLACEHOLDER, timestamp=time)
    before, _, after = series.SerializeToString().partition(pack_value(_PLACEHOLDER))
    return before, after


def encode_exemplar(exemplar: Exemplar) -> bytes:
    """Return an exemplar, encoded as a series without labels; to be appended to one."""
    series = messages.TimeSeries()
    added = series.exemplars.add(
        value=exemplar.value, timestamp=int(exemplar.time * 1000)
    )
    for name, value in exemplar.labels:
        added.labels.add(name=name, value=value)
    encoded: bytes = series.SerializeToString()
    return encoded


def encode_histogram(
    labels: bytes, native: NativeHistogram, count: int, total: float, time: int
) -> bytes:
    """Return a series with one native histogram.

    Args:
        labels: its encoded labels.
        native: the buckets.
        count: the number of values.
        total: the sum of the values.
        time: Unix milliseconds.
    """
    histogram: bytes = messages.Histogram(
        count_int=count,
        sum=total,
        schema=native.schema,
        zero_threshold=ZERO_THRESHOLD,
        zero_count_int=native.zero_count,
        timestamp=time,
        negative_deltas=native.negative.deltas,
        positive_deltas=native.positive.deltas,
    ).SerializeToString()
    # Parts of a message may be joined. A message for each span would take longer.
    for tag, part in (
        (_NEGATIVE_SPAN, native.negative),
        (_POSITIVE_SPAN, native.positive),
    ):
        spans = map(_encode_span, part.offsets, part.lengths)
        histogram += b"".join([tag + span for span in spans])
    return labels + _HISTOGRAM + varint(len(histogram)) + histogram


@lru_cache(maxsize=10_000)
def _encode_span(offset: int, length: int) -> bytes:
    """Return a span of buckets, after its length."""
    span: bytes = messages.BucketSpan(offset=offset, length=length).SerializeToString()
    return varint(len(span)) + span


def _head(length: int) -> bytes:
    """Return what precedes a series of a length in a request."""
    return _HEADS[length] if length < len(_HEADS) else _SERIES + varint(length)
