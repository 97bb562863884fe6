"""Runs the agent's tasks of each second (ticks), and its commits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from kaywatch_agent.ingest.intake import Intake
from kaywatch_agent.notify.delivery import Delivery
from kaywatch_agent.pipeline.pipeline import Pipeline
from kaywatch_agent.rules.loop import Alerting
from kaywatch_agent.rules.snapshot import AlertsSnapshot
from kaywatch_agent.runtime.health import Health
from kaywatch_agent.store.committer import Committer

__all__ = ["Ticker"]

TICK_SECONDS: Final = 1.0

# NTP adjusts a clock by 0.5 ms a second at most, and sets it if it is further off.
CLOCK_STEP: Final = 0.1

# Seconds between two commits, so that a thousand clients that exit share a few commits.
COMMIT_PAUSE: Final = 0.02

log = structlog.get_logger("kaywatch.agent")


class Ticker:
    """Calls the stages in order. Each returns values and is independent of the rest."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        intake: Intake,
        alerting: Alerting,
        delivery: Delivery,
        committer: Committer,
        health: Health,
        publish: list[Callable[[], None]],
        changed: list[Callable[[AlertsSnapshot], None]],
        clock: Callable[[], float],
    ) -> None:
        """Connect the stages.

        Args:
            pipeline: aggregates.
            intake: sends replies.
            alerting: evaluates the rules.
            delivery: queues the notification requests of an evaluation.
            committer: makes all state durable.
            health: receives the state of each stage.
            publish: called at the end of each tick.
            changed: called with the alerts that changed, once that is durable.
            clock: returns Unix seconds.
        """
        self._pipeline = pipeline
        self._intake = intake
        self._alerting = alerting
        self._delivery = delivery
        self._committer = committer
        self._health = health
        self.publish = publish
        self._changed = _ChangedAlerts(changed)
        self._clock = clock
        self._steps = _ClockSteps(clock)
        # The last error of each failing task, because each is logged only once.
        self._problems: dict[Callable[[], None], str] = {}
        self._ending = False
        self._evaluation: asyncio.Task[None] | None = None

    async def run_ticks(self) -> None:
        """Tick once a second, until cancelled. Missed ticks are skipped."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self.tick()
            due = max(due + TICK_SECONDS, loop.time())
            await asyncio.sleep(due - loop.time())

    async def run_commits(self) -> None:
        """Commit on request, until `end_commits`."""
        while not self._ending:
            await self._committer.requested()
            if not self._ending:
                await self.commit()
                await asyncio.sleep(COMMIT_PAUSE)

    async def run_early_evaluations(self) -> None:
        """Evaluate the rules whenever that is requested, until cancelled."""
        while True:
            await self._alerting.timer.wait_requested()
            self._start_evaluation()
            if self._evaluation is not None:
                await asyncio.wait([self._evaluation])

    def end_commits(self) -> None:
        """Let `run_commits` return after the commit in progress."""
        self._ending = True
        self._committer.request()

    def tick(self) -> None:
        """Aggregate, evaluate, request a commit, publish."""
        problem = self._guard(self._advance)
        now = self._clock()
        self._health.report("tick", now, problem)
        rules = self._alerting
        self._health.report("rules", rules.evaluated, rules.problem, rules.note)
        if self._committer.writer is not None or self._committer.problem:
            self._health.report("store", now, self._committer.problem)
        if self._alerting.timer.is_due:
            self._start_evaluation()
        self._committer.request()
        for publish in self.publish:
            self._guard(publish)

    async def commit(self) -> None:
        """Commit all batches and changes, then acknowledge them."""
        self._guard(self._aggregate)
        changed = self._changed.take()
        durable = await self._committer.commit()
        if durable:
            self._changed.publish(changed)
        else:
            self._changed.put_back(changed)
        self._intake.write(self._pipeline.sessions.acknowledge(durable=durable))
        if self._pipeline.commit_due:
            self._committer.request()

    async def stop_rules(self) -> None:
        """Stop evaluating, after the evaluation in progress."""
        if self._evaluation is not None:
            await asyncio.wait([self._evaluation])
        self._alerting.stop()

    # -- inside ------------------------------------------------------------------------

    def _advance(self) -> None:
        self._follow_clock()
        self._intake.write(self._pipeline.tick(self._clock()))
        self._intake.tick()

    def _aggregate(self) -> None:
        self._follow_clock()
        self._intake.write(self._pipeline.advance(self._clock()))

    def _follow_clock(self) -> None:
        """Keep the ages of executions in progress when this host's clock is set."""
        if step := self._steps.take():
            log.warning("the clock was set", seconds=round(step, 3))
            self._pipeline.clients.move_in_flight(step, self._clock())

    def _start_evaluation(self) -> None:
        """Evaluate the rules in a task, unless one has been started already."""
        if self._evaluation is None or self._evaluation.done():
            self._evaluation = asyncio.create_task(self._evaluate(), name="rules")

    async def _evaluate(self) -> None:
        """Evaluate the rules on all that has arrived, and pass on the result."""
        self._guard(self._aggregate)
        view = self._pipeline.aggregator.view(self._clock())
        update = await self._alerting.evaluate(view, self._pipeline.clients)
        # No await before this: alerts and their notifications belong in one commit.
        self._delivery.enqueue(update.requests)
        if update.changed is not None:
            self._changed.add(update.changed)
            self._committer.request()

    def _guard(self, work: Callable[[], None]) -> str:
        """Call `work`; return its error as text. The next tick tries again."""
        try:
            work()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problems.get(work):
                log.exception("part of a tick failed; retrying at the next tick")
            self._problems[work] = problem
            return problem
        self._problems.pop(work, None)
        return ""


class _ClockSteps:
    """Notices that the wall clock is set, by comparing it with the monotonic one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._offset = clock() - time.monotonic()

    def take(self) -> float:
        """Return by how many seconds the clock was set since the last call."""
        offset = self._clock() - time.monotonic()
        step, self._offset = offset - self._offset, offset
        return step if abs(step) > CLOCK_STEP else 0.0


class _ChangedAlerts:
    """Alerts whose change is not durable yet, and may therefore not be published."""

    def __init__(self, listeners: list[Callable[[AlertsSnapshot], None]]) -> None:
        self._listeners = listeners
        self._pending: list[AlertsSnapshot] = []

    def add(self, changed: AlertsSnapshot) -> None:
        """Keep the result of an evaluation for the next commit."""
        self._pending.append(changed)

    def take(self) -> list[AlertsSnapshot]:
        """Return the alerts in the commit that begins now."""
        taken, self._pending = self._pending, []
        return taken

    def put_back(self, changed: list[AlertsSnapshot]) -> None:
        """Keep the alerts of a failed commit for the next one."""
        self._pending[:0] = changed

    def publish(self, changed: list[AlertsSnapshot]) -> None:
        """Publish the alerts of a commit."""
        for each in changed:
            for listener in self._listeners:
                try:
                    listener(each)
                except Exception:
                    log.exception("cannot publish changed alerts")
