"""`kaywatch doctor` beside a service under a real systemd."""

from __future__ import annotations

import json

import pytest
from tests.agents import until
from tests.systemd.service import CLIENT, KAYWATCH, UNIT, Service

pytestmark = [pytest.mark.xdist_group("systemd"), pytest.mark.timeout(180)]


def found(service: Service, *families: str, code: int = 0) -> dict[str, str]:
    """Return what the doctor, run as root, says in each line, and how it is."""
    text = service.box.run(KAYWATCH, "doctor", "--json", *families, code=code)
    return {f["text"]: f["verdict"] for f in json.loads(text)["findings"]}


def verdict(findings: dict[str, str], words: str) -> str:
    told = [text for text in findings if words in text]
    assert len(told) == 1, (words, findings)
    return findings[told[0]]


def test_a_service_that_is_well_has_no_problem(service: Service) -> None:
    service.start()
    child = service.spawn(CLIENT, user="app", group="kaywatch")
    until(lambda: service.executions() > 0, "events are counted")
    service.box.run("systemctl", "enable", UNIT)
    findings = found(service)
    service.end(child)
    service.box.run("systemctl", "disable", UNIT)

    assert verdict(findings, "systemd holds the socket") == "ok"
    assert verdict(findings, f"process {service.pid} of ") == "ok"
    assert verdict(findings, "the group kaywatch") == "ok"
    assert verdict(findings, f"{UNIT} is active (running)") == "ok"
    assert verdict(findings, "systemd is told when it serves") == "ok"
    assert verdict(findings, "restarted when it hangs for 30s") == "ok"
    assert verdict(findings, "files are as they should be") == "ok"
    assert verdict(findings, "exposure 1.5 of 10") == "ok"
    assert verdict(findings, "1 connected, each by its true pid") == "ok"
    assert verdict(findings, "the agent may write it") == "ok"
    assert "problem" not in findings.values()


def test_what_an_operator_opened_or_closed_is_told(service: Service) -> None:
    service.drop_in(
        "[Service]\nProtectProc=invisible\nProtectHome=no\nSystemCallFilter=\nWatchdogSec=0\n"
    )
    service.start()
    findings = found(service, "peers", "service")

    assert verdict(findings, "may not see processes of other users") == "warning"
    assert verdict(findings, "exposure ") == "warning"
    assert verdict(findings, "no watchdog") == "warning"
    assert verdict(findings, "is a drop-in") == "ok"


def test_it_does_not_start_an_agent_that_waits_for_a_connect(service: Service) -> None:
    service.box.run("systemctl", "start", "kaywatch.socket")
    findings = found(service, code=1)

    assert verdict(findings, "a connect would start the agent") == "ok"
    assert verdict(findings, f"{UNIT} is inactive") == "problem"
    assert service.show("ActiveState")["ActiveState"] == "inactive"
