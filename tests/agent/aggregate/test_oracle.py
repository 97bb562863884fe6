from __future__ import annotations

import pytest
from tests.agent.aggregate.oracle import Summary, completeness, select, summarize
from tests.agent.aggregate.samples import Event, columns, make_columns

from kaywatch.wire import Outcome
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.bucket import EMPTY
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.aggregate.view import View
from kaywatch_agent.model.series import EndPoint, ErrorKey, Kind, SeriesKey

OK, ERROR, SUPPRESSED, FALLBACK, CANCELLED = map(int, Outcome)


def registry() -> Registry:
    return Registry(Limits())


def of(events: list[Event], names: Registry | None = None) -> Summary:
    return Summary(reduce(columns(events)), names or registry())


def outcomes(*found: int) -> Summary:
    return of([Event(outcome=outcome) for outcome in found])


def test_nothing_has_no_stats() -> None:
    summary = Summary(EMPTY, registry())
    assert (summary.executions, summary.attempts, summary.total) == (0, 0, 0.0)
    assert (summary.average, summary.success_rate) == (None, None)
    assert (summary.least, summary.most, summary.last, summary.last_time) == (
        None,
        None,
        None,
        0.0,
    )
    assert summary.quantiles(0.5, 0.9) == [None, None]
    assert set(summary.outcomes.values()) == {0}
    assert (summary.actions, summary.errors, summary.ends, summary.retries) == (
        {},
        {},
        {},
        0,
    )


def test_plain_stats() -> None:
    summary = Summary(reduce(make_columns([1.0, 2.0, 6.0])), registry())
    assert (summary.executions, summary.total, summary.average) == (3, 9.0, 3.0)
    assert (summary.least, summary.most, summary.last, summary.last_time) == (
        1.0,
        6.0,
        6.0,
        2.0,
    )
    assert summary.quantiles(0.0, 0.5, 1.0) == pytest.approx([1.0, 2.0, 6.0], rel=0.011)


@pytest.mark.parametrize("value", [0.3, 0.1, 0.0, -7.7, 1e9 + 0.1, 1e-9])
@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_a_constant_is_its_own_average(value: float, size: int) -> None:
    summary = Summary(reduce(make_columns([value] * size)), registry())
    assert summary.average == pytest.approx(value)
    assert summary.quantiles(0.5) == [value]


def test_stats_beyond_the_floats_are_none() -> None:
    summary = Summary(reduce(make_columns([1.7e308, 1e308])), registry())
    assert summary.average is None
    assert (summary.least, summary.most) == (1e308, 1.7e308)


def test_a_suppressed_error_and_a_fallback_are_successes() -> None:
    result = outcomes(OK, SUPPRESSED, FALLBACK, ERROR)
    assert (result.success_rate, result.error_rate) == (0.75, 0.25)
    assert result.outcomes == {
        "ok": 1,
        "error": 1,
        "suppressed": 1,
        "fallback": 1,
        "cancelled": 0,
    }


def test_cancelled_ones_are_left_out_of_account() -> None:
    assert outcomes(OK, CANCELLED, CANCELLED, ERROR).success_rate == 0.5
    assert outcomes(CANCELLED, CANCELLED).success_rate is None
    assert outcomes(ERROR, CANCELLED).success_rate == 0.0
    assert outcomes(OK, CANCELLED).error_rate == 0.0


def test_retries_are_attempts_beyond_the_first() -> None:
    assert of([Event(attempts=n) for n in (1, 3, 2)]).retries == 3
    assert of([Event(attempts=0), Event(attempts=0)]).retries == 0


def test_errors_are_counted_by_type_and_phase_and_summed_by_type() -> None:
    names = registry()
    keys = [
        ErrorKey("ValueError", "exec"),
        ErrorKey("ValueError", "post"),
        ErrorKey("KeyError", "prep"),
        ErrorKey("OSError", "exec"),
    ]
    numbers = [names.errors.number(key) for key in keys]
    result = of([Event(error=numbers[n]) for n in (0, 0, 1, 2, 3)] + [Event()], names)
    assert result.errors == dict(zip(keys, (2, 1, 1, 1), strict=True))
    breakdown = {"ValueError": 3, "KeyError": 1, "OSError": 1}
    assert list(result.error_breakdown.items()) == list(breakdown.items())


def test_actions_of_nodes_and_ends_of_runs_are_named() -> None:
    names = registry()
    approve, reject = names.actions.number("approve"), names.actions.number("reject")
    events = [Event(action=n) for n in (approve, approve, reject, 0)]
    assert of(events, names).actions == {"approve": 2, "reject": 1}
    end = EndPoint("no_successors", "pay", "default")
    assert of([Event(action=names.ends.number(end))], names).ends == {end: 1}


def test_several_series_are_summed_up_as_one() -> None:
    names = registry()
    events = [
        Event(row=row, value=float(row), time=float(9 - row), outcome=row % 2)
        for row in (1, 2, 3, 3)
    ]
    bucket = reduce(columns(events))
    result = summarize(bucket, [3, 1], names)
    assert (result.executions, result.total, result.most) == (3, 7.0, 3.0)
    assert (result.last, result.last_time) == (1.0, 8.0)
    assert result.error_rate == 1.0
    assert summarize(bucket, [2], names).success_rate == 1.0


def test_series_without_events_in_a_bucket_add_nothing() -> None:
    bucket = reduce(columns([Event(row=5)]))
    assert summarize(bucket, [7], registry()).executions == 0
    assert summarize(bucket, [], registry()).executions == 0
    assert summarize(bucket, [3, 4, 5, 6], registry()).executions == 1


def test_series_are_selected_by_all_filters() -> None:
    names = registry()
    keys = [
        SeriesKey(Kind.NODE, "s", "g", "a"),
        SeriesKey(Kind.NODE, "s", "g", "b"),
        SeriesKey(Kind.NODE, "t", "g", "a"),
        SeriesKey(Kind.RUN, "s", "g", ""),
        SeriesKey(Kind.OBSERVE, "s", "g", "a", "size"),
    ]
    for key in keys:
        names.row(key, "c")
    assert list(select(names, Kind.NODE)) == keys[:3]
    assert select(names, Kind.NODE, node="a") == {keys[0]: 0, keys[2]: 2}
    assert select(names, Kind.NODE, service="s", graph="g", node="a") == {keys[0]: 0}
    assert select(names, Kind.OBSERVE, metric="size") == {keys[4]: 4}
    assert select(names, Kind.NODE, node="zzz") == {}


# -- completeness ----------------------------------------------------------------------


def view(names: Registry) -> View:
    return Aggregator(names, 0.0).view(0.0)


def test_completeness_is_received_over_received_and_lost() -> None:
    names = registry()
    mine = names.row(SeriesKey(Kind.NODE, "s", "g", "a"), "c")
    others = names.row(SeriesKey(Kind.OBSERVE, "t", "g", "a", "m"), "c")
    lost = names.row(SeriesKey(Kind.LOSS, "s", "", "", "buffer_full"), "c")
    events = [Event(row=mine)] * 6 + [Event(row=others)] * 2
    events += [Event(row=lost, value=1.0), Event(row=lost, value=3.0)]
    bucket = reduce(columns(events))
    assert completeness(view(names), bucket) == 8 / 12
    assert completeness(view(names), bucket, "s") == 0.6
    assert completeness(view(names), bucket, "t") == 1.0
    assert completeness(view(names), bucket, "nobody") is None
    assert completeness(view(names), EMPTY) is None
