from __future__ import annotations

import pytest

from kaywatch_agent.notify.result import Outcome, judge_status, retry_after

NOW = 1_795_608_060.0  # Wed, 25 Nov 2026 12:01:00 GMT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 0.5 ", 0.5),
        ("Wed, 25 Nov 2026 12:01:30 GMT", 30.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
        ("Wed, 25 Nov 2026 12:01:30 -0000", 30.0),
        ("99999999999999", 3600.0),
        ("1e400", 3600.0),
        ("-3", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Wed, 99 Nov 2026 12:01:30 GMT", None),
    ],
)
def test_retry_after_in_all_its_forms(text: str, seconds: float | None) -> None:
    assert retry_after({"Retry-after": text}, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.SENT),
        (202, Outcome.SENT),
        (204, Outcome.SENT),
        (301, Outcome.DEAD),
        (307, Outcome.DEAD),
        (400, Outcome.DEAD),
        (401, Outcome.DEAD),
        (403, Outcome.DEAD),
        (404, Outcome.DEAD),
        (408, Outcome.RETRY),
        (410, Outcome.DEAD),
        (422, Outcome.DEAD),
        (425, Outcome.RETRY),
        (429, Outcome.RETRY),
        (500, Outcome.RETRY),
        (503, Outcome.RETRY),
    ],
)
def test_statuses(status: int, outcome: Outcome) -> None:
    result = judge_status(status, {}, "text", NOW)
    assert result.outcome is outcome
    assert result.pause == (status == 429)
