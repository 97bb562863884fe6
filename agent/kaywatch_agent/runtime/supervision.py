"""Tells systemd how the agent is: that it serves, lives, reloads, and ends.

The watchdog is fed by the tick, and only while rules are evaluated: an agent that
hangs, or whose rules do, is restarted.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from kaywatch_agent.runtime.health import HealthReport, Readiness
from kaywatch_agent.runtime.systemd import Notifier

__all__ = ["StatusCounts", "Supervision"]

# The stages of `/health` that a restart mends. Not among them: a store or a socket that
# nothing can be pushed through. A full disk and a socket that somebody removed outlive
# a restart, which would only interrupt alerts.
MENDED: Final = ("tick", "rules")

# The last commit may take that long on a slow disk; systemd is asked for it in parts,
# so that an agent that hangs instead is killed soon.
COMMIT_PATIENCE: Final = 120.0
EXTENSION: Final = 10.0
EXTEND_EVERY: Final = 2.0


class StatusCounts(NamedTuple):
    """What `systemctl status` shows.

    Attributes:
        events: taken in since the start of the store.
        series: that are kept.
        clients: that are connected.
        firing: alerts.
    """

    events: int
    series: int
    clients: int
    firing: int


class Supervision:
    """One agent's side of it."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._status = "starting"
        self._problem = ""  # of the last reload
        self._events = 0
        self._since = 0.0
        self._patience = COMMIT_PATIENCE

    def serving(self, now: float, figures: StatusCounts) -> None:
        """Everything listens."""
        self._events, self._since = figures.events, now
        self._status = _line(0.0, figures)
        self._notifier.ready(self._status)

    def tick(self, now: float, figures: StatusCounts, report: HealthReport) -> None:
        """A tick has done its work."""
        rate = (figures.events - self._events) / max(0.5, now - self._since)
        self._events, self._since = figures.events, now
        stages = report.stages.items()
        problems = [
            f"{name}: {stage.problem}" for name, stage in stages if stage.problem
        ]
        parts = [_line(rate, figures), self._problem, *problems]
        self._status = "; ".join(filter(None, parts))
        if report.status is Readiness.UNHEALTHY:
            self._status = f"unhealthy: {self._status}"
        silent = {n for n, stage in stages if stage.status is Readiness.UNHEALTHY}
        if silent.isdisjoint(MENDED):
            self._notifier.alive(self._status)
        else:
            self._notifier.status(self._status)

    def reloading(self) -> None:
        """The configuration is read again; `reloaded` follows."""
        self._notifier.reloading()

    def reloaded(self, problem: str = "") -> None:
        """It is in use, or all stays as it was, and why."""
        self._problem = problem and f"configuration not reloaded: {problem}"
        self._notifier.ready(self._problem or self._status)

    def stopping(self) -> None:
        """The agent ends."""
        self._notifier.stopping()

    async def wait(self, work: asyncio.Task[None], seconds: float) -> None:
        """Wait for a commit; longer than `seconds` where systemd gives more time."""
        if not self._notifier:
            await asyncio.wait([work], timeout=seconds)
        while self._notifier and not work.done() and self._patience > 0:
            self._notifier.extend(EXTENSION)
            self._patience -= EXTEND_EVERY
            await asyncio.wait([work], timeout=EXTEND_EVERY)

    def close(self) -> None:
        """Say no more. Idempotent."""
        self._notifier.close()


def _line(rate: float, figures: StatusCounts) -> str:
    return (
        f"{rate:,.0f} events/s, {figures.series:,} series,"
        f" {figures.clients:,} clients, {figures.firing:,} alerts firing"
    )
