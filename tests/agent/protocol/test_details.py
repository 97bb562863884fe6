from __future__ import annotations

import math
from typing import Any

import pytest
from tests.agent.protocol.samples import (
    FAILURE,
    FLIGHT,
    START,
    TOPOLOGY,
    batch,
    count_rejected,
    decode_batch,
    events,
)
from tests.agent.protocol.whole import Batch, Decoder

from kaywatch import wire
from kaywatch.wire import ErrorCode, Phase
from kaywatch_agent.model.bounds import MAX_ATTEMPTS, MAX_COUNT, MAX_LIST, MAX_MESSAGE
from kaywatch_agent.model.records import (
    FailureRecord,
    InFlight,
    NodeRevisits,
    TopologyRecord,
)

LOOP = ["checkout", "pay", 3, "a1-8"]
SECTIONS = {
    "failures": FAILURE,
    "topologies": TOPOLOGY,
    "in_flight": FLIGHT,
    "loops": LOOP,
    "looped": LOOP[:3],
}


def send(section: str, *items: object) -> Batch:
    return decode_batch(batch(**{section: list(items)}))


def entries(batch: Batch, section: str) -> tuple[Any, ...]:
    return getattr(batch, section)  # type: ignore[no-any-return]


def test_a_failure_is_read() -> None:
    assert send("failures", FAILURE).failures == (
        FailureRecord(
            time=START,
            graph="checkout",
            node="pay",
            type="Timeout",
            message="no answer",
            phase=Phase.EXEC,
            attempts=3,
            run="a1-7",
        ),
    )


def test_a_failure_needs_a_time_a_node_and_a_type() -> None:
    response = send("failures", {"time": START, "node": "pay", "type": "Timeout"})
    assert response.failures == (FailureRecord(time=START, node="pay", type="Timeout"),)


def test_a_topology_is_read() -> None:
    assert send("topologies", TOPOLOGY).topologies == (
        TopologyRecord(
            graph="checkout",
            start="pay",
            nodes=("pay", "ship"),
            edges=(("pay", "default", "ship"),),
        ),
    )


def test_nodes_in_flight_are_read() -> None:
    response = send("in_flight", FLIGHT)
    assert response.in_flight == (InFlight("checkout", "pay", START, "a1-8"),)
    (costly,) = send("in_flight", [*FLIGHT, 5, START, 1, 0.25, 1200, 40]).in_flight
    assert (costly.cost_usd, costly.tokens, costly.unpriced_tokens) == (0.25, 1200, 40)


def test_loops_are_read_and_bounded() -> None:
    assert send("loops", LOOP).loops == (NodeRevisits("checkout", "pay", 3, "a1-8"),)
    assert send("loops", [*LOOP, 2]).loops == (
        NodeRevisits("checkout", "pay", 3, "a1-8", 2),
    )
    assert send("loops").loops == ()
    response = send("looped", ["g" * 300, "n", 2**60], ["g", "n", -1], ["g", "n"])
    assert response.looped == (
        NodeRevisits("g" * 200, "n", MAX_COUNT),
        NodeRevisits("g", "n", 0),
    )
    assert count_rejected(response) == {ErrorCode.BAD_SECTION: 1}


def test_none_in_flight_is_not_the_same_as_not_saying() -> None:
    assert send("in_flight").in_flight == ()
    assert decode_batch(batch()).in_flight is None


