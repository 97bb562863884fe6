"""The engine turns executions into notifications, including edge cases."""

from __future__ import annotations

import datetime as dt
import math
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.rules.harness import AlertHarness, rule

from kaywatch_agent.model.records import (
    FailureRecord,
    InFlight,
    NodeRevisits,
    ProcessSample,
)
from kaywatch_agent.model.series import ClientState, Kind
from kaywatch_agent.rules.built_in import BUILT_IN
from kaywatch_agent.rules.engine import Engine
from kaywatch_agent.rules.load import load
from kaywatch_agent.rules.matchers import parse
from kaywatch_agent.rules.silence import Silence
from kaywatch_agent.rules.state import AlertState

REFUSED = "alerts_refused_max"
OFF = dict.fromkeys(BUILT_IN, False)
FIRING = [("chat", "firing"), ("pager", "firing")]
RESOLVED = [("chat", "resolved"), ("pager", "resolved")]


def test_from_the_first_failure_to_the_last_message() -> None:
    harness = AlertHarness(rule(**{"for": "30s", "keep_firing_for": "20s"}))
    harness.ran(100, 20)
    assert harness.wait(25) == []
    assert harness.only.lifecycle.state is AlertState.PENDING
    assert harness.wait(15) == FIRING
    alert = harness.sent[0][3]
    assert (alert.value, alert.threshold, alert.executions, alert.errors) == (
        0.8,
        0.9,
        100,
        20,
    )
    assert alert.summary == (
        "web / shop / pay: success rate 80.0 %, below 90.0 % (20 of 100 failed in 1m)"
    )
    assert alert.labels == {"service": "web", "graph": "shop", "node": "pay"}
    harness.ran(400)
    assert harness.wait(10) == []
    assert harness.wait(30) == RESOLVED
    assert harness.sent[-1][3].reason == "cleared"


def test_too_few_executions_say_nothing() -> None:
    harness = AlertHarness(rule())
    harness.ran(9, 9)
    assert harness.wait(60) == []
    assert harness.engine.alerts == []


def test_traffic_that_stops_during_an_outage_does_not_resolve_it() -> None:
    harness = AlertHarness(rule())
    harness.ran(100, 50)
    assert harness.wait(5) == FIRING
    assert harness.wait(300) == []  # the window is empty, nothing is known
    assert harness.only.lifecycle.state is AlertState.FIRING
    assert harness.wait(600, 10) == RESOLVED  # no_data_after has been observed
    assert harness.sent[-1][3].reason == "no_data"


def test_a_value_in_the_band_changes_nothing() -> None:
    harness = AlertHarness(rule(clear=0.95))
    harness.ran(100, 8)
    assert harness.wait(60) == []
    harness.ran(100, 30)
    assert harness.wait(5) == FIRING
    harness.ran(1000, 62)  # 92 %
    harness.now += 60
    harness.ran(100, 8)
    assert harness.wait(20) == []
    harness.ran(200, 1)
    assert harness.wait(5) == RESOLVED


def test_exactly_the_value_is_no_breach() -> None:
    harness = AlertHarness(rule())
    harness.ran(10, 1)
    assert harness.wait(10) == []


def test_cooldown_defers_and_never_drops() -> None:
    harness = AlertHarness(rule(cooldown="5m", notify=["chat"]))
    harness.ran(100, 50)
    assert harness.wait(5) == [("chat", "firing")]
    harness.ran(900)
    assert harness.wait(5) == [("chat", "resolved")]
    harness.wait(65)
    harness.ran(100, 50)
    assert harness.wait(5) == []
    assert "cooldown" in str(harness.only.suppressions["chat"])
    for _ in range(3):
        harness.ran(100, 50)
        assert harness.wait(60) == []
    harness.ran(100, 50)
    assert harness.wait(60) == [("chat", "firing")]


