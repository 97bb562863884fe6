"""One metric over time: its points, its range, and what can't be asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.agent.web.serving import Served, serving

from kaywatch.wire import EndReason, Outcome

NOW = 1_700_000_005.0
STEP = 1_700_000_000.0  # the step that NOW is in


@pytest.fixture(scope="module")
def history() -> Iterator[Served]:
    """An agent that was there for 2 hours, and saw three steps with executions."""
    clock = [NOW - 7200]
    with serving(lambda: clock[0]) as served:
        clock[0] = NOW
        served.send_rows(
            execution(STEP + 1, 1.0, exec=0.5),
            execution(STEP - 9, 2.0),
            execution(STEP - 8, 4.0, attempts=3, exec=2.0, wait=1.0, items=3),
            execution(STEP - 7, 6.0, prep=6.0, outcome="error", error="ValueError"),
            execution(STEP - 600, 8.0, node="other"),
            *(point(STEP - 5 + n, value) for n, value in enumerate((10.0, 30.0))),
            point(STEP - 5, 3.0, metric="orders", kind="count"),
            point(STEP - 4, 4.0, metric="orders", kind="count"),
            point(STEP - 5, 9.0, metric="depth", kind="gauge"),
            point(STEP - 4, 5.0, metric="depth", kind="gauge"),
        )
        with served.recording("shop") as recorder:
            recorder.run_ended("g", 2.0, Outcome.ERROR, EndReason.ERROR, "n", "", 3)
        yield served


def execution(end: float, seconds: float, **more: Any) -> dict[str, Any]:
    return {"graph": "g", "node": "n", "end": end, "seconds": seconds, **more}


def point(end: float, value: float, **more: Any) -> dict[str, Any]:
    return {"metric": "size", "node": "n", "end": end, "value": value, **more}


def points_of(answer: Any) -> list[list[Any]]:
    """Return the points of an answer's only series."""
    (series,) = answer["series"]
    points: list[list[Any]] = series["points"]
    return points


def values(served: Served, metric: str, **asked: Any) -> list[Any]:
    """The values of the three steps up to now, and of how many events."""
    asked = {"start": STEP - 20, "end": NOW, "step": "10", **asked}
    answer = served.get("/api/v1/query", metric=metric, **asked)
    times = [time for time, _, _ in points_of(answer)]
    assert times == [STEP - 20, STEP - 10, STEP]
    return [(value, n) for _, value, n in points_of(answer)]


@pytest.mark.parametrize(
    ("metric", "points"),
    [
        ("executions", [(0, 0), (3, 3), (1, 1)]),
        ("throughput", [(0, 0), (0.3, 3), (0.1, 1)]),
        ("success_rate", [(None, 0), (2 / 3, 3), (1.0, 1)]),
        ("error_rate", [(None, 0), (1 / 3, 3), (0.0, 1)]),
        ("avg", [(None, 0), (4.0, 3), (1.0, 1)]),
        ("min", [(None, 0), (2.0, 3), (1.0, 1)]),
        ("max", [(None, 0), (6.0, 3), (1.0, 1)]),
        ("p50", [(None, 0), (4.0, 3), (1.0, 1)]),
        ("p90", [(None, 0), (6.0, 3), (1.0, 1)]),
        ("p95", [(None, 0), (6.0, 3), (1.0, 1)]),
        ("p99", [(None, 0), (6.0, 3), (1.0, 1)]),
        ("prep", [(None, 0), (3.0, 3), (0.0, 1)]),
        ("exec", [(None, 0), (1.0, 3), (0.5, 1)]),
        ("wait", [(None, 0), (0.5, 3), (0.0, 1)]),
        ("post", [(None, 0), (0.5, 3), (0.5, 1)]),
        ("items", [(0, 0), (3, 3), (0, 1)]),
        ("retries", [(0, 0), (2, 3), (0, 1)]),
        ("retry_rate", [(None, 0), (2 / 5, 3), (0.0, 1)]),
        ("size", [(None, 0), (20.0, 2), (None, 0)]),
        ("orders", [(0, 0), (7.0, 2), (0, 0)]),
        ("depth", [(None, 0), (5.0, 2), (None, 0)]),
        # Metrics of rules are computed for each step.
        ("masked_rate", [(None, 0), (2 / 5, 3), (0.0, 1)]),
        ("latency_p95", [(None, 0), (6.0, 3), (1.0, 1)]),
        ("custom.depth.last", [(None, 0), (5.0, 2), (None, 0)]),
        ("custom.size.max", [(None, 0), (30.0, 2), (None, 0)]),
        ("custom.orders.per_second", [(0, 0), (0.7, 2), (0, 0)]),
    ],
)
def test_each_metric_over_time(
    history: Served, metric: str, points: list[tuple[float | None, int]]
) -> None:
    result = values(history, metric)

    assert [n for _, n in result] == [n for _, n in points]
    for (value, _), (expected, _) in zip(result, points, strict=True):
        near = None if expected is None else pytest.approx(expected, rel=0.011)
        assert value == near


