"""What a check finds: how it is, in a line, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = [
    "FAMILIES",
    "Finding",
    "Findings",
    "Verdict",
    "ok",
    "problem",
    "unchecked",
    "warning",
    "worst",
]


# What is looked at, in the order in which it is told.
FAMILIES: Final = (
    *("agent", "configuration", "socket", "peers", "clock", "store", "receivers"),
    *("brokers", "machine", "service", "application"),
)


class Verdict(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"  # it works, and may not always
    PROBLEM = "problem"  # it doesn't work
    UNCHECKED = "not checked"


class Finding(NamedTuple):
    """What one look found.

    Attributes:
        verdict: how it is.
        text: what was found.
        mend: what to do about it; of what is not checked, why not. Empty if it is well.
    """

    verdict: Verdict
    text: str
    mend: str = ""


Findings = Iterator[Finding]


def ok(text: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(Verdict.OK, text)


def warning(text: str, mend: str) -> Finding:
    """Return that something works, and may not always."""
    return Finding(Verdict.WARNING, text, mend)


def problem(text: str, mend: str) -> Finding:
    """Return that something doesn't work."""
    return Finding(Verdict.PROBLEM, text, mend)


def unchecked(text: str, why: str) -> Finding:
    """Return that something can't be looked at here and now."""
    return Finding(Verdict.UNCHECKED, text, why)


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict; that something wasn't checked is none."""
    found = {finding.verdict for finding in findings}
    for verdict in (Verdict.PROBLEM, Verdict.WARNING):
        if verdict in found:
            return verdict
    return Verdict.OK
