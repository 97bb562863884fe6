"""The life cycle of an alert, step by step and over random sequences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaywatch_agent.rules.state import (
    AlertEvent,
    AlertState,
    ConditionStatus,
    Lifecycle,
    Timing,
    advance,
    end,
)

BREACH, BAND, CLEAR, UNKNOWN = (
    ConditionStatus.BREACH,
    ConditionStatus.BAND,
    ConditionStatus.CLEAR,
    ConditionStatus.UNKNOWN,
)


def live(
    findings: list[tuple[ConditionStatus, float]],
    timing: Timing,
    life: Lifecycle | None = None,
) -> tuple[Lifecycle, list[tuple[int, AlertEvent, str]]]:
    """Return the final state, and all state changes with their time and reason."""
    life, crossed, now = life or Lifecycle(), [], 1_000.0
    for number, (finding, elapsed) in enumerate(findings):
        now += elapsed
        life, crossing = advance(life, finding, elapsed, timing, now)
        if crossing is not None:
            crossed.append((number, crossing, life.reason))
    return life, crossed


def states(findings: str, timing: Timing) -> str:
    """Return the first letters of the states after findings of 10 s each."""
    words = {"b": BREACH, "-": BAND, "c": CLEAR, "u": UNKNOWN}
    life, result = Lifecycle(), ""
    for letter in findings:
        life, _ = advance(life, words[letter], 10.0, timing, 0.0)
        result += life.state[0]
    return result


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ("bbbb", "pppf"),  # the first is when it begins, as in Prometheus
        ("bbcb", "ppop"),
        ("bb-b", "ppop"),  # the band is not the condition
        ("bbuubb", "pppppf"),  # unknown time does not count as time of a breach
        ("bbbb--cc", "pppfffrr"),
        ("bbbbccc", "pppfrro"),
        ("bbbbcbc", "pppfrfr"),
        ("bbbbc-ccc", "pppfrrroo"),  # clear has to last, without the band
        ("bbbbuuuuuuu", "pppfffffffo"),
    ],
)
def test_states(findings: str, expected: str) -> None:
    timing = Timing(for_=30.0, keep_firing_for=20.0, no_data_after=60.0)
    assert states(findings, timing) == expected


def test_without_durations_everything_is_at_once() -> None:
    assert states("bcb", Timing()) == "fof"


@pytest.mark.parametrize(
    ("mode", "state", "reason"),
    [("keep", AlertState.OK, "no_data"), ("alert", AlertState.FIRING, "no_data")],
)
def test_an_alert_that_can_t_be_seen_says_so_when_it_ends(
    mode: str, state: AlertState, reason: str
) -> None:
    timing = Timing(no_data_after=60.0, on_no_data=mode)  # type: ignore[arg-type]
    life, crossed = live([(BREACH, 0.0), *[(UNKNOWN, 10.0)] * 7], timing)

    assert (life.state, life.reason) == (state, reason)
    resolved = [crossing for _, crossing, _ in crossed][1:]
    assert resolved == ([AlertEvent.RESOLVED] if state is AlertState.OK else [])


def test_missing_data_is_an_alert_where_that_is_wanted() -> None:
    timing = Timing(for_=600.0, no_data_after=60.0, on_no_data="alert")
    life, crossed = live([(CLEAR, 0.0), *[(UNKNOWN, 10.0)] * 7], timing)
    assert (life.state, life.reason, len(crossed)) == (AlertState.FIRING, "no_data", 1)

    life, _ = live([(BREACH, 10.0)], timing, life)
    assert (life.state, life.reason) == (AlertState.FIRING, "")


def test_an_alert_that_ends_with_its_rule() -> None:
    firing, _ = live([(BREACH, 0.0)], Timing())
    life, crossing = end(firing, "rule_removed", 5.0)
    assert (crossing, life.reason, life.ended) == (
        AlertEvent.RESOLVED,
        "rule_removed",
        5.0,
    )
    assert end(Lifecycle(state=AlertState.PENDING), "rule_removed", 5.0)[1] is None


sequences = st.lists(
    st.tuples(st.sampled_from(ConditionStatus), st.floats(0.0, 200.0)), max_size=60
)
timings = st.builds(
    Timing,
    st.sampled_from([0.0, 30.0, 120.0]),
    st.sampled_from([0.0, 30.0, 120.0]),
    st.sampled_from([60.0, 600.0]),
    st.sampled_from(["keep", "ok", "alert"]),
)


@given(sequences, timings)
def test_what_begins_and_what_ends_take_turns(
    findings: list[tuple[ConditionStatus, float]], timing: Timing
) -> None:
    life, crossed = live(findings, timing)
    kinds = [crossing for _, crossing, _ in crossed]

    assert kinds[::2] == [AlertEvent.FIRED] * len(kinds[::2])
    assert kinds[1::2] == [AlertEvent.RESOLVED] * len(kinds[1::2])
    assert life.episode == len(kinds[::2])
    assert life.is_firing is bool(len(kinds) % 2)


@given(sequences, timings)
def test_it_fires_only_after_the_condition_was_observed_for_long_enough(
    findings: list[tuple[ConditionStatus, float]], timing: Timing
) -> None:
    _, crossed = live(findings, timing)
    for number, crossing, reason in crossed:
        if crossing is AlertEvent.FIRED and not reason:
            held, at = 0.0, number
            while at > 0 and findings[at - 1][0] in (BREACH, UNKNOWN):
                held += findings[at][1] if findings[at][0] is BREACH else 0.0
                at -= 1
            assert held >= timing.for_ or timing.for_ == 0.0


@given(sequences, timings, st.integers(0, 60))
def test_a_restart_changes_nothing(
    findings: list[tuple[ConditionStatus, float]], timing: Timing, cut: int
) -> None:
    import msgspec

    whole, crossed = live(findings, timing)
    before, first = live(findings[:cut], timing)
    stored = msgspec.json.decode(msgspec.json.encode(before), type=Lifecycle)
    life, crossed_after, now = stored, [], 1_000.0 + sum(e for _, e in findings[:cut])
    for finding, elapsed in findings[cut:]:
        now += elapsed
        life, crossing = advance(life, finding, elapsed, timing, now)
        crossed_after += [crossing] if crossing is not None else []

    assert msgspec.structs.replace(life, started=0, fired=0, ended=None) == (
        msgspec.structs.replace(whole, started=0, fired=0, ended=None)
    )
    assert [c for _, c, _ in first] + crossed_after == [c for _, c, _ in crossed]