def test_an_alert_that_ends_within_the_cooldown_is_never_notified() -> None:
    harness = AlertHarness(rule(cooldown="5m", notify=["chat"]))
    harness.ran(100, 50)
    harness.wait(5)
    harness.ran(900)
    harness.wait(70)
    notifications = len(harness.sent)
    harness.ran(100, 50)
    harness.wait(5)
    harness.ran(900)
    harness.wait(400)
    assert len(harness.sent) == notifications


@pytest.mark.parametrize("clean", [True, False])
def test_restart_in_mid_cooldown(clean: bool) -> None:
    harness = AlertHarness(rule(cooldown="10m", notify=["chat"]))
    harness.ran(100, 50)
    harness.wait(5)
    harness.ran(900)
    harness.wait(70)
    harness.ran(100, 50)
    harness.wait(5)
    harness.restart(down=120, clean=clean)  # downtime counts
    harness.ran(100, 50)
    assert harness.wait(60) == []
    told_at = harness.sent[0][0]
    while harness.now - told_at < 620:
        harness.ran(100, 50)
        harness.wait(5)
    assert [kind for _, _, kind, _ in harness.sent] == ["firing", "resolved", "firing"]
    assert 600 <= harness.sent[-1][0] - told_at <= 610


def test_restart_while_pending_keeps_the_pending_time() -> None:
    harness = AlertHarness(rule(**{"for": "60s", "window": "5m"}))
    harness.ran(100, 50)
    harness.wait(40)
    harness.restart(down=30)
    assert harness.wait(20) == []  # downtime is not observed time
    assert harness.wait(10) == FIRING


def test_restart_while_firing_notifies_once() -> None:
    harness = AlertHarness(rule(window="10m"))
    harness.ran(100, 50)
    assert harness.wait(5) == FIRING
    harness.restart(down=60, clean=False)
    assert harness.wait(120) == []
    harness.ran(2000)
    assert harness.wait(5) == RESOLVED


def test_an_alert_that_cleared_during_a_downtime_is_resolved_once() -> None:
    harness = AlertHarness(rule())
    harness.ran(100, 50)
    harness.wait(5)
    harness.restart(down=120)
    harness.ran(100)
    assert harness.wait(30) == RESOLVED


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0, 1_800.0])
def test_a_wall_clock_that_jumps_fires_nothing_and_freezes_nothing(jump: float) -> None:
    harness = AlertHarness(rule(cooldown="5m", notify=["chat"], **{"for": "60s"}))
    harness.ran(100, 50)
    harness.wait(30)
    harness.now += jump
    harness.ran(100, 50)
    assert harness.wait(5) == []  # still pending, by observed time
    for _ in range(6):
        harness.ran(100, 50)
        harness.wait(10)
    assert [kind for _, _, kind, _ in harness.sent] == ["firing"]


def test_an_alert_without_a_fingerprint_of_its_rule_keeps_its_state() -> None:
    harness = AlertHarness(rule(keep_firing_for="1m"))
    harness.ran(100, 50)
    harness.evaluate()
    harness.wait(70)
    harness.ran(100, 0)
    harness.wait(10)
    assert harness.only.lifecycle.state is AlertState.RECOVERING
    harness.only.rule_fingerprint = ""  # stored by a version with other fingerprints
    harness.wait(5)

    assert harness.only.lifecycle.state is AlertState.RECOVERING
    assert harness.only.rule_fingerprint
    harness.ran(100, 0)
    harness.wait(60)
    assert harness.only.lifecycle.reason == "cleared"


def test_a_suspended_machine_observed_nothing() -> None:
    harness = AlertHarness(rule(**{"for": "5m"}))
    harness.ran(100, 50)
    harness.wait(10)
    harness.now += 1800
    harness.mono += 1800
    harness.ran(100, 50)
    harness.evaluate()
    assert harness.only.lifecycle.state is AlertState.PENDING
    assert harness.only.lifecycle.progress < 60


