"""The readiness of the agent's stages: their last reports, and their deadlines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import msgspec

__all__ = ["Health", "Readiness", "HealthReport", "StageHealth"]


class Readiness(StrEnum):
    """The state of a stage; the agent's is that of its worst stage."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # works, but reports a problem
    UNHEALTHY = "unhealthy"  # no report within its deadline


class StageHealth(msgspec.Struct, frozen=True):
    """The health of one stage.

    Attributes:
        status: its readiness.
        ready: whether it has ever reported.
        age: seconds since its last report; None before the first.
        within: the longest time between reports, in seconds; None if unlimited.
        problem: the problem it reported; empty for none.
        note: information that is not a problem; empty for none.
    """

    status: Readiness
    ready: bool
    age: float | None
    within: float | None
    problem: str
    note: str = ""


class HealthReport(NamedTuple):
    """The readiness of the agent, and the stages by name."""

    status: Readiness
    stages: dict[str, StageHealth]


@dataclass
class _StageState:
    within: float | None = None
    reported: float | None = None
    problem: str = ""
    note: str = ""


class Health:
    """Collects the reports of the stages."""

    def __init__(self, started: float) -> None:
        """Start the deadlines.

        Args:
            started: Unix seconds; the first deadline of each stage begins here.
        """
        self.started = started
        self._stages: dict[str, _StageState] = {}

    def expect(self, stage: str, within: float) -> None:
        """Set a stage's deadline: at most `within` seconds between its reports."""
        self._stages.setdefault(stage, _StageState()).within = within

    def report(self, stage: str, now: float, problem: str = "", note: str = "") -> None:
        """Record that a stage works, with its problem or a note, if any."""
        state = self._stages.setdefault(stage, _StageState())
        state.reported = now
        state.problem = problem
        state.note = note

    def fail(self, stage: str, problem: str) -> None:
        """Record a stage's problem without counting as a report of the stage."""
        self._stages.setdefault(stage, _StageState()).problem = problem

    def names(self) -> list[str]:
        """Return the names of the stages."""
        return list(self._stages)

    def forget(self, stage: str) -> None:
        """Remove a stage that no longer exists."""
        self._stages.pop(stage, None)

    def status(self, now: float) -> HealthReport:
        """Return the readiness of all stages at `now`."""
        stages = {n: self._stage(state, now) for n, state in self._stages.items()}
        severity = list(Readiness).index
        statuses = (stage.status for stage in stages.values())
        worst = max(statuses, key=severity, default=Readiness.HEALTHY)
        return HealthReport(worst, stages)

    def _stage(self, state: _StageState, now: float) -> StageHealth:
        reported = state.reported
        # A clock that was set back gives negative ages, which are not late.
        silent = max(0.0, now - (self.started if reported is None else reported))
        if state.within is not None and silent > state.within:
            status = Readiness.UNHEALTHY
        elif state.problem:
            status = Readiness.DEGRADED
        else:
            status = Readiness.HEALTHY
        age = None if reported is None else silent
        return StageHealth(
            status, reported is not None, age, state.within, state.problem, state.note
        )
