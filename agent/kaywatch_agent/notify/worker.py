"""Carries messages from the outbox to receivers: a worker for each, so none waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, runtime_checkable

import structlog

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import Notification
from kaywatch_agent.notify.http import NoAnswer
from kaywatch_agent.notify.outbox import Outbox
from kaywatch_agent.notify.result import DeliveryResult, Outcome, no_answer

__all__ = ["Receiver", "Workers", "attempt"]

# Ends what a request's own timeouts do not.
ATTEMPT_SECONDS: Final = 40.0
STOP_SECONDS: Final = 3.0

# The wall clock may jump: a worker that waits looks again.
LONGEST_WAIT: Final = 30.0
MISTAKE_SECONDS: Final = 1.0

# The end of a shorter outage is logged for debugging only, unless the circuit opened:
# some receivers fail now and then, and the messages are tried again.
OUTAGE_SECONDS: Final = 60.0

log = structlog.get_logger("kaywatch.notify")


class Receiver(Protocol):
    """A destination of messages."""

    def render(self, notification: Notification, now: float) -> Any:
        """Return what is sent, as JSON has it, without reading or showing a secret."""

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Try once.

        Raises:
            NoAnswer: nothing came back in time.
            ConfigError: a secret can't be read.
        """


@runtime_checkable
class Closing(Protocol):
    """A receiver that holds something of its own."""

    def close(self) -> None:
        """Release it without waiting."""


async def attempt(
    receiver: Receiver, notification: Notification, now: float
) -> DeliveryResult:
    """Try once, and return the result whatever happens."""
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            return await receiver.send(notification, now)
    except NoAnswer as error:
        return DeliveryResult(
            Outcome.RETRY, 0, str(error), undelivered=error.undelivered
        )
    except ConfigError as error:  # a secret's file: it may come back
        return DeliveryResult(Outcome.RETRY, 0, str(error), undelivered=True)
    except TimeoutError:
        return no_answer(f"no answer in {ATTEMPT_SECONDS:.0f} s")
    except Exception as error:
        # It is tried again: the message stays, and so does what is wrong with us.
        name = notification.receiver
        log.exception("a receiver failed", receiver=name, message=notification.id)
        return no_answer(f"our own failure ({type(error).__name__})")


class Workers:
    """The workers of all receivers."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        request_commit: Callable[[], None],
        clock: Callable[[], float] = time.time,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """Start none yet.

        Args:
            outbox: where messages wait.
            request_commit: is called after each attempt.
            clock: returns Unix seconds.
            stop_seconds: how long `stop` lets requests go on.
        """
        self._outbox = outbox
        self._request_commit = request_commit
        self._clock = clock
        self._stop_seconds = stop_seconds
        self._workers: dict[str, _Worker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def use(self, receivers: Mapping[str, Receiver]) -> None:
        """Send to these receivers, at the start or after a reload."""
        for name, worker in self._workers.items():
            if name not in receivers:
                worker.stop()
        for name, receiver in receivers.items():
            task = self._tasks.get(name)
            if task is not None and not task.done():
                self._workers[name].receiver = receiver
                self._workers[name].wake.set()
                continue
            worker = _Worker(
                name, receiver, self._outbox, self._request_commit, self._clock
            )
            self._workers[name] = worker
            self._tasks[name] = asyncio.create_task(worker.run(), name=f"notify {name}")

    def wake(self, receivers: Iterable[str] | None = None) -> None:
        """Let receivers look for what is due: after a commit; all by default."""
        for name in self._workers if receivers is None else receivers:
            if name in self._workers:
                self._workers[name].wake.set()

    async def stop(self) -> None:
        """End, after what is under way or a moment. Idempotent."""
        for worker in self._workers.values():
            worker.stop()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=self._stop_seconds)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for worker in self._workers.values():
            if isinstance(worker.receiver, Closing):
                worker.receiver.close()


class _Worker:
    """Sends to one receiver, one message after the other.

    Attributes:
        receiver: what sends; a reload replaces it.
        wake: set when something may be due.
    """

    def __init__(
        self,
        name: str,
        receiver: Receiver,
        outbox: Outbox,
        request_commit: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.receiver = receiver
        self.wake = asyncio.Event()
        self._name = name
        self._outbox = outbox
        self._request_commit = request_commit
        self._clock = clock
        self._stopping = False
        # Of the outage that goes on: since when, its last error, and whether the
        # circuit opened.
        self._since: float | None = None
        self._error = ""
        self._was_down = False

    def stop(self) -> None:
        """End `run` after the attempt that is under way."""
        self._stopping = True
        self.wake.set()

    async def run(self) -> None:
        """Send what is due until `stop`."""
        while not self._stopping:
            try:
                await self._step()
            except Exception:
                # A mistake of ours must not silence a receiver for good.
                log.exception("delivery failed, and goes on", receiver=self._name)
                await asyncio.sleep(MISTAKE_SECONDS)

    async def _step(self) -> None:
        """Send what is due, or wait until something is."""
        self.wake.clear()
        message = self._outbox.claim(self._name, self._clock())
        if message is None:
            await self._wait()
            return
        notification = self._outbox.notification(message)
        result = await attempt(self.receiver, notification, self._clock())
        self._outbox.finish(message.id, result, self._clock())
        self._report(result)
        self._request_commit()

    async def _wait(self) -> None:
        now = self._clock()
        due = self._outbox.next_due(self._name, now)
        seconds = LONGEST_WAIT if due is None else min(due - now, LONGEST_WAIT)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self.wake.wait()
        except TimeoutError:
            pass

    def _report(self, result: DeliveryResult) -> None:
        """Log a receiver's failure when the error changes, and its recovery."""
        now = self._clock()
        if result.outcome is Outcome.SENT:
            if self._since is not None:
                seconds = now - self._since
                outage = self._was_down or seconds >= OUTAGE_SECONDS
                write = log.info if outage else log.debug
                write(
                    "receiver is back",
                    receiver=self._name,
                    after_seconds=round(seconds, 1),
                )
            self._since, self._error, self._was_down = None, "", False
            return
        self._since = now if self._since is None else self._since
        state = self._outbox.receivers.get(self._name)
        self._was_down |= state is not None and state.down
        if result.error != self._error:
            self._error = result.error
            log.warning(
                "not delivered",
                receiver=self._name,
                outcome=str(result.outcome),
                error=result.error,
            )
