from __future__ import annotations

import pytest

from kaywatch_agent.notify.result import DeliveryOutcome, judge_status, retry_after

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
def test_retry_after_in_all_forms(text: str, seconds: float | None) -> None:
    assert retry_after({"Retry-after": text}, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, DeliveryOutcome.SENT),
        (202, DeliveryOutcome.SENT),
        (204, DeliveryOutcome.SENT),
        (301, DeliveryOutcome.REFUSED),
        (307, DeliveryOutcome.REFUSED),
        (400, DeliveryOutcome.REFUSED),
        (401, DeliveryOutcome.REFUSED),
        (403, DeliveryOutcome.REFUSED),
        (404, DeliveryOutcome.REFUSED),
        (408, DeliveryOutcome.RETRY),
        (410, DeliveryOutcome.REFUSED),
        (422, DeliveryOutcome.REFUSED),
        (425, DeliveryOutcome.RETRY),
        (429, DeliveryOutcome.RETRY),
        (500, DeliveryOutcome.RETRY),
        (503, DeliveryOutcome.RETRY),
    ],
)
def test_statuses(status: int, outcome: DeliveryOutcome) -> None:
    result = judge_status(status, {}, "text", NOW)
    assert result.outcome is outcome
    assert result.pause == (status == 429)


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("https://b.example/services/T0KEN", "redirects to https://b.example/…"),
        ("http://b.example:8080?key=T0KEN", "redirects to http://b.example:8080/…"),
        ("/services/T0KEN/", "redirects to another path"),
        ("https://[T0KEN", "redirects to another path"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_names_its_target_without_the_path(
    status: int, location: str, error: str
) -> None:
    result = judge_status(status, {"location": location}, "<html>", NOW)
    assert result.outcome is DeliveryOutcome.REFUSED
    fix = "are not followed; configure the final URL"
    assert result.error == f"HTTP {status}: {error} {fix}"


def test_3xx_without_a_location_is_no_redirect() -> None:
    assert judge_status(304, {}, "", NOW).error == "HTTP 304: expected a status of 2xx"
