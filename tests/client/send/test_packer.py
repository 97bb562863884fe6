from __future__ import annotations

import math
import sys
from array import array
from typing import Any

import msgpack
import pytest
from tests.flights import Endless, Spinning

from kaywatch import wire
from kaywatch._send import packer as _packer
from kaywatch._send.packer import (
    MAX_IN_FLIGHT,
    MAX_LOOPS,
    MAX_STRINGS,
    BatchContent,
    Packer,
)
from kaywatch.recorder import OTHER, Failure, Recorder, Topology

COLUMNS = {
    "executions": {**wire.EXECUTION_COLUMNS, **wire.PHASE_COLUMNS},
    "points": wire.POINT_COLUMNS,
    "runs": wire.RUN_COLUMNS,
}
FAILURE = Failure(1.5, "g", "n", "ValueError", "why", "exec", 1, 1, "r-1")


@pytest.fixture
def recorder() -> Recorder:
    made = Recorder()
    made.open()
    return made


@pytest.fixture
def packer(recorder: Recorder) -> Packer:
    return Packer(recorder)


def taken(packer: Packer, limit: int = wire.MAX_BATCH_EVENTS) -> BatchContent:
    found = packer.take(limit)
    assert found is not None
    return found


def table_of(found: BatchContent) -> dict[str, Any]:
    encoded = found.sections["table"]
    assert isinstance(encoded, bytes)
    table = msgpack.unpackb(encoded)
    assert isinstance(table, dict)
    return table


def column(found: BatchContent, section: str, name: str) -> list[Any]:
    part = found.sections[section]
    assert isinstance(part, dict)
    values = array(COLUMNS[section][name], part.get(name, b""))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def texts(found: BatchContent, section: str, name: str) -> list[str]:
    strings = table_of(found)["strings"]
    return [strings[index] for index in column(found, section, name)]


def nodes(found: BatchContent) -> list[str]:
    table = table_of(found)
    series = [table["series"][n] for n in column(found, "executions", "series")]
    return [table["strings"][node] for _, node in series]


def test_nothing_pending_is_no_batch(packer: Packer) -> None:
    assert packer.take() is None


def test_events_are_taken_once(recorder: Recorder, packer: Packer) -> None:
    recorder.series("g", "n").record(0.5)
    assert taken(packer).events == 1
    assert packer.take() is None


def test_a_batch_has_columns_of_one_length_and_a_table(
    recorder: Recorder, packer: Packer
) -> None:
    for seconds in (0.5, 0.25, 1.0):
        recorder.series("g", "n").record(seconds)
    recorder.point("gauge", "size", "g", "n", {"a": "b"})(3.0)
    recorder.run_ended("g", 2.0, 0, "no_successors", "n", "default", 3)
    found = taken(packer)
    assert (found.events, found.unpackable) == (5, 0)
    assert column(found, "executions", "seconds") == [0.5, 0.25, 1.0]
    assert nodes(found) == ["n"] * 3
    assert column(found, "points", "value") == [3.0]
    assert column(found, "runs", "visits") == [3]
    assert texts(found, "runs", "reason") == ["no_successors"]
    for section, part in found.sections.items():
        if section in COLUMNS and isinstance(part, dict):
            sizes = {len(column(found, section, name)) for name in part}
            assert len(sizes) == 1, section
    strings = table_of(found)["strings"]
    ((kind, *names, labels),) = table_of(found)["points"]
    assert (kind, [strings[n] for n in names]) == ("gauge", ["size", "g", "n"])
    assert labels == {"a": "b"}


