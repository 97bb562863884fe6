"""Buckets as bytes."""

from __future__ import annotations

import base64
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.aggregate.samples import Event, bucket_of, columns, naive, to_naive

from kaywatch_agent.aggregate.bucket import EMPTY
from kaywatch_agent.aggregate.codec import decode, encode
from kaywatch_agent.aggregate.reduction import reduce

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


# Buckets in the format of schema 4, compressed.
OLD_EVENTS = [
    Event(3, 1.75e9 + 0.25, 0.5, attempts=2, action=1, phases=(0.125, 0.25, 0.0, 4)),
    Event(3, 1.75e9 + 1.5, 2.0, outcome=1, error=2),
    *(Event(70_000, 1.75e9 + n, 0.25 * n) for n in range(1, 5)),
]
OLD = [
    (
        OLD_EVENTS,
        (
            "c-nQ2J5Izf5QfK&mq&PrWiPM|)F3D*B4JMASiwOS*(8b`LBTCtQm|480#@`KV{0mozzGoJtSKlM>DM"
            ">^yfhC0aPJ<Q>c(`5KBewe-Kwm$x++a~*B(>%EUi_u+6McS7nMYl<Y%#aDWtK&>Y3`27MFXY%S`zma"
            "c{ZItP!<p1YTb)_t(0-G=6r+^+Vs+ciqD0BCFc+x6&7~xf-rU5x!WD2~ZX>7=rP?90z`%ulO0b4201"
            "C`p3^vY5G3-xQH1DfGO$(#Zf7W0PLZr6yV5jW6m+>_zoX=&qizO8=LXgHV_(-A^dxu%l!$=4-Uce2X"
            "9$bx&"
        ),
    ),
    (
        [Event(row=1, value=1.0)] * 300,
        (
            "c-ouKz`!tj@{*$b^5VrdnI?>rSEW{@CYP3E=H~$gN{tvNuShH@NzE-NfpV9n<>V)VIB6EFlUL>>7MH"
            "}AWag#<C4rik7H8%qr-I}dC$CLQOfD&oFGwwl2b#XPrqmE9pPiYPQVdlKmWPP12C?Il^Gow!B1>};i"
            "_%lURx$#esKclOq8Jzs6gi;K3?J;V(-6Su5YGVC4gfQ<N$C"
        ),
    ),
]


@pytest.mark.parametrize(("some", "text"), OLD)
def test_a_bucket_of_an_older_version_is_read(some: list[Event], text: str) -> None:
    bucket = decode(zlib.decompress(base64.b85decode(text)))
    assert to_naive(bucket) == naive(some)
    for column, other in zip(bucket, bucket_of(some), strict=True):
        assert column.dtype == other.dtype
