from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np
import pytest
from tests.agent.protocol.samples import (
    CLIENT,
    ROW,
    START,
    batch,
    count_rejected,
    decode,
    decode_batch,
    events,
    executions,
    phases,
    rows,
)
from tests.agent.protocol.whole import Batch, Decoder

from kaywatch import wire
from kaywatch.wire import ErrorCode
from kaywatch_agent.model.bounds import MAX_ATTEMPTS
from kaywatch_agent.protocol import decoder
from kaywatch_agent.protocol.batches import BatchReader
from kaywatch_agent.protocol.columns import BatchErrors
from kaywatch_agent.protocol.limits import MAX_LABELS, MAX_ROWS


def decode_row(**changed: Any) -> dict[str, Any]:
    """Return the event of a valid row, except for `changed`."""
    result = decode_batch(rows({**ROW, **changed}))
    assert not count_rejected(result)
    (event,) = events(result)
    return event


def problem(row: object) -> str:
    """Return the error of an invalid row; check that the rows around it are kept."""
    result = decode_batch(rows(ROW, row, ROW))
    assert len(events(result)) == 2
    assert count_rejected(result) == {ErrorCode.BAD_ROW: 1}
    assert result.problem.startswith("events[1]: ")
    return result.problem


def test_an_execution_needs_a_node_and_seconds() -> None:
    result = decode_batch(rows({"node": "pay", "seconds": 0.5}))
    assert events(result) == [
        {
            "graph": "",
            "node": "pay",
            "end": 0.0,
            "seconds": 0.5,
            "outcome": "ok",
            "attempts": 1,
            "action": "default",
            "error": "",
            "phase": "",
        }
    ]
    assert (result.client, result.seq, result.service) == ("", None, "cron")


def test_an_execution_can_say_all_that_columns_can() -> None:
    row = {
        "graph": "checkout",
        "node": "pay",
        "end": START,
        "seconds": 2,
        "outcome": "fallback",
        "attempts": 3,
        "action": "retry",
        "error": "Timeout",
        "phase": "exec",
    }
    assert decode_row(**row) == {**row, "seconds": 2.0}


def test_an_execution_can_say_where_its_time_went() -> None:
    phases = {"prep": 0.25, "exec": 0.5, "wait": 0.0, "items": 3}
    result = decode_row(**phases)
    assert {name: result[name] for name in phases} == phases


@pytest.mark.parametrize("name", wire.PHASE_COLUMNS)
def test_phases_missing_in_a_row_are_zero_if_it_has_others(name: str) -> None:
    result = decode_row(**{name: 2})
    nothing = dict.fromkeys(wire.PHASE_COLUMNS, 0)
    values = {key: result[key] for key in wire.PHASE_COLUMNS}
    assert values == {**nothing, name: 2}


def test_rows_that_tell_phases_stand_before_the_others() -> None:
    result = decode_batch(
        rows(ROW, {**ROW, "node": "b", "exec": 0.5}, {**ROW, "items": 7})
    )
    values = [(event["node"], event.get("items")) for event in events(result)]
    assert values == [("b", 0), ("pay", 7), ("pay", None)]


@pytest.mark.parametrize("name", ["prep", "exec", "wait"])
@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf, 1e39, "much"])
def test_a_phase_that_is_none_makes_a_bad_row(name: str, value: object) -> None:
    assert name in problem({**ROW, name: value})


@pytest.mark.parametrize("value", [-1, 2**32, 2**64 - 1, 1.5])
def test_items_that_are_none_make_a_bad_row(value: object) -> None:
    assert "items" in problem({**ROW, "items": value})


def test_a_value_needs_a_metric_and_a_value() -> None:
    result = decode_batch(rows({"metric": "size", "value": 3}))
    assert events(result) == [
        {
            "metric": "size",
            "kind": "observe",
            "graph": "",
            "node": "",
            "labels": {},
            "time": 0.0,
            "value": 3.0,
        }
    ]


@pytest.mark.parametrize("kind", ["observe", "count", "gauge"])
def test_a_value_can_say_all_that_columns_can(kind: str) -> None:
    row = {
        "metric": "size",
        "kind": kind,
        "graph": "checkout",
        "node": "pay",
        "labels": {"model": "m1"},
        "time": START,
        "value": 1.5 if kind == "count" else -1.5,
    }
    assert events(decode_batch(rows(row))) == [row]


