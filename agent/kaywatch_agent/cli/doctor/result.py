"""The result of a check: a status, a line of text, and the fix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple

__all__ = [
    "SECTIONS",
    "CheckResult",
    "CheckResults",
    "CheckStatus",
    "ok",
    "problem",
    "unchecked",
    "unreadable",
    "warning",
    "worst",
]

# In the order of the output. Defined here, so that `--help` does not import all checks.
SECTIONS: Final = (
    *("agent", "configuration", "socket", "processes", "clock", "store"),
    *("receivers", "brokers", "exports", "host", "service", "application"),
)


class CheckStatus(StrEnum):
    """How severe a result is."""

    OK = "ok"
    WARNING = "warning"  # works, but may fail later
    PROBLEM = "problem"  # does not work
    UNCHECKED = "not checked"


class CheckResult(NamedTuple):
    """One result of a check.

    Attributes:
        status: how severe it is.
        text: what the check observed.
        fix: how to fix it, or why it was not checked; empty if nothing is to do.
    """

    status: CheckStatus
    text: str
    fix: str = ""


CheckResults = Iterator[CheckResult]

ok = partial(CheckResult, CheckStatus.OK)
warning = partial(CheckResult, CheckStatus.WARNING)
problem = partial(CheckResult, CheckStatus.PROBLEM)
unchecked = partial(CheckResult, CheckStatus.UNCHECKED)


def unreadable(
    error: Exception | str,
    fix: str = "create the file or set the variable that the key names",
) -> CheckResult:
    """Return a problem, unless only the user of this command cannot read a secret."""
    text = str(error)
    if "CREDENTIALS_DIRECTORY" in text:
        return unchecked(text, "only the service can read its credentials")
    if "permission denied" in text.lower():
        return unchecked(text, "run as root: the agent's user may have access")
    return problem(text, fix)


def worst(results: Iterable[CheckResult]) -> CheckStatus:
    """Return the most severe status; a result that is not checked counts as ok."""
    statuses = {result.status for result in results}
    severe = (CheckStatus.PROBLEM, CheckStatus.WARNING)
    return next((status for status in severe if status in statuses), CheckStatus.OK)