def test_sections_without_events_are_left_out(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.point("count", "calls", "", "")(1)
    assert taken(packer).sections.keys() == {"points", "table"}


def test_a_batch_has_at_most_the_limit_of_each_kind(
    recorder: Recorder, packer: Packer
) -> None:
    for number in range(25):
        recorder.series("g", "n").record(float(number))
    sizes, seconds = [], []
    while (found := packer.take(10)) is not None:
        sizes.append(found.events)
        seconds += column(found, "executions", "seconds")
    assert sizes == [10, 10, 5]
    assert seconds == [float(number) for number in range(25)]


def test_errors_and_actions_are_in_the_table(
    recorder: Recorder, packer: Packer
) -> None:
    record = recorder.series("g", "n").record
    record(0.5, 1, 3, "", ("ValueError", "exec"))
    record(0.5, 0, 1, "approve")
    found = taken(packer)
    assert texts(found, "executions", "action") == ["", "approve"]
    errors = [
        table_of(found)["errors"][n] for n in column(found, "executions", "error")
    ]
    strings = table_of(found)["strings"]
    assert [(strings[kind], phase) for kind, phase in errors] == [
        ("ValueError", "exec"),
        ("", ""),
    ]


@pytest.mark.parametrize("same", [True, False])
def test_columns_of_one_value_say_the_same_as_others(
    recorder: Recorder, packer: Packer, same: bool
) -> None:
    for number in range(100):
        action = "a" if same or number else "b"
        recorder.series("g", "n").record(1.0, 0, 1, action, ("E", "prep"))
    found = taken(packer)
    wanted = ["a"] * 100 if same else ["b"] + ["a"] * 99
    assert texts(found, "executions", "action") == wanted
    assert set(column(found, "executions", "error")) == {1}


def test_the_table_is_the_same_bytes_until_something_new_comes_up(
    recorder: Recorder, packer: Packer
) -> None:
    def table() -> object:
        return taken(packer).sections["table"]

    recorder.series("g", "n").record(0.5)
    first = table()
    recorder.series("g", "n").record(0.7)
    assert table() is first
    recorder.series("g", "m").record(0.7)
    second = table()
    assert second != first
    recorder.series("g", "n").record(0.7)
    assert table() is second
    recorder.point("count", "calls", "g", "n")(1)
    assert table() != second


def test_more_attempts_than_a_column_holds_are_cut(
    recorder: Recorder, packer: Packer
) -> None:
    for attempts in (0, 1, 65_535, 65_536, 2**40):
        recorder.series("g", "n").record(0.5, 0, attempts)
    found = taken(packer)
    wanted = [0, 1, 65_535, 65_535, 65_535]
    assert column(found, "executions", "attempts") == wanted
    assert found.unpackable == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("soon",),
        (None,),
        (0.5, 300),
        (0.5, "ok"),
        (0.5, 0, -1),
        (0.5, 0, 1.5),
        (0.5, 0, 1, ["action"]),
        (0.5, 0, 1, "a", ["ValueError"]),
    ],
)
def test_a_value_that_fits_no_column_costs_only_its_own_event(
    recorder: Recorder, packer: Packer, arguments: Any
) -> None:
    record = recorder.series("g", "n").record
    record(0.25)
    record(*arguments)
    record(0.75)
    found = taken(packer)
    assert (found.events, found.unpackable) == (2, 1)
    assert column(found, "executions", "seconds") == [0.25, 0.75]