def test_a_negative_count_is_rejected() -> None:
    row = {"metric": "orders", "kind": "count", "value": -3.0}
    sent = decode_batch(rows(row, row | {"value": 3.0}))

    assert [event["value"] for event in events(sent)] == [3.0]
    assert count_rejected(sent) == {ErrorCode.BAD_ROW: 1}


def test_a_row_with_an_error_failed_unless_it_has_an_outcome() -> None:
    assert decode_row(error="Timeout")["outcome"] == "error"
    assert decode_row(error="Timeout", outcome="suppressed")["outcome"] == "suppressed"


@pytest.mark.parametrize(
    ("outcome", "action"),
    [
        ("ok", "a"),
        ("suppressed", "a"),
        ("fallback", "a"),
        ("error", ""),
        ("cancelled", ""),
    ],
)
def test_only_successful_rows_have_an_action(outcome: str, action: str) -> None:
    assert decode_row(outcome=outcome, action="a")["action"] == action


@pytest.mark.parametrize("key", ["end", "time"])
def test_both_names_of_the_time_are_accepted(key: str) -> None:
    assert decode_row(**{key: START})["end"] == START
    result = decode_batch(rows({"metric": "size", "value": 3, key: START}))
    assert events(result)[0]["time"] == START


@pytest.mark.parametrize(
    ("value", "bounded"), [(0, 1), (-5, 1), (2**64 - 1, MAX_ATTEMPTS)]
)
def test_attempts_are_kept_in_bounds(value: int, bounded: int) -> None:
    assert decode_row(attempts=value)["attempts"] == bounded


def test_names_are_cut_not_refused() -> None:
    long = "ä" * 300
    cut = "ä" * wire.MAX_NAME
    event = decode_row(
        graph=long, node=long, action=long, error=long, outcome="suppressed"
    )
    assert {event[key] for key in ("graph", "node", "action", "error")} == {cut}
    labels = {f"{number:02}": long for number in range(MAX_LABELS + 4)}
    result = decode_batch(rows({"metric": long, "value": 1, "labels": labels}))
    assert result.table.points[0][1] == cut
    assert events(result)[0]["labels"] == {f"{n:02}": cut for n in range(MAX_LABELS)}


def test_unknown_keys_are_ignored() -> None:
    assert decode_row(new=[1, {"x": None}])["node"] == "pay"


def test_a_row_of_a_metric_is_no_execution() -> None:
    result = decode_batch(rows({**ROW, "metric": "size", "value": 1}))
    (event,) = events(result)
    assert event["metric"] == "size"


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (5, "object"),
        ("text", "object"),
        (None, "object"),
        ([], "object"),
        ({}, "node: missing"),
        ({"seconds": 1}, "node: missing"),
        ({"node": "", "seconds": 1}, "node: missing"),
        ({"node": "pay"}, "seconds=None"),
        ({**ROW, "seconds": -1}, "seconds=-1"),
        ({**ROW, "seconds": NAN}, "seconds=nan"),
        ({**ROW, "seconds": INF}, "seconds=inf"),
        ({**ROW, "seconds": "1"}, "seconds"),
        ({**ROW, "seconds": True}, "seconds"),
        ({**ROW, "outcome": "fine"}, "outcome='fine': expected one of ok, error"),
        ({**ROW, "outcome": 0}, "outcome"),
        ({**ROW, "phase": "warp"}, "phase='warp'"),
        ({**ROW, "attempts": 1.0}, "attempts"),
        ({**ROW, "node": b"pay"}, "node"),
        ({**ROW, "graph": None}, "graph"),
        ({**ROW, "end": -1}, "end=-1"),
        ({**ROW, "time": NAN}, "end=nan"),
        ({**ROW, "end": 1e300}, "end=1e+300"),
        ({1: "pay"}, "key"),
        ({"metric": "size"}, "value=None"),
        ({"metric": "size", "value": NAN}, "value=nan"),
        ({"metric": "size", "value": -INF}, "value=-inf"),
        ({"metric": "size", "value": "3"}, "value"),
        ({"metric": "size", "value": 3, "kind": "sum"}, "kind"),
        ({"metric": "size", "value": 3, "labels": []}, "labels"),
        ({"metric": "size", "value": 3, "labels": {"x": 5}}, "labels"),
        ({"metric": 5, "value": 3}, "metric"),
    ],
)
def test_an_invalid_row_is_left_out_and_reported(row: object, message: str) -> None:
    assert message in problem(row)


