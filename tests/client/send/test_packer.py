from __future__ import annotations

import math
import sys
import time
from array import array
from types import SimpleNamespace
from typing import Any, cast

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
from kaywatch.recorder import OTHER, ExecutionInFlight, Failure, Recorder, Topology

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


def take(packer: Packer, limit: int = wire.MAX_BATCH_EVENTS) -> BatchContent:
    content = packer.take(limit)
    assert content is not None
    return content


def table_of(content: BatchContent) -> dict[str, Any]:
    encoded = content.sections["table"]
    assert isinstance(encoded, bytes)
    table = msgpack.unpackb(encoded)
    assert isinstance(table, dict)
    return table


def column(content: BatchContent, section: str, name: str) -> list[Any]:
    part = content.sections[section]
    assert isinstance(part, dict)
    values = array(COLUMNS[section][name], part.get(name, b""))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def texts(content: BatchContent, section: str, name: str) -> list[str]:
    strings = table_of(content)["strings"]
    return [strings[index] for index in column(content, section, name)]


def nodes(content: BatchContent) -> list[str]:
    table = table_of(content)
    series = [table["series"][n] for n in column(content, "executions", "series")]
    return [table["strings"][node] for _, node in series]


def test_without_pending_events_there_is_no_batch(packer: Packer) -> None:
    assert packer.take() is None


def test_events_are_taken_once(recorder: Recorder, packer: Packer) -> None:
    recorder.series("g", "n").record(0.5)
    assert take(packer).events == 1
    assert packer.take() is None


def test_a_batch_has_columns_of_one_length_and_a_table(
    recorder: Recorder, packer: Packer
) -> None:
    for seconds in (0.5, 0.25, 1.0):
        recorder.series("g", "n").record(seconds)
    recorder.point("gauge", "size", "g", "n", {"a": "b"})(3.0)
    recorder.run_ended("g", 2.0, 0, "no_successors", "n", "default", 3)
    content = take(packer)
    assert (content.events, content.unpackable) == (5, 0)
    assert column(content, "executions", "seconds") == [0.5, 0.25, 1.0]
    assert nodes(content) == ["n"] * 3
    assert column(content, "points", "value") == [3.0]
    assert column(content, "runs", "visits") == [3]
    assert texts(content, "runs", "reason") == ["no_successors"]
    for section, part in content.sections.items():
        if section in COLUMNS and isinstance(part, dict):
            sizes = {len(column(content, section, name)) for name in part}
            assert len(sizes) == 1, section
    strings = table_of(content)["strings"]
    ((kind, *names, labels),) = table_of(content)["points"]
    assert (kind, [strings[n] for n in names]) == ("gauge", ["size", "g", "n"])
    assert labels == {"a": "b"}