@pytest.mark.parametrize(
    ("change", "expected", "reason"),
    [
        ({"summary": "new words", "cooldown": "1h"}, [], ""),
        ({"for": "1h"}, [], ""),  # never demoted
        ({"value": 0.8}, [], ""),  # still met
        ({"value": 0.2}, RESOLVED, "rule_changed"),
        ({"per": ["graph"]}, [*RESOLVED, *FIRING], "rule_changed"),
        ({"enabled": False}, RESOLVED, "rule_removed"),
        ({"name": "other"}, [*FIRING, *RESOLVED], "rule_removed"),
        ({"notify": ["pager"]}, [], ""),
    ],
)
def test_a_rule_edited_while_it_fires(
    change: dict[str, Any], expected: list[tuple[str, str]], reason: str
) -> None:
    harness = AlertHarness(rule(window="10m"))
    harness.ran(100, 50)
    assert harness.wait(5) == FIRING
    harness.reload({**rule(window="10m"), **change})
    notifications = harness.wait(10)
    assert sorted(notifications) == sorted(expected)
    ended = [alert.reason for _, _, kind, alert in harness.sent if kind == "resolved"]
    assert ended == [reason] * len(ended)


def test_a_receiver_that_is_no_longer_named_hears_of_the_end() -> None:
    harness = AlertHarness(rule(window="10m"))
    harness.ran(100, 50)
    harness.wait(5)
    harness.reload(rule(window="10m", notify=["pager"]))
    harness.ran(3000)
    assert sorted(harness.wait(10)) == RESOLVED


def test_a_receiver_that_is_named_meanwhile_gets_it_once() -> None:
    harness = AlertHarness(rule(window="10m", notify=["chat"]))
    harness.ran(100, 50)
    assert harness.wait(5) == [("chat", "firing")]
    harness.reload(rule(window="10m"))
    assert harness.wait(30) == [("pager", "firing")]


def test_a_firing_alert_is_notified_again_after_the_repeat_interval() -> None:
    harness = AlertHarness(rule(window="1h", repeat_interval="10m", notify=["chat"]))
    harness.ran(1000, 500)
    harness.wait(5)
    assert harness.wait(590, 10) == []
    assert harness.wait(20, 10) == [("chat", "repeat")]
    assert harness.wait(300, 10) == []


def test_a_flapping_alert_is_notified_less_often() -> None:
    harness = AlertHarness(rule(cooldown="1m", window="10s", notify=["chat"]))
    for _ in range(40):
        harness.ran(100, 50)
        harness.wait(20, 10)
        harness.ran(100)
        harness.wait(20, 10)
    fired = [at for at, _, kind, _ in harness.sent if kind == "firing"]
    gaps = [b - a for a, b in pairwise(fired)]
    assert harness.only.lifecycle.episode == 40
    assert gaps == sorted(gaps)
    assert len(fired) < 5
    assert harness.sent[-1][3].flapping


def silence(harness: AlertHarness, text: str, start: float, end: float) -> None:
    at = [dt.datetime.fromtimestamp(harness.now + s, dt.UTC) for s in (start, end)]
    result = Silence(
        id="s1",
        matchers=(parse(text),),
        starts_at=at[0],
        ends_at=at[1],
        created_by="ann",
        comment="works",
    )
    harness.engine.silences.put(result)


def test_a_silence_that_ends_while_it_fires() -> None:
    harness = AlertHarness(rule(window="10m"))
    silence(harness, 'node="pay"', 0, 60)
    harness.ran(100, 50)
    assert harness.wait(50) == []
    assert str(harness.only.suppressions["chat"]) == "silenced: by ann: works"
    assert harness.last.suppressed == {}
    assert harness.wait(20) == FIRING


