from __future__ import annotations

import struct
from array import array
from typing import Any

import pytest
from tests.agent.protocol.samples import (
    START,
    batch,
    column,
    count_rejected,
    decode_batch,
    events,
    executions,
    phases,
    points,
    runs,
)

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.model.bounds import MAX_TIME
from kaywatch_agent.protocol.limits import MAX_VALUE

SECTIONS: dict[str, Any] = {"executions": executions, "points": points, "runs": runs}
CODES = {
    "executions": wire.EXECUTION_COLUMNS,
    "points": wire.POINT_COLUMNS,
    "runs": wire.RUN_COLUMNS,
}
COLUMNS = [(section, name) for section in CODES for name in CODES[section]]


def send(section: str, encoded: object) -> tuple[list[dict[str, Any]], Any]:
    """Return the valid events of a batch with one section, and the rejected ones."""
    result = decode_batch(batch(**{"executions": None, section: encoded}))
    return events(result), count_rejected(result)


def test_executions_come_out_with_their_names() -> None:
    encoded = executions(
        2, outcome=[0, 1], attempts=[1, 3], action=[4, 0], error=[0, 1]
    )
    rows, _ = send("executions", encoded)
    first = {"graph": "checkout", "node": "pay", "end": START, "seconds": 0.25}
    second = {"graph": "checkout", "node": "ship", "end": START + 1, "seconds": 0.5}
    assert rows == [
        {
            **first,
            "outcome": "ok",
            "attempts": 1,
            "action": "default",
            "error": "",
            "phase": "",
        },
        {
            **second,
            "outcome": "error",
            "attempts": 3,
            "action": "",
            "error": "Timeout",
            "phase": "exec",
        },
    ]


def test_a_negative_count_is_rejected_and_the_others_are_kept() -> None:
    rows, codes = send("points", points(3, value=[2.5, -1.0, 3.0]))

    assert [point["value"] for point in rows] == [2.5, 3.0]
    assert codes == {ErrorCode.BAD_VALUE: 1}


def test_points_come_out_with_their_names_and_labels() -> None:
    rows, _ = send("points", points(1, value=[2.5]))
    assert rows == [
        {
            "metric": "tokens",
            "kind": "count",
            "graph": "checkout",
            "node": "pay",
            "labels": {"model": "m1"},
            "time": START,
            "value": 2.5,
        }
    ]


def test_runs_come_out_with_their_names() -> None:
    rows, _ = send("runs", runs(1, outcome=[4], visits=[4_000_000_000]))
    assert rows == [
        {
            "graph": "checkout",
            "end": START,
            "seconds": 1.0,
            "outcome": "cancelled",
            "reason": "default",
            "node": "ship",
            "action": "default",
            "visits": 4_000_000_000,
        }
    ]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_without_rows_is_sound(section: str) -> None:
    assert send(section, SECTIONS[section](0)) == ([], {})


@pytest.mark.parametrize(("section", "name"), COLUMNS)
def test_a_missing_column_refuses_the_section_and_counts_its_events(
    section: str, name: str
) -> None:
    encoded = SECTIONS[section](7)
    del encoded[name]
    assert send(section, encoded) == ([], {ErrorCode.BAD_COLUMNS: 7})


@pytest.mark.parametrize(("section", "name"), COLUMNS)
@pytest.mark.parametrize("value", ["text", 5, None, [1, 2], {}])
def test_a_column_that_is_no_binary_refuses_the_section(
    section: str, name: str, value: object
) -> None:
    encoded = {**SECTIONS[section](7), name: value}
    assert send(section, encoded) == ([], {ErrorCode.BAD_COLUMNS: 7})


@pytest.mark.parametrize(("section", "name"), COLUMNS)
def test_a_truncated_column_refuses_the_section(section: str, name: str) -> None:
    encoded = SECTIONS[section](7)
    encoded[name] = encoded[name][:-1]
    assert send(section, encoded) == ([], {ErrorCode.BAD_COLUMNS: 7})


@pytest.mark.parametrize(("section", "name"), COLUMNS)
@pytest.mark.parametrize("change", [-1, 1])
def test_columns_of_unequal_length_refuse_the_section(
    section: str, name: str, change: int
) -> None:
    size = struct.calcsize(CODES[section][name])
    encoded = SECTIONS[section](7)
    encoded[name] = (encoded[name] + bytes(size))[: (7 + change) * size]
    rows, rejected = send(section, encoded)
    assert (rows, rejected) == ([], {ErrorCode.BAD_COLUMNS: max(7, 7 + change)})


def test_a_truncated_column_is_named() -> None:
    encoded = {**executions(2), "end": b"1234567"}
    result = decode_batch(batch(executions=encoded))
    assert result.problem == "executions: end: 7 bytes, not a multiple of 8: truncated?"


