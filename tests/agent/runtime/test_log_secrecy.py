"""The agent's own log: a line for each event, whatever is in it, and no secrets."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import logging, sys, structlog
from kaywatch_agent.runtime import logs
logs.set_up(logs.LogConfig(format=sys.argv[1]))
log = structlog.get_logger("kaywatch.agent")
HOSTILE = "x\\n2026-01-01T00:00:00Z [info     ] stopped\\x1b[31m\\r\\x07\\u2028y"
secret_of_a_frame = "planted-local-0123"
log.info("one", path=HOSTILE, inner={"key": HOSTILE})
logging.getLogger("other").warning("two %s", HOSTILE)
def inner(secret):
    raise ValueError(HOSTILE)
try:
    inner("planted-argument-0123")
except ValueError:
    log.exception("three", path=HOSTILE)
"""


def read_log(form: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, form], capture_output=True, check=True
    )
    return done.stderr.decode()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_locals(form: str) -> None:
    text = read_log(form)
    assert "ValueError" in text
    assert "planted-" not in text


def test_text_of_clients_cannot_forge_a_console_line() -> None:
    lines = read_log("console").splitlines()
    ours = [line for line in lines if line and not line.startswith("    ")]
    assert [line.split()[3] for line in ours] == ["one", "two", "three"]
    assert not [
        line for line in lines if "stopped" in line and line.startswith("2026-01")
    ]
    assert all(line.isprintable() for line in lines)


def test_each_line_of_json_is_one_event() -> None:
    lines = [json.loads(line) for line in read_log("json").splitlines()]
    assert [line["event"].split()[0] for line in lines] == ["one", "two", "three"]
    # JSON has its own escapes, so the value is unchanged.
    assert lines[0]["path"].startswith("x\n2026")
    assert read_log("json").isascii()