def test_a_silence_of_the_configuration() -> None:
    at = dt.datetime.fromtimestamp(AlertHarness().now, dt.UTC)
    harness = AlertHarness(
        rule(window="10m"),
        silence=[
            {
                "match": ['node="pay"'],
                "starts": at,
                "ends": at + dt.timedelta(seconds=60),
                "comment": "works",
            }
        ],
    )
    harness.ran(100, 50)
    assert harness.wait(50) == []
    assert (
        str(harness.only.suppressions["chat"])
        == "silenced: by the configuration: works"
    )
    assert harness.wait(20) == FIRING


def test_a_silence_after_the_trigger_does_not_hide_the_end() -> None:
    harness = AlertHarness(rule())
    harness.ran(100, 50)
    harness.wait(5)
    silence(harness, 'alertname="success"', 0, 3600)
    harness.ran(900)
    assert harness.wait(5) == RESOLVED


def test_a_silence_covers_only_matching_alerts() -> None:
    harness = AlertHarness(rule())
    silence(harness, 'node="pay"', 0, 3600)
    harness.ran(100, 50)
    harness.ran(100, 50, node="ship")
    assert harness.wait(5) == FIRING
    assert harness.sent[0][3].labels["node"] == "ship"


def test_an_alert_keeps_others_quiet_while_it_fires() -> None:
    harness = AlertHarness(
        rule(name="worse", value=0.5, severity="critical"),
        rule(name="bad"),
        inhibit=[
            {
                "source": ['severity="critical"'],
                "target": ['severity="warning"'],
                "equal": ["graph", "node"],
            }
        ],
    )
    harness.ran(100, 80)
    harness.ran(100, 30, node="ship")
    notifications = {
        (r, a.rule, a.labels["node"])
        for _, r, _, a in (harness.wait(5), harness)[1].sent
    }
    assert notifications == {
        (receiver, name, node)
        for receiver in ("chat", "pager")
        for name, node in (("worse", "pay"), ("bad", "ship"))
    }


def test_the_page_s_two_thresholds_for_errors_are_one_message() -> None:
    harness = AlertHarness(alerting={})
    harness.ran(100, 50)
    harness.wait(120)
    assert {alert.rule for *_, alert in harness.sent} == {"success_rate_min"}


def test_severity_filters_new_alerts() -> None:
    harness = AlertHarness(rule(severity="warning"), min_severity={"pager": "error"})
    harness.ran(100, 50)
    assert harness.wait(5) == [("chat", "firing")]
    assert "below min_severity error" in str(harness.only.suppressions["pager"])


def test_a_storm_keeps_old_alerts_and_reports_the_excess() -> None:
    harness = AlertHarness(
        rule(), alerting={"max_alerts_per_rule": 3, "thresholds": {}}
    )
    harness.ran(100, 50, node="first")
    harness.wait(5)
    for n in range(10):
        harness.ran(100, 50, node=f"n{n}")
    harness.wait(5)
    assert harness.last.refused["success"] == 8
    assert len([i for i in harness.engine.alerts if i.rule == "success"]) == 3
    keys = {i.key for i in harness.engine.alerts}
    assert ("success", ("web", "shop", "first")) in keys


def test_alerts_that_are_too_many_are_an_alert_themselves() -> None:
    many = {"max_alerts_per_rule": 3, "thresholds": {**OFF, REFUSED: 0}}
    harness = AlertHarness(
        rule(), rule(name="other", match=['node!="n4"']), alerting=many
    )
    for n in range(5):
        harness.ran(100, 50, node=f"n{n}")
    harness.wait(5)
    assert {i.rule for i in harness.engine.alerts} == {"success", "other"}
    harness.wait(5)
    refused = [i for i in harness.engine.alerts if i.rule == REFUSED]
    assert [(i.labels, i.value) for i in refused] == [
        ({"rule": "success"}, 2.0),
        ({"rule": "other"}, 1.0),
    ]
    notifications = [alert for *_, alert in harness.sent if alert.rule == REFUSED]
    assert notifications[0].summary == (
        "success: 2 alerts were refused: the rule has reached max_alerts_per_rule"
    )
    stored = {i.key for i in harness.engine.alerts}

    # One rule is taken away, the other one's alerts end by themselves.
    harness.restart()
    harness.wait(10)
    harness.reload(rule(), alerting=many)
    for n in range(5):
        harness.ran(1_000, node=f"n{n}")
    harness.wait(400)
    assert stored == {i.key for i in harness.engine.alerts}
    ended = [i.lifecycle for i in harness.engine.alerts if i.rule == REFUSED]
    assert [(life.state, life.reason) for life in ended] == [
        (AlertState.OK, "cleared")
    ] * 2
    kinds = [kind for *_, kind, alert in harness.sent if alert.rule == REFUSED]
    assert kinds.count("firing") == kinds.count("resolved") == 4  # two receivers


