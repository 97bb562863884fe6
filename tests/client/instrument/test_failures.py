"""How much of an exception leaves the process: its type, its message, its traceback."""

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


def test_a_message_leaves_by_default_and_no_traceback() -> None:
    with capture() as captured, pytest.raises(ValueError, match="words"):
        fail()
    (failure,) = captured.failures()
    assert (failure.type, failure.message) == ("ValueError", SECRET)
    (batch,) = (m for m in captured.messages if "failures" in m)
    assert "traceback" not in batch["failures"][0]


def told(detail: str) -> tuple[str, str]:
    """Return the message and the traceback that a process of its own tells."""
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
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"KAYWATCH_FAILURES": detail},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    message, _, traceback = done.stdout.partition("\n")
    return message, traceback.rstrip("\n")


@pytest.mark.parametrize(
    ("detail", "message", "traceback"),
    [
        ("type", "", ""),
        ("message", SECRET, ""),
        ("traceback", SECRET, "<string>:8 in <module>\n<string>:4 in inner"),
    ],
)
def test_so_much_leaves_as_the_environment_says(
    detail: str, message: str, traceback: str
) -> None:
    assert told(detail) == (message, traceback)


def test_a_word_that_is_none_of_these_leaves_the_least() -> None:
    assert told("all") == ("", "")


def test_it_can_be_set_by_the_program() -> None:
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
