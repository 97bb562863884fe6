"""The agent's log in a real journal."""

from __future__ import annotations

import pytest
from tests.systemd.conftest import fresh
from tests.systemd.service import PYTHON, UNIT, Service

pytestmark = pytest.mark.timeout(180)

# Logs as the agent does, in the place of the agent.
LOGGING = r"""
import structlog, logging
from kaywatch_agent.runtime import logs
logs.set_up(logs.LogConfig(level="debug"))
log = structlog.get_logger("kaywatch.agent")
log.debug("fine", client="a\nPRIORITY=0\nMESSAGE=forged\n\x1b[31mred", number=3)
log.warning("event\nwith a line", text='x level=error "quoted"')
log.error("large", text="y" * 400_000)
logging.getLogger("aiohttp").info("of the library")
try:
    raise ValueError("no\nsuch\x1b[2Jthing")
except ValueError:
    log.exception("failed", node="n")
print("plain")
"""


@pytest.fixture(scope="module")
def entries(installed_units: Service) -> dict[str, dict[str, str]]:
    """The entries of LOGGING in the journal, by event."""
    with fresh(installed_units) as service:
        service.box.write("/opt/log_probe.py", LOGGING)
        service.drop_in(
            "[Service]\nType=oneshot\nRestart=no\nExecStartPre=\nExecReload=\n"
            f"ExecStart=\nExecStart={PYTHON} /opt/log_probe.py\n"
        )
        service.box.run("systemctl", "start", "kaywatch.socket", UNIT)
        entries = service.journal()
    return {e["KAYWATCH_EVENT"]: e for e in entries if "KAYWATCH_EVENT" in e}


def test_an_entry_has_a_priority_and_fields(
    entries: dict[str, dict[str, str]],
) -> None:
    expected = {"fine": 7, "event\nwith a line": 4, "large": 3, "of the library": 6}
    assert {e: int(entries[e]["PRIORITY"]) for e in expected} == expected
    fine = entries["fine"]
    assert fine["KAYWATCH_NUMBER"] == "3"
    assert fine["LOGGER"] == "kaywatch.agent"
    assert fine["CODE_FILE"] == "/opt/log_probe.py"
    assert fine["CODE_FUNC"] == "<module>" and int(fine["CODE_LINE"]) == 6
    assert fine["_TRANSPORT"] == "journal"


def test_no_name_forges_an_entry_a_field_or_a_line(
    entries: dict[str, dict[str, str]],
) -> None:
    assert not [e for e in entries.values() if e["MESSAGE"] == "forged"]
    fine = entries["fine"]
    assert fine["KAYWATCH_CLIENT"] == "a\nPRIORITY=0\nMESSAGE=forged\n\x1b[31mred"
    assert fine["MESSAGE"] == (
        r'fine client="a\nPRIORITY=0\nMESSAGE=forged\n\u001b[31mred" number=3'
    )
    quoted = entries["event\nwith a line"]["MESSAGE"]
    assert quoted == r'event\nwith a line text="x level=error \"quoted\""'


def test_a_large_entry_arrives_whole(entries: dict[str, dict[str, str]]) -> None:
    assert entries["large"]["KAYWATCH_TEXT"] == "y" * 400_000


def test_an_exception_is_one_entry_with_its_trace(
    entries: dict[str, dict[str, str]],
) -> None:
    first, *trace = entries["failed"]["MESSAGE"].split("\n")
    assert first == "failed node=n"
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-2:] == ["ValueError: no", r"such\x1b[2Jthing"]
