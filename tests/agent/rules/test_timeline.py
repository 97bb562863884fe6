"""The timeline of an episode: state changes, and suppressed notifications."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from tests.agent.rules.harness import START, AlertHarness, rule

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
    harness = AlertHarness(
        rule(**{"for": "5s", "keep_firing_for": "10s"}, notify=["chat"])
    )
    harness.ran(100, 50)
    harness.wait(10)
    harness.ran(900)
    harness.wait(20)

    assert turns(harness.only) == [
        ("ok", "pending", 0.5, 50, 1),
        ("pending", "firing", 0.5, 50, 1),
        ("firing", "recovering", 0.95, 50, 1),
        ("recovering", "ok", 0.95, 50, 1),
    ]
    times = [entry.time for entry in harness.only.timeline if entry.after]
    assert times == [START + 5, START + 10, START + 15, START + 25]
    assert {e.threshold for e in harness.only.timeline if e.after} == {0.9}
    assert {e.executions for e in harness.only.timeline if e.after} == {100, 1000}
    assert [e.text for e in harness.only.timeline if not e.after] == [
        "chat notified: firing",
        "chat notified: resolved",
    ]


def test_an_alert_that_never_fired_continues_no_earlier_episode() -> None:
    harness = AlertHarness(rule(**{"for": "10s"}))
    harness.ran(100, 50)
    harness.wait(15)
    harness.ran(900)
    harness.wait(5)
    harness.ran(900, 800)
    harness.wait(5)
    harness.ran(9000)
    harness.wait(5)
    assert [(t[1], t[4]) for t in turns(harness.only)] == [
        ("pending", 1),
        ("firing", 1),
        ("ok", 1),
        ("pending", 2),
        ("ok", 2),
    ]


def test_the_worst_value_of_an_episode_is_kept_and_notified() -> None:
    harness = AlertHarness(rule(notify=["chat"], window="1m"))
    harness.ran(100, 50)
    harness.wait(5)
    harness.ran(100, 90)
    harness.wait(5)
    at = harness.now
    harness.ran(2000)
    harness.wait(5)

    worst = harness.only.worst
    assert worst is not None
    assert (worst.time, worst.errors) == (at, 140)
    assert worst.value == pytest.approx(0.3)
    firing, resolved = (alert for *_, alert in harness.sent)
    assert (firing.worst, firing.value) == (0.5, 0.5)
    assert (resolved.worst, resolved.worst_at) == (worst.value, at)

    harness.wait(120)
    harness.ran(100, 20)
    harness.wait(5)
    assert harness.only.worst is not None
    assert harness.only.worst.value == 0.8  # of the second episode


def test_the_worst_survives_a_restart() -> None:
    harness = AlertHarness(rule(notify=["chat"]))
    harness.ran(100, 50)
    harness.wait(15)
    before = harness.only.worst
    harness.restart(clean=False)
    assert harness.only.worst == before is not None


def test_a_long_timeline_keeps_its_start_and_counts_the_omitted_entries() -> None:
    timing = {"for": "5s", "keep_firing_for": "1h", "repeat_interval": "0"}
    harness = AlertHarness(rule(**timing, window="10m", notify=["chat"]))
    harness.ran(100, 50)
    harness.wait(10)
    began = turns(harness.only)
    # Now it recovers and relapses, for long.
    for _ in range(MAX_ENTRIES):
        harness.ran(5000)
        harness.wait(5)
        harness.wait(600, step=300)
        harness.ran(100, 50)
        harness.wait(5)

    log = harness.only.timeline
    assert len(log) == MAX_ENTRIES
    assert turns(harness.only)[:2] == began
    assert [entry.time for entry in log] == sorted(entry.time for entry in log)
    everything = 3 + 2 * MAX_ENTRIES  # two changes up and down, one notified
    assert harness.only.dropped_entries == everything - MAX_ENTRIES
    assert harness.only.lifecycle.episode == 1


def test_a_story_of_many_episodes_keeps_the_last_ones() -> None:
    harness = AlertHarness(
        rule(notify=["chat"], cooldown="0", window="10s", min_executions=5)
    )
    for _ in range(MAX_ENTRIES):
        harness.ran(100, 50)
        harness.wait(10)
        harness.wait(10)
        harness.ran(100)
        harness.wait(10)
        harness.wait(10)
    instance = harness.only
    assert len(instance.timeline) == MAX_ENTRIES
    assert instance.timeline[-1].episode == instance.lifecycle.episode > MAX_ENTRIES / 4
    assert instance.timeline[0].episode > 1


# -- suppressed notifications, and until when ------------------------------------------


def test_a_silence_is_named_with_its_end() -> None:
    harness = AlertHarness(rule(notify=["chat"]))
    end = dt.datetime.fromtimestamp(harness.now + 600, dt.UTC)
    silence = Silence(
        id="s1",
        matchers=(parse('node="pay"'),),
        starts_at=dt.datetime.fromtimestamp(harness.now, dt.UTC),
        ends_at=end,
        created_by="ann",
        comment="works",
    )
    harness.engine.silences.put(silence)
    harness.ran(100, 50)
    harness.wait(5)

    held = harness.only.suppressions["chat"]
    assert (held.reason, held.by) == (SuppressionReason.SILENCED, "s1")
    assert held.until == pytest.approx(harness.engine.store.clock + 595)
    assert (
        harness.only.timeline[-1].text == "chat not notified: silenced: by ann: works"
    )


def test_an_inhibition_names_the_alert_that_keeps_it_quiet() -> None:
    inhibit = {
        "source": ['severity="critical"'],
        "target": ['severity="warning"'],
        "equal": ["graph", "node"],
    }
    harness = AlertHarness(
        rule(name="worse", value=0.5, severity="critical"),
        rule(name="bad", notify=["chat"]),
        inhibit=[inhibit],
    )
    harness.ran(100, 80)
    harness.wait(5)
    result = {i.rule: i for i in harness.engine.alerts}
    held = result["bad"].suppressions["chat"]
    assert (held.reason, held.by) == (SuppressionReason.INHIBITED, result["worse"].id)
    assert held.text == "while worse fires"


def test_a_cooldown_has_its_end_and_reports_flapping() -> None:
    harness = AlertHarness(
        rule(notify=["chat"], cooldown="5m", window="10s", min_executions=5)
    )
    ends = set()
    for _ in range(3):
        harness.ran(100, 50)
        harness.wait(5)
        if "chat" in harness.only.suppressions:
            ends.add(harness.only.suppressions["chat"].until)
        harness.wait(15)
        harness.ran(100)
        harness.wait(20)
    notified_at = harness.only.notified["chat"].fired_at
    assert min(end for end in ends if end) == pytest.approx(notified_at + 300)
    harness.ran(100, 50)
    harness.wait(5)
    held = harness.only.suppressions["chat"]
    assert held.until == pytest.approx(notified_at + 600)
    assert "is flapping, so the cooldown is 10m" in held.text


def test_a_silenced_repeat_is_shown_as_silenced() -> None:
    harness = AlertHarness(rule(notify=["chat"], repeat_interval="5m", window="30m"))
    harness.ran(100, 50)
    harness.wait(5)
    silence = Silence(
        id="s1",
        matchers=(parse('node="pay"'),),
        starts_at=dt.datetime.fromtimestamp(harness.now, dt.UTC),
        ends_at=dt.datetime.fromtimestamp(harness.now + 3600, dt.UTC),
    )
    harness.engine.silences.put(silence)
    assert harness.wait(400) == []
    assert harness.only.suppressions["chat"].by == "s1"
    assert harness.only.notified["chat"].last == "firing"


def test_a_timeline_in_the_older_format_is_read() -> None:
    old = {
        "rule": "r",
        "labels": {"node": "pay"},
        "held_back": {"chat": "silenced: by ann: works"},
        "log": [{"time": 1.0, "text": "ok -> firing", "value": 0.5}],
    }
    document = msgspec.json.decode(msgspec.json.encode(old), type=Alert)
    assert (
        document.timeline[0].text,
        document.timeline[0].after,
        document.suppressions,
    ) == (
        "ok -> firing",
        "",
        {},
    )
