from __future__ import annotations

from typing import Any

import pytest
from tests.agent.protocol.samples import (
    FLIGHT,
    TABLE,
    batch,
    count_rejected,
    decode_batch,
    events,
    executions,
    points,
    runs,
)

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.protocol.limits import MAX_LABELS
from kaywatch_agent.protocol.table import TableCache, TableError


def with_table(**changed: Any) -> bytes:
    result = {**TABLE, **changed}
    return wire.pack({key: value for key, value in result.items() if value is not None})


BAD = {
    "empty text": b"\xa0",
    "no msgpack": b"\xc1",
    "truncated": wire.pack(TABLE)[:-1],
    "trailing": wire.pack(TABLE) + b"\x00",
    "a list": wire.pack([]),
    "nested": b"\x81\xa7strings" + b"\x91" * 100_000 + b"\xc0",
    "claims four billion": b"\x81\xa7strings\xdd\xff\xff\xff\xff\xa1a",
    "invalid UTF-8": b"\x81\xa7strings\x91\xa1\xff",
    "integer key": wire.pack({1: []}),
    "strings no list": with_table(strings="abc"),
    "a string no text": with_table(strings=["", b"checkout"]),
    "a string nil": with_table(strings=[None]),
    "series beyond": with_table(series=[[1, 7]]),
    "series negative": with_table(series=[[-1, 2]]),
    "series huge": with_table(series=[[1, 2**64 - 1]]),
    "series too short": with_table(series=[[1]]),
    "series too long": with_table(series=[[1, 2, 3]]),
    "series of text": with_table(series=[["checkout", "pay"]]),
    "series of floats": with_table(series=[[1.0, 2.0]]),
    "point of no kind": with_table(points=[["sum", 6, 1, 2, {}]]),
    "point beyond": with_table(points=[["count", 7, 1, 2, {}]]),
    "labels a list": with_table(points=[["count", 6, 1, 2, []]]),
    "a label no text": with_table(points=[["count", 6, 1, 2, {"model": 5}]]),
    "error beyond": with_table(errors=[[7, "exec"]]),
    "phase no text": with_table(errors=[[5, 1]]),
    "too many strings": with_table(strings=["x"] * (wire.MAX_TABLE_ENTRIES + 1)),
    "too many series": with_table(series=[[1, 2]] * (wire.MAX_TABLE_ENTRIES + 1)),
    "too many errors": with_table(errors=[[0, ""]] * (wire.MAX_TABLE_ENTRIES + 1)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_refuses_all_that_indexes_it(name: str) -> None:
    decoded = decode_table(BAD[name])
    assert events(decoded) == []
    assert count_rejected(decoded) == {ErrorCode.BAD_TABLE: 3 + 2 + 1}
    assert decoded.problem.startswith("table")
    # What doesn't index it stays.
    assert decoded.in_flight is not None
    assert len(decoded.in_flight) == 1


def decode_table(table: bytes) -> Any:
    parts = {"executions": executions(3), "points": points(2), "runs": runs(1)}
    return decode_batch(batch(table=table, in_flight=[FLIGHT], **parts))


def test_a_bad_table_that_nothing_indexes_is_reported_once() -> None:
    result = decode_batch(batch(table=b"\xc1", executions=None))
    assert count_rejected(result) == {ErrorCode.BAD_TABLE: 1}


def test_a_bad_table_beside_bad_columns_is_counted_as_far_as_known() -> None:
    encoded = {"outcome": bytes(7), "end": bytes(8), "new": bytes(99)}
    result = decode_batch(batch(table=b"\xc1", executions=encoded, points=5))
    assert count_rejected(result) == {ErrorCode.BAD_TABLE: 7 + 1}


def test_lists_that_are_not_used_may_be_left_out() -> None:
    table = with_table(points=None, errors=None)
    result = decode_batch(batch(table=table))
    assert len(events(result)) == 3


def test_the_highest_number_of_entries_is_taken() -> None:
    strings = [str(number) for number in range(wire.MAX_TABLE_ENTRIES)]
    table = TableCache().get(with_table(strings=strings))
    assert len(table.strings) == wire.MAX_TABLE_ENTRIES


def test_unknown_lists_and_phases_are_ignored() -> None:
    table = with_table(errors=[[0, ""], [5, "warp"]], new=[[1, 2, 3]])
    result = decode_batch(batch(table=table, executions=executions(1, error=[1])))
    (event,) = events(result)
    assert (event["error"], event["phase"]) == ("Timeout", "")


def test_names_are_cut_not_refused() -> None:
    long = "ä" * 300
    labels = {f"{number:02}{long}": long for number in range(MAX_LABELS + 4)}
    points = [["gauge", 1, 1, 1, labels]]
    packed = {"strings": ["", long], "series": [[1, 1]], "points": points}
    table = TableCache().get(wire.pack(packed))
    cut = "ä" * wire.MAX_NAME
    assert table.strings == ["", cut]
    assert table.series == [(cut, cut)]
    (point,) = table.points
    assert point[4] == tuple(
        (f"{number:02}{cut}"[: wire.MAX_NAME], cut) for number in range(MAX_LABELS)
    )


def test_labels_that_become_the_same_when_cut_are_one() -> None:
    long = "x" * wire.MAX_NAME
    point = ["gauge", 1, 0, 0, {long + "a": "1", long + "b": "2"}]
    table = TableCache().get(wire.pack({"strings": ["", "m"], "points": [point]}))
    assert table.points[0][4] == ((long, "2"),)


def test_a_node_without_a_name_gets_one() -> None:
    packed = wire.pack(
        {"strings": [""], "series": [[0, 0]], "points": [["gauge", 0, 0, 0, {}]]}
    )
    table = TableCache().get(packed)
    assert table.series == [("", "__unnamed__")]
    assert table.points[0][1] == "__unnamed__"


# -- the cache -------------------------------------------------------------------------


def test_the_same_bytes_are_the_same_table() -> None:
    cache = TableCache()
    assert cache.get(wire.pack(TABLE)) is cache.get(wire.pack(TABLE))
    assert cache.get(b"") is cache.get(b"")
    assert cache.get(with_table(new=1)) is not cache.get(wire.pack(TABLE))


def test_a_bad_table_is_not_remembered() -> None:
    cache = TableCache()
    for _ in range(2):
        with pytest.raises(TableError):
            cache.get(b"\xc1")
    assert not cache._tables


def test_the_cache_is_bounded_and_evicts_the_least_recently_used() -> None:
    def named(number: int) -> bytes:
        return wire.pack({"strings": [f"{number:06}" + "x" * 90]})

    cache = TableCache(limit=1_050)
    often = cache.get(named(0))
    for number in range(1, 100):
        cache.get(named(number))
        assert cache.get(named(0)) is often
    assert cache._bytes == sum(map(len, cache._tables)) <= 1_050
    assert len(cache._tables) == 9
    assert named(99) in cache._tables


def test_a_table_larger_than_the_cache_is_still_found_again() -> None:
    cache = TableCache(limit=10)
    assert cache.get(wire.pack(TABLE)) is cache.get(wire.pack(TABLE))
    assert len(cache._tables) == 1
