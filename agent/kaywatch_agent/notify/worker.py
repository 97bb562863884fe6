"""Sends messages from the outbox: one worker for each receiver, so that none waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, runtime_checkable

import structlog

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.alerts import Notification
from kaywatch_agent.notify.http import NoResponse
from kaywatch_agent.notify.message import OutboxMessage
from kaywatch_agent.notify.outbox import Outbox
from kaywatch_agent.notify.result import DeliveryOutcome, DeliveryResult, no_response

__all__ = ["Receiver", "Workers", "attempt"]

# Ends an attempt whose own timeouts failed.
ATTEMPT_SECONDS: Final = 200.0
STOP_SECONDS: Final = 3.0

# The wall clock may jump, so a waiting worker checks again after this time.
MAX_WAIT: Final = 30.0
BUG_SECONDS: Final = 1.0  # between attempts after a bug of kaywatch

# The end of a shorter outage is logged at debug level, unless the circuit opened: some
# receivers fail now and then, and their messages are retried.
OUTAGE_SECONDS: Final = 60.0

log = structlog.get_logger("kaywatch.notify")


class Receiver(Protocol):
    """A destination of messages."""

    def render(self, notification: Notification, now: float) -> Any:
        """Return the body as a JSON value, without reading or showing a secret."""

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Make one attempt.

        Raises:
            NoResponse: there was none in time.
            ConfigError: a secret cannot be read.
        """


@runtime_checkable
class ClosableReceiver(Protocol):
    """A receiver with resources of its own."""

    def close(self) -> None:
        """Release them without waiting."""


async def attempt(
    receiver: Receiver, notification: Notification, now: float
) -> DeliveryResult:
    """Make one attempt, and always return its result."""
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            return await receiver.send(notification, now)
    except NoResponse as error:
        return no_response(str(error), undelivered=error.undelivered)
    except ConfigError as error:  # a secret's file may appear again
        return no_response(str(error), undelivered=True)
    except TimeoutError:
        return no_response(f"no response in {ATTEMPT_SECONDS:.0f} s")
    except Exception as error:
        # A bug of kaywatch must not lose the message, so it is retried.
        name = notification.receiver
        log.exception("sending failed unexpectedly", receiver=name, id=notification.id)
        return no_response(f"internal error in kaywatch ({type(error).__name__})")


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
        """Start no worker yet.

        Args:
            outbox: the messages.
            request_commit: called after each attempt.
            clock: returns Unix seconds.
            stop_seconds: how long `stop` waits for running requests.
        """
        self._outbox = outbox
        self._request_commit = request_commit
        self._clock = clock
        self._stop_seconds = stop_seconds
        self._workers: dict[str, _Worker] = {}

    def use(self, receivers: Mapping[str, Receiver]) -> None:
        """Send to these receivers from now on: at the start, or after a reload."""
        for name in self._workers.keys() - receivers.keys():
            self._workers[name].stop()
        for name, receiver in receivers.items():
            worker = self._workers.get(name)
            if worker is not None and not worker.task.done():
                worker.use(receiver)
            else:
                self._workers[name] = _Worker(
                    name, receiver, self._outbox, self._request_commit, self._clock
                )

    def wake(self, receivers: Iterable[str] | None = None) -> None:
        """Let workers check for due messages, all workers by default."""
        for name in self._workers if receivers is None else receivers:
            if name in self._workers:
                self._workers[name].wake.set()

    async def stop(self) -> None:
        """Stop after running requests, or `stop_seconds`. Idempotent."""
        workers = self._workers.values()
        for worker in workers:
            worker.stop()
        tasks = [worker.task for worker in workers]
        if tasks:
            await asyncio.wait(tasks, timeout=self._stop_seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in workers:
            if isinstance(worker.receiver, ClosableReceiver):
                worker.receiver.close()


class _Worker:
    """Sends the messages of one receiver, one after the other.

    Attributes:
        receiver: sends a message; a reload replaces it.
        wake: set when a message may be due.
        task: runs until `stop`.
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
        # The current outage: its start, its last error, and whether the circuit opened.
        self._failing_since: float | None = None
        self._error = ""
        self._was_down = False
        self.task = asyncio.create_task(self._run(), name=f"notify {name}")

    def use(self, receiver: Receiver) -> None:
        """Send by another receiver; undoes a `stop` that did not take effect yet."""
        self.receiver = receiver
        self._stopping = False
        self.wake.set()

    def stop(self) -> None:
        """End the task after the current attempt."""
        self._stopping = True
        self.wake.set()

    async def _run(self) -> None:
        """Send due messages until `stop`."""
        while not self._stopping:
            try:
                await self._step()
            except Exception:
                # A bug of kaywatch must not silence a receiver permanently.
                log.exception("delivery failed, retrying", receiver=self._name)
                await asyncio.sleep(BUG_SECONDS)

    async def _step(self) -> None:
        """Send a due message, or wait for one."""
        self.wake.clear()
        message = self._outbox.claim(self._name, self._clock())
        if message is None:
            await self._wait()
            return
        notification = self._outbox.notification(message)
        result = await attempt(self.receiver, notification, self._clock())
        self._outbox.finish(message.id, result, self._clock())
        self._report(message, result)
        self._request_commit()

    async def _wait(self) -> None:
        now = self._clock()
        due = self._outbox.next_due(self._name, now)
        seconds = MAX_WAIT if due is None else min(due - now, MAX_WAIT)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self.wake.wait()
        except TimeoutError:
            pass

    def _report(self, message: OutboxMessage, result: DeliveryResult) -> None:
        """Log a delivery, or a failure if its error is new."""
        if result.outcome is DeliveryOutcome.SENT:
            log.info(
                "message delivered",
                receiver=self._name,
                id=message.id,
                kind=str(message.kind),
                alerts=[entry.subject.summary for entry in message.entries[:3]],
                more=max(0, len(message.entries) - 3),
            )
            self._report_recovery()
            return
        if self._failing_since is None:
            self._failing_since = self._clock()
        state = self._outbox.receivers.get(self._name)
        self._was_down |= state is not None and state.down
        if result.error != self._error:
            self._error = result.error
            log.warning(
                "message not delivered",
                receiver=self._name,
                outcome=str(result.outcome),
                error=result.error,
            )

    def _report_recovery(self) -> None:
        """Log the end of an outage, if there was one."""
        if self._failing_since is not None:
            seconds = self._clock() - self._failing_since
            outage = self._was_down or seconds >= OUTAGE_SECONDS
            write = log.info if outage else log.debug
            write(
                "receiver recovered",
                receiver=self._name,
                after_seconds=round(seconds, 1),
            )
        self._failing_since, self._error, self._was_down = None, "", False
