"""What is remembered of an episode: what its turns found, and who wasn't told."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from tests.agent.rules.world import START, World, rule

from kaywatch_agent.rules.alert import MAX_ENTRIES, Alert, SuppressionReason
from kaywatch_agent.rules.matchers import parse
from kaywatch_agent.rules.silence import Silence


def turns(instance: Alert) -> list[tuple[str, str, float | None, int, int]]:
    return [
        (e.before, e.after, e.value, e.errors, e.episode)
        for e in instance.timeline
        if e.after
    ]


def test_every_turn_has_what_was_found() -> None:
    world = World(rule(**{"for": "5s", "keep_firing_for": "10s"}, notify=["chat"]))
    world.ran(100, 50)
    world.wait(10)
    world.ran(900)
    world.wait(20)

    assert turns(world.only) == [
        ("ok", "pending", 0.5, 50, 1),
        ("pending", "firing", 0.5, 50, 1),
        ("firing", "recovering", 0.95, 50, 1),
        ("recovering", "ok", 0.95, 50, 1),
    ]
    times = [entry.time for entry in world.only.timeline if entry.after]
    assert times == [START + 5, START + 10, START + 15, START + 25]
    assert {e.threshold for e in world.only.timeline if e.after} == {0.9}
    assert {e.executions for e in world.only.timeline if e.after} == {100, 1000}
    assert [e.text for e in world.only.timeline if not e.after] == [
        "chat notified: firing",
        "chat notified: resolved",
    ]


def test_what_never_fired_belongs_to_no_episode_before() -> None:
    world = World(rule(**{"for": "10s"}))
    world.ran(100, 50)
    world.wait(15)
    world.ran(900)
    world.wait(5)
    world.ran(900, 800)
    world.wait(5)
    world.ran(9000)
    world.wait(5)
    assert [(t[1], t[4]) for t in turns(world.only)] == [
        ("pending", 1),
        ("firing", 1),
        ("ok", 1),
        ("pending", 2),
        ("ok", 2),
    ]


def test_the_worst_of_an_episode_is_kept_and_told() -> None:
    world = World(rule(notify=["chat"], window="1m"))
    world.ran(100, 50)
    world.wait(5)
    world.ran(100, 90)
    world.wait(5)
    at = world.now
    world.ran(2000)
    world.wait(5)

    worst = world.only.worst
    assert worst is not None
    assert (worst.time, worst.errors) == (at, 140)
    assert worst.value == pytest.approx(0.3)
    firing, resolved = (alert for *_, alert in world.told)
    assert (firing.worst, firing.value) == (0.5, 0.5)
    assert (resolved.worst, resolved.worst_at) == (worst.value, at)

    world.wait(120)
    world.ran(100, 20)
    world.wait(5)
    assert world.only.worst is not None
    assert world.only.worst.value == 0.8  # of the second episode


def test_the_worst_survives_a_restart() -> None:
    world = World(rule(notify=["chat"]))
    world.ran(100, 50)
    world.wait(15)
    before = world.only.worst
    world.restart(clean=False)
    assert world.only.worst == before is not None


def test_a_long_story_keeps_how_it_began_and_says_what_it_left_out() -> None:
    timing = {"for": "5s", "keep_firing_for": "1h", "repeat_interval": "0"}
    world = World(rule(**timing, window="10m", notify=["chat"]))
    world.ran(100, 50)
    world.wait(10)
    began = turns(world.only)
    # Now it recovers and relapses, for long.
    for _ in range(MAX_ENTRIES):
        world.ran(5000)
        world.wait(5)
        world.wait(600, step=300)
        world.ran(100, 50)
        world.wait(5)

    log = world.only.timeline
    assert len(log) == MAX_ENTRIES
    assert turns(world.only)[:2] == began
    assert [entry.time for entry in log] == sorted(entry.time for entry in log)
    everything = 3 + 2 * MAX_ENTRIES  # two turns, one told, and each up and down
    assert world.only.dropped_entries == everything - MAX_ENTRIES
    assert world.only.lifecycle.episode == 1


def test_a_story_of_many_episodes_keeps_the_last_ones() -> None:
    world = World(rule(notify=["chat"], cooldown="0", window="10s", min_executions=5))
    for _ in range(MAX_ENTRIES):
        world.ran(100, 50)
        world.wait(10)
        world.wait(10)
        world.ran(100)
        world.wait(10)
        world.wait(10)
    instance = world.only
    assert len(instance.timeline) == MAX_ENTRIES
    assert instance.timeline[-1].episode == instance.lifecycle.episode > MAX_ENTRIES / 4
    assert instance.timeline[0].episode > 1


# -- who isn't told, and until when ----------------------------------------------------


def test_a_silence_is_named_with_its_end() -> None:
    world = World(rule(notify=["chat"]))
    end = dt.datetime.fromtimestamp(world.now + 600, dt.UTC)
    silence = Silence(
        id="s1",
        matchers=(parse('node="pay"'),),
        starts_at=dt.datetime.fromtimestamp(world.now, dt.UTC),
        ends_at=end,
        created_by="ann",
        comment="works",
    )
    world.engine.silences.put(silence)
    world.ran(100, 50)
    world.wait(5)

    held = world.only.suppressions["chat"]
    assert (held.reason, held.by) == (SuppressionReason.SILENCED, "s1")
    assert held.until == pytest.approx(world.engine.store.clock + 595)
    assert world.only.timeline[-1].text == "chat not notified: silenced: by ann: works"


def test_an_inhibition_names_the_alert_that_keeps_it_quiet() -> None:
    inhibit = {
        "source": ['severity="critical"'],
        "target": ['severity="warning"'],
        "equal": ["graph", "node"],
    }
    world = World(
        rule(name="worse", value=0.5, severity="critical"),
        rule(name="bad", notify=["chat"]),
        inhibit=[inhibit],
    )
    world.ran(100, 80)
    world.wait(5)
    found = {i.rule: i for i in world.engine.alerts}
    held = found["bad"].suppressions["chat"]
    assert (held.reason, held.by) == (SuppressionReason.INHIBITED, found["worse"].id)
    assert held.text == "while worse fires"


def test_a_cooldown_has_its_end_and_says_that_it_flaps() -> None:
    world = World(rule(notify=["chat"], cooldown="5m", window="10s", min_executions=5))
    ends = set()
    for _ in range(3):
        world.ran(100, 50)
        world.wait(5)
        if "chat" in world.only.suppressions:
            ends.add(world.only.suppressions["chat"].until)
        world.wait(15)
        world.ran(100)
        world.wait(20)
    told = world.only.notified["chat"].fired_at
    assert min(end for end in ends if end) == pytest.approx(told + 300)
    world.ran(100, 50)
    world.wait(5)
    held = world.only.suppressions["chat"]
    assert held.until == pytest.approx(told + 600)
    assert "is flapping, so the cooldown is 10m" in held.text


def test_a_repeat_that_is_silenced_is_said_to_be() -> None:
    world = World(rule(notify=["chat"], repeat_interval="5m", window="30m"))
    world.ran(100, 50)
    world.wait(5)
    silence = Silence(
        id="s1",
        matchers=(parse('node="pay"'),),
        starts_at=dt.datetime.fromtimestamp(world.now, dt.UTC),
        ends_at=dt.datetime.fromtimestamp(world.now + 3600, dt.UTC),
    )
    world.engine.silences.put(silence)
    assert world.wait(400) == []
    assert world.only.suppressions["chat"].by == "s1"
    assert world.only.notified["chat"].last == "firing"


def test_a_story_as_it_was_kept_before_is_read() -> None:
    old = {
        "rule": "r",
        "labels": {"node": "pay"},
        "held_back": {"chat": "silenced: by ann: works"},
        "log": [{"time": 1.0, "text": "ok -> firing", "value": 0.5}],
    }
    found = msgspec.json.decode(msgspec.json.encode(old), type=Alert)
    assert (found.timeline[0].text, found.timeline[0].after, found.suppressions) == (
        "ok -> firing",
        "",
        {},
    )