moves = st.lists(
    st.sampled_from(["good", "bad", "mixed", "nothing", "gap"]), min_size=1, max_size=40
)


def run_moves(harness: AlertHarness, moves: list[str], restart_at: int = -1) -> None:
    """Let things happen, 5 s each, with a restart after one of them."""
    for number, move in enumerate(moves):
        match move:
            case "good":
                harness.ran(300)
            case "bad":
                harness.ran(300, 200)
            case "mixed":
                harness.ran(300, 25)
            case "gap":
                harness.wait(60)
        harness.wait(5)
        if number == restart_at:
            harness.restart()


@settings(max_examples=100, deadline=None)
@given(moves, st.integers(0, 39), st.sampled_from(["0", "10s"]))
def test_a_restart_at_any_point_changes_no_message(
    moves: list[str], restart_at: int, hold: str
) -> None:
    rules = rule(window="20s", cooldown="30s", clear=0.92, **{"for": hold})
    whole, cut = AlertHarness(rules), AlertHarness(rules)
    run_moves(whole, moves)
    run_moves(cut, moves, restart_at)

    assert [(t, r, k) for t, r, k, _ in cut.sent] == [
        (t, r, k) for t, r, k, _ in whole.sent
    ]


@settings(max_examples=150, deadline=None)
@given(moves, st.integers(0, 39), st.booleans())
def test_resolved_is_sent_to_exactly_the_receivers_notified_of_firing(
    moves: list[str], restart_at: int, clean: bool
) -> None:
    harness = AlertHarness(rule(window="20s", cooldown="60s", notify=["chat"]))
    run_moves(harness, moves[:restart_at])
    harness.restart(down=30, clean=clean)
    run_moves(harness, moves[restart_at:])

    kinds = [kind for _, _, kind, _ in harness.sent]
    assert kinds[::2] == ["firing"] * len(kinds[::2])
    assert kinds[1::2] == ["resolved"] * len(kinds[1::2])
    fired = [at for at, _, kind, _ in harness.sent if kind == "firing"]
    assert all(b - a >= 60 for a, b in pairwise(fired))


# -- kinds ---------------------------------------------------------------------------


def test_absence() -> None:
    harness = AlertHarness(
        {
            "name": "gone",
            "kind": "absence",
            "max_age": "10m",
            "per": ["graph"],
            "for": "0",
            "keep_firing_for": "0",
            "expect": [{"graph": "nightly"}],
            "forget_after": "2h",
        }
    )
    harness.source.started = harness.now
    harness.ran(1)
    assert harness.wait(590, 10) == []  # early: it may not have had the time
    assert sorted(harness.wait(30, 10)) == sorted(FIRING * 2)
    assert {a.labels["graph"] for *_, a in harness.sent} == {"shop", "nightly"}
    harness.ran(1)
    assert harness.wait(10) == RESOLVED
    assert harness.sent[-1][3].summary.startswith("shop: no execution for 5s")
    harness.wait(3 * 3600, 60)
    shop = [(k, a.reason) for _, _, k, a in harness.sent if a.labels["graph"] == "shop"]
    assert shop[-1] == ("resolved", "forgotten")


