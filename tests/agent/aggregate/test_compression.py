"""Compressed buckets take less memory, and keep their content."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.aggregate.samples import Event, bucket_of
from tests.agent.aggregate.test_history import events, is_same, phases, size_of
from tests.agent.protocol.samples import calm

from kaywatch_agent.aggregate import compression
from kaywatch_agent.aggregate.bucket import (
    DIMENSION_SHIFT,
    EMPTY,
    Bucket,
    Dimension,
    merge,
)
from kaywatch_agent.aggregate.codec import decode, encode
from kaywatch_agent.aggregate.compression import compress, decompress
from kaywatch_agent.aggregate.history import ClosedBucket, History, StoredBucket
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.model.series import Columns, PhaseColumns

# Made when its test runs, because every worker of pytest-xdist imports this module.
BUCKETS: dict[str, Callable[[], Bucket]] = {
    "empty": lambda: EMPTY,
    "one": lambda: reduce(events(1)),
    "attempts": lambda: reduce(events(300, attempts=70_000)),
    "few rows": lambda: reduce(events(100_000, rows=3)),
    "many rows": lambda: reduce(events(5_000, rows=5_000)),
    "large counts": lambda: merge([reduce(events(1_000))] * 300),
    "phases": lambda: reduce(events(5_000), phases(events(5_000))),
    "long phases": lambda: merge(
        [merge([reduce(events(90), phases(events(90)))] * 1_000)] * 100
    ),
}


@pytest.mark.parametrize("name", BUCKETS)
def test_a_compressed_bucket_survives_encoding(name: str) -> None:
    bucket = BUCKETS[name]()
    assert is_same(decompress(compress(bucket)), bucket)


seconds = st.floats(0, 2.0**127, width=32)


@calm
@given(
    st.lists(
        st.builds(
            Event,
            row=st.integers(0, 9),
            time=st.floats(1.7e9, 1.8e9),
            value=st.sampled_from([-0.0, 0.1, 0.25]) | st.floats(-1e300, 1e300),
            outcome=st.integers(0, 4),
            attempts=st.integers(0, 400),
            action=st.integers(0, 3),
            error=st.integers(0, 3),
            phases=st.none()
            | st.tuples(seconds, seconds, seconds, st.integers(0, 2**32 - 1)),
        ),
        max_size=40,
    ),
    st.sampled_from([1, 2, 300]),
    st.sets(st.integers(0, 12)),
    st.sets(st.sampled_from(Dimension)),
)
def test_any_bucket_is_compressed_without_loss(
    some: list[Event], times: int, rows: set[int], dimensions: set[Dimension]
) -> None:
    bucket = merge([bucket_of(some)] * times) if some else EMPTY
    packed = compress(bucket)
    wanted = np.array(sorted(rows), np.int64)
    chosen = [event for event in some if event.row in rows]

    assert is_same(decompress(packed), bucket)
    part = merge([bucket_of(chosen)] * times) if chosen else EMPTY
    assert is_same(decompress(packed, wanted), part)
    of = (part.fact_keys >> DIMENSION_SHIFT) & 0xF
    kept = np.isin(of, list(dimensions))
    keys, counts = part.fact_keys[kept], part.fact_counts[kept]
    expected = part._replace(fact_keys=keys, fact_counts=counts)
    assert is_same(decompress(packed, wanted, dimensions), expected)


@pytest.mark.parametrize("phased", [False, True])
@pytest.mark.parametrize("rows", [[], [7], [3, 4, 39], [0, 5, 40, 41, 90], [200]])
def test_a_part_of_a_bucket_is_that_of_its_rows(rows: list[int], phased: bool) -> None:
    source = events(3_000, attempts=300)
    bucket = reduce(source, phases(source) if phased else None)
    wanted = np.array(rows, np.int64)
    # Independently: of the events of these rows alone.
    chosen = np.isin(source.row, wanted)
    alone = Columns(*(column[chosen] for column in source))
    kept = phases(source)
    kept = PhaseColumns(*(column[np.isin(kept.row, wanted)] for column in kept))
    expected = reduce(alone, kept if phased else None)

    stored = {1: bucket, 2: ClosedBucket.of(bucket), 3: StoredBucket()}
    packed = encode(bucket)
    history = History(stored, lambda _, *wanted: decode(packed, *wanted))
    for number in history:
        part = history.part(number, wanted)
        assert is_same(part, expected)
        without = history.part(number, wanted, dimensions=())
        assert all(map(np.array_equal, without[:8], expected[:8]))


def test_compression_saves_most_of_the_facts() -> None:
    bucket = reduce(events(50_000, rows=1_000))
    assert size_of(compress(bucket)) < 0.25 * size_of(bucket)


@pytest.mark.parametrize(("each", "bytes_per_row"), [(1, 34), (2, 46), (3, 62)])
def test_a_series_with_few_executions_takes_few_bytes(
    each: int, bytes_per_row: int
) -> None:
    size = 4_000
    source = events(each * size)._replace(row=np.tile(np.arange(size), each))
    action, error = (np.ones(each * size, np.int64) * n for n in (1, 0))
    source = source._replace(
        action=action,
        error=error,
        attempts=action,
        outcome=np.zeros(each * size, np.uint8),
    )
    known = PhaseColumns(*phases(source._replace(row=source.row)))
    packed = compress(reduce(source, known))
    assert size_of(packed) < bytes_per_row * size


def test_phases_cost_series_without_phases_next_to_nothing() -> None:
    result = events(50_000, rows=1_000)
    few = PhaseColumns(*(column[:20] for column in phases(result)))
    without, with_few = compress(reduce(result)), compress(reduce(result, few))
    assert size_of(with_few) < size_of(without) + 40 * 20 + 1_000 / 8


def test_large_buckets_are_indexed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = reduce(events(9_000))
    at_once = compress(bucket)
    monkeypatch.setattr(compression, "PIECE_FACTS", 100)
    in_pieces = compress(bucket)

    assert all(map(np.array_equal, in_pieces, at_once))
    assert is_same(decompress(in_pieces), bucket)


@pytest.mark.parametrize(
    "times",
    [
        [1.8e9, np.nextafter(1.8e9, 2e9), 1.8e9 + 9.999],
        [1e9, 1e9 + 1e-7],  # finer than the unit
        [1.8e9, 1.8e9 + 86_400.0],  # too far apart for it
        [0.0, 1.8e9],
        [0.1, 0.2],
        [3e9, 3e9 + 1.0],
    ],
)
def test_times_lose_nothing(times: list[float]) -> None:
    size = len(times)
    columns = events(size)._replace(row=np.arange(size), time=np.array(times))
    bucket = reduce(columns)
    assert is_same(decompress(compress(bucket)), bucket)
