"""Exceptions are recorded with type, message and traceback, as configured."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kaywatch
from kaywatch.errors import ConfigurationError
from kaywatch.testing import capture

SECRET = "the customer's words"


def fail() -> None:
    with kaywatch.execution("shop", "pay"):
        raise ValueError(SECRET)


def test_by_default_the_message_is_recorded_and_no_traceback() -> None:
    with capture() as captured, pytest.raises(ValueError, match="words"):
        fail()
    (failure,) = captured.failures()
    assert (failure.type, failure.message) == ("ValueError", SECRET)
    (batch,) = (m for m in captured.messages if "failures" in m)
    assert "traceback" not in batch["failures"][0]


def record_failure(detail: str) -> tuple[str, str]:
    """Return the message and the traceback that a separate process records."""
    code = (
        "import kaywatch\n"
        "from kaywatch.testing import capture\n"
        "def inner(secret):\n    raise ValueError(secret)\n"
        "with capture() as captured:\n"
        "    try:\n"
        "        with kaywatch.execution('shop', 'pay'):\n"
        f"            inner({SECRET!r})\n"
        "    except ValueError:\n        pass\n"
        "(failure,) = captured.failures()\n"
        "assert failure.type == 'ValueError'\n"
        "assert len(captured.executions()) == 1\n"
        "print(failure.message); print(failure.traceback)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={"KAYWATCH_FAILURES": detail},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    message, _, traceback = process.stdout.partition("\n")
    return message, traceback.rstrip("\n")


@pytest.mark.parametrize(
    ("detail", "message", "traceback"),
    [
        ("type", "", ""),
        ("message", SECRET, ""),
        ("traceback", SECRET, "<string>:8 in <module>\n<string>:4 in inner"),
    ],
)
def test_the_environment_limits_recorded_detail(
    detail: str, message: str, traceback: str
) -> None:
    assert record_failure(detail) == (message, traceback)


def test_an_unknown_value_records_only_the_type() -> None:
    assert record_failure("all") == ("", "")


def test_the_application_can_limit_recorded_detail() -> None:
    with pytest.raises(ConfigurationError, match="failures='all': expected one of"):
        kaywatch.configure(failures="all")
    before = kaywatch._process.process.settings
    try:
        kaywatch.configure(failures="type")
        with capture() as captured, pytest.raises(ValueError, match="words"):
            fail()
    finally:
        kaywatch.configure(failures=before.failures)
    assert [failure.message for failure in captured.failures()] == [""]