def test_a_burn_rate_needs_both_windows() -> None:
    harness = AlertHarness(
        {
            "name": "slo",
            "kind": "burn_rate",
            "objective": 0.99,
            "per": ["graph"],
            "for": "0",
            "keep_firing_for": "0",
            "tiers": [{"factor": 10, "long": "1h", "short": "5m"}],
        }
    )
    harness.ran(1000, 300, ago=1800)
    harness.ran(1000)
    assert harness.wait(10) == []
    harness.ran(500, 200)
    assert harness.wait(10) == FIRING
    assert harness.sent[0][3].rule == "slo-1h"
    assert "times as fast as allowed" in harness.sent[0][3].summary
    # 500 of 2,500 failed, where 25 may.
    note = "all of the error budget of 30d was used up when it fired"
    assert note in harness.sent[0][3].note
    harness.wait(310, 10)
    harness.ran(100)
    assert harness.wait(60, 10) == RESOLVED


@pytest.mark.parametrize(
    ("objective", "factor", "bad"), [(0.9, 6, 600), (0.7, 2, 600), (0.97, 3, 90)]
)
def test_a_burn_rate_is_compared_without_noise(
    objective: float, factor: float, bad: int
) -> None:
    harness = AlertHarness(
        {
            "name": "slo",
            "kind": "burn_rate",
            "objective": objective,
            "per": ["graph"],
            "for": "0",
            "tiers": [{"factor": factor, "long": "1h", "short": "5m"}],
        }
    )
    harness.ran(1000, bad)
    assert harness.wait(10) == []  # exactly as fast as the factor allows
    harness.ran(10, 10)
    assert harness.wait(10) == FIRING


def test_the_share_of_an_action_that_leaves_its_band() -> None:
    harness = AlertHarness(
        {
            "name": "loops",
            "kind": "transition_share",
            "action": "retry",
            "above": 0.3,
            "for": "0",
            "keep_firing_for": "0",
            "window": "1m",
        }
    )
    harness.ran(80, action="done")
    harness.ran(20, action="retry")
    assert harness.wait(5) == []
    harness.ran(50, action="retry")
    assert harness.wait(5) == FIRING
    assert harness.only.labels == {
        "service": "web", "graph": "shop", "node": "pay", "action": "retry"
    }  # fmt: skip


@pytest.mark.parametrize("change", ["new", "vanished"])
def test_an_action_that_is_new_or_gone(change: str) -> None:
    harness = AlertHarness(
        {
            "name": "edges",
            "kind": "transition_share",
            "change": change,
            "for": "0",
            "keep_firing_for": "0",
            "window": "5m",
        }
    )
    harness.ran(500, action="done", ago=1800)
    harness.ran(100, action="rare", ago=1800)
    harness.ran(100, action="done")
    if change == "vanished":
        assert harness.wait(10) == FIRING
        assert harness.only.labels["action"] == "rare"
        harness.ran(10, action="rare")
        assert harness.wait(10) == RESOLVED
    else:
        harness.ran(20, action="rare")
        assert harness.wait(10) == []
        harness.ran(1, action="odd")
        assert harness.wait(10) == FIRING
        assert harness.only.labels["action"] == "odd"


def test_a_node_that_is_at_work_for_too_long() -> None:
    harness = AlertHarness(
        {
            "name": "hangs",
            "kind": "stuck",
            "factor": 10,
            "at_least": "5s",
            "for": "0",
            "keep_firing_for": "0",
        }
    )
    harness.ran(100, seconds=2.0)
    harness.process(7, in_flight=(InFlight("shop", "pay", harness.now, "r1"),))
    assert harness.wait(15) == []
    assert harness.wait(10) == FIRING
    assert harness.only.note == (
        "23s longer than 99 % of executions; pid 7 on box, run r1"
    )
    assert harness.only.threshold == pytest.approx(20.0, rel=0.02)
    harness.process(7, in_flight=())
    assert harness.wait(5) == RESOLVED
    assert harness.only.threshold == pytest.approx(20.0, rel=0.02)