def test_an_error_of_unequal_lengths_names_the_columns_that_were_sent() -> None:
    encoded = {**executions(2), "seconds": bytes(8)}
    problem = decode_batch(batch(executions=encoded)).problem
    assert "columns of unequal length" in problem
    assert {name for name in wire.EXECUTION_COLUMNS if name in problem} == set(encoded)
    assert not any(f"{name!r}" in problem for name in wire.PHASE_COLUMNS)


NO_MAP = [5, "text", [], b"\x00\x00", True, {1: b""}]


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", NO_MAP)
def test_a_section_that_is_no_map_is_refused(section: str, value: object) -> None:
    assert send(section, value) == ([], {ErrorCode.BAD_COLUMNS: 1})


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_columns_are_ignored_whatever_they_hold(section: str) -> None:
    encoded = {**SECTIONS[section](3), "new": b"\x01\x02\x03", "newer": [1, None]}
    rows, rejected = send(section, encoded)
    assert (len(rows), rejected) == (3, {})


INDEXES = [
    ("executions", "series", 2),
    ("executions", "action", 7),
    ("executions", "error", 2),
    ("points", "series", 1),
    ("runs", "graph", 7),
    ("runs", "reason", 7),
    ("runs", "node", 7),
    ("runs", "action", 7),
]


@pytest.mark.parametrize(("section", "name", "size"), INDEXES)
@pytest.mark.parametrize("beyond", [0, 1, None])
def test_an_index_outside_its_list_leaves_out_its_row(
    section: str, name: str, size: int, beyond: int | None
) -> None:
    index = 65_535 if beyond is None else size + beyond
    sound = SECTIONS[section](3)
    rows, rejected = send(section, {**sound, name: column("H", [0, index, 0])})
    assert (len(rows), rejected) == (2, {ErrorCode.BAD_INDEX: 1})
    last, _ = send(section, {**sound, name: column("H", [size - 1] * 3)})
    assert len(last) == 3


def test_without_a_table_there_is_nothing_to_index() -> None:
    result = decode_batch(batch(table=None))
    assert (events(result), count_rejected(result)) == ([], {ErrorCode.BAD_INDEX: 3})


def test_an_index_may_be_the_highest_there_is() -> None:
    strings = [f"s{number}" for number in range(wire.MAX_TABLE_ENTRIES)]
    table = wire.pack({"strings": strings, "series": [[1, 65_535]]})
    encoded = executions(1, series=[0], action=[65_535], error=[0])
    result = decode_batch(batch(table=table, executions=encoded))
    (event,) = events(result)
    assert (event["node"], event["action"]) == ("s65535", "s65535")


# A signalling NaN has to be as harmless as the others.
NAN = float("nan")
SIGNALLING = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000001))[0]
INFINITE = [NAN, SIGNALLING, float("inf"), float("-inf")]
VALUES = [
    *(("executions", "end", value) for value in INFINITE),
    *(("executions", "seconds", value) for value in [*INFINITE, -1e-9, -1.0]),
    *(("points", "time", value) for value in INFINITE),
    *(("points", "value", value) for value in INFINITE),
    *(("runs", "end", value) for value in INFINITE),
    *(("runs", "seconds", value) for value in [*INFINITE, -1e-9]),
]


@pytest.mark.parametrize(("section", "name", "value"), VALUES)
def test_a_value_that_is_none_leaves_out_its_row(
    section: str, name: str, value: float
) -> None:
    encoded = {**SECTIONS[section](3), name: struct.pack("<ddd", 1.0, value, 2.0)}
    rows, rejected = send(section, encoded)
    assert (len(rows), rejected) == (2, {ErrorCode.BAD_VALUE: 1})


@pytest.mark.parametrize("value", [0.0, -0.0, 5e-324, MAX_TIME])
def test_extreme_durations_are_sound(value: float) -> None:
    rows, rejected = send("executions", executions(1, seconds=[value]))
    assert (len(rows), rejected) == (1, {})


@pytest.mark.parametrize("value", [1.7e308, MAX_TIME + 1])
def test_absurd_durations_are_rejected(value: float) -> None:
    for section in ("executions", "runs"):
        columns = SECTIONS[section](3)
        columns["seconds"] = array("d", [0.5, value, 0.5]).tobytes()
        rows, rejected = send(section, columns)
        assert (len(rows), rejected) == (2, {ErrorCode.BAD_VALUE: 1})


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, MAX_VALUE * 1.01])
def test_values_whose_sums_could_overflow_are_rejected(value: float) -> None:
    rows, rejected = send("points", points(3, value=[1.0, value, 2.0]))
    assert [point["value"] for point in rows] == [1.0, 2.0]
    assert rejected == {ErrorCode.BAD_VALUE: 1}