def test_the_first_problem_is_reported_and_all_are_counted() -> None:
    result = decode_batch(rows(ROW, {}, 5, ROW, {"node": "x"}))
    assert len(events(result)) == 2
    assert count_rejected(result) == {ErrorCode.BAD_ROW: 3}
    assert result.problem.startswith("events[1]: node: missing")


@pytest.mark.parametrize("value", [5, "text", {}, b"\x90", True, 1.5])
def test_events_that_are_no_list_are_one_bad_row(value: object) -> None:
    result = decode_batch(wire.pack({"type": "batch", "events": value}))
    assert (events(result), count_rejected(result)) == ([], {ErrorCode.BAD_ROW: 1})
    assert result.problem == "events: expected an array"


def test_no_rows_are_sound() -> None:
    result = decode_batch(rows())
    assert (events(result), count_rejected(result)) == ([], {})


def test_rows_may_be_numbered_like_any_batch() -> None:
    result = decode_batch(rows(ROW, client=CLIENT, seq=4))
    assert (result.client, result.seq) == (CLIENT.hex(), 4)


def array_of(items: bytes, size: int) -> bytes:
    head = b"\x82\xa4type\xa5batch\xa6events\xdd" + size.to_bytes(4, "big")
    return head + items * size


def test_as_many_rows_as_there_may_be_are_taken() -> None:
    result = Decoder().decode(array_of(msgpack.packb(ROW), MAX_ROWS))
    assert isinstance(result, Batch)
    assert result.executions is not None
    assert len(result.executions.end) == MAX_ROWS
    assert not result.rejected


@pytest.mark.parametrize("size", [MAX_ROWS + 1, wire.MAX_FRAME - 100])
def test_more_rows_are_refused_together_and_counted(size: int) -> None:
    result = Decoder().decode(array_of(b"\xc0", size))
    assert isinstance(result, Batch)
    assert count_rejected(result) == {ErrorCode.BAD_ROW: size}
    assert result.problem == f"events: {size} items; at most {MAX_ROWS}"


def test_rows_share_equal_values() -> None:
    result = decode_batch(rows(ROW, ROW, {**ROW, "node": "ship"}))
    assert result.table.series == [("checkout", "pay"), ("checkout", "ship")]
    assert len(events(result)) == 3


def test_a_batch_of_rows_equals_one_of_columns() -> None:
    columns = decode_batch(batch(executions={**executions(4), **phases(3)}))
    as_rows = decode_batch(rows(*events(columns)))
    assert events(as_rows) == events(columns)
    assert isinstance(decode(rows(*events(columns))), Batch)


def test_batches_of_rows_that_are_read_together_stay_apart() -> None:
    """Joined in one table, with the rows that describe phases first in each batch."""
    metric = {"metric": "size", "value": 3.0, "time": START}
    sent = [
        [ROW, {**ROW, "node": "b", "exec": 0.5}],
        [{}, metric, {**ROW, "outcome": "error", "error": "E"}, 5],
        [],
        [{**ROW, "node": "c", "items": 7}, metric, metric],
    ]
    batches = [decoder.decode(rows(*part)) for part in sent]
    checked = [BatchErrors() for _ in batches]
    (joined,) = BatchReader().events(batches, ["shop"] * 4, checked)

    assert joined.members == [0, 1, 2, 3]
    assert (joined.executions, joined.points) == ([2, 1, 0, 1], [0, 1, 0, 2])
    result = joined.events.executions
    names = [joined.events.table.series[at][1] for at in result.series]
    assert names == ["b", ROW["node"], ROW["node"], "c"]
    assert [names[at] for at in np.arange(4)[result.phases.of]] == ["b", "c"]
    assert result.phases.exec.tolist() == [0.5, 0.0]
    assert [one.rejected.total() for one in checked] == [0, 2, 0, 0]


def test_more_rows_than_a_table_can_index_are_joined_in_groups() -> None:
    batches = [
        decoder.decode(rows(*({**ROW, "node": f"{part}.{at}"} for at in range(1_000))))
        for part in range(9)
    ]
    assert sum(len(memoryview(one.encoded.events)) for one in batches) > 65_535
    checked = [BatchErrors() for _ in batches]
    groups = list(BatchReader().events(batches, ["shop"] * 9, checked))
    assert len(groups) > 1
    assert [at for group in groups for at in group.members] == list(range(9))
    seen = [
        group.events.table.series[at][1]
        for group in groups
        for at in group.events.executions.series
    ]
    assert seen == [f"{part}.{at}" for part in range(9) for at in range(1_000)]
