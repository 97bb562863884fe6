"""Readiness: what the stages say, and what their silence says."""

from __future__ import annotations

import pytest
from tests.agent.web.serving import Served

from kaywatch_agent.runtime.health import Health, Readiness

START = 1_000.0


def test_a_look_that_failed_is_no_sign_of_life() -> None:
    health = Health(started=START)
    health.expect("ingest", within=30.0)
    health.report("ingest", START)
    health.fail("ingest", "the socket is gone")
    assert health.status(START + 30).status is Readiness.DEGRADED
    result = health.status(START + 31)
    assert result.status is Readiness.UNHEALTHY
    assert result.stages["ingest"].problem == "the socket is gone"
    health.report("ingest", START + 32)
    assert health.status(START + 33).status is Readiness.HEALTHY


def test_without_stages_health_is_ok() -> None:
    assert Health(START).status(START) == (Readiness.HEALTHY, {})


@pytest.mark.parametrize(
    ("reported", "now", "status"),
    [
        (None, START + 5.0, "healthy"),  # it has until its deadline to start
        (None, START + 5.1, "unhealthy"),
        (START + 3, START + 8.0, "healthy"),
        (START + 3, START + 8.1, "unhealthy"),
        (START + 100, START + 3, "healthy"),  # the clock was put back
    ],
)
def test_a_stage_is_late_after_its_deadline(
    reported: float | None, now: float, status: str
) -> None:
    health = Health(START)
    health.expect("tick", within=5.0)
    if reported is not None:
        health.report("tick", reported)

    assert health.status(now).status == status
    assert health.status(now).stages["tick"].ready is (reported is not None)


def test_a_problem_degrades_and_its_end_heals() -> None:
    health = Health(START)
    health.expect("store", within=5.0)
    health.report("store", START, "the disk is full")

    report = health.status(START + 1)
    assert report.status is Readiness.DEGRADED
    assert report.stages["store"].problem == "the disk is full"
    assert report.stages["store"].age == 1.0

    health.report("store", START + 2)
    assert health.status(START + 3).status is Readiness.HEALTHY


def test_the_worst_stage_decides() -> None:
    health = Health(START)
    health.expect("tick", within=5.0)
    health.report("store", START, "slow")

    assert health.status(START + 1).status is Readiness.DEGRADED
    assert health.status(START + 6).status is Readiness.UNHEALTHY


def test_a_stage_without_a_deadline_may_be_silent() -> None:
    health = Health(START)
    health.report("notify", START)

    assert health.status(START + 1e6).status is Readiness.HEALTHY


def test_the_endpoint_gives_each_stage_and_503_when_unhealthy(served: Served) -> None:
    health = served.source.health
    served.call(lambda: health.expect("tick", within=1000.0))
    answer = served.ask("/health")
    assert answer.status == 200
    assert answer.json["status"] == "healthy"
    assert answer.json["version"] == "1.2.3"
    assert answer.json["uptime"] >= 0
    assert answer.json["since"] <= answer.json["timestamp"]
    assert answer.json["store_mb"] is None
    served.send_rows({"node": "pay", "seconds": 1.0})
    assert served.get("/health")["events"] == answer.json["events"] + 1
    assert answer.json["stages"] == {
        "tick": {
            "status": "healthy",
            "ready": False,
            "age": None,
            "within": 1000.0,
            "problem": "",
            "note": "",
        }
    }

    served.call(lambda: health.report("store", served.source.clock(), "disk full"))
    assert served.ask("/health").status == 200
    assert served.get("/health")["status"] == "degraded"

    served.call(lambda: health.expect("tick", within=0.0))
    answer = served.ask("/health")
    assert answer.status == 503
    assert answer.json["status"] == "unhealthy"
    assert answer.json["stages"]["tick"]["status"] == "unhealthy"
