from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.protocol.samples import calm

from kaywatch import wire
from kaywatch_agent.protocol.framing import FrameReader, OutOfStep, Oversized
from kaywatch_agent.protocol.limits import MAX_SKIP


def length(size: int) -> bytes:
    return struct.pack(">I", size)


def frames_of(stream: bytes, step: int, limit: int = 10) -> list[object]:
    """Read a stream that arrives `step` bytes at a time."""
    reader = FrameReader(limit)
    results: list[object] = []
    for at in range(0, len(stream), step):
        results += reader.receive(stream[at : at + step])
    return results


STEPS = pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 1_000_000])


@STEPS
def test_frames_come_out_as_they_went_in(step: int) -> None:
    stream = b"".join(map(wire.frame, [b"one", b"two", b"0123456789"]))
    assert frames_of(stream, step) == [b"one", b"two", b"0123456789"]


@STEPS
def test_an_empty_frame_is_a_frame(step: int) -> None:
    assert frames_of(wire.frame(b"") * 2 + wire.frame(b"x"), step) == [b"", b"", b"x"]


@STEPS
def test_a_frame_over_the_limit_is_skipped_and_the_stream_stays_in_step(
    step: int,
) -> None:
    stream = wire.frame(b"x" * 11) + wire.frame(b"fine")
    assert frames_of(stream, step) == [Oversized(11), b"fine"]


@STEPS
def test_several_oversized_frames_in_a_row_are_each_reported(step: int) -> None:
    stream = wire.frame(b"x" * 30) * 2 + wire.frame(b"y" * 11) + wire.frame(b"fine")
    assert frames_of(stream, step) == [
        Oversized(30),
        Oversized(30),
        Oversized(11),
        b"fine",
    ]


@STEPS
def test_a_length_that_is_no_length_ends_the_stream(step: int) -> None:
    stream = wire.frame(b"fine") + b"GET / HTTP/1.1\r\n\r\n" + wire.frame(b"never")
    (number,) = struct.unpack(">I", b"GET ")
    assert frames_of(stream, step) == [b"fine", OutOfStep(number)]


def test_the_longest_frame_is_taken_and_one_byte_more_is_not() -> None:
    longest = b"x" * wire.MAX_FRAME
    reader = FrameReader()
    assert reader.receive(wire.frame(longest)) == [longest]
    assert reader.receive(wire.frame(longest + b"x")) == [Oversized(wire.MAX_FRAME + 1)]
    assert reader.receive(wire.frame(b"fine")) == [b"fine"]


def test_the_longest_skip_is_skipped_and_one_byte_more_is_out_of_step() -> None:
    reader = FrameReader()
    assert reader.receive(length(MAX_SKIP)) == [Oversized(MAX_SKIP)]
    chunk = bytes(1024 * 1024)
    for _ in range(MAX_SKIP // len(chunk)):
        assert reader.receive(chunk) == []
    assert reader.receive(wire.frame(b"fine")) == [b"fine"]
    assert reader.receive(length(MAX_SKIP + 1)) == [OutOfStep(MAX_SKIP + 1)]


def test_an_oversized_frame_is_reported_at_its_head() -> None:
    assert FrameReader(10).receive(length(11)) == [Oversized(11)]


def test_skipped_bytes_are_not_kept() -> None:
    reader = FrameReader(10)
    reader.receive(length(1_000_000))
    for _ in range(9):
        reader.receive(bytes(100_000))
        assert not reader._buffer


@calm
@given(
    st.lists(st.binary(max_size=40), max_size=12),
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
)
def test_any_chunking_gives_the_same_frames(
    messages: list[bytes], sizes: list[int]
) -> None:
    limit = 20
    stream = b"".join(map(wire.frame, messages))
    reader = FrameReader(limit)
    results: list[object] = []
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        results += reader.receive(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert results == [m if len(m) <= limit else Oversized(len(m)) for m in messages]


@calm
@given(st.lists(st.binary(max_size=50), max_size=20))
def test_arbitrary_bytes_never_raise(chunks: list[bytes]) -> None:
    reader = FrameReader(20)
    for chunk in chunks:
        for frame in reader.receive(chunk):
            assert isinstance(frame, bytes | Oversized | OutOfStep)
