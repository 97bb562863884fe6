"""Each usual failure is reported without configuration: one alert, and no other."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from tests.agent.rules.harness import START, AlertHarness

from kaywatch.wire import EndReason, Outcome
from kaywatch_agent.model.records import (
    InFlight,
    NodeRevisits,
    ProcessSample,
    TopologyRecord,
)
from kaywatch_agent.model.series import ClientState, EndPoint, Kind, SeriesKey
from kaywatch_agent.rules.load import load
from kaywatch_agent.rules.rule import Threshold
from kaywatch_agent.rules.sentences import states_value
from kaywatch_agent.rules.state import AlertState
from kaywatch_agent.units import duration

PLACE = {"service": "web", "graph": "shop", "node": "pay"}


def built_in_harness() -> AlertHarness:
    """Return an engine with the built-in rules, after an hour of observation."""
    return AlertHarness(alerting={})


def firing(harness: AlertHarness) -> list[tuple[str, dict[str, str]]]:
    """Return the rules and labels of the firing alerts."""
    return [
        (alert.rule, alert.labels)
        for alert in harness.engine.alerts
        if alert.lifecycle.state is AlertState.FIRING
    ]


def end_runs(
    harness: AlertHarness, count: int, end: EndPoint, graph: str = "shop"
) -> None:
    key = SeriesKey(Kind.RUN, "web", graph, "")
    harness.source.add_executions(key, harness.now, {Outcome.OK: count}, action=end)


NORMAL_END = EndPoint(EndReason.NO_SUCCESSORS, "", "")


def test_a_node_that_always_fails_at_three_runs_a_minute() -> None:
    harness = built_in_harness()
    while not harness.sent:
        harness.ran(1, 1)
        harness.wait(20)

    assert harness.now - START < 180
    assert firing(harness) == [("low_traffic", PLACE)]
    message = harness.sent[0][3]
    assert message.summary == (
        "web / shop / pay: error rate 100.0 %, above 50.0 % (8 of 8 failed in 30m)"
    )


@pytest.mark.parametrize(("failed", "of"), [(4, 4), (4, 9), (1, 5)])
def test_few_failures_at_low_traffic_are_not_reported(failed: int, of: int) -> None:
    harness = built_in_harness()
    harness.ran(of, failed)
    harness.wait(300)

    assert firing(harness) == []


def test_a_share_at_the_limit_is_not_called_above_it() -> None:
    harness = built_in_harness()
    harness.ran(8, 4)
    harness.wait(120)
    assert harness.sent[0][3].summary == (
        "web / shop / pay: error rate 50.0 %, at the limit of 50.0 % (4 of 8 failed in"
        " 30m)"
    )


def test_cancelled_executions_do_not_count_as_executions() -> None:
    harness = built_in_harness()
    key = SeriesKey(Kind.NODE, "web", "chat", "stream")
    harness.source.add_executions(
        key, harness.now, {Outcome.CANCELLED: 60, Outcome.ERROR: 1, Outcome.OK: 1}
    )
    harness.wait(300)

    assert firing(harness) == []


@pytest.mark.parametrize("total", [100, 300, 9_999])
def test_a_rate_that_equals_its_threshold_is_no_breach(total: int) -> None:
    for good in range(total * 9 // 10, total, 7):
        harness = AlertHarness(
            {
                "name": "r",
                "metric": "success_rate",
                "op": "<",
                "value": good / total,
                "for": "0",
            }
        )
        harness.ran(total, total - good)
        assert harness.wait(5) == []


def test_two_services_with_a_node_of_the_same_name_are_two_alerts() -> None:
    harness = built_in_harness()
    for _ in range(10):
        harness.ran(1_000, service="busy")
        harness.ran(30, 30, service="small")
        harness.wait(10)

    labels = {**PLACE, "service": "small"}
    assert ("success_rate_min", labels) in firing(harness)
    assert {labels["service"] for _, labels in firing(harness)} == {"small"}


def test_a_strict_threshold_is_clear_soon_after_the_outage() -> None:
    harness = AlertHarness(alerting={"thresholds": {"success_rate_min": 0.99}})
    for _ in range(12):
        harness.ran(20, 10)
        harness.wait(10)
    assert ("success_rate_min", PLACE) in firing(harness)
    for _ in range(12):
        harness.ran(200, 1)
        harness.wait(60)

    assert firing(harness) == []


def test_a_process_that_dies_is_reported_until_another_takes_its_place() -> None:
    harness = built_in_harness()
    harness.process(6)
    running = InFlight("shop", "pay", harness.now - 5, "r1")
    harness.process(7, in_flight=(running,))
    harness.wait(10)
    harness.process(7, ClientState.DIED, in_flight=(running,))
    harness.wait(5)

    assert firing(harness) == [("process_died", {"service": "web"})]
    message = harness.sent[0][3]
    assert message.severity == "error"
    # It had begun five seconds before the ten that passed.
    assert message.summary == (
        "web: pid 7 on box died while running shop / pay for 15s"
    )
    harness.wait(3600, 60)
    assert firing(harness) == [("process_died", {"service": "web"})]
    harness.process(8, first_seen=harness.now)
    harness.wait(200)
    assert firing(harness) == []


def test_an_orderly_end_is_not_a_death() -> None:
    harness = built_in_harness()
    harness.process(7)
    harness.wait(10)
    harness.process(7, ClientState.ENDED)
    harness.wait(600, 30)

    assert harness.sent == []


def test_recycled_workers_over_the_limit_are_one_alert() -> None:
    harness = built_in_harness()
    sample = ProcessSample(rss_bytes=2 * 2**30, cpu_seconds=0.0)
    for pid in range(100, 108):
        harness.process(pid, sample=sample)
        harness.wait(300, 20)
        harness.process(pid, ClientState.ENDED, sample=sample)

    kinds = [kind for _, receiver, kind, _ in harness.sent if receiver == "chat"]
    assert kinds == ["firing"]
    assert harness.sent[0][3].labels == {"service": "web"}
    assert harness.sent[0][3].summary == (
        "web: the largest process uses 2.0 GiB of memory, above 1.0 GiB: pid 100 on box"
    )


def test_runs_that_end_at_an_action_without_an_edge() -> None:
    harness = built_in_harness()
    harness.ran(40)
    end_runs(harness, 37, NORMAL_END)
    end_runs(harness, 3, EndPoint(EndReason.UNMATCHED_ACTION, "pay", "refund"))
    harness.wait(10)

    assert firing(harness) == [("dead_end", PLACE)]
    assert harness.sent[0][3].summary == (
        "web / shop / pay: 3 of 40 runs in 30m ended early: no node follows action"
        ' "refund"; they took about 300ms'
    )
    for _ in range(70):
        end_runs(harness, 1, NORMAL_END)
        harness.wait(30, 30)
    assert firing(harness) == []
    assert (harness.sent[-1][3].reason, harness.sent[-1][3].summary) == (
        "cleared",
        "web / shop / pay: no run has ended early in 30m",
    )


def test_a_dead_end_of_a_graph_that_stops_running_has_no_data() -> None:
    harness = built_in_harness()
    harness.ran(40)
    end_runs(harness, 3, EndPoint(EndReason.UNMATCHED_ACTION, "pay", "refund"))
    harness.wait(2100, 30)
    assert firing(harness) == [("dead_end", PLACE)]
    harness.wait(3600, 30)
    assert firing(harness) == []
    assert (harness.sent[-1][3].reason, harness.sent[-1][3].summary) == (
        "no_data",
        "web / shop / pay: no data: no run of its graph in 30m; not confirmed healthy",
    )


def test_a_node_that_no_run_reaches() -> None:
    harness = built_in_harness()
    topology = TopologyRecord(
        service="web",
        graph="shop",
        nodes=("pay", "refund"),
        since=1.0,
        changed=harness.now - 7200,
    )
    harness.source.topologies["web", "shop"] = topology
    harness.ran(99)
    end_runs(harness, 99, NORMAL_END)
    harness.wait(90)
    assert firing(harness) == []
    harness.ran(1)
    end_runs(harness, 1, NORMAL_END)
    harness.wait(120)
    assert firing(harness) == [("never_reached", {**PLACE, "node": "refund"})]
    assert harness.sent[0][3].summary == (
        "web / shop / refund: never executed, although its graph has run 100 times"
    )

    # It may be new since the topology has changed.
    changed = msgspec.structs.replace(topology, changed=harness.now)
    harness.source.topologies["web", "shop"] = changed
    harness.wait(300)
    assert firing(harness) == []


def learned_harness(usual: int) -> AlertHarness:
    """Return an engine that knows runs with a number of visits of a node."""
    harness = built_in_harness()
    harness.ran(40)
    end_runs(harness, 40, NORMAL_END)
    for _ in range(2):
        harness.end_looping_run("pay", usual)
        harness.wait(700, 30)
    return harness


def loop(harness: AlertHarness, visits: int, cycle: int = 0) -> None:
    harness.process(7, loops=(NodeRevisits("shop", "pay", visits, "r1", cycle),))
    harness.wait(10)


@pytest.mark.parametrize("usual", [2, 10, 40])
def test_a_loop_is_reported_in_two_tiers(usual: int) -> None:
    harness = learned_harness(usual)
    most = max(10, usual)
    loop(harness, most)
    assert firing(harness) == []
    loop(harness, most + 1)
    assert firing(harness) == [("unusual_loop", PLACE)]
    assert harness.sent[-1][3].summary == (
        f"web / shop / pay: one run has visited it {most + 1} times,"
        f" usually at most {most}: pid 7 on box, run r1"
    )
    loop(harness, 3 * most - 1)
    assert firing(harness) == [("unusual_loop", PLACE)]
    loop(harness, 3 * most)
    assert ("runaway", PLACE) in firing(harness)
    assert harness.sent[-1][3].severity == "error"


@pytest.mark.parametrize("usual", [2, 10, 40])
def test_twice_the_usual_visits_without_a_new_node_are_a_runaway(usual: int) -> None:
    harness = learned_harness(usual)
    most = max(10, usual)
    # A run that still reaches new nodes makes progress.
    loop(harness, 2 * most + 5, cycle=2 * most - 1)
    assert firing(harness) == [("unusual_loop", PLACE)]
    loop(harness, 2 * most + 6, cycle=2 * most)
    assert ("runaway", PLACE) in firing(harness)
    assert harness.sent[-1][3].summary == (
        f"web / shop / pay: one run has visited it {2 * most + 6} times, usually at"
        f" most {most}, and reached no new node for the last {2 * most}: pid 7 on box,"
        " run r1"
    )


def test_a_loop_states_what_the_visits_beyond_the_usual_cost() -> None:
    harness = learned_harness(2)
    harness.ran(50, seconds=0.4)
    for metric, value in (
        ("llm_cost_usd", 1.0),
        ("llm_input_tokens", 40_000.0),
        ("llm_output_tokens", 10_000.0),
    ):
        key = SeriesKey(Kind.COUNT, "web", "shop", "pay", metric, (("model", "m"),))
        harness.source.add_values(key, harness.now, [value])
    loop(harness, 40)

    assert harness.sent[-1][3].summary.endswith(
        "usually at most 10: pid 7 on box, run r1; the 30 visits beyond that took about"
        " 12s, 30,000 tokens and $0.60"
    )


def test_a_loop_that_ended_does_not_become_usual_at_once() -> None:
    harness = learned_harness(2)
    harness.end_looping_run("pay", 1000)
    harness.wait(30)
    assert ("runaway", PLACE) in firing(harness)
    harness.wait(1200, 30)
    assert firing(harness) == []
    loop(harness, 200)
    assert ("runaway", PLACE) in firing(harness)


def test_the_usual_visits_survive_a_restart() -> None:
    harness = learned_harness(40)
    harness.source._longest.clear()
    harness.restart(60, clean=False)
    loop(harness, 40)
    assert firing(harness) == []
    loop(harness, 121)
    assert ("runaway", PLACE) in firing(harness)


def test_a_loop_of_several_nodes_is_one_alert() -> None:
    harness = learned_harness(2)

    def circle(visits: int) -> None:
        """Let three nodes take turns: each is sometimes one visit ahead."""
        for number in range(3):
            loops = tuple(
                NodeRevisits("shop", node, visits + (n <= number), "r1", visits)
                for n, node in enumerate(("draft", "pay", "review"))
            )
            harness.process(7, loops=loops)
            harness.wait(10)

    for node in ("draft", "review"):
        harness.ran(40, node=node)
    for visits in range(200, 260, 10):
        circle(visits)
    rules = [rule for rule, _ in firing(harness)]
    assert sorted(rules) == ["runaway", "unusual_loop"]
    fired = [m.rule for _, to, _, m in harness.sent if to == "chat"]
    assert fired == ["runaway"]
    harness.process(7)
    harness.wait(300)
    assert firing(harness) == []
    assert len(harness.engine.alerts) == 2


def test_a_polling_loop_of_a_new_graph_is_not_reported() -> None:
    harness = built_in_harness()
    loop(harness, 100, cycle=98)
    assert firing(harness) == []
    loop(harness, 301)
    assert ("runaway", PLACE) in firing(harness)


def run_for_days(
    harness: AlertHarness, days: float, runs: Callable[[float], int]
) -> None:
    """Run a graph for some days, and evaluate every two hours."""
    for number in range(round(days * 144)):
        if count := runs(harness.now):
            end_runs(harness, count, NORMAL_END)
        if number % 12 == 0:
            harness.evaluate()
        harness.now += 600
        harness.mono += 600


def always(_: float) -> int:
    return 20


def in_the_daytime(now: float) -> int:
    """Return the runs of ten minutes: none at night and on Sundays."""
    hour, day = now // 3600 % 24, now // 86_400 % 7
    return 20 if 6 <= hour < 20 and day != SUNDAY else 0


SUNDAY = 3  # of the days since 1970-01-01, a Thursday


def test_a_graph_that_stops_in_the_daytime_is_silent() -> None:
    harness = built_in_harness()
    harness.process(7)
    run_for_days(harness, 8, in_the_daytime)
    while not in_the_daytime(harness.now - 7200):
        run_for_days(harness, 1 / 144, in_the_daytime)
    assert harness.sent == []
    harness.wait(3600, 60)

    assert firing(harness) == [("silent", {"service": "web", "graph": "shop"})]
    *_, message = harness.sent[0]
    assert message.summary.startswith("web / shop: no run for ")
    assert "are usual in this time" in message.summary
    end_runs(harness, 20, NORMAL_END)
    harness.wait(300, 20)
    assert firing(harness) == []


@pytest.mark.parametrize("state", [ClientState.ENDED, ClientState.DIED])
def test_a_graph_is_not_silent_after_an_orderly_end(state: ClientState) -> None:
    harness = built_in_harness()
    harness.process(7)
    run_for_days(harness, 26 / 24, always)
    harness.process(7, state)
    harness.wait(3600, 60)

    names = {rule for rule, _ in firing(harness)}
    assert names == ({"process_died", "silent"} if state is ClientState.DIED else set())
    assert {message.rule for *_, message in harness.sent} == names - {"silent"}


def test_a_steady_graph_is_judged_after_a_day() -> None:
    harness = built_in_harness()
    harness.process(7)
    run_for_days(harness, 26 / 24, always)
    harness.wait(3600, 60)

    assert firing(harness) == [("silent", {"service": "web", "graph": "shop"})]


def test_an_execution_that_does_not_end() -> None:
    harness = built_in_harness()
    harness.ran(50, seconds=2.0)
    started = InFlight("shop", "pay", harness.now, "r1")
    harness.process(7, in_flight=(started,))
    assert harness.wait(55) == []
    harness.wait(15)

    assert firing(harness) == [("stuck", PLACE)]
    assert harness.sent[0][3].summary == (
        "web / shop / pay: one execution has taken 1m 5s so far (limit 1m): 1m 3s"
        " longer than 99 % of executions; pid 7 on box, run r1"
    )


@pytest.mark.parametrize("outcome", [Outcome.FALLBACK, Outcome.SUPPRESSED, Outcome.OK])
def test_failures_that_are_hidden(outcome: Outcome) -> None:
    harness = built_in_harness()
    key = SeriesKey(Kind.NODE, "web", "shop", "pay")
    retries = 2 if outcome is Outcome.OK else 0
    for _ in range(12):
        harness.source.add_executions(
            key, harness.now, {outcome: 5}, attempts=1 + retries
        )
        harness.wait(10)

    assert firing(harness) == [("masked_failures", PLACE)]


def test_failures_state_what_their_attempts_cost() -> None:
    harness = built_in_harness()
    node = SeriesKey(Kind.NODE, "web", "shop", "pay")
    for _ in range(12):
        harness.source.add_executions(node, harness.now, {Outcome.OK: 5}, attempts=3)
        for metric, value in (
            ("llm_wasted_cost_usd", 0.1),
            ("llm_wasted_input_tokens", 800.0),
            ("llm_wasted_output_tokens", 200.0),
        ):
            labels = (("model", "m"),)
            key = SeriesKey(Kind.COUNT, "web", "shop", "pay", metric, labels)
            harness.source.add_values(key, harness.now, [value])
        harness.wait(10)

    (message,) = [m for _, to, _, m in harness.sent if to == "chat"]
    assert message.rule == "masked_failures"
    # It fires a minute after the 20th execution.
    assert message.cost == (
        "100 retries; 10,000 tokens and $1.00 for failed attempts in 30m"
    )


def test_money_for_failed_attempts() -> None:
    harness = built_in_harness()

    def spend(metric: str, value: float) -> None:
        labels = (("model", "gpt"),)
        key = SeriesKey(Kind.COUNT, "web", "shop", "pay", metric, labels)
        harness.source.add_values(key, harness.now, [value])

    spend("llm_calls", 40.0)
    spend("llm_cost_usd", 2.0)
    spend("llm_wasted_cost_usd", 0.5)
    spend("llm_wasted_input_tokens", 31_000.0)
    harness.wait(120)

    assert firing(harness) == [("wasted_spend", PLACE)]
    assert harness.sent[0][3].summary == (
        "web / shop / pay: $0.50 of $2.00 (31,000 tokens) was spent on failed attempts"
        " in 1h: 25.0 %, above 10.0 %"
    )


def spend_for_hours(
    harness: AlertHarness, hours: int, cost: float, *, step: int = 600
) -> None:
    """Let a graph run 24 times an hour in the daytime, each run for some dollars.

    Rules are evaluated once in each step, in seconds.
    """
    key = SeriesKey(Kind.COUNT, "web", "shop", "pay", "llm_cost_usd", ())
    runs = 24 * step // 3600
    for _ in range(hours * 3600 // step):
        if 6 <= harness.now // 3600 % 24 < 20:
            end_runs(harness, runs, NORMAL_END)
            harness.source.add_values(key, harness.now, [runs * cost])
        harness.wait(step, step)


def test_a_run_that_costs_twice_as_much_as_a_week_ago() -> None:
    harness = built_in_harness()
    spend_for_hours(harness, 7 * 24, 0.02, step=1800)
    spend_for_hours(harness, 4, 0.03)
    assert harness.sent == []
    spend_for_hours(harness, 2, 0.05)

    assert firing(harness) == [("cost_per_run", {"service": "web", "graph": "shop"})]
    assert harness.sent[0][3].summary == (
        "web / shop: a run costs $0.05 instead of $0.02 in the same hours a week ago;"
        " the runs of 1h cost $0.72 more"
    )
    spend_for_hours(harness, 2, 0.03)
    assert ("cost_per_run", "resolved") not in [
        (message.rule, kind) for _, _, kind, message in harness.sent
    ]
    spend_for_hours(harness, 2, 0.022)
    assert firing(harness) == []


def take_actions(harness: AlertHarness, hours: int, share: float) -> None:
    """Let a node take an action in a share of its executions; more often at night."""
    for _ in range(hours * 6):
        is_night = harness.now // 3600 % 24 < 6
        taken = round(20 * (share + 0.2 if is_night else share))
        harness.ran(20 - taken, action="approve")
        harness.ran(taken, action="revise")
        harness.wait(600, 600)


@pytest.mark.parametrize(("days", "fires"), [(3, True), (1, False)])
def test_the_share_of_an_action_that_changes(days: int, fires: bool) -> None:
    harness = built_in_harness()
    take_actions(harness, days * 24, 0.1)
    assert harness.sent == []
    take_actions(harness, 1, 0.9)

    # Without enough history, nothing is unusual.
    assert firing(harness) == ([("drift", PLACE)] if fires else [])
    if fires:
        assert harness.sent[0][3].summary.startswith(
            'web / shop / pay: returns "revise" in 90.0 % of '
        )
        assert " hours of the week before" in harness.sent[0][3].summary


def test_an_alert_on_latency_states_the_executions_and_the_slowest() -> None:
    harness = built_in_harness()
    harness.ran(32, seconds=5.5)
    harness.ran(1, seconds=30.0)
    harness.wait(90)

    assert firing(harness) == [("avg_execution_time_max", PLACE)]
    message = harness.sent[0][3]
    assert message.summary == (
        "web / shop / pay: executions take on average 6.24s, above 5s"
        " (33 executions in 5m, the slowest 30s)"
    )
    assert message.next_step and not message.note
    assert message.cost == "41s more than allowed in 5m"


@pytest.mark.parametrize(
    ("usual", "now", "earlier", "fires"),
    [
        (0.1, 0.35, 100, True),
        (0.1, 0.25, 100, False),
        (0.1, 0.35, 99, False),
        (0.01, 0.09, 100, False),
    ],
)
def test_a_node_that_is_slower_than_usual(
    usual: float, now: float, earlier: int, fires: bool
) -> None:
    harness = built_in_harness()
    harness.ran(earlier, seconds=usual, ago=1800)
    for _ in range(10):
        harness.ran(20, seconds=now)
        harness.wait(10)

    assert firing(harness) == ([("slow", PLACE)] if fires else [])
    if fires:
        assert harness.sent[0][3].summary == (
            "web / shop / pay: executions take 350ms on average instead of 100ms"
            " earlier in the last 24 hours (140 in 5m)"
        )


def test_a_new_node_is_compared_with_the_hour_before() -> None:
    harness = built_in_harness()
    harness.now += 1200
    harness.ran(100, seconds=0.1, ago=900)
    for _ in range(10):
        harness.ran(20, seconds=0.5)
        harness.wait(10)

    assert firing(harness) == [("slow", PLACE)]
    assert (
        " on average instead of 100ms earlier in the last hour ("
        in harness.sent[0][3].summary
    )


def run_at_night(harness: AlertHarness, hours: float, seconds: float) -> None:
    """Let a node run for hours; from 02:00 to 03:00, it always takes two seconds."""
    for _ in range(round(hours * 6)):
        is_night = harness.now // 3600 % 24 == 2
        harness.ran(30, seconds=2.0 if is_night else seconds)
        harness.wait(600, 300)


def test_a_node_that_is_slow_every_night_is_not_slow_but_one_at_noon_is() -> None:
    harness = built_in_harness()
    # The first night is compared with the day before; every other night is usual.
    run_at_night(harness, 30, 0.2)
    first = [message.rule for *_, message in harness.sent]
    harness.sent.clear()
    run_at_night(harness, 24, 0.2)
    assert (set(first), harness.sent) == ({"slow"}, [])
    run_at_night(harness, 0.5, 1.0)

    assert firing(harness) == [("slow", PLACE)]
    summary = harness.sent[0][3].summary
    assert "1s on average instead of 200ms in the same hours of yesterday (" in summary


def test_what_took_long_for_months_is_forgotten_in_a_day() -> None:
    harness = built_in_harness()
    run_at_night(harness, 30, 5.0 / 3.0)
    run_at_night(harness, 26, 0.2)
    harness.sent.clear()
    run_at_night(harness, 1, 1.0)

    assert ("slow", PLACE) in firing(harness)


@pytest.mark.parametrize(
    ("calls_model", "earlier", "now", "limit"),
    [
        (True, 100, 15.0, None),
        (True, 100, 17.0, 16.0),
        (True, 0, 8.0, 5.0),
        (False, 100, 8.0, 5.0),
    ],
)
def test_a_model_may_take_twice_as_long_as_usual(
    calls_model: bool, earlier: int, now: float, limit: float | None
) -> None:
    harness = built_in_harness()
    if earlier:
        harness.ran(earlier, seconds=8.0, ago=1800)
    for _ in range(10):
        harness.ran(20, seconds=now)
        if calls_model:
            labels = (("model", "m"),)
            key = SeriesKey(Kind.COUNT, "web", "shop", "pay", "llm_calls", labels)
            harness.source.add_values(key, harness.now, [20.0])
        harness.wait(10)

    assert firing(harness) == ([("avg_execution_time_max", PLACE)] if limit else [])
    if limit:
        message = harness.sent[0][3]
        assert (message.threshold, message.clear) == (limit, 0.9 * limit)
        # The message is sent after a minute.
        excess = duration(140 * (now - limit))
        assert message.cost == f"{excess} more than allowed in 5m"


def test_an_hour_of_healthy_operation_is_silent() -> None:
    harness = built_in_harness()
    harness.process(7)
    for _ in range(60):
        harness.ran(30, 1, seconds=0.5)
        end_runs(harness, 30, NORMAL_END)
        harness.wait(60, 20)

    assert harness.sent == []


def test_these_rules_state_their_value_in_words() -> None:
    in_words = {
        name
        for name, rule in load({}).rules.items()
        if isinstance(rule.condition, Threshold) and not states_value(rule.condition)
    }
    assert in_words == {
        *("cost_per_run", "dead_end", "drift", "process_died", "runaway", "silent"),
        *("slow", "unusual_loop"),
    }