@pytest.mark.parametrize(
    ("section", "item"),
    [
        *(("failures", item) for item in (5, "x", [], None)),
        ("failures", {}),
        *(
            ("failures", {**FAILURE, key: value})
            for key, value in (
                ("time", math.nan),
                ("time", -1.0),
                ("time", 1e300),
                ("time", "now"),
                ("node", 5),
                ("type", None),
                ("graph", b"x"),
                ("message", ["x"]),
                ("attempts", 1.5),
                ("outcome", 5),
                ("outcome", -1),
                ("outcome", "error"),
                ("run", 7),
                (1, "x"),
            )
        ),
        *(("topologies", item) for item in (5, [], {}, {"graph": "x"})),
        *(
            ("topologies", {**TOPOLOGY, key: value})
            for key, value in (
                ("graph", None),
                ("nodes", "pay"),
                ("nodes", [1]),
                ("nodes", ["x"] * (MAX_LIST + 1)),
                ("edges", [["pay", "ship"]]),
                ("edges", [["pay", "default", "ship", "x"]]),
                ("edges", [["pay", None, "ship"]]),
                ("edges", [["a", "b", "c"]] * (MAX_LIST + 1)),
                ("start", 5),
            )
        ),
        *(
            ("in_flight", item)
            for item in (
                5,
                {},
                [],
                FLIGHT[:3],
                [*FLIGHT, "x"],
                [*FLIGHT, 5, START, 1, -0.25],
                [*FLIGHT, 5, START, 1, math.nan],
                ["g", "n", "now", "r"],
                ["g", "n", math.nan, "r"],
                ["g", "n", -1.0, "r"],
                ["g", "n", math.inf, "r"],
                [None, "n", START, "r"],
                ["g", "n", START, None],
            )
        ),
    ],
)
def test_an_item_that_cannot_be_used_is_left_out_and_counted(
    section: str, item: object
) -> None:
    sound = SECTIONS[section]
    response = send(section, sound, item, sound)
    assert entries(response, section) == entries(send(section, sound, sound), section)
    assert count_rejected(response) == {ErrorCode.BAD_SECTION: 1}
    assert response.problem.startswith(f"{section}[1]: ")
    assert len(events(response)) == 3


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [5, "x", {}, b"\x90", True, math.nan])
def test_a_section_that_is_no_list_is_refused(section: str, value: object) -> None:
    result = decode_batch(batch(**{section: value}))
    assert not entries(result, section)
    assert count_rejected(result) == {ErrorCode.BAD_SECTION: 1}
    assert result.problem == f"{section}: expected an array"
    assert len(events(result)) == 3


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_with_too_many_items_is_refused_and_counted(section: str) -> None:
    def decoded(size: int) -> Batch:
        message = Decoder().decode(batch(**{section: [SECTIONS[section]] * size}))
        assert isinstance(message, Batch)
        return message

    assert len(entries(decoded(MAX_LIST), section)) == MAX_LIST
    message = decoded(MAX_LIST + 1)
    assert not entries(message, section)
    assert count_rejected(message) == {ErrorCode.BAD_SECTION: MAX_LIST + 1}


def test_nodes_in_flight_that_cannot_be_read_leave_what_was_known() -> None:
    assert decode_batch(batch(in_flight=5)).in_flight is None


def test_texts_are_cut_not_refused() -> None:
    long = "ä" * 1_000
    cut = "ä" * wire.MAX_NAME
    failure = dict.fromkeys(("graph", "node", "type", "message", "run"), long)
    (result,) = send("failures", {**FAILURE, **failure}).failures
    assert (result.graph, result.node, result.type, result.run) == (cut, cut, cut, cut)
    assert result.message == "ä" * MAX_MESSAGE
    topology = {"graph": long, "start": long, "nodes": [long], "edges": [[long] * 3]}
    assert send("topologies", topology).topologies == (
        TopologyRecord(graph=cut, start=cut, nodes=(cut,), edges=((cut, cut, cut),)),
    )
    found_flights = send("in_flight", [long, long, START, long]).in_flight
    assert found_flights == (InFlight(cut, cut, START, cut),)


@pytest.mark.parametrize(
    ("value", "bounded"), [(-5, 1), (0, 1), (2**64 - 1, MAX_ATTEMPTS)]
)
def test_attempts_are_kept_in_bounds(value: int, bounded: int) -> None:
    (result,) = send("failures", {**FAILURE, "attempts": value}).failures
    assert result.attempts == bounded


def test_an_unknown_phase_is_none_and_unknown_keys_are_ignored() -> None:
    (result,) = send("failures", {**FAILURE, "phase": "warp", "new": [1]}).failures
    assert result.phase == ""
