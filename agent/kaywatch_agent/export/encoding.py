"""Messages of Prometheus remote write 1.0: labels, samples, histograms, requests.

Source: prometheus.io/docs/specs/prw/remote_write_spec, and prompb/types.proto of
Prometheus for native histograms.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
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
    "encode_labels",
    "encode_sample",
    "is_end",
    "key_of",
    "messages",
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
    },
)

# Precedes the length of each series in a request: field 1, delimited.
_SERIES: Final = bytes([1 << 3 | 2])
_PLACEHOLDER: Final = 1.0
_pack: Final = struct.Struct("<d").pack
_encode_length: Final = lru_cache(maxsize=4_096)(varint)

# As Prometheus's own `max_samples_per_send`.
SERIES_PER_REQUEST: Final = 2_000

# The value that ends a series (Prometheus, model/value, StaleNaN).
(STALE,) = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))


def write_requests(series: list[bytes]) -> Iterator[bytes]:
    """Yield requests with encoded series, a limited number in each."""
    for start in range(0, len(series), SERIES_PER_REQUEST):
        part = series[start : start + SERIES_PER_REQUEST]
        yield b"".join(_SERIES + _encode_length(len(each)) + each for each in part)


def is_end(series: Any) -> bool:
    """Return whether a series has no sample but the one that ends it."""
    samples = series.samples
    return len(samples) == 1 and _pack(samples[0].value) == _pack(STALE)


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
    pairs = {
        f"exported_{label}" if label in more else label: value
        for label, value in labels
        if value
    }
    pairs.update(more)
    pairs["__name__"] = name
    return b"".join(map(_encode_label, sorted(pairs.items())))


@lru_cache(maxsize=100_000)
def _encode_label(pair: tuple[str, str]) -> bytes:
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
    before, after = _sample_around(time)
    return labels + before + _pack(value) + after


@lru_cache(maxsize=4_096)
def _sample_around(time: int) -> tuple[bytes, bytes]:
    """Return what precedes and follows the value of an encoded sample.

    A double takes eight bytes whatever its value; encoding each on its own takes four
    times as long.
    """
    series = messages.TimeSeries()
    series.samples.add(value=_PLACEHOLDER, timestamp=time)
    before, _, after = series.SerializeToString().partition(_pack(_PLACEHOLDER))
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
    series = messages.TimeSeries()
    histogram = series.histograms.add(
        count_int=count,
        sum=total,
        schema=native.schema,
        zero_threshold=ZERO_THRESHOLD,
        zero_count_int=native.zero_count,
        timestamp=time,
        negative_deltas=native.negative.deltas,
        positive_deltas=native.positive.deltas,
    )
    for field, part in (
        (histogram.negative_spans, native.negative),
        (histogram.positive_spans, native.positive),
    ):
        for offset, length in zip(part.offsets, part.lengths, strict=True):
            field.add(offset=offset, length=length)
    encoded: bytes = labels + series.SerializeToString()
    return encoded