def test_a_batch_of_which_nothing_can_be_packed_is_still_told(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.point("gauge", "size", "g", "n")("much")  # type: ignore[arg-type]
    found = taken(packer)
    assert (found.events, found.unpackable) == (0, 1)
    assert found.sections.keys() == {"table"}


def test_values_that_only_the_agent_refuses_are_packed(
    recorder: Recorder, packer: Packer
) -> None:
    for value in (math.nan, math.inf, -1.0, True, 3):
        recorder.series("g", "n").record(value)
    assert taken(packer).events == 5


def test_names_that_are_too_long_or_no_utf8_are_made_fit(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.series("g" * 300, "caf\udce9").record(0.5)
    strings = table_of(taken(packer))["strings"]
    assert "g" * wire.MAX_NAME in strings
    assert "caf?" in strings


def test_details_that_are_no_utf8_are_made_fit(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.failed(FAILURE._replace(message="no file caf\udce9"))
    recorder.point("count", "calls", "", "", {"file": "caf\udce9"})(1)
    found = taken(packer)
    packed = wire.batch(
        client=bytes(16),
        seq=1,
        sent=1.0,
        service="caf\udce9",
        recorded=1,
        sections=found.sections,
    )
    message = wire.decode(packed)
    assert message["service"] == "caf?"
    assert message["failures"][0]["message"] == "no file caf?"
    assert table_of(found)["points"][0][4] == {"file": "caf?"}


def test_a_table_that_has_grown_is_started_anew(
    recorder: Recorder, packer: Packer
) -> None:
    record = recorder.series("g", "n").record
    sizes = []
    for number in range(4 * MAX_STRINGS // 5_000):
        for event in range(5_000):
            record(0.5, 0, 1, f"action {number} {event}")
        found = taken(packer)
        sizes.append(len(table_of(found)["strings"]))
        actions = texts(found, "executions", "action")
        assert actions[0] == f"action {number} 0"
        assert actions[-1] == f"action {number} 4999"
        assert nodes(found)[0] == "n"
    assert max(sizes) < MAX_STRINGS + 5_010
    assert sizes != sorted(sizes)


@pytest.mark.parametrize(
    "letter",
    ["x", "\u7ffb"],
)
def test_a_batch_fits_into_a_frame_also_where_actions_are_free_text(
    recorder: Recorder, packer: Packer, letter: str
) -> None:
    record = recorder.series("g", "n").record
    for number in range(6):
        for event in range(4_500):
            record(0.5, 0, 1, f"{number} {event} ".ljust(wire.MAX_NAME, letter))
        packed = wire.pack(taken(packer).sections)
        assert len(packed) < wire.MAX_FRAME - 1_000


# -- phases ---------------------------------------------------------------------------


def phased(recorder: Recorder, node: str, *phases: Any) -> None:
    number = recorder.series("g", node).number
    recorder.pending.phased.record((number, 5.0, 1.0, 0, 1, "default", None, *phases))


def test_without_phases_there_are_no_columns_for_them(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.series("g", "n").record(0.5)
    part = taken(packer).sections["executions"]
    assert isinstance(part, dict)
    assert part.keys() == wire.EXECUTION_COLUMNS.keys()


def test_executions_with_phases_come_first(recorder: Recorder, packer: Packer) -> None:
    recorder.series("g", "plain").record(0.5, 1, 2, "", ("E", "exec"))
    phased(recorder, "first", 0.25, 0.5, 0.125, 7)
    phased(recorder, "second", 0.0, 1.0, 0.0, 0)
    found = taken(packer)
    assert found.events == 3
    assert nodes(found) == ["first", "second", "plain"]
    assert column(found, "executions", "attempts") == [1, 1, 2]
    wanted = {
        "prep": [0.25, 0.0],
        "exec": [0.5, 1.0],
        "wait": [0.125, 0.0],
        "items": [7, 0],
    }
    told = {name: column(found, "executions", name) for name in wire.PHASE_COLUMNS}
    assert told == wanted


def test_both_together_are_at_most_a_batch(recorder: Recorder, packer: Packer) -> None:
    for _ in range(7):
        phased(recorder, "n", 0.0, 1.0, 0.0, 0)
        recorder.series("g", "n").record(0.5)
    sizes = []
    while (found := packer.take(5)) is not None:
        sizes.append((found.events, len(column(found, "executions", "series"))))
    assert sizes == [(5, 5), (5, 5), (4, 4)]


@pytest.mark.parametrize("bad", ["soon", None, -1, 2**40])
def test_phases_that_fit_no_column_cost_only_their_own_event(
    recorder: Recorder, packer: Packer, bad: Any
) -> None:
    recorder.series("g", "plain").record(0.5)
    phased(recorder, "a", 0.25, 0.5, 0.0, 1)
    phased(recorder, "b", 0.25, 0.5, 0.0, bad)
    found = taken(packer)
    assert (found.events, found.unpackable) == (2, 1)
    assert nodes(found) == ["a", "plain"]
    assert column(found, "executions", "items") == [1]


# -- details --------------------------------------------------------------------------


def test_failures_go_along_once(recorder: Recorder, packer: Packer) -> None:
    recorder.failed(FAILURE)
    recorder.failed(FAILURE._replace(traceback="a.py:1 in f"))
    found = taken(packer)
    plain, traced = found.sections["failures"]
    assert traced == FAILURE._replace(traceback="a.py:1 in f")._asdict()
    assert plain == {k: v for k, v in FAILURE._asdict().items() if k != "traceback"}
    assert found.events == 0
    assert packer.take() is None


def test_topologies_go_along_when_they_change_and_when_asked_for(
    recorder: Recorder, packer: Packer
) -> None:
    topology = Topology("g", "n", ("n",), (("n", "default", "m"),))
    recorder.wired(topology)
    assert taken(packer).sections["topologies"] == [topology._asdict()]
    recorder.wired(topology)
    assert packer.take() is None
    packer.resend_topologies()
    assert "topologies" in taken(packer).sections
    recorder.wired(topology._replace(start="m"))
    assert "topologies" in taken(packer).sections


def test_nodes_in_flight_go_along_when_they_change(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.in_flight.add(Endless("g", "n", 5.0, 7))
    recorder.in_flight.add(Endless("g", "m", 4.0))
    run = recorder.run_id(7)
    wanted = [("g", "m", 4.0, "", 0), ("g", "n", 5.0, run, 0)]
    assert taken(packer).sections["in_flight"] == wanted
    assert packer.take() is None
    recorder.in_flight.clear()
    assert taken(packer).sections["in_flight"] == []
    assert packer.take() is None


def test_of_many_nodes_in_flight_those_go_along_that_started_first(
    recorder: Recorder, packer: Packer
) -> None:
    for number in range(2 * MAX_IN_FLIGHT):
        recorder.in_flight.add(Endless("g", "n", float(-number)))
    found: Any = taken(packer).sections["in_flight"]
    assert len(found) == MAX_IN_FLIGHT
    assert found[0][2] == float(1 - 2 * MAX_IN_FLIGHT)


def test_of_each_node_the_run_that_came_back_most_goes_along(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.runs.add(Spinning("g", 7, {"a": 3, "b": 2, "c": 1, OTHER: 9}))
    recorder.runs.add(Spinning("g", 8, {"a": 2, "b": 5}))
    long, short = recorder.run_id(7), recorder.run_id(8)
    assert taken(packer).sections["loops"] == [
        ("g", "", 15, long),
        ("g", "b", 5, short),
        ("g", "a", 3, long),
    ]
    assert packer.take() is None
    recorder.runs.clear()
    assert taken(packer).sections["loops"] == []
    assert packer.take() is None


def test_loops_of_runs_that_ended_go_along_once(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.revisits.add("g", {"a": 2, "b": 1})
    recorder.revisits.add("g", {"a": 4, OTHER: 3})
    found = taken(packer).sections
    assert found["looped"] == [("g", "a", 4)]
    assert "loops" not in found
    assert packer.take() is None


def test_of_many_loops_those_of_the_most_visits_go_along(
    recorder: Recorder, packer: Packer
) -> None:
    counts = {f"n{number}": number for number in range(2, MAX_LOOPS + 12)}
    recorder.revisits.add("g", counts)
    recorder.runs.add(Spinning("g", 1, counts))
    found: Any = taken(packer).sections
    assert len(found["looped"]) == len(found["loops"]) == MAX_LOOPS
    assert found["looped"][0] == ("g", f"n{MAX_LOOPS + 11}", MAX_LOOPS + 11)
    assert recorder.revisits.left_out == 10


def test_columns_are_little_endian_and_unpadded() -> None:
    assert _packer._packed("H", [1, 512]) == b"\x01\x00\x00\x02"
    assert _packer._packed("I", [1]) == b"\x01\x00\x00\x00"
