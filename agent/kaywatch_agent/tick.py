"""Run the agent's tasks of each second and of each commit."""

from __future__ import annotations

import asyncio
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
            changed: called with the alerts that changed.
            clock: returns Unix seconds.
        """
        self._pipeline = pipeline
        self._intake = intake
        self._alerting = alerting
        self._delivery = delivery
        self._committer = committer
        self._health = health
        self.publish = publish
        self.changed = changed
        self._clock = clock
        self._problems: dict[Callable[[], None], str] = {}  # of tasks that failed
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
        """Commit whenever that is requested, until `end_commits`."""
        while not self._ending:
            await self._committer.requested()
            if not self._ending:
                await self.commit()
                await asyncio.sleep(COMMIT_PAUSE)

    def end_commits(self) -> None:
        """Let `run_commits` return after the commit in progress."""
        self._ending = True
        self._committer.request()

    def tick(self) -> None:
        """Aggregate, evaluate, request a commit, publish."""
        problem = self._guard(self._advance)
        now = self._clock()
        self._health.report("tick", now, problem)
        self._health.report("rules", self._alerting.evaluated, self._alerting.problem)
        if self._committer.writer is not None or self._committer.problem:
            self._health.report("store", now, self._committer.problem)
        if self._alerting.due:
            self._evaluation = asyncio.create_task(self._evaluate(), name="rules")
        self._committer.request()
        for publish in self.publish:
            self._guard(publish)

    async def commit(self) -> None:
        """Commit all batches and changes, then acknowledge them."""
        self._guard(self._aggregate)
        durable = await self._committer.commit()
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
        self._intake.write(self._pipeline.tick(self._clock()))
        self._intake.tick()

    def _aggregate(self) -> None:
        self._intake.write(self._pipeline.advance(self._clock()))

    async def _evaluate(self) -> None:
        """Evaluate the rules, and pass on the result."""
        view = self._pipeline.aggregator.view(self._clock())
        update = await self._alerting.evaluate(view, self._pipeline.clients)
        # No await before this: alerts and their notifications belong in one commit.
        self._delivery.enqueue(update.requests)
        if update.changed is not None:
            for changed in self.changed:
                try:
                    changed(update.changed)
                except Exception:
                    log.exception("cannot publish changed alerts")

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
