"""Problems: what is wrong, since when, where, and what it cost."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.agent.web.serving import Served, evaluate, serving
from tests.agent.web.sse import EventReader

from kaywatch.recorder import Topology
from kaywatch.wire import EndReason, Outcome
from kaywatch_agent.rules.load import load

Row = dict[str, Any]
HOUR = 3590


@pytest.fixture
def watched() -> Iterator[Served]:
    """An agent with the built-in rules."""
    with serving() as served:
        served.call(lambda: served.source.alerting.use(load({}), {}))
        yield served
        served.call(served.source.alerting.stop)


def problems(served: Served, **query: str) -> dict[str, dict[str, Any]]:
    """Return the problems by kind; there is at most one of each."""
    evaluate(served)
    rows = served.get("/api/v1/problems", **query)["problems"]
    by_kind = {row["kind"]: row for row in rows}
    assert len(by_kind) == len(rows)
    return by_kind


def push_past(
    served: Served, make: Callable[[int], list[Row]], *, step: int = 5
) -> float:
    """Push the rows of the last hour, by their age in seconds; return the time."""
    now = time.time()
    rows = [
        {"graph": "order", "node": "pay", "seconds": 0.1, "end": now - age, **row}
        for age in range(HOUR, 0, -step)
        for row in make(age)
    ]
    served.send_rows(*rows)
    return now


def is_bad(age: int, every: int = 2) -> bool:
    """Return whether an event of the last ten minutes is a bad one."""
    return age <= 600 and age // 5 % every == 0


def test_nothing_is_wrong_with_a_healthy_service(watched: Served) -> None:
    push_past(watched, lambda _: [{}])
    assert watched.get("/api/v1/problems")["matching"] == 0


def test_a_failing_node_has_its_onset_failures_cost_and_error(watched: Served) -> None:
    def make(age: int) -> list[Row]:
        if not is_bad(age):
            return [{}]
        wasted = {"metric": "llm_wasted_cost_usd", "kind": "count", "value": 0.01}
        return [{"outcome": "error", "error": "TimeoutError"}, wasted]

    def with_costs(age: int) -> list[Row]:
        calls = {"metric": "llm_calls", "kind": "count", "value": 1}
        cost = {"metric": "llm_cost_usd", "kind": "count", "value": 0.02}
        return [*make(age), calls, cost]

    now = push_past(watched, with_costs)
    problem = problems(watched)["failing"]
    assert (problem["graph"], problem["node"]) == ("order", "pay")
    assert abs(problem["since"] - (now - 600)) <= 15
    assert problem["count"] == 60
    assert problem["cost_usd"] == pytest.approx(0.6)
    assert problem["text"] == "50 % of executions fail"
    assert "60 failures" in problem["details"]
    assert "$0.60 spent on failed attempts" in problem["details"]
    assert "TimeoutError 100 %" in problem["details"]


def test_the_beginning_is_unknown_if_there_were_events_before_the_hour(
    watched: Served,
) -> None:
    failed: Row = {"outcome": "error", "error": "OSError"}
    now = push_past(watched, lambda age: [failed] if age <= 3400 else [])
    problem = problems(watched)["failing"]
    assert abs(problem["since"] - (now - 3400)) <= 15
    assert problem["details"][0] == "from the first one on"
    older = {"graph": "order", "node": "pay", "seconds": 0.1, "end": now - HOUR - 120}
    watched.send_rows(older)
    problem = problems(watched, window="10m")["failing"]
    assert problem["since"] is None
    assert problem["details"][0] != "from the first one on"


def test_what_began_at_another_time_has_its_own_age(watched: Served) -> None:
    def make(age: int) -> list[Row]:
        hidden = {"outcome": "fallback", "attempts": 3, "error": "RateLimited"}
        is_hidden = age <= 1800 and age // 5 % 2 == 0
        return [{"seconds": 7 if age <= 300 else 3, **(hidden if is_hidden else {})}]

    push_past(watched, make)
    details = problems(watched)["slow"]["details"]
    assert re.fullmatch(r"\d+ % of attempts fail, hidden .*, for (29|30)m", details[-1])


def test_low_traffic_is_judged_over_half_an_hour(watched: Served) -> None:
    failed = {"outcome": "error", "error": "OSError"}
    push_past(watched, lambda age: [failed if age < 1500 else {}], step=200)
    problem = problems(watched)["low_traffic"]
    assert problem["text"] == "7 of 7 executions failed"
    assert problem["severity"] == "error"


def test_a_node_is_slow_by_its_rule_or_by_its_past(watched: Served) -> None:
    push_past(watched, lambda age: [{"seconds": 6.0 if age <= 600 else 4.0}])
    problem = problems(watched)["slow"]
    assert problem["text"] == "takes 6s on average"
    assert problem["details"][1:] == ["the limit is 5s"]

    with serving() as other:
        other.call(lambda: other.source.alerting.use(load({}), {}))
        # A hundred executions before are enough to know what is usual.
        now = push_past(
            other, lambda age: [{"seconds": 0.5}] if age <= 600 else [{}, {}]
        )
        problem = problems(other)["slow"]
        # Whether in the last day or hour depends on the time of the test.
        assert "on average instead of 1" in problem["text"]
        assert "ms earlier in the last " in problem["text"]
        # Of one execution every five seconds, since the onset.
        onset = now - problem["since"]
        assert abs(onset - 600) <= 15
        assert abs(problem["count"] - onset / 5) <= 2
        # Over the whole ten minutes, and not over the window of the rule.
        (usual,) = re.findall(r"instead of (\d+)ms", problem["text"])
        (longer,) = re.findall(r"([\d.]+)s longer in total", problem["details"][1])
        assert abs(float(longer) - (0.5 - int(usual) / 1000) * problem["count"]) <= 2
        other.call(other.source.alerting.stop)


def test_a_slow_node_also_has_what_its_failed_attempts_cost(watched: Served) -> None:
    def make(age: int) -> list[Row]:
        costs = {"llm_calls": 1.0, "llm_cost_usd": 0.02}
        execution: Row = {"seconds": 12.0 if age <= 600 else 4.0}
        if is_bad(age, 5):
            costs["llm_wasted_cost_usd"] = 0.1
            execution["attempts"] = 2
        metrics: list[Row] = [
            {"metric": name, "kind": "count", "value": value}
            for name, value in costs.items()
        ]
        return [execution, *metrics]

    push_past(watched, make)

    # Of 120 executions, 24 wasted ten cents each.
    details = problems(watched)["slow"]["details"]
    assert details[-1] == "$2.40 spent on failed attempts"


def test_retries_and_fallbacks_mask_failures(watched: Served) -> None:
    hidden = {"outcome": "fallback", "attempts": 3, "error": "RateLimited"}
    now = push_past(watched, lambda age: [hidden if is_bad(age, 4) else {}])
    problem = problems(watched)["masked_failures"]
    # Three calls of 30 executions failed, and 90 others succeeded.
    assert problem["count"] == 90
    assert problem["text"].startswith("50 % of attempts fail")
    assert problem["details"] == ["90 failed attempts", "RateLimited 100 %"]
    assert abs(problem["since"] - (now - 600)) <= 25


def test_the_most_frequent_errors_are_named_whatever_failed_last(
    watched: Served,
) -> None:
    types = {10: "IOError", 20: "ValueError", 30: "ValueError", 40: "KeyError"}

    def make(age: int) -> list[Row]:
        error = types.get(age % 100, "Overloaded")
        hidden = {"outcome": "fallback", "attempts": 3, "error": error}
        return [hidden if is_bad(age) else {}]

    push_past(watched, make)
    details = problems(watched)["masked_failures"]["details"]
    # The last failure, ten seconds ago, was one of the others.
    assert details[1] == "Overloaded 60 %, ValueError 20 %, others 20 %"


def test_dead_ends_and_nodes_that_are_never_reached(watched: Served) -> None:
    with watched.recording("shop") as recorder:
        wiring = (("ask", "yes", "answer"), ("ask", "later", "call"))
        recorder.add_topology(
            Topology("chat", "ask", ("ask", "answer", "call"), wiring)
        )
        for number in range(120):
            is_lost = number % 10 == 0
            recorder.series("chat", "ask").record(
                0.1, Outcome.OK, 1, "no" if is_lost else "yes"
            )
            if is_lost:
                end = EndReason.UNMATCHED_ACTION, "ask", "no", 1
            else:
                recorder.series("chat", "answer").record(0.1)
                end = EndReason.NO_SUCCESSORS, "answer", "default", 2
            recorder.run_ended("chat", 0.2, Outcome.OK, *end)
    evaluate(watched)
    rows = problems(watched, service="shop")
    assert rows["dead_end"]["text"] == '10 % of runs stop here: no edge for "no"'
    assert rows["dead_end"]["count"] == 12
    assert rows["never_reached"]["node"] == "call"
    assert rows["never_reached"]["text"] == (
        "never executed, although its graph has run 120 times"
    )
    assert not problems(watched, service="back")


def test_problems_of_one_place_are_one_sentence_with_their_alert(
    watched: Served,
) -> None:
    rule = {
        "name": "fails",
        "metric": "error_rate",
        "op": ">",
        "value": 0.2,
        "for": "0",
        "severity": "critical",
    }
    watched.call(lambda: watched.source.alerting.use(load({"rule": [rule]}), {}))
    failed = {"outcome": "error", "error": "OSError", "seconds": 1.0, "action": ""}
    push_past(watched, lambda age: [failed] if age <= 600 else [{}, {}])
    rows = problems(watched)
    assert [*rows] == ["failing"]
    assert any("takes 1s on average" in text for text in rows["failing"]["details"])
    assert rows["failing"]["severity"] == "critical"
    (alert,) = watched.get("/api/v1/alerts", state="firing", rule="fails")["alerts"]
    assert rows["failing"]["alerts"] == [
        {"id": alert["id"], "rule": "fails", "node": "pay"}
    ]


def test_what_a_rule_of_the_user_found_is_a_detail(watched: Served) -> None:
    rules = [
        {"name": name, "metric": metric, "op": ">", "value": value, "for": "0"}
        for name, metric, value in (
            ("fails", "error_rate", 0.2),
            ("slow-pay", "latency_p95", 0.5),
        )
    ]
    watched.call(lambda: watched.source.alerting.use(load({"rule": rules}), {}))
    failed = {"outcome": "error", "error": "OSError", "seconds": 1.0, "action": ""}
    push_past(watched, lambda age: [failed] if age <= 600 else [{}, {}])
    details = problems(watched)["failing"]["details"]
    assert any("the p95 of executions is" in detail for detail in details)
    # The sentence has the share of failures itself.
    assert not any("error rate" in detail for detail in details)


def live_alerts(served: Served) -> list[Row]:
    """Return the alerts of the page's stream."""
    with contextlib.closing(EventReader(served, "/api/v1/live", 0)) as reader:
        reader.headers()
        assert "retry" in reader.block()
        update = json.loads(reader.block()["data"])
    alerts: list[Row] = update["alerts"]["changed"]
    return alerts


