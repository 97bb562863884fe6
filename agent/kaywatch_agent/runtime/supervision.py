"""Reports the agent's state to systemd: ready, alive, reloading, stopping.

The tick feeds the watchdog, and only while rules are evaluated: systemd restarts an
agent that hangs, or whose rules do.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple

from kaywatch_agent.runtime.health import HealthReport, Readiness
from kaywatch_agent.runtime.systemd import Notifier

__all__ = ["StatusCounts", "Supervision"]

# The stages of `/health` that a restart fixes. A store or socket that cannot be used is
# not among them: a full disk and a removed socket outlive a restart, which would only
# interrupt alerts.
WATCHED_STAGES: Final = ("tick", "rules")

# The last commit may take this long on a slow disk. The time is requested in portions,
# so that systemd soon kills an agent that hangs instead.
COMMIT_PATIENCE: Final = 120.0
EXTENSION: Final = 10.0
EXTEND_EVERY: Final = 2.0


class StatusCounts(NamedTuple):
    """The counts that `systemctl status` shows.

    Attributes:
        events: events accepted since the store was created.
        series: series kept.
        clients: connected clients.
        firing: alerts that fire.
    """

    events: int
    series: int
    clients: int
    firing: int


class Supervision:
    """Reports one agent's state."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._status = "starting"
        self._problem = ""  # of the last reload
        self._events = 0
        self._since = 0.0
        self._patience = COMMIT_PATIENCE

    def serving(self, now: float, counts: StatusCounts) -> None:
        """Report that everything listens."""
        self._events, self._since = counts.events, now
        self._status = _line(0.0, counts)
        self._notifier.send(READY="1", STATUS=self._status)

    def tick(self, now: float, counts: StatusCounts, report: HealthReport) -> None:
        """Report the end of a tick, and feed the watchdog if rules are evaluated."""
        rate = (counts.events - self._events) / max(0.5, now - self._since)
        self._events, self._since = counts.events, now
        stages = report.stages.items()
        problems = [
            f"{name}: {stage.problem}" for name, stage in stages if stage.problem
        ]
        parts = [_line(rate, counts), self._problem, *problems]
        self._status = "; ".join(filter(None, parts))
        if report.status is Readiness.UNHEALTHY:
            self._status = f"unhealthy: {self._status}"
        silent = {n for n, stage in stages if stage.status is Readiness.UNHEALTHY}
        alive = {"WATCHDOG": "1"} if silent.isdisjoint(WATCHED_STAGES) else {}
        self._notifier.send(**alive, STATUS=self._status)

    def reloading(self) -> None:
        """Report the start of a reload; a call of `reloaded` must follow."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.send(RELOADING="1", MONOTONIC_USEC=str(now))

    def reloaded(self, problem: str = "") -> None:
        """Report the end of a reload, and why nothing was changed, if so."""
        self._problem = problem and f"configuration not reloaded: {problem}"
        self._notifier.send(READY="1", STATUS=self._problem or self._status)

    def stopping(self) -> None:
        """Report that the agent stops."""
        self._notifier.send(STOPPING="1", STATUS="committing the last changes")

    async def wait(self, work: asyncio.Task[None], seconds: float) -> None:
        """Wait for a commit, for longer than `seconds` if systemd allows it."""
        if not self._notifier:
            await asyncio.wait([work], timeout=seconds)
        while self._notifier and not work.done() and self._patience > 0:
            self._notifier.send(EXTEND_TIMEOUT_USEC=str(int(EXTENSION * 1e6)))
            self._patience -= EXTEND_EVERY
            await asyncio.wait([work], timeout=EXTEND_EVERY)

    def close(self) -> None:
        """Stop reporting. Idempotent."""
        self._notifier.close()


def _line(rate: float, counts: StatusCounts) -> str:
    return (
        f"{rate:,.0f} events/s, {counts.series:,} series,"
        f" {counts.clients:,} clients, {counts.firing:,} alerts firing"
    )