def test_runs_are_counted_when_they_were(history: Served) -> None:
    answer = history.get("/api/v1/query", metric="runs", graph="g")

    assert sum(n for _, _, n in points_of(answer)) == 1
    assert answer["unit"] == "runs"


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("run_success_rate", 0.0),
        ("run_error_rate", 1.0),
        *((f"run_{name}", 2.0) for name in ("avg", "max", "p50", "p90", "p95", "p99")),
    ],
)
def test_runs_have_metrics_of_their_own(
    history: Served, metric: str, expected: float
) -> None:
    answer = history.get("/api/v1/query", metric=metric, by="graph")

    (series,) = answer["series"]
    assert series["name"] == "g"
    seen = [value for _, value, n in series["points"] if n]
    assert seen == [pytest.approx(expected, rel=0.011)]
    assert all(value is None for _, value, n in series["points"] if not n)


def test_an_hour_up_to_now_is_the_default(history: Served) -> None:
    answer = history.get("/api/v1/query", metric="executions")

    assert set(answer) == {
        *("metric", "unit", "step", "start", "end", "series", "left_out", "account")
    }
    assert (answer["start"], answer["end"], answer["step"]) == (NOW - 3600, NOW, 10)
    assert len(points_of(answer)) == 361
    assert sum(n for _, _, n in points_of(answer)) == 5
    assert all(value is not None for _, value, _ in points_of(answer))


@pytest.mark.parametrize(
    ("seconds", "step"), [(1, 10), (3600, 10), (3601, 20), (86_400, 240)]
)
def test_the_default_step_makes_some_360_points(
    history: Served, seconds: int, step: int
) -> None:
    answer = history.get("/api/v1/query", metric="avg", start=NOW - seconds)

    assert answer["step"] == step
    assert len(points_of(answer)) <= 361


def test_a_longer_step_merges_shorter_ones_exactly(history: Served) -> None:
    answer = history.get("/api/v1/query", metric="executions", start="-20m", step="5m")
    assert {t % 300 for t, _, _ in points_of(answer)} == {0}
    assert sum(n for _, _, n in points_of(answer)) == 5
    hour = history.get("/api/v1/query", metric="p50", step="2h", start=NOW - 3600)
    assert [n for _, _, n in points_of(hour)][-1] == 5
    assert points_of(hour)[-1][1] == pytest.approx(4.0, rel=0.011)


def test_expired_data_is_null_and_not_zero(history: Served) -> None:
    answer = history.get("/api/v1/query", metric="executions", start="-2h", step="10m")

    known = [value is not None for _, value, _ in points_of(answer)]
    assert known == sorted(known)
    assert known.count(False) == 6


def test_filters_narrow_it(history: Served) -> None:
    def total(**filters: str) -> int:
        answer = history.get("/api/v1/query", metric="executions", **filters)
        return sum(n for _, _, n in points_of(answer))

    assert total(node="other") == 1
    assert total(node="n", graph="g", service="shop") == 4
    # They are known, though not together: no values rather than an error.
    # In a graph of its own: the history is shared.
    row = execution(NOW, 1.0, node="elsewhere", graph="elsewhere")
    history.send_rows(row, service="third")
    assert total(node="n", service="third") == 0