def test_every_node_in_flight_is_compared_with_its_own_past() -> None:
    harness = AlertHarness(
        {"name": "hangs", "kind": "stuck", "factor": 10, "at_least": "1s", "for": "0"}
    )
    seconds = {f"n{number}": 0.2 + number / 1_000 for number in range(600)}
    for node, usual in seconds.items():
        harness.ran(20, node=node, seconds=usual)
    several = dict(list(seconds.items())[::2])
    started = harness.now
    harness.process(7, in_flight=[InFlight("shop", n, started, "r") for n in several])
    harness.wait(5)
    result = harness.engine.last_result("hangs")
    nodes = [node for *_, node in result.groups]
    limits = dict(zip(nodes, result.threshold.tolist(), strict=True))

    for node in several:
        assert limits[node] == pytest.approx(10 * seconds[node], rel=0.02)
    assert all(math.isnan(limits[node]) for node in seconds.keys() - several.keys())
    stuck = {alert.labels["node"] for alert in harness.engine.alerts}
    assert stuck == {node for node in several if limits[node] < harness.now - started}
    assert 0 < len(stuck) < len(several)


def test_a_run_that_loops() -> None:
    harness = AlertHarness(
        {
            "name": "loops",
            "kind": "runaway",
            "max_visits": 50,
            "cooldown": "0",
            "per": ["graph"],
            "window": "1m",
            "for": "0",
            "keep_firing_for": "0",
        }
    )
    harness.run_ended(30)
    harness.process(7, in_flight=(InFlight("shop", "pay", harness.now, "r1", 50),))
    assert harness.wait(10) == []
    harness.process(7, in_flight=(InFlight("shop", "pay", harness.now, "r1", 51),))
    assert harness.wait(5) == FIRING
    assert harness.sent[0][3].summary == (
        "shop: one run has visited nodes 51 times, above 50: pid 7 on box, run r1"
    )
    harness.process(7)
    assert harness.wait(5) == RESOLVED
    harness.run_ended(60)
    assert harness.wait(5) == FIRING
    assert harness.wait(90) == RESOLVED


def test_a_loop_between_two_nodes_is_reported_by_node_while_it_runs() -> None:
    harness = AlertHarness(
        {
            "name": "loops",
            "kind": "runaway",
            "max_node_visits": 20,
            "cooldown": "0",
            "window": "1m",
            "for": "0",
            "keep_firing_for": "0",
        }
    )
    harness.ran(10, node="decide")
    harness.ran(10, node="search")
    harness.end_looping_run("decide", 20)
    spinning = (
        NodeRevisits("shop", "", 41, "r1"),
        NodeRevisits("shop", "search", 20, "r1"),
    )
    harness.process(7, loops=spinning)
    assert harness.wait(10) == []
    spinning = (*spinning, NodeRevisits("shop", "decide", 21, "r1"))
    harness.process(7, loops=spinning)
    assert harness.wait(5) == FIRING
    notifications = harness.sent[0][3]
    place = {"service": "web", "graph": "shop", "node": "decide"}
    assert notifications.labels == place
    assert notifications.summary == (
        "web / shop / decide: one run has visited it 21 times, above 20:"
        " pid 7 on box, run r1"
    )
    assert notifications.history == ()
    harness.process(7, ClientState.DIED, loops=spinning)
    assert harness.wait(5) == RESOLVED
    harness.end_looping_run("search", 30)
    assert harness.wait(5) == FIRING
    assert harness.sent[-1][3].labels["node"] == "search"
    assert harness.wait(90) == RESOLVED


def test_a_run_that_loops_too_fast_to_sample_is_reported() -> None:
    harness = AlertHarness(
        {"name": "loops", "kind": "runaway", "max_visits": 50, "for": "30s"}
    )
    harness.process(7, loops=(NodeRevisits("shop", "", 100_000, "r1"),))
    assert harness.wait(40) == FIRING
    assert harness.only.note == "pid 7 on box, run r1"


