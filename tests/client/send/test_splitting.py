from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaywatch import wire
from kaywatch._send.packer import Packer
from kaywatch._send.splitting import split
from kaywatch.recorder import Failure, Recorder, Topology

COLUMNS = {
    "executions": {**wire.EXECUTION_COLUMNS, **wire.PHASE_COLUMNS},
    "points": wire.POINT_COLUMNS,
    "runs": wire.RUN_COLUMNS,
}
names = st.sampled_from(["", "pay", "ship", "nøde", "x" * 200])
executions = st.tuples(
    st.tuples(names, names),  # graph and node
    st.integers(0, 4),  # outcome
    names,  # action
    st.sampled_from([None, ("ValueError", "exec"), ("KeyError", "prep")]),
)


def rows(sections: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the content of a batch without indices, so that tables do not matter."""
    table = wire.decode(sections["table"]) if "table" in sections else {}
    content: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for section, types in COLUMNS.items():
        columns = sections.get(section, {})
        values = {
            name: struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data)
            for name, data in columns.items()
            for code in [types[name]]
        }
        for position in range(len(next(iter(values.values()), ()))):
            content[section].append(
                {
                    name: read_names(table, section, name, column[position])
                    for name, column in values.items()
                    if position < len(column)
                }
            )
    for name in ("failures", "topologies", "looped"):
        content[name] = list(sections.get(name, ()))
    return content


def read_names(table: dict[str, Any], section: str, column: str, value: Any) -> Any:
    strings = table["strings"]
    if column == "series" and section == "points":
        kind, *numbers, labels = table["points"][value]
        return (kind, *(strings[n] for n in numbers), labels)
    if column == "series":
        return tuple(strings[n] for n in table["series"][value])
    if column == "error":
        kind, phase = table["errors"][value]
        return (strings[kind], phase)
    if column in ("action", "graph", "node", "reason"):
        return strings[value]
    return value


def record_events(events: list[Any], failures: int = 0) -> dict[str, Any]:
    recorder = Recorder()
    recorder.open()
    for (graph, node), outcome, action, error in events:
        recorder.series(graph, node).record(0.25, outcome, 1, action, error)
    for number in range(failures):
        recorder.failures.append(
            Failure(1.5, "g", "n", "ValueError", f"why {number}", "exec", 1, 1, "r-1")
        )
    content = Packer(recorder).take()
    return {} if content is None else content.sections


@given(
    st.lists(executions, min_size=1, max_size=60), st.integers(0, 5), st.integers(1, 40)
)
def test_parts_hold_the_same_in_the_same_order(
    events: list[Any], failures: int, most: int
) -> None:
    sections = record_events(events, failures)

    def fits(part: dict[str, Any]) -> bool:
        content = rows(part)
        return sum(map(len, content.values())) <= most

    parts = [part.sections for part in split(sections, fits)]

    joined: dict[str, list[Any]] = {}
    for part in parts:
        assert fits(part)
        for name, content in rows(part).items():
            joined.setdefault(name, []).extend(content)
    assert joined == rows(sections)


@pytest.mark.parametrize("limit", [200, 1_000, 5_000, 100_000])
def test_parts_are_as_large_as_allowed_and_drop_only_oversized_items(
    limit: int,
) -> None:
    events = [(("g", f"node-{n}"), 0, "", None) for n in range(500)]
    events[250] = (("g", "x" * 200), 0, "", None)
    parts = list(
        split(record_events(events), lambda part: len(wire.pack(part)) <= limit)
    )

    assert sum(part.events for part in parts) == (500 if limit > 500 else 499)
    assert all(len(wire.pack(part.sections)) <= limit for part in parts)
    assert len(parts) < 2 * 500 * 70 / limit + 2


def test_a_state_is_sent_once_and_shortened_if_it_is_alone() -> None:
    in_flight = [["g", f"n{number}", 1.0, "r", 0] for number in range(100)]
    sections = record_events([(("g", "n"), 0, "", None)] * 10) | {
        "in_flight": in_flight
    }
    parts = list(split(sections, lambda part: len(wire.pack(part)) <= 1_000))

    states = [p.sections["in_flight"] for p in parts if "in_flight" in p.sections]
    assert len(states) == 1
    assert states[0] == in_flight[: len(states[0])]
    assert sum(part.events for part in parts) == 10


def test_topologies_are_divided_as_a_list() -> None:
    recorder = Recorder()
    recorder.open()
    topologies = [
        Topology(f"g{n}", "a", ("a", "b"), (("a", "", "b"),)) for n in range(9)
    ]
    sections = {"topologies": [topology._asdict() for topology in topologies]}
    parts = list(split(sections, lambda part: len(part["topologies"]) <= 2))

    assert [t for part in parts for t in part.sections["topologies"]] == sections[
        "topologies"
    ]