@pytest.mark.parametrize(
    ("parameters", "status", "code", "message"),
    [
        ({}, 400, "missing_parameter", "metric: the parameter is missing"),
        ({"metric": "p42"}, 404, "unknown_metric", "unknown metric 'p42'"),
        ({"metric": "avg", "node": "m"}, 404, "unknown_node", "unknown node 'm'"),
        ({"metric": "avg", "graph": "q"}, 404, "unknown_graph", "unknown graph 'q'"),
        (
            {"metric": "avg", "service": "q"},
            404,
            "unknown_service",
            "unknown service 'q'",
        ),
        ({"metric": "avg", "step": "15"}, 400, "bad_parameter", "step='15'"),
        ({"metric": "avg", "step": "0"}, 400, "bad_parameter", "step='0'"),
        ({"metric": "avg", "start": "noon"}, 400, "bad_parameter", "start='noon'"),
        ({"metric": "avg", "start": "inf"}, 400, "bad_parameter", "start='inf'"),
        ({"metric": "avg", "start": "now"}, 400, "bad_range", "is not before"),
        ({"metric": "runs", "node": "n"}, 400, "bad_parameter", "node='n'"),
        (
            {"metric": "avg", "start": "0", "step": "10"},
            400,
            "too_many_points",
            "the maximum is 11000",
        ),
    ],
)
def test_an_invalid_query_is_rejected_with_a_hint(
    history: Served, parameters: dict[str, str], status: int, code: str, message: str
) -> None:
    answer = history.ask("/api/v1/query", **parameters)

    assert answer.status == status
    assert answer.error["code"] == code
    assert message in answer.error["message"]
    assert answer.error["hint"]


def test_the_hint_for_too_many_points_works(history: Served) -> None:
    hint = history.ask(
        "/api/v1/query", metric="avg", start=NOW - 864_000, step="10"
    ).error["hint"]

    step = next(
        word for word in hint.split() if word.endswith("s") and word[0].isdigit()
    )
    answer = history.get("/api/v1/query", metric="avg", start=NOW - 864_000, step=step)
    assert len(points_of(answer)) <= 11_000


def test_the_nearest_metric_is_named(history: Served) -> None:
    hint = history.ask("/api/v1/query", metric="success_rat").error["hint"]
    assert "did you mean 'success_rate'" in hint
    hint = history.ask("/api/v1/query", metric="order").error["hint"]
    assert "'orders'" in hint


# -- several series --------------------------------------------------------------------


def query_values(served: Served, metric: str, **asked: Any) -> dict[str, list[Any]]:
    """Return the values of the three steps up to now, by series."""
    asked = {"start": STEP - 20, "end": NOW, "step": "10", **asked}
    answer = served.get("/api/v1/query", metric=metric, **asked)
    return {one["name"]: [v for _, v, _ in one["points"]] for one in answer["series"]}


@pytest.fixture(scope="module")
def several() -> Iterator[Served]:
    clock = [NOW - 7200]
    with serving(lambda: clock[0]) as served:
        clock[0] = NOW
        served.send_rows(
            execution(STEP - 9, 2.0),
            execution(STEP - 8, 4.0, action="retry"),
            execution(STEP + 1, 1.0, node="m", outcome="error", error="KeyError"),
            execution(STEP + 1, 1.0, node="m", outcome="cancelled"),
            *(
                point(
                    STEP - 5, value, metric=metric, kind=kind, labels={"model": model}
                )
                for model, cost, tokens in (("big", 2.0, 100.0), ("small", 0.5, 10.0))
                for metric, kind, value in (
                    ("llm_calls", "count", 1.0),
                    ("llm_cost_usd", "count", cost),
                    ("llm_input_tokens", "count", tokens),
                    ("llm_output_tokens", "count", tokens / 2),
                    ("llm_seconds", "observe", cost),
                )
            ),
        )
        served.send_rows(execution(STEP + 2, 8.0), service="back")
        yield served