def test_sections_without_events_are_left_out(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.point("count", "calls", "", "")(1)
    assert take(packer).sections.keys() == {"points", "table"}


def test_batch_is_limited_per_kind_of_event(recorder: Recorder, packer: Packer) -> None:
    for number in range(25):
        recorder.series("g", "n").record(float(number))
    sizes, seconds = [], []
    while (content := packer.take(10)) is not None:
        sizes.append(content.events)
        seconds += column(content, "executions", "seconds")
    assert sizes == [10, 10, 5]
    assert seconds == [float(number) for number in range(25)]


def test_errors_and_actions_are_in_the_table(
    recorder: Recorder, packer: Packer
) -> None:
    record = recorder.series("g", "n").record
    record(0.5, 1, 3, "", ("ValueError", "exec"))
    record(0.5, 0, 1, "approve")
    content = take(packer)
    assert texts(content, "executions", "action") == ["", "approve"]
    errors = [
        table_of(content)["errors"][n] for n in column(content, "executions", "error")
    ]
    strings = table_of(content)["strings"]
    assert [(strings[kind], phase) for kind, phase in errors] == [
        ("ValueError", "exec"),
        ("", ""),
    ]


@pytest.mark.parametrize("same", [True, False])
def test_uniform_columns_decode_like_others(
    recorder: Recorder, packer: Packer, same: bool
) -> None:
    for number in range(100):
        action = "a" if same or number else "b"
        recorder.series("g", "n").record(1.0, 0, 1, action, ("E", "prep"))
    content = take(packer)
    expected = ["a"] * 100 if same else ["b"] + ["a"] * 99
    assert texts(content, "executions", "action") == expected
    assert set(column(content, "executions", "error")) == {1}


def test_table_keeps_its_bytes_until_a_new_entry(
    recorder: Recorder, packer: Packer
) -> None:
    def table() -> object:
        return take(packer).sections["table"]

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


def test_attempts_are_limited_to_the_column(recorder: Recorder, packer: Packer) -> None:
    for attempts in (0, 1, 65_535, 65_536, 2**40):
        recorder.series("g", "n").record(0.5, 0, attempts)
    content = take(packer)
    expected = [0, 1, 65_535, 65_535, 65_535]
    assert column(content, "executions", "attempts") == expected
    assert content.unpackable == 0


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
def test_unpackable_value_drops_only_its_own_event(
    recorder: Recorder, packer: Packer, arguments: Any
) -> None:
    record = recorder.series("g", "n").record
    record(0.25)
    record(*arguments)
    record(0.75)
    content = take(packer)
    assert (content.events, content.unpackable) == (2, 1)
    assert column(content, "executions", "seconds") == [0.25, 0.75]


def test_batch_without_packable_events_is_still_counted(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.point("gauge", "size", "g", "n")("much")  # type: ignore[arg-type]
    content = take(packer)
    assert (content.events, content.unpackable) == (0, 1)
    assert content.sections.keys() == {"table"}


def test_values_that_only_the_agent_rejects_are_packed(
    recorder: Recorder, packer: Packer
) -> None:
    for value in (math.nan, math.inf, -1.0, True, 3):
        recorder.series("g", "n").record(value)
    assert take(packer).events == 5


def test_long_or_non_utf8_names_are_truncated_and_replaced(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.series("g" * 300, "caf\udce9").record(0.5)
    strings = table_of(take(packer))["strings"]
    assert "g" * wire.MAX_NAME in strings
    assert "caf?" in strings


def test_non_utf8_details_are_replaced(recorder: Recorder, packer: Packer) -> None:
    recorder.add_failure(FAILURE._replace(message="no file caf\udce9"))
    recorder.point("count", "calls", "", "", {"file": "caf\udce9"})(1)
    content = take(packer)
    packed = wire.batch(
        client=bytes(16),
        seq=1,
        sent=1.0,
        service="caf\udce9",
        recorded=1,
        sections=content.sections,
    )
    message = wire.decode(packed)
    assert message["service"] == "caf?"
    assert message["failures"][0]["message"] == "no file caf?"
    assert table_of(content)["points"][0][4] == {"file": "caf?"}


def test_a_large_table_is_started_over(recorder: Recorder, packer: Packer) -> None:
    record = recorder.series("g", "n").record
    sizes = []

    def name(number: int) -> str:
        # Without digits, which would be folded.
        return "action " + str(number).translate(
            str.maketrans("0123456789", "abcdefghij")
        )

    for number in range(4 * MAX_STRINGS // 5_000):
        for event in range(5_000):
            record(0.5, 0, 1, name(5_000 * number + event))
        content = take(packer)
        sizes.append(len(table_of(content)["strings"]))
        actions = texts(content, "executions", "action")
        assert actions[0] == name(5_000 * number)
        assert actions[-1] == name(5_000 * number + 4_999)
        assert nodes(content)[0] == "n"
    assert max(sizes) < MAX_STRINGS + 5_010
    assert sizes != sorted(sizes)


@pytest.mark.parametrize(
    "letter",
    # Shorter ones need less space.
    [pytest.param("x", marks=pytest.mark.long), "\u7ffb"],
)
def test_batch_with_free_text_actions_fits_a_frame(
    recorder: Recorder, packer: Packer, letter: str
) -> None:
    record = recorder.series("g", "n").record
    for number in range(6):
        for event in range(4_500):
            record(0.5, 0, 1, f"{number} {event} ".ljust(wire.MAX_NAME, letter))
        packed = wire.pack(take(packer).sections)
        assert len(packed) < wire.MAX_FRAME - 1_000


# -- phases ---------------------------------------------------------------------------


def record_phases(recorder: Recorder, node: str, *phases: Any) -> None:
    number = recorder.series("g", node).number
    recorder.pending.phased.record((number, 5.0, 1.0, 0, 1, "default", None, *phases))


def test_phase_columns_are_absent_without_phases(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.series("g", "n").record(0.5)
    part = take(packer).sections["executions"]
    assert isinstance(part, dict)
    assert part.keys() == wire.EXECUTION_COLUMNS.keys()


def test_a_visit_is_sent_with_durations_and_unix_times(
    recorder: Recorder, packer: Packer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = SimpleNamespace(time=lambda: 5_000.0, perf_counter=lambda: 100.0)
    monkeypatch.setattr(_packer, "time", clocks)
    series = recorder.series("g", "visited")
    recorder.series("g", "other").record(1.0, 1, 2, "", ("E", "exec"))
    series.record_plain(0.25)
    record_phases(recorder, "phased", 0.25, 0.5, 0.125, 7)
    recorder.pending.visits.record((series.number, 96.0, 90.0, 91.0, 93.5, "go"))
    content = take(packer)

    assert content.events == 4
    assert nodes(content) == ["visited", "phased", "visited", "other"]
    assert column(content, "executions", "end")[0] == 4_996.0
    assert column(content, "executions", "seconds") == [6.0, 1.0, 0.25, 1.0]
    assert column(content, "executions", "outcome") == [0, 0, 0, 1]
    assert column(content, "executions", "attempts") == [1, 1, 1, 2]
    assert texts(content, "executions", "action") == ["go", "default", "default", ""]
    assert column(content, "executions", "error") == [0, 0, 0, 1]
    phases = {name: column(content, "executions", name) for name in wire.PHASE_COLUMNS}
    assert phases == {
        "prep": [1.0, 0.25],
        "exec": [2.5, 0.5],
        "wait": [0.0, 0.125],
        "items": [0, 7],
    }


@pytest.mark.parametrize("seconds", ["soon", None])
def test_an_unpackable_duration_drops_only_its_own_event(
    recorder: Recorder, packer: Packer, seconds: Any
) -> None:
    for value in (0.25, seconds, 0.75):
        recorder.series("g", "n").record_plain(value)
    content = take(packer)
    assert (content.events, content.unpackable) == (2, 1)
    assert column(content, "executions", "seconds") == [0.25, 0.75]


def test_executions_with_phases_come_first(recorder: Recorder, packer: Packer) -> None:
    recorder.series("g", "plain").record(0.5, 1, 2, "", ("E", "exec"))
    record_phases(recorder, "first", 0.25, 0.5, 0.125, 7)
    record_phases(recorder, "second", 0.0, 1.0, 0.0, 0)
    content = take(packer)
    assert content.events == 3
    assert nodes(content) == ["first", "second", "plain"]
    assert column(content, "executions", "attempts") == [1, 1, 2]
    expected = {
        "prep": [0.25, 0.0],
        "exec": [0.5, 1.0],
        "wait": [0.125, 0.0],
        "items": [7, 0],
    }
    phases = {name: column(content, "executions", name) for name in wire.PHASE_COLUMNS}
    assert phases == expected


def test_executions_with_and_without_phases_share_the_limit(
    recorder: Recorder, packer: Packer
) -> None:
    for _ in range(7):
        record_phases(recorder, "n", 0.0, 1.0, 0.0, 0)
        recorder.series("g", "n").record(0.5)
    sizes = []
    while (content := packer.take(5)) is not None:
        sizes.append((content.events, len(column(content, "executions", "series"))))
    assert sizes == [(5, 5), (5, 5), (4, 4)]


@pytest.mark.parametrize("bad", ["soon", None, -1, 2**40])
def test_unpackable_phases_drop_only_their_own_event(
    recorder: Recorder, packer: Packer, bad: Any
) -> None:
    recorder.series("g", "plain").record(0.5)
    record_phases(recorder, "a", 0.25, 0.5, 0.0, 1)
    record_phases(recorder, "b", 0.25, 0.5, 0.0, bad)
    content = take(packer)
    assert (content.events, content.unpackable) == (2, 1)
    assert nodes(content) == ["a", "plain"]
    assert column(content, "executions", "items") == [1]


# -- details --------------------------------------------------------------------------


def test_failures_are_sent_once(recorder: Recorder, packer: Packer) -> None:
    recorder.add_failure(FAILURE)
    recorder.add_failure(FAILURE._replace(traceback="a.py:1 in f"))
    content = take(packer)
    plain, traced = content.sections["failures"]
    unknown = {"seconds", "run_start", "visits", "path", "path_visits", "trace_id"}
    known = {k: v for k, v in FAILURE._asdict().items() if k not in unknown}
    assert traced == known | {"traceback": "a.py:1 in f"}
    assert plain == {k: v for k, v in known.items() if k != "traceback"}
    assert content.events == 0
    assert packer.take() is None


def test_topologies_are_sent_on_change_and_on_request(
    recorder: Recorder, packer: Packer
) -> None:
    topology = Topology("g", "n", ("n",), (("n", "default", "m"),))
    recorder.add_topology(topology)
    assert take(packer).sections["topologies"] == [topology._asdict()]
    recorder.add_topology(topology)
    assert packer.take() is None
    packer.resend_state()
    assert "topologies" in take(packer).sections
    recorder.add_topology(topology._replace(start="m"))
    assert "topologies" in take(packer).sections


def take_in_flight(packer: Packer) -> list[tuple[Any, ...]]:
    sections: Any = take(packer).sections
    items: list[tuple[Any, ...]] = sections["in_flight"]
    return items


def test_nodes_in_flight_are_sent_on_change(recorder: Recorder, packer: Packer) -> None:
    recorder.in_flight.add(Endless("g", "n", 5.0, 7))
    recorder.in_flight.add(Endless("g", "m", 4.0))
    run = recorder.run_ids.text(7)
    expected = [("g", "m", 4.0, "", 0, 0.0, 0), ("g", "n", 5.0, run, 0, 4.0, 0)]
    assert take(packer).sections["in_flight"] == expected
    assert packer.take() is None
    for span in recorder.in_flight:
        cast(Endless, span).failures = 2
    assert [item[6] for item in take_in_flight(packer)] == [2, 2]
    assert packer.take() is None
    recorder.in_flight.clear()
    assert take(packer).sections["in_flight"] == []
    assert packer.take() is None


def test_what_is_in_progress_is_sent_again_on_request(
    recorder: Recorder, packer: Packer
) -> None:
    """A list that waited for a connection does not show how old it is."""
    recorder.in_flight.add(Endless("g", "n", 5.0))
    recorder.runs.add(Spinning("g", 7, {"a": 3}))
    first: Any = take(packer).sections
    assert packer.take() is None
    packer.resend_state()
    again: Any = take(packer).sections
    assert again["in_flight"] == first["in_flight"]
    assert again["loops"] == first["loops"]


def test_a_start_follows_a_clock_that_is_set(
    recorder: Recorder, packer: Packer, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_time = time.time

    class Running(Endless):
        def in_flight(self) -> ExecutionInFlight:
            start = self._flight.started + time.time() - true_time()
            return self._flight._replace(started=start)

    recorder.in_flight.add(Running("g", "n", 5_000.0))
    take(packer)
    for step in (-1_200.0, 1_200.0, -0.5):
        monkeypatch.setattr(time, "time", lambda step=step: true_time() + step)
        ((_, _, start, *_),) = take_in_flight(packer)
        assert start == pytest.approx(5_000.0 + step, abs=0.1)
        assert packer.take() is None


def test_oldest_nodes_in_flight_are_sent_first(
    recorder: Recorder, packer: Packer
) -> None:
    for number in range(2 * MAX_IN_FLIGHT):
        recorder.in_flight.add(Endless("g", "n", float(-number)))
    content: Any = take(packer).sections["in_flight"]
    assert len(content) == MAX_IN_FLIGHT
    assert content[0][2] == float(1 - 2 * MAX_IN_FLIGHT)


def test_the_run_with_the_most_visits_of_a_node_is_sent(
    recorder: Recorder, packer: Packer
) -> None:
    recorder.runs.add(Spinning("g", 7, {"a": 3, "b": 2, "c": 1, OTHER: 9}))
    recorder.runs.add(Spinning("g", 8, {"a": 2, "b": 5}))
    long, short = recorder.run_ids.text(7), recorder.run_ids.text(8)
    assert take(packer).sections["loops"] == [
        ("g", "", 15, long, 0),
        ("g", "b", 5, short, 0),
        ("g", "a", 3, long, 0),
    ]
    assert packer.take() is None
    recorder.runs.clear()
    assert take(packer).sections["loops"] == []
    assert packer.take() is None


def test_loops_of_ended_runs_are_sent_once(recorder: Recorder, packer: Packer) -> None:
    recorder.revisits.add("g", {"a": 2, "b": 1})
    recorder.revisits.add("g", {"a": 4, OTHER: 3})
    content = take(packer).sections
    assert content["looped"] == [("g", "a", 4)]
    assert "loops" not in content
    assert packer.take() is None


def test_loops_with_the_most_visits_are_sent_first(
    recorder: Recorder, packer: Packer
) -> None:
    counts = {f"n{number}": number for number in range(2, MAX_LOOPS + 12)}
    recorder.revisits.add("g", counts)
    recorder.runs.add(Spinning("g", 1, counts))
    content: Any = take(packer).sections
    assert len(content["looped"]) == len(content["loops"]) == MAX_LOOPS
    assert content["looped"][0] == ("g", f"n{MAX_LOOPS + 11}", MAX_LOOPS + 11)
    assert recorder.revisits.left_out == 10


def test_visits_since_the_last_new_node_are_sent(
    recorder: Recorder, packer: Packer
) -> None:
    counts = {"a": 3, "b": 2}
    recorder.runs.add(Spinning("g", 1, counts))

    def cycles(**visits: int) -> dict[str, int]:
        counts.update(visits)
        recorder.runs.clear()
        recorder.runs.add(Spinning("g", 1, counts))
        content: Any = take(packer).sections
        return {node: cycle for _, node, _, _, cycle in content["loops"]}

    assert cycles(a=4) == {"": 0, "a": 0, "b": 0}
    assert cycles(a=9, b=6) == {"": 9, "a": 5, "b": 4}
    # A new node is progress.
    assert cycles(a=10, c=1) == {"": 0, "a": 0, "b": 0}
    assert cycles(a=12, c=2) == {"": 3, "a": 2, "b": 0, "c": 1}
    recorder.runs.clear()
    take(packer)
    assert packer._reached == {}


def test_columns_are_little_endian_and_unpadded() -> None:
    assert _packer._pack("H", [1, 512]) == b"\x01\x00\x00\x02"
    assert _packer._pack("I", [1]) == b"\x01\x00\x00\x00"