def test_a_process_that_died() -> None:
    harness = AlertHarness(
        {
            "name": "crash",
            "kind": "process_died",
            "per": ["service", "pid"],
            "window": "5m",
            "for": "0",
            "keep_firing_for": "0",
        }
    )
    harness.process(7)
    harness.process(8)
    assert harness.wait(10) == []
    harness.process(8, ClientState.DIED)
    assert harness.wait(5) == FIRING
    assert harness.only.labels == {"service": "web", "pid": "8"}
    # Nothing has taken its place.
    assert harness.wait(600) == []
    harness.process(9, first_seen=harness.now)
    assert harness.wait(10) == RESOLVED


def test_the_memory_of_a_process() -> None:
    harness = AlertHarness(alerting={})
    harness.process(7, sample=ProcessSample(rss_bytes=2 * 2**30, cpu_seconds=0.0))
    assert harness.wait(120) == FIRING
    assert "uses 2.0 GiB of memory, above 1.0 GiB" in harness.sent[0][3].summary
    harness.process(7, ClientState.ENDED)
    assert harness.wait(180) == RESOLVED


def test_custom_metrics_and_conditions() -> None:
    harness = AlertHarness(
        {
            "name": "queue",
            "when": "custom.queue.last > 10 and custom.wait.p95 > 2",
            "clear_when": "custom.queue.last < 5",
            "per": ["zone"],
            "window": "1m",
            "for": "0",
            "keep_firing_for": "0",
        }
    )
    harness.observe("queue", 11.0, zone="b")
    assert harness.wait(5) == []  # nothing is known of the waiting
    harness.observe("wait", *[3.0] * 10, kind=Kind.OBSERVE, zone="b")
    assert harness.wait(5) == FIRING
    harness.observe("queue", 7.0, zone="b")
    assert harness.wait(5) == []
    harness.observe("queue", 4.0, zone="b")
    assert harness.wait(5) == RESOLVED


def test_an_alert_carries_its_firing_context() -> None:
    harness = AlertHarness(rule(window="5m", per=["service", "graph", "node"]))
    for ago in (900.0, 600.0, 310.0):
        harness.ran(100, int(ago // 100), ago=ago, action="done")
    harness.source.failures = [
        FailureRecord(
            time=harness.now,
            service="web",
            graph="shop",
            node=node,
            type="Timeout",
            message="x" * 900,
            phase="exec",
            attempts=3,
            outcome="error",
            run="r",
            client="c",
        )
        for node in ("pay", "ship") * 4
    ]
    harness.ran(100, 50, action="again")
    harness.wait(5)
    alert = harness.sent[0][3]
    assert [round(value or 0, 2) for value in alert.history] == [0.91, 0.94, 0.97, 0.5]
    assert len(alert.evidence) == 4
    assert {(e.node, len(e.message)) for e in alert.evidence} == {("pay", 500)}
    assert alert.transition == "pay -> again: 100.0 %, usually 0.0 %"
    assert alert.completeness == 1.0


def test_a_stored_silence_that_cannot_be_used_stops_no_evaluation() -> None:
    silence = {
        "matchers": [{"name": "node", "value": "a(?=b)", "isRegex": True}],
        "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "2027-01-01T00:00:00Z",
    }
    good = {**silence, "matchers": [{"name": "node", "value": "a"}]}
    engine = Engine(load({}), min_severity={})

    engine.restore(
        {
            ("silence", "bad"): msgspec.json.encode(silence),
            ("silence", "good"): msgspec.json.encode(good),
            ("silence", "torn"): b"{",
        },
        0.0,
        0.0,
    )

    assert {*engine.silences.silences} == {"good"}
    assert {*engine.silences.unusable} == {"bad", "torn"}
    assert "look-around" in engine.silences.unusable["bad"]
