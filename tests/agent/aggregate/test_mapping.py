from __future__ import annotations

from typing import Any

import pytest
from tests.agent.protocol.samples import (
    CLIENT,
    ROW,
    TABLE,
    batch,
    executions,
    points,
    rows,
    runs,
)

from kaywatch import wire
from kaywatch_agent.aggregate.mapping import MAX_SERVICES, Mapper
from kaywatch_agent.aggregate.registry import Excess, Limits, Registry
from kaywatch_agent.model.series import (
    OTHER,
    Columns,
    EndPoint,
    ErrorKey,
    Kind,
    SeriesKey,
)
from kaywatch_agent.protocol.batches import BatchReader
from kaywatch_agent.protocol.columns import BatchErrors
from kaywatch_agent.protocol.decoder import decode
from kaywatch_agent.protocol.messages import Batch


class Mapping:
    """A mapper with the decoder before it, whose tables it shares."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.registry = Registry(limits or Limits())
        self.mapper = Mapper(self.registry)
        self._reader = BatchReader()

    def columns(self, packed: bytes, service: str = "shop") -> list[Columns]:
        result, checked = decode(packed), BatchErrors()
        assert isinstance(result, Batch)
        joined = list(self._reader.events([result], [service], [checked]))
        assert not checked.rejected, checked.problem
        return [
            columns
            for batches in joined
            for columns, _ in self.mapper.columns(batches, [result.client])
        ]

    def one(self, packed: bytes, service: str = "shop") -> Columns:
        (result,) = self.columns(packed, service)
        return result

    def keys(self, columns: Columns) -> list[SeriesKey]:
        return [self.registry.keys[row] for row in columns.row.tolist()]


@pytest.fixture
def mapping() -> Mapping:
    return Mapping()


def node(graph: str, name: str, service: str = "shop") -> SeriesKey:
    return SeriesKey(Kind.NODE, service, graph, name)


def test_executions_become_series_actions_and_errors(mapping: Mapping) -> None:
    encoded = executions(
        3, outcome=[0, 1, 3], attempts=[1, 3, 0], action=[4, 0, 4], error=[0, 1, 1]
    )
    result = mapping.one(batch(executions=encoded))
    pay, ship = node("checkout", "pay"), node("checkout", "ship")
    assert mapping.keys(result) == [pay, ship, pay]
    assert result.outcome.tolist() == [0, 1, 3]
    assert result.attempts.tolist() == [1, 3, 1]
    actions, errors = mapping.registry.actions.values, mapping.registry.errors.values
    assert [actions[n] for n in result.action.tolist()] == ["default", "", "default"]
    timeout = ErrorKey("Timeout", "exec")
    assert [errors[n] for n in result.error.tolist()] == [
        ErrorKey("", ""),
        timeout,
        timeout,
    ]
    assert result.error.tolist()[0] == result.action.tolist()[1] == 0


def test_points_become_series_with_their_labels(mapping: Mapping) -> None:
    result = mapping.one(batch(executions=None, points=points(2, value=[3.0, 1.0])))
    key = SeriesKey(Kind.COUNT, "shop", "checkout", "pay", "tokens", (("model", "m1"),))
    assert mapping.keys(result) == [key, key]
    assert result.value.tolist() == [3.0, 1.0]
    assert result.attempts.tolist() == result.action.tolist() == [0, 0]


def test_runs_become_series_with_their_ends(mapping: Mapping) -> None:
    encoded = runs(3, node=[2, 3, 2], reason=[4, 5, 4], visits=[2, 7, 3])
    result = mapping.one(batch(executions=None, runs=encoded))
    assert mapping.keys(result) == [SeriesKey(Kind.RUN, "shop", "checkout", "")] * 3
    ends = [mapping.registry.ends.values[n] for n in result.action.tolist()]
    pay = EndPoint("default", "pay", "default")
    assert ends == [pay, EndPoint("Timeout", "ship", "default"), pay]
    assert result.attempts.tolist() == [2, 7, 3]
    assert result.error.tolist() == [0, 0, 0]


def test_all_sections_of_a_batch_are_mapped(mapping: Mapping) -> None:
    result = mapping.columns(batch(points=points(2), runs=runs(1)))
    assert [len(columns.row) for columns in result] == [3, 2, 1]
    assert mapping.columns(batch(executions=executions(0))) == []


def test_the_same_names_are_the_same_series_in_whatever_table(mapping: Mapping) -> None:
    first = mapping.one(batch())
    turned: dict[str, Any] = {
        "strings": ["ship", "", "default", "pay", "checkout"],
        "series": [[4, 0], [4, 3]],
        "errors": [[1, ""]],
    }
    encoded = executions(3, series=[1, 0, 1], action=[2, 2, 2])
    second = mapping.one(batch(table=wire.pack(turned), executions=encoded))
    assert mapping.keys(second) == mapping.keys(first)
    assert second.row.tolist() == first.row.tolist()
    assert second.action.tolist() == first.action.tolist()
    third = mapping.one(rows({**ROW, "node": "pay"}, {**ROW, "node": "ship"}))
    assert third.row.tolist() == first.row.tolist()[:2]


def test_services_that_share_a_table_do_not_share_series(mapping: Mapping) -> None:
    for _ in range(2):
        result = {
            service: mapping.keys(mapping.one(batch(), service))[0].service
            for service in ("shop", "cron", "shop")
        }
        assert result == {"shop": "shop", "cron": "cron"}
    assert len(mapping.registry.keys) == 4


def test_entries_are_looked_up_when_they_are_first_used(mapping: Mapping) -> None:
    mapping.columns(batch(executions=executions(2, series=[0, 0])))
    assert [key.node for key in mapping.registry.keys] == ["pay"]
    mapping.columns(batch(executions=executions(2, series=[1, 0])))
    assert [key.node for key in mapping.registry.keys] == ["pay", "ship"]


def test_made_up_services_do_not_pile_up_on_a_table(mapping: Mapping) -> None:
    for number in range(10 * MAX_SERVICES):
        mapping.columns(batch(), f"service{number}")
    (by_service,) = mapping.mapper._maps.values()
    assert len(by_service) <= MAX_SERVICES
    assert len(mapping.registry.keys) == 20 * MAX_SERVICES


def test_a_table_that_is_forgotten_takes_its_maps_along(mapping: Mapping) -> None:
    for _ in range(5):
        mapping.columns(rows(ROW))
    assert len(mapping.mapper._maps) == 0


def test_beyond_the_caps_rows_are_counted_under_other_and_none_is_lost() -> None:
    mapping = Mapping(Limits(series=2, series_per_client=100, names=3))
    many = [{**ROW, "node": f"n{n}", "action": f"a{n}"} for n in range(50)]
    result = mapping.one(rows(*many))
    assert len(result.row) == 50
    keys = [key.node for key in mapping.keys(result)]
    assert keys == ["n0", "n1", *[OTHER] * 48]
    actions = [mapping.registry.actions.values[n] for n in result.action.tolist()]
    assert actions == ["a0", "a1", *[OTHER] * 48]


def test_new_series_count_for_the_client_that_introduced_them() -> None:
    mapping = Mapping(Limits(series_per_client=1))
    mapping.columns(batch())
    assert mapping.registry.quota.by_client == {CLIENT.hex(): 1}
    assert mapping.registry.overflow == {Excess.PROCESS: 1}


def test_the_sample_table_is_as_the_tests_take_it() -> None:
    assert TABLE["strings"][4] == "default"