@pytest.mark.parametrize(
    ("metric", "by", "expected"),
    [
        ("executions", "node", {"n": [0, 2, 1], "m": [0, 0, 2]}),
        ("avg", "node", {"n": [None, 3.0, 8.0], "m": [None, None, 1.0]}),
        ("executions", "service", {"shop": [0, 2, 2], "back": [0, 0, 1]}),
        ("p95", "graph", {"g": [None, 4.0, 8.0]}),
        (
            "executions",
            "outcome",
            {
                "ok": [0, 2, 1],
                "error": [0, 0, 1],
                "cancelled": [0, 0, 1],
                "suppressed": [0, 0, 0],
                "fallback": [0, 0, 0],
            },
        ),
        ("executions", "action", {"default": [0, 1, 1], "retry": [0, 1, 0]}),
        ("executions", "error", {"KeyError": [0, 0, 1]}),
        ("cost", "model", {"big": [0, 2.0, 0], "small": [0, 0.5, 0]}),
        ("tokens", "model", {"big": [0, 150.0, 0], "small": [0, 15.0, 0]}),
        ("call_p95", "model", {"big": [None, 2, None], "small": [None, 0.5, None]}),
        ("llm_cost_usd", "model", {"big": [0, 2.0, 0], "small": [0, 0.5, 0]}),
    ],
)
def test_one_series_for_each_value(
    several: Served, metric: str, by: str, expected: dict[str, list[Any]]
) -> None:
    series = query_values(several, metric, by=by)

    assert series.keys() == expected.keys()
    for name, numbers in expected.items():
        for value, number in zip(series[name], numbers, strict=True):
            assert value == (number if not number else pytest.approx(number, rel=0.011))


def test_one_model_is_selected(several: Served) -> None:
    assert query_values(several, "cost", model="small") == {"": [0, 0.5, 0]}
    assert query_values(several, "cost", model="none") == {"": [0, 0, 0]}


def test_the_most_frequent_values_are_returned(served: Served) -> None:
    rows = [{"node": f"n{n}", "seconds": 1.0} for n in range(60)]
    served.send_rows(*rows, *rows[30:])

    answer = served.get("/api/v1/query", metric="executions", by="node")

    names = [series["name"] for series in answer["series"]]
    assert (len(names), answer["left_out"]) == (50, 10)
    assert set(names) >= {f"n{n}" for n in range(30, 60)}


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("metric=p95&by=outcome", "query metric=executions"),
        ("metric=p95&by=model", "query calls, cost, tokens"),
        ("metric=runs&model=big", "query calls, cost, tokens"),
    ],
)
def test_combinations_without_data_are_refused(
    several: Served, query: str, hint: str
) -> None:
    answer = several.ask(f"/api/v1/query?{query}")
    assert answer.status == 400
    assert "cannot be combined with metric=" in answer.error["message"]
    assert hint in answer.error["hint"]


# -- heatmap ---------------------------------------------------------------------------


def test_a_heatmap_counts_each_execution_once(history: Served) -> None:
    asked = {"graph": "g", "start": STEP - 20, "end": NOW, "step": "10"}
    answer = history.get("/api/v1/heatmap", **asked)

    assert (answer["first"], answer["columns"], answer["step"]) == (STEP - 20, 3, 10)
    bounds = answer["bounds"]
    assert bounds == sorted(bounds)
    cells = {}
    for column, row, count in answer["cells"]:
        cells[column, round(bounds[row], 6)] = count
    # The bounds are powers of two and three rows between.
    above = {2.0: 2.0, 4.0: 4.0, 6.0: 2**2.75, 1.0: 1.0}
    assert cells == {
        (1, above[2.0]): 1,
        (1, above[4.0]): 1,
        (1, round(above[6.0], 6)): 1,
        (2, above[1.0]): 1,
    }
    hour = history.get("/api/v1/heatmap", graph="g")
    assert sum(count for _, _, count in hour["cells"]) == 5
    assert hour["columns"] <= 121


def test_a_heatmap_has_executions_that_took_no_time(served: Served) -> None:
    served.send_rows({"node": "n", "seconds": 0.0}, {"node": "n", "seconds": 1.0})
    answer = served.get("/api/v1/heatmap", node="n", step="1h", start="-1h")
    assert sum(count for _, _, count in answer["cells"]) == 2
    assert len(answer["bounds"]) == 1
    assert served.get("/api/v1/heatmap", start="-1m", end="-30s")["cells"] == []
    assert served.ask("/api/v1/heatmap?node=none").status == 404
