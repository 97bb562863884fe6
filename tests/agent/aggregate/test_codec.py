"""Buckets as bytes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.aggregate.samples import Event, columns, to_naive

from kaywatch_agent.aggregate.bucket import EMPTY, reduce
from kaywatch_agent.aggregate.codec import decode, encode

events = st.lists(
    st.builds(
        Event,
        row=st.integers(0, 100_000),
        time=st.floats(0, 2e9),
        value=st.floats(0, 1e300),
        outcome=st.integers(0, 4),
        attempts=st.integers(1, 70_000),
        action=st.integers(0, 4_000),
        error=st.integers(0, 4_000),
    ),
    max_size=30,
)


@given(events)
def test_a_bucket_survives_encoding(some: list[Event]) -> None:
    bucket = reduce(columns(some)) if some else EMPTY
    again = decode(encode(bucket))

    assert to_naive(again) == to_naive(bucket)
    for column, other in zip(again, bucket, strict=True):
        assert column.dtype == other.dtype
        assert np.array_equal(column, other)


def test_a_column_of_a_later_version_is_skipped() -> None:
    data = encode(reduce(columns([Event()])))
    size = int.from_bytes(data[:4], "little")
    header = msgspec.msgpack.decode(data[4 : 4 + size])
    header = msgspec.msgpack.encode([*header, ("new", "<f8", 2)])
    later = len(header).to_bytes(4, "little") + header + data[4 + size :] + b"x" * 16

    assert to_naive(decode(later)) == to_naive(decode(data))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"\x00",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"\xff" * 8 + data,
        lambda data: data.replace(b"rows", b"rowz"),
        lambda data: data.replace(b"<f8", b"|O8"),
    ],
)
def test_other_bytes_are_an_error(damage: object) -> None:
    assert callable(damage)
    with pytest.raises(ValueError):  # noqa: PT011 - numpy's own words, some of them
        decode(damage(encode(reduce(columns([Event(row=3), Event()])))))
