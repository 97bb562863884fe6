"""Each benchmark runs, with so little effort that its figures say nothing."""

from __future__ import annotations

import json

import pytest
from tests.bench.modules import NAMES, measured
from tests.bench.report import Figure, Promise, Row, absent, as_json, figure, show
from tests.bench.rounds import SMOKE, alone, in_turns


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_has_rows(name: str) -> None:
    rows = alone(measured, name, SMOKE)
    assert rows
    assert len({row.what for row in rows}) == len(rows)
    for row in rows:
        assert row.ours.median is not None
        assert row.ours.rounds


def row(ours: Figure, *peers: Figure, promise: Promise | None = None) -> Row:
    return Row("what", "ns", ours, promise, peers)


def test_a_figure_is_the_rounds_median_with_its_extremes() -> None:
    assert figure("kaywatch", [3, 1, 7]) == Figure("kaywatch", 3, 1, 7, 3)


def test_a_ratio_says_how_many_times_as_much_the_peer_takes() -> None:
    peer = figure("statsd", [300.0])
    assert row(figure("kaywatch", [100.0]), peer).ratio(peer) == 3


def test_a_promise_is_kept_or_not() -> None:
    assert Promise(100).kept(100)
    assert not Promise(100).kept(101)
    assert Promise(100, at_least=True).kept(101)


def test_an_absent_peer_is_shown_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = {
        "cpu": "some",
        "cores": 2,
        "python": "3",
        "kernel": "6",
        "date": "today",
        "load_average": 0.0,
        "versions": {},
    }
    gone = absent("collectd", "not installed")
    shown = row(figure("kaywatch", [120.0]), gone, promise=Promise(100))
    show([shown], machine)
    printed = capsys.readouterr().out
    assert "collectd: not installed" in printed
    assert "NO" in printed
    assert "times as much" not in printed
    as_read = json.loads(json.dumps(as_json(shown)))
    assert as_read["promise"]["kept"] is False
    assert as_read["peers"][0]["ratio"] is None


def test_measures_take_turns_at_being_the_first() -> None:
    taken: list[str] = []
    found = in_turns(2, {name: lambda name=name: taken.append(name) for name in "ab"})
    assert taken == ["a", "b", "b", "a"]
    assert {name: len(samples) for name, samples in found.items()} == {"a": 2, "b": 2}
