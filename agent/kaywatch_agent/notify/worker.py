"""Carries messages from the outbox to receivers: a task for each, so none waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from kaywatch_agent.notify.outbox import Outbox
from kaywatch_agent.notify.receivers.common import Closing, Receiver
from kaywatch_agent.notify.row import Row
from kaywatch_agent.notify.verdict import Outcome, Verdict, no_answer

__all__ = ["Deliverer"]

# What a request's own timeouts don't end, this does.
ATTEMPT_SECONDS: Final = 40.0
STOP_SECONDS: Final = 3.0

# The wall clock may jump: who waits looks again.
LONGEST_WAIT: Final = 30.0
MISTAKE_SECONDS: Final = 1.0

# Who failed for less than this, and was never given up on, is not said to be back: some
# fail now and then, and what they didn't take is tried again.
OUTAGE_SECONDS: Final = 60.0

log = structlog.get_logger("kaywatch.notify")


class Deliverer:
    """Sends what is due, and tells the outbox what came of it."""

    def __init__(
        self,
        outbox: Outbox,
        receivers: Mapping[str, Receiver],
        *,
        hurry: Callable[[], None],
        clock: Callable[[], float] = time.time,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """Send nothing yet.

        Args:
            outbox: where messages wait.
            receivers: by name.
            hurry: asks for a commit: something was settled.
            clock: Unix seconds.
            stop_seconds: how long `stop` lets requests go on.
        """
        self._outbox = outbox
        self._receivers = dict(receivers)
        self._hurry = hurry
        self._clock = clock
        self._stop_seconds = stop_seconds
        self._stopping = asyncio.Event()
        self._events: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._troubles: dict[str, Trouble] = {}  # of those who fail at the moment

    async def run(self) -> None:
        """Send until `stop`; then let what is under way end, for a moment."""
        try:
            self._start()
            await self._stopping.wait()
            self.wake()
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=self._stop_seconds)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            for receiver in self._receivers.values():
                if isinstance(receiver, Closing):
                    receiver.close()

    def stop(self) -> None:
        """End `run`. Idempotent."""
        self._stopping.set()

    def wake(self, receivers: Iterable[str] | None = None) -> None:
        """Let receivers look for what is due: after a commit; all by default."""
        for name in self._events if receivers is None else receivers:
            if name in self._events:
                self._events[name].set()

    def use(self, receivers: Mapping[str, Receiver]) -> None:
        """Go on with other receivers, after a reload; the outbox knows of them."""
        self._receivers = dict(receivers)
        self._start()
        self.wake()

    # -- inside ----------------------------------------------------------------------

    def _start(self) -> None:
        for name in self._receivers:
            task = self._tasks.get(name)
            if task is None or task.done():
                self._events[name] = asyncio.Event()
                self._tasks[name] = asyncio.create_task(
                    self._serve(name), name=f"notify {name}"
                )

    async def _serve(self, name: str) -> None:
        while not self._stopping.is_set() and name in self._receivers:
            try:
                await self._step(name)
            except Exception:
                # A mistake of ours must not silence a receiver for good.
                log.exception("delivery failed, and goes on", receiver=name)
                await asyncio.sleep(MISTAKE_SECONDS)

    async def _step(self, name: str) -> None:
        """Send what is due, or wait until something is."""
        self._events[name].clear()
        row = self._outbox.due(name, self._clock())
        if row is None:
            await self._wait(name)
            return
        verdict = await self._attempt(name, row)
        self._outbox.settle(row.id, verdict, self._clock())
        self._say(name, verdict)
        self._hurry()

    async def _wait(self, name: str) -> None:
        now = self._clock()
        due = self._outbox.next_due(name, now)
        seconds = LONGEST_WAIT if due is None else min(due - now, LONGEST_WAIT)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._events[name].wait()
        except TimeoutError:
            pass

    async def _attempt(self, name: str, row: Row) -> Verdict:
        now = self._clock()
        notification = row.notification(self._outbox.max_alerts(name))
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._receivers[name].send(notification, now)
        except TimeoutError:
            return no_answer(f"no answer in {ATTEMPT_SECONDS:.0f} s")
        except Exception as error:
            # Tried again: the message stays, and so does what is wrong with us.
            log.exception("a receiver failed", receiver=name, message=row.id)
            return no_answer(f"our own failure ({type(error).__name__})")

    def _say(self, name: str, verdict: Verdict) -> None:
        """Log when a receiver fails in a new manner, and when it is back."""
        now, trouble = self._clock(), self._troubles.get(name)
        if verdict.outcome is Outcome.SENT:
            if trouble is not None:
                del self._troubles[name]
                seconds = now - trouble.since
                outage = trouble.down or seconds >= OUTAGE_SECONDS
                say = log.info if outage else log.debug
                say("receiver is back", receiver=name, after_seconds=round(seconds, 1))
            return
        if trouble is None:
            trouble = self._troubles[name] = Trouble(now)
        trouble.down = trouble.down or self._outbox.is_down(name)
        if verdict.error != trouble.error:
            trouble.error = verdict.error
            log.warning(
                "not delivered",
                receiver=name,
                outcome=str(verdict.outcome),
                error=verdict.error,
            )


@dataclass
class Trouble:
    """That a receiver fails.

    Attributes:
        since: when it began to, Unix seconds.
        error: the last one that was logged.
        down: whether the outbox gave up on it for a while.
    """

    since: float
    error: str = ""
    down: bool = False