@pytest.mark.parametrize("section", ["executions", "runs"])
@pytest.mark.parametrize("outcome", [5, 6, 255])
def test_an_unknown_outcome_leaves_out_its_row(section: str, outcome: int) -> None:
    encoded = {**SECTIONS[section](3), "outcome": bytes([0, outcome, 4])}
    rows, rejected = send(section, encoded)
    assert (len(rows), rejected) == (2, {ErrorCode.BAD_VALUE: 1})


def test_a_row_with_several_faults_is_counted_once() -> None:
    encoded = executions(
        3,
        series=[9, 0, 0],
        action=[99, 0, 0],
        seconds=[-1.0, 1.0, NAN],
        outcome=[9, 9, 0],
    )
    rows, rejected = send("executions", encoded)
    assert rows == []
    assert rejected == {ErrorCode.BAD_INDEX: 1, ErrorCode.BAD_VALUE: 2}


def test_in_a_large_batch_exactly_the_unsound_rows_are_left_out() -> None:
    size = 5_000
    seconds = [float(n) for n in range(size)]
    for n in range(0, size, 7):
        seconds[n] = -1.0
    result = decode_batch(batch(executions=executions(size, seconds=seconds)))
    rows = [event["seconds"] for event in events(result)]
    assert rows == [float(n) for n in range(size) if n % 7]
    assert count_rejected(result) == {ErrorCode.BAD_VALUE: size - len(rows)}


# -- phases ----------------------------------------------------------------------------


def decode_phases(encoded: dict[str, bytes]) -> tuple[list[Any], Any]:
    """Return (node, items or None) of each valid execution, and the rejections."""
    rows, rejected = send("executions", encoded)
    return [(event["node"], event.get("items")) for event in rows], rejected


def test_phases_may_be_of_all_executions_of_the_first_ones_or_of_none() -> None:
    for size in range(4):
        rows, rejected = decode_phases({**executions(3), **phases(size)})
        nodes = ["pay", "ship", "pay"]
        assert rows == [(n, at if at < size else None) for at, n in enumerate(nodes)]
        assert rejected == {}


def test_phases_come_out_as_they_were_sent() -> None:
    encoded = {**executions(1), **phases(1, prep=[0.0], items=[4_000_000_000])}
    (event,), _ = send("executions", encoded)
    times = {name: event[name] for name in wire.PHASE_COLUMNS}
    assert times == {
        "prep": 0.0,
        "exec": 0.125,
        "wait": 0.03125,
        "items": 4_000_000_000,
    }


@pytest.mark.parametrize("name", wire.PHASE_COLUMNS)
@pytest.mark.parametrize("value", [None, "text", 5, b"\x00" * 9, b"\x00" * 4, b""])
def test_phases_of_another_form_refuse_the_section(name: str, value: object) -> None:
    encoded = {**executions(3), **phases(2), name: value}
    assert send("executions", encoded) == ([], {ErrorCode.BAD_COLUMNS: 3})


@pytest.mark.parametrize("name", wire.PHASE_COLUMNS)
def test_a_missing_column_of_phases_refuses_the_section(name: str) -> None:
    encoded = {**executions(3), **phases(2)}
    del encoded[name]
    assert send("executions", encoded) == ([], {ErrorCode.BAD_COLUMNS: 3})


def test_more_phases_than_executions_refuse_the_section() -> None:
    encoded = {**executions(3), **phases(4)}
    assert send("executions", encoded) == ([], {ErrorCode.BAD_COLUMNS: 3})


@pytest.mark.parametrize("name", ["prep", "exec", "wait"])
@pytest.mark.parametrize("value", [*INFINITE, -1e-9, -1.0])
def test_a_phase_that_is_none_leaves_out_its_row(name: str, value: float) -> None:
    encoded = {**executions(4), **phases(3), name: struct.pack("<fff", 0, value, 0)}
    rows, rejected = decode_phases(encoded)
    assert rows == [("pay", 0), ("pay", 2), ("ship", None)]
    assert rejected == {ErrorCode.BAD_VALUE: 1}


def test_phases_stay_with_their_executions_where_others_are_left_out() -> None:
    encoded = {**executions(5, seconds=[-1.0, 1.0, 1.0, -1.0, 1.0]), **phases(3)}
    rows, rejected = decode_phases(encoded)
    assert rows == [("ship", 1), ("pay", 2), ("pay", None)]
    assert rejected == {ErrorCode.BAD_VALUE: 2}


def test_a_row_with_a_bad_phase_and_another_fault_is_counted_once() -> None:
    encoded = {**executions(2, series=[9, 0]), **phases(1, wait=[-1.0])}
    assert decode_phases(encoded) == ([("pay", None)], {ErrorCode.BAD_INDEX: 1})
