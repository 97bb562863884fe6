"""Alerts from executions to who is told; the edge cases by their names."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.rules.world import World, rule

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
    world = World(rule(**{"for": "30s", "keep_firing_for": "20s"}))
    world.ran(100, 20)
    assert world.wait(25) == []
    assert world.only.lifecycle.state is AlertState.PENDING
    assert world.wait(15) == FIRING
    alert = world.told[0][3]
    assert (alert.value, alert.threshold, alert.executions, alert.errors) == (
        0.8,
        0.9,
        100,
        20,
    )
    assert alert.summary == (
        "shop / pay: success rate 80.0 %, below 90.0 % (20 of 100 failed in 1m)"
    )
    assert alert.labels == {"graph": "shop", "node": "pay"}
    world.ran(400)
    assert world.wait(10) == []
    assert world.wait(30) == RESOLVED
    assert world.told[-1][3].reason == "cleared"


def test_too_few_executions_say_nothing() -> None:
    world = World(rule())
    world.ran(9, 9)
    assert world.wait(60) == []
    assert world.engine.alerts == []


def test_traffic_that_stops_during_an_outage_does_not_resolve_it() -> None:
    world = World(rule())
    world.ran(100, 50)
    assert world.wait(5) == FIRING
    assert world.wait(300) == []  # the window is empty, nothing is known
    assert world.only.lifecycle.state is AlertState.FIRING
    assert world.wait(600, 10) == RESOLVED  # no_data_after has been observed
    assert world.told[-1][3].reason == "no_data"


def test_a_value_in_the_band_changes_nothing() -> None:
    world = World(rule(clear=0.95))
    world.ran(100, 8)
    assert world.wait(60) == []
    world.ran(100, 30)
    assert world.wait(5) == FIRING
    world.ran(1000, 62)  # 92 %
    world.now += 60
    world.ran(100, 8)
    assert world.wait(20) == []
    world.ran(200, 1)
    assert world.wait(5) == RESOLVED


def test_exactly_the_value_is_no_breach() -> None:
    world = World(rule())
    world.ran(10, 1)
    assert world.wait(10) == []


def test_cooldown_defers_and_never_drops() -> None:
    world = World(rule(cooldown="5m", notify=["chat"]))
    world.ran(100, 50)
    assert world.wait(5) == [("chat", "firing")]
    world.ran(900)
    assert world.wait(5) == [("chat", "resolved")]
    world.wait(65)
    world.ran(100, 50)
    assert world.wait(5) == []
    assert "cooldown" in str(world.only.suppressions["chat"])
    for _ in range(3):
        world.ran(100, 50)
        assert world.wait(60) == []
    world.ran(100, 50)
    assert world.wait(60) == [("chat", "firing")]


def test_what_ends_within_the_cooldown_is_never_told() -> None:
    world = World(rule(cooldown="5m", notify=["chat"]))
    world.ran(100, 50)
    world.wait(5)
    world.ran(900)
    world.wait(70)
    told = len(world.told)
    world.ran(100, 50)
    world.wait(5)
    world.ran(900)
    world.wait(400)
    assert len(world.told) == told


@pytest.mark.parametrize("clean", [True, False])
def test_restart_in_mid_cooldown(clean: bool) -> None:
    world = World(rule(cooldown="10m", notify=["chat"]))
    world.ran(100, 50)
    world.wait(5)
    world.ran(900)
    world.wait(70)
    world.ran(100, 50)
    world.wait(5)
    world.restart(down=120, clean=clean)  # downtime counts
    world.ran(100, 50)
    assert world.wait(60) == []
    told_at = world.told[0][0]
    while world.now - told_at < 620:
        world.ran(100, 50)
        world.wait(5)
    assert [kind for _, _, kind, _ in world.told] == ["firing", "resolved", "firing"]
    assert 600 <= world.told[-1][0] - told_at <= 610


def test_restart_while_pending_keeps_what_was_observed() -> None:
    world = World(rule(**{"for": "60s", "window": "5m"}))
    world.ran(100, 50)
    world.wait(40)
    world.restart(down=30)
    assert world.wait(20) == []  # downtime is no time in which it was observed
    assert world.wait(10) == FIRING


def test_restart_while_firing_tells_nothing_twice() -> None:
    world = World(rule(window="10m"))
    world.ran(100, 50)
    assert world.wait(5) == FIRING
    world.restart(down=60, clean=False)
    assert world.wait(120) == []
    world.ran(2000)
    assert world.wait(5) == RESOLVED


def test_what_cleared_while_the_agent_was_down_is_told_once() -> None:
    world = World(rule())
    world.ran(100, 50)
    world.wait(5)
    world.restart(down=120)
    world.ran(100)
    assert world.wait(30) == RESOLVED


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0, 1_800.0])
def test_a_wall_clock_that_jumps_fires_nothing_and_freezes_nothing(jump: float) -> None:
    world = World(rule(cooldown="5m", notify=["chat"], **{"for": "60s"}))
    world.ran(100, 50)
    world.wait(30)
    world.now += jump
    world.ran(100, 50)
    assert world.wait(5) == []  # pending still, by what was observed
    for _ in range(6):
        world.ran(100, 50)
        world.wait(10)
    assert [kind for _, _, kind, _ in world.told] == ["firing"]


def test_a_suspended_machine_observed_nothing() -> None:
    world = World(rule(**{"for": "5m"}))
    world.ran(100, 50)
    world.wait(10)
    world.now += 1800
    world.mono += 1800
    world.ran(100, 50)
    world.evaluate()
    assert world.only.lifecycle.state is AlertState.PENDING
    assert world.only.lifecycle.progress < 60


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
    world = World(rule(window="10m"))
    world.ran(100, 50)
    assert world.wait(5) == FIRING
    world.reload({**rule(window="10m"), **change})
    told = world.wait(10)
    assert sorted(told) == sorted(expected)
    ended = [alert.reason for _, _, kind, alert in world.told if kind == "resolved"]
    assert ended == [reason] * len(ended)


def test_a_receiver_that_is_no_longer_named_hears_of_the_end() -> None:
    world = World(rule(window="10m"))
    world.ran(100, 50)
    world.wait(5)
    world.reload(rule(window="10m", notify=["pager"]))
    world.ran(3000)
    assert sorted(world.wait(10)) == RESOLVED


def test_a_receiver_that_is_named_meanwhile_gets_it_once() -> None:
    world = World(rule(window="10m", notify=["chat"]))
    world.ran(100, 50)
    assert world.wait(5) == [("chat", "firing")]
    world.reload(rule(window="10m"))
    assert world.wait(30) == [("pager", "firing")]


def test_what_goes_on_is_said_again_after_the_repeat_interval() -> None:
    world = World(rule(window="1h", repeat_interval="10m", notify=["chat"]))
    world.ran(1000, 500)
    world.wait(5)
    assert world.wait(590, 10) == []
    assert world.wait(20, 10) == [("chat", "repeat")]
    assert world.wait(300, 10) == []


def test_an_alert_that_flaps_is_told_less_often() -> None:
    world = World(rule(cooldown="1m", window="10s", notify=["chat"]))
    for _ in range(40):
        world.ran(100, 50)
        world.wait(20, 10)
        world.ran(100)
        world.wait(20, 10)
    fired = [at for at, _, kind, _ in world.told if kind == "firing"]
    gaps = [b - a for a, b in pairwise(fired)]
    assert world.only.lifecycle.episode == 40
    assert gaps == sorted(gaps)
    assert len(fired) < 5
    assert world.told[-1][3].flapping


def silence(world: World, text: str, start: float, end: float) -> None:
    at = [dt.datetime.fromtimestamp(world.now + s, dt.UTC) for s in (start, end)]
    found = Silence(
        id="s1",
        matchers=(parse(text),),
        starts_at=at[0],
        ends_at=at[1],
        created_by="ann",
        comment="works",
    )
    world.engine.silences.put(found)


def test_a_silence_that_ends_while_it_fires() -> None:
    world = World(rule(window="10m"))
    silence(world, 'node="pay"', 0, 60)
    world.ran(100, 50)
    assert world.wait(50) == []
    assert str(world.only.suppressions["chat"]) == "silenced: by ann: works"
    assert world.last.suppressed == {}
    assert world.wait(20) == FIRING


def test_a_silence_of_the_configuration() -> None:
    at = dt.datetime.fromtimestamp(World().now, dt.UTC)
    world = World(
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
    world.ran(100, 50)
    assert world.wait(50) == []
    assert (
        str(world.only.suppressions["chat"]) == "silenced: by the configuration: works"
    )
    assert world.wait(20) == FIRING


def test_a_silence_after_the_trigger_does_not_hide_the_end() -> None:
    world = World(rule())
    world.ran(100, 50)
    world.wait(5)
    silence(world, 'alertname="success"', 0, 3600)
    world.ran(900)
    assert world.wait(5) == RESOLVED


def test_a_silence_covers_only_what_it_matches() -> None:
    world = World(rule())
    silence(world, 'node="pay"', 0, 3600)
    world.ran(100, 50)
    world.ran(100, 50, node="ship")
    assert world.wait(5) == FIRING
    assert world.told[0][3].labels["node"] == "ship"


def test_an_alert_keeps_others_quiet_while_it_fires() -> None:
    world = World(
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
    world.ran(100, 80)
    world.ran(100, 30, node="ship")
    told = {
        (r, a.rule, a.labels["node"]) for _, r, _, a in (world.wait(5), world)[1].told
    }
    assert told == {
        (receiver, name, node)
        for receiver in ("chat", "pager")
        for name, node in (("worse", "pay"), ("bad", "ship"))
    }


def test_the_page_s_two_thresholds_for_errors_are_one_message() -> None:
    world = World(alerting={})
    world.ran(100, 50)
    world.wait(120)
    assert {alert.rule for *_, alert in world.told} == {"success_rate_min"}


def test_severity_filters_what_begins() -> None:
    world = World(rule(severity="warning"), least={"pager": "error"})
    world.ran(100, 50)
    assert world.wait(5) == [("chat", "firing")]
    assert "below min_severity error" in str(world.only.suppressions["pager"])


def test_a_storm_keeps_the_old_and_says_how_many_are_too_many() -> None:
    world = World(rule(), alerting={"max_alerts_per_rule": 3, "thresholds": {}})
    world.ran(100, 50, node="first")
    world.wait(5)
    for n in range(10):
        world.ran(100, 50, node=f"n{n}")
    world.wait(5)
    assert world.last.refused["success"] == 8
    assert len([i for i in world.engine.alerts if i.rule == "success"]) == 3
    assert ("success", ("shop", "first")) in {i.key for i in world.engine.alerts}


def test_alerts_that_are_too_many_are_an_alert_themselves() -> None:
    many = {"max_alerts_per_rule": 3, "thresholds": {**OFF, REFUSED: 0}}
    world = World(rule(), rule(name="other", match=['node!="n4"']), alerting=many)
    for n in range(5):
        world.ran(100, 50, node=f"n{n}")
    world.wait(5)
    assert {i.rule for i in world.engine.alerts} == {"success", "other"}
    world.wait(5)
    refused = [i for i in world.engine.alerts if i.rule == REFUSED]
    assert [(i.labels, i.value) for i in refused] == [
        ({"rule": "success"}, 2.0),
        ({"rule": "other"}, 1.0),
    ]
    told = [alert for *_, alert in world.told if alert.rule == REFUSED]
    assert told[0].summary == "success: alerts refused 2, above 0"
    kept = {i.key for i in world.engine.alerts}

    # One rule is taken away, the other one's alerts end by themselves.
    world.restart()
    world.wait(10)
    world.reload(rule(), alerting=many)
    for n in range(5):
        world.ran(1_000, node=f"n{n}")
    world.wait(400)
    assert kept == {i.key for i in world.engine.alerts}
    ended = [i.lifecycle for i in world.engine.alerts if i.rule == REFUSED]
    assert [(life.state, life.reason) for life in ended] == [
        (AlertState.OK, "cleared")
    ] * 2
    kinds = [kind for *_, kind, alert in world.told if alert.rule == REFUSED]
    assert kinds.count("firing") == kinds.count("resolved") == 4  # two receivers


moves = st.lists(
    st.sampled_from(["good", "bad", "mixed", "nothing", "gap"]), min_size=1, max_size=40
)


def play(world: World, moves: list[str], restart_at: int = -1) -> None:
    """Let things happen, 5 s each, with a restart after one of them."""
    for number, move in enumerate(moves):
        match move:
            case "good":
                world.ran(300)
            case "bad":
                world.ran(300, 200)
            case "mixed":
                world.ran(300, 25)
            case "gap":
                world.wait(60)
        world.wait(5)
        if number == restart_at:
            world.restart()


@settings(max_examples=150, deadline=None)
@given(moves, st.integers(0, 39), st.sampled_from(["0", "10s"]))
def test_a_restart_at_any_point_changes_no_message(
    moves: list[str], restart_at: int, hold: str
) -> None:
    rules = rule(window="20s", cooldown="30s", clear=0.92, **{"for": hold})
    whole, cut = World(rules), World(rules)
    play(whole, moves)
    play(cut, moves, restart_at)

    assert [(t, r, k) for t, r, k, _ in cut.told] == [
        (t, r, k) for t, r, k, _ in whole.told
    ]


@settings(max_examples=150, deadline=None)
@given(moves, st.integers(0, 39), st.booleans())
def test_who_was_told_that_it_fires_is_told_that_it_is_over_and_nobody_else(
    moves: list[str], restart_at: int, clean: bool
) -> None:
    world = World(rule(window="20s", cooldown="60s", notify=["chat"]))
    play(world, moves[:restart_at])
    world.restart(down=30, clean=clean)
    play(world, moves[restart_at:])

    kinds = [kind for _, _, kind, _ in world.told]
    assert kinds[::2] == ["firing"] * len(kinds[::2])
    assert kinds[1::2] == ["resolved"] * len(kinds[1::2])
    fired = [at for at, _, kind, _ in world.told if kind == "firing"]
    assert all(b - a >= 60 for a, b in pairwise(fired))


# -- kinds ---------------------------------------------------------------------------


def test_absence() -> None:
    world = World(
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
    world.lab.started = world.now
    world.ran(1)
    assert world.wait(590, 10) == []  # early: it may not have had the time
    assert sorted(world.wait(30, 10)) == sorted(FIRING * 2)
    assert {a.labels["graph"] for *_, a in world.told} == {"shop", "nightly"}
    world.ran(1)
    assert world.wait(10) == RESOLVED
    assert world.told[-1][3].summary.startswith("shop: no execution for 5s")
    world.wait(3 * 3600, 60)
    shop = [(k, a.reason) for _, _, k, a in world.told if a.labels["graph"] == "shop"]
    assert shop[-1] == ("resolved", "forgotten")


def test_a_burn_rate_needs_both_windows() -> None:
    world = World(
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
    world.ran(1000, 300, ago=1800)
    world.ran(1000)
    assert world.wait(10) == []
    world.ran(500, 200)
    assert world.wait(10) == FIRING
    assert world.told[0][3].rule == "slo-1h"
    assert "times as fast as allowed" in world.told[0][3].summary
    # 500 of 2,500 failed, where 25 may.
    note = "all of the error budget of 30d was used up when it fired"
    assert note in world.told[0][3].note
    world.wait(310, 10)
    world.ran(100)
    assert world.wait(60, 10) == RESOLVED


def test_the_share_of_an_action_that_leaves_its_band() -> None:
    world = World(
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
    world.ran(80, action="done")
    world.ran(20, action="retry")
    assert world.wait(5) == []
    world.ran(50, action="retry")
    assert world.wait(5) == FIRING
    assert world.only.labels == {"graph": "shop", "node": "pay", "action": "retry"}


@pytest.mark.parametrize("change", ["new", "vanished"])
def test_an_action_that_is_new_or_gone(change: str) -> None:
    world = World(
        {
            "name": "edges",
            "kind": "transition_share",
            "change": change,
            "for": "0",
            "keep_firing_for": "0",
            "window": "5m",
        }
    )
    world.ran(500, action="done", ago=1800)
    world.ran(100, action="rare", ago=1800)
    world.ran(100, action="done")
    if change == "vanished":
        assert world.wait(10) == FIRING
        assert world.only.labels["action"] == "rare"
        world.ran(10, action="rare")
        assert world.wait(10) == RESOLVED
    else:
        world.ran(20, action="rare")
        assert world.wait(10) == []
        world.ran(1, action="odd")
        assert world.wait(10) == FIRING
        assert world.only.labels["action"] == "odd"


def test_a_node_that_is_at_work_for_too_long() -> None:
    world = World(
        {
            "name": "hangs",
            "kind": "stuck",
            "factor": 10,
            "at_least": "5s",
            "for": "0",
            "keep_firing_for": "0",
        }
    )
    world.ran(100, seconds=2.0)
    world.process(7, in_flight=(InFlight("shop", "pay", world.now, "r1"),))
    assert world.wait(15) == []
    assert world.wait(10) == FIRING
    assert world.only.note == "pid 7 on box, run r1"
    world.process(7, in_flight=())
    assert world.wait(5) == RESOLVED


def test_a_run_that_loops() -> None:
    world = World(
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
    world.run_ended(30)
    world.process(7, in_flight=(InFlight("shop", "pay", world.now, "r1", 50),))
    assert world.wait(10) == []
    world.process(7, in_flight=(InFlight("shop", "pay", world.now, "r1", 51),))
    assert world.wait(5) == FIRING
    assert world.told[0][3].summary == "shop: run visits max 51, above 50"
    world.process(7)
    assert world.wait(5) == RESOLVED
    world.run_ended(60)
    assert world.wait(5) == FIRING
    assert world.wait(90) == RESOLVED


def test_a_loop_between_two_nodes_is_told_by_its_node_while_it_spins() -> None:
    world = World(
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
    world.ran(10, node="decide")
    world.ran(10, node="search")
    world.looped("decide", 20)
    spinning = (
        NodeRevisits("shop", "", 41, "r1"),
        NodeRevisits("shop", "search", 20, "r1"),
    )
    world.process(7, loops=spinning)
    assert world.wait(10) == []
    spinning = (*spinning, NodeRevisits("shop", "decide", 21, "r1"))
    world.process(7, loops=spinning)
    assert world.wait(5) == FIRING
    told = world.told[0][3]
    assert told.labels == {"graph": "shop", "node": "decide"}
    assert told.summary == "shop / decide: node visits max 21, above 20"
    assert told.note == "pid 7 on box, run r1"
    assert told.history == ()
    world.process(7, ClientState.DIED, loops=spinning)
    assert world.wait(5) == RESOLVED
    world.looped("search", 30)
    assert world.wait(5) == FIRING
    assert world.told[-1][3].labels["node"] == "search"
    assert world.wait(90) == RESOLVED


def test_a_run_that_spins_too_fast_to_be_met_in_a_node_is_told() -> None:
    world = World({"name": "loops", "kind": "runaway", "max_visits": 50, "for": "30s"})
    world.process(7, loops=(NodeRevisits("shop", "", 100_000, "r1"),))
    assert world.wait(40) == FIRING
    assert world.told[0][3].note == "pid 7 on box, run r1"


def test_a_process_that_died() -> None:
    world = World(
        {
            "name": "crash",
            "kind": "process_died",
            "per": ["service", "pid"],
            "window": "5m",
            "for": "0",
            "keep_firing_for": "0",
        }
    )
    world.process(7)
    world.process(8)
    assert world.wait(10) == []
    world.process(8, ClientState.DIED)
    assert world.wait(5) == FIRING
    assert world.only.labels == {"service": "web", "pid": "8"}
    assert world.wait(310) == RESOLVED


def test_the_memory_of_a_process() -> None:
    world = World(alerting={})
    world.process(7, sample=ProcessSample(rss_bytes=2 * 2**30, cpu_seconds=0.0))
    assert world.wait(120) == FIRING
    assert "memory rss 2.0 GiB, above 1.0 GiB" in world.told[0][3].summary
    world.process(7, ClientState.ENDED)
    assert world.wait(180) == RESOLVED


def test_custom_metrics_and_conditions() -> None:
    world = World(
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
    world.observed("queue", 11.0, zone="b")
    assert world.wait(5) == []  # nothing is known of the waiting
    world.observed("wait", *[3.0] * 10, kind=Kind.OBSERVE, zone="b")
    assert world.wait(5) == FIRING
    world.observed("queue", 7.0, zone="b")
    assert world.wait(5) == []
    world.observed("queue", 4.0, zone="b")
    assert world.wait(5) == RESOLVED


def test_an_alert_carries_what_there_was_to_see() -> None:
    world = World(rule(window="5m", per=["service", "graph", "node"]))
    for ago in (900.0, 600.0, 310.0):
        world.ran(100, int(ago // 100), ago=ago, action="done")
    world.lab.failures = [
        FailureRecord(
            time=world.now,
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
    world.ran(100, 50, action="again")
    world.wait(5)
    alert = world.told[0][3]
    assert [round(value or 0, 2) for value in alert.history] == [0.91, 0.94, 0.97, 0.5]
    assert len(alert.evidence) == 4
    assert {(e.node, len(e.message)) for e in alert.evidence} == {("pay", 500)}
    assert alert.transition == "pay -> again: 100%, usually 25%"
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