def test_a_run_that_goes_in_circles_is_one_problem(watched: Served) -> None:
    now = time.time()
    nodes = ("check", "pay")
    first = {"v": 1, "client": b"client-16-bytes!", "service": "shop"}
    events = [{"graph": "order", "node": node, "seconds": 0.1} for node in nodes]
    run = {
        "events": events,
        "in_flight": [
            ["order", "pay", now, "r1", 1_000, now - 60, 0, 1.65, 9_000, 1_200]
        ],
        "loops": [["order", node, 500, "r1"] for node in nodes],
    }
    hello = {**first, "type": "hello", "pid": 4711, "host": "h1", "start": now - 100}
    watched.receive([hello, {**first, "type": "batch", "seq": 1, "sent": now, **run}])
    rows = problems(watched)
    assert [*rows] == ["runaway"]
    (problem,) = rows.values()
    assert (problem["text"], problem["severity"]) == ("a run goes in circles", "error")
    spent = "$1.65 and 1,200 tokens without a price spent on models"
    assert problem["details"][:2] == ["1,000 node visits so far", spent]
    alerts = watched.get("/api/v1/alerts", state="firing")["alerts"]
    assert {alert["rule"] for alert in alerts} == {"runaway", "unusual_loop"}
    assert len(alerts) == 2  # one of each rule, not of each node
    # Only the alert that is notified is shown.
    (shown,) = problem["alerts"]
    assert shown["rule"] == "runaway"
    assert shown["node"] in {"check", "pay"}
    assert watched.get("/api/v1/alerts", limit="1")["same_cause"] == 1
    # The page counts it alone as well.
    causes = {alert["rule"]: alert["same_cause"] for alert in live_alerts(watched)}
    assert causes == {"runaway": "", "unusual_loop": shown["id"]}


def test_an_alert_without_another_problem_is_one(watched: Served) -> None:
    rule = {"name": "busy", "metric": "executions", "op": ">", "value": 5, "for": "0"}
    watched.call(lambda: watched.source.alerting.use(load({"rule": [rule]}), {}))
    push_past(watched, lambda _: [{}])
    evaluate(watched)
    problem = problems(watched)["alert"]
    # The names are not repeated in the text.
    assert problem["text"].startswith("executions ")
    (row,) = watched.get("/api/v1/episodes", window="1h")["alerts"]
    assert (row["rule"], row["alert"]) == ("busy", problem["alerts"][0]["id"])
    (episode,) = row["episodes"]
    assert episode["end"] is None
    assert episode["start"] == problem["since"]
    assert "threshold 5" in episode["text"]
