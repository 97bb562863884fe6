"""Whether the agent does its work: what each stage last said, and its deadline."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import msgspec

__all__ = ["Health", "Readiness", "HealthReport", "StageHealth"]


class Readiness(StrEnum):
    """The state of a stage, and of the whole: that of its worst stage."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # works, and reports a problem
    UNHEALTHY = "unhealthy"  # silent beyond its deadline


class StageHealth(msgspec.Struct, frozen=True):
    """What is known of one stage.

    Attributes:
        status: its readiness.
        ready: whether it has reported at all.
        age: seconds since its last report; None before the first.
        within: the longest silence allowed, in seconds; None for any.
        problem: what it said was wrong; empty for nothing.
    """

    status: Readiness
    ready: bool
    age: float | None
    within: float | None
    problem: str


class HealthReport(NamedTuple):
    """The readiness of the whole, and each stage's by name."""

    status: Readiness
    stages: dict[str, StageHealth]


@dataclass
class _Known:
    within: float | None = None
    reported: float | None = None
    problem: str = ""


class Health:
    """Collects what the stages say of themselves."""

    def __init__(self, started: float) -> None:
        """Start the clock of the deadlines.

        Args:
            started: Unix seconds; a stage that never reports is late from here on.
        """
        self.started = started
        self._stages: dict[str, _Known] = {}

    def expect(self, stage: str, within: float) -> None:
        """Give a stage a deadline: at most `within` seconds between its reports."""
        self._stages.setdefault(stage, _Known()).within = within

    def report(self, stage: str, now: float, problem: str = "") -> None:
        """Take a stage's sign of life, and what is wrong with it, if anything."""
        known = self._stages.setdefault(stage, _Known())
        known.reported = now
        known.problem = problem

    def fail(self, stage: str, problem: str) -> None:
        """Take what is wrong with a stage from a look that was no sign of its life."""
        self._stages.setdefault(stage, _Known()).problem = problem

    def status(self, now: float) -> HealthReport:
        """Return the readiness of all stages at `now`."""
        stages = {name: self._stage(k, now) for name, k in self._stages.items()}
        found = {stage.status for stage in stages.values()}
        for worst in (Readiness.UNHEALTHY, Readiness.DEGRADED):
            if worst in found:
                return HealthReport(worst, stages)
        return HealthReport(Readiness.HEALTHY, stages)

    def _stage(self, known: _Known, now: float) -> StageHealth:
        reported = known.reported
        # A clock that was put back gives negative ages; they are no lateness.
        silent = max(0.0, now - (self.started if reported is None else reported))
        if known.within is not None and silent > known.within:
            status = Readiness.UNHEALTHY
        elif known.problem:
            status = Readiness.DEGRADED
        else:
            status = Readiness.HEALTHY
        age = None if reported is None else silent
        return StageHealth(
            status, reported is not None, age, known.within, known.problem
        )
