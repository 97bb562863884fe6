"""Rules with another threshold over stored history, by HTTP."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agent.simulation.history import BEGIN, HOURS
from tests.agent.web.serving import Served, serving
from tests.agents import DEADLINE

from kaywatch_agent.backtesting import Backtester

END = BEGIN + HOURS * 3600.0


@pytest.fixture(scope="module")
def stored(past: Path) -> Iterator[Served]:
    """An agent with a store that has three outages."""
    with serving(lambda: END) as served:
        use(served, past)
        yield served


def use(served: Served, path: Path) -> None:
    settings = served.source.alerting.engine.settings
    served.source.backtest = Backtester(path, lambda: settings).run


def post(served: Served, rule: str, body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(served.host, served.port, timeout=60)
    try:
        headers = {"Content-Type": "application/json"}
        path = f"/api/v1/rules/{rule}/backtest"
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_higher_threshold_fires_less_often(
    stored: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.backtesting.MAX_SECONDS", 100.0)
    status, known = post(stored, "error_rate_max", {"since": "1h"})
    assert status == 200
    assert (known["total"], len(known["episodes"])) == (1, 1)
    assert known["condition"] == "error_rate > 0.05"
    assert known["evaluations"] > 10
    assert known["notifications"] == 1
    assert known["start"] == END - 3600
    assert known["episodes"][0]["end"] is None

    edited = {"since": "1h", "threshold": 1.0}
    status, never = post(stored, "error_rate_max", edited)
    assert status == 200
    assert (never["total"], never["episodes"], never["notifications"]) == (0, [], 0)
    assert never["condition"] == "error_rate > 1"


@pytest.mark.parametrize(
    ("rule", "body", "status", "text"),
    [
        ("none", {}, 404, "unknown rule"),
        ("error_rate_max", {"threshold": "high"}, 400, "threshold"),
        ("error_rate_max", {"since": "soon"}, 400, "since"),
        ("error_rate_max", {"limit": 3}, 400, "limit"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    stored: Served, rule: str, body: Any, status: int, text: str
) -> None:
    answer = post(stored, rule, body)
    assert answer[0] == status
    assert text in answer[1]["error"]["message"]


def test_a_metric_that_is_not_stored_is_skipped(stored: Served) -> None:
    status, answer = post(stored, "memory_usage_max", {})
    assert status == 200
    assert "is not stored" in answer["skipped"]


def test_without_a_store_each_rule_is_skipped(served: Served) -> None:
    status, answer = post(served, "error_rate_max", {})
    assert status == 200
    assert "stores nothing" in answer["skipped"]
    assert (answer["evaluations"], answer["episodes"]) == (0, [])


def test_one_runs_at_a_time_and_for_a_limited_time(
    stored: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = threading.Event(), threading.Event()
    real = Backtester.run

    def slow(self: Backtester, *arguments: Any) -> Any:
        with self._lock:
            started.set()
            assert release.wait(DEADLINE)
        return real(self, *arguments)

    monkeypatch.setattr("kaywatch_agent.backtesting.MAX_SECONDS", 0.0)
    backtester = stored.source.backtest.__self__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        stored.source, "backtest", lambda *a: slow(backtester, *a), raising=True
    )
    answers: list[tuple[int, Any]] = []
    body = {"since": "48h"}
    thread = threading.Thread(
        target=lambda: answers.append(post(stored, "error_rate_max", body))
    )
    thread.start()
    try:
        assert started.wait(DEADLINE)
        monkeypatch.setattr(stored.source, "backtest", backtester.run)
        status, answer = post(stored, "error_rate_max", body)
        assert status == 503
        assert "another backtest is running" in answer["error"]["message"]
    finally:
        release.set()
        thread.join()
    ((status, answer),) = answers
    assert status == 503
    assert "was done after 0 s" in answer["error"]["message"]
