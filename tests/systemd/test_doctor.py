"""`kaywatch doctor` with a service under a real systemd."""

from __future__ import annotations

import json

import pytest
from tests.agents import until
from tests.systemd.service import CLIENT, KAYWATCH, UNIT, Service

pytestmark = pytest.mark.timeout(180)


def results_of(service: Service, *sections: str, code: int = 0) -> dict[str, str]:
    """Return the status of each result by its text; run as root."""
    text = service.box.run(KAYWATCH, "doctor", "--json", *sections, code=code)
    return {r["text"]: r["status"] for r in json.loads(text)["results"]}


def status(results: dict[str, str], words: str) -> str:
    matches = [text for text in results if words in text]
    assert len(matches) == 1, (words, results)
    return results[matches[0]]


def test_a_healthy_service_has_no_problem(service: Service) -> None:
    service.start()
    child = service.spawn(CLIENT, user="app", group="kaywatch")
    until(lambda: service.executions() > 0, "events are counted")
    service.box.run("systemctl", "enable", UNIT)
    results = results_of(service)
    service.end(child)
    service.box.run("systemctl", "disable", UNIT)

    assert status(results, "systemd listens on the socket") == "ok"
    assert status(results, f"process {service.pid} of ") == "ok"
    assert status(results, "the group kaywatch") == "ok"
    assert status(results, f"{UNIT} is active (running)") == "ok"
    assert status(results, "systemd is notified when the agent is ready") == "ok"
    assert status(results, "systemd restarts an agent that hangs for 30s") == "ok"
    assert status(results, "files are up to date") == "ok"
    assert status(results, "exposure 1.5 of 10") == "ok"
    assert status(results, "1 connected, each identified by its pid") == "ok"
    assert status(results, "the agent can write it") == "ok"
    assert "problem" not in results.values()


def test_drop_ins_that_weaken_the_service_are_warnings(service: Service) -> None:
    service.drop_in(
        "[Service]\nProtectProc=invisible\nProtectHome=no\nSystemCallFilter=\nWatchdogSec=0\n"
    )
    service.start()
    results = results_of(service, "processes", "service")

    assert status(results, "may not see processes of other users") == "warning"
    assert status(results, "exposure ") == "warning"
    assert status(results, "no watchdog") == "warning"
    assert status(results, "is a drop-in") == "ok"


def test_it_does_not_start_a_socket_activated_agent(service: Service) -> None:
    service.box.run("systemctl", "start", "kaywatch.socket")
    results = results_of(service, code=1)

    assert status(results, "not connected: systemd listens") == "ok"
    assert status(results, f"{UNIT} is inactive") == "problem"
    assert service.show("ActiveState")["ActiveState"] == "inactive"
