"""When a share of bad events rose."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kaywatch_agent.web.api.diagnosis.onset import find_onset


@pytest.mark.parametrize("onset", [1, 60, 180, 340])
@pytest.mark.parametrize(("before", "after"), [(0.0, 0.4), (0.05, 0.5), (0.3, 0.9)])
def test_a_rise_is_found_at_its_step(onset: int, before: float, after: float) -> None:
    random.seed(f"{onset}{before}")
    events = np.full(360, 20)
    shares = [before] * onset + [after] * (360 - onset)
    bad = np.array(
        [sum(random.random() < share for _ in range(20)) for share in shares]
    )
    step = find_onset(bad, events)
    assert step is not None
    assert abs(step - onset) <= 1


def test_a_rise_counts_from_its_first_bad_event_on() -> None:
    bad, events = np.zeros(360, np.int64), np.zeros(360, np.int64)
    events[::5] = 3  # one step in five has any
    bad[200::5] = 2
    assert find_onset(bad, events) == 200


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_a_constant_share_has_no_onset(share: float) -> None:
    for seed in range(20):
        random.seed(seed)
        bad = np.array(
            [sum(random.random() < share for _ in range(10)) for _ in "x" * 360]
        )
        assert find_onset(bad, np.full(360, 10)) is None


def test_a_share_that_fell_has_no_onset() -> None:
    bad = np.array([8] * 180 + [0] * 180)
    assert find_onset(bad, np.full(360, 10)) is None


def test_no_events_have_no_onset() -> None:
    none = np.zeros(360, np.int64)
    assert find_onset(none, none) is None
    assert find_onset(none[:0], none[:0]) is None
