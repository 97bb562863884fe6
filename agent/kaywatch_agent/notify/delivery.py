"""Delivers notifications: requests become messages, which are committed, then sent.

requests -> Outbox -> commit -> Workers -> receivers
current alerts, at an interval -> AlertmanagerSender -> Alertmanager
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import structlog

from kaywatch_agent.model.alerts import (
    AlertDetails,
    MessageRecord,
    NotificationKind,
    NotificationRequest,
    ReceiverRecord,
)
from kaywatch_agent.notify.config import (
    AlertmanagerConfig,
    NotifyConfig,
    policies,
)
from kaywatch_agent.notify.config_check import (
    ConfigNote,
    find_defects,
    find_warnings,
)
from kaywatch_agent.notify.heartbeat import Heartbeat
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.notify.metrics import HeartbeatMetrics
from kaywatch_agent.notify.outbox import Outbox
from kaywatch_agent.notify.outbox_view import (
    message_records,
    oldest_wait,
    receiver_record,
)
from kaywatch_agent.notify.receivers import build
from kaywatch_agent.notify.receivers.alertmanager import AlertmanagerSender
from kaywatch_agent.notify.sample import resolve, sample
from kaywatch_agent.notify.worker import Workers
from kaywatch_agent.runtime.host import host_name

__all__ = ["Delivery"]

KIND: Final = "outbox"
CHECK_SECONDS: Final = 30.0  # between checks of secrets that cannot be read

log = structlog.get_logger("kaywatch.notify")

Documents = Mapping[tuple[str, str], bytes | None]


class Delivery:
    """The outbox and the receivers of one agent; a `Durable` for the store."""

    def __init__(
        self,
        config: NotifyConfig,
        *,
        alerts: Callable[[str], Sequence[AlertDetails]],
        healthy: Callable[[], bool],
        request_commit: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Open no connection yet.

        Args:
            config: the receivers, and how they are notified.
            alerts: returns the alerts for an Alertmanager: firing ones, and alerts that
                ended recently.
            healthy: returns whether rules are evaluated and events are processed.
            request_commit: requests a commit.
            clock: returns Unix seconds.
        """
        self.outbox = Outbox(
            policies(config.receivers, config.grouping),
            random=random.random,
            entropy=os.urandom,
        )
        self.config = config
        self.heartbeats = HeartbeatMetrics()
        self._alerts = alerts
        self._healthy = healthy
        self._request_commit = request_commit
        self._clock = clock
        self._http = HttpClient()
        self._workers = Workers(self.outbox, request_commit=request_commit, clock=clock)
        self.note = ""  # the risks of the configuration
        self._defects = _Defects()
        self._tasks: list[asyncio.Task[None]] = []
        self._alertmanagers: dict[str, AlertmanagerSender] = {}
        self._read_gauges()

    # -- durability --------------------------------------------------------------------

    def restore(self, documents: Mapping[tuple[str, str], bytes]) -> None:
        """Load the committed documents of the previous run; call it before `start`."""
        own = {name: data for (kind, name), data in documents.items() if kind == KIND}
        self.outbox.restore(own, self._clock())

    def changes(self, full: bool) -> Documents:
        """Return the messages that changed since the last call, or all of them."""
        changes = self.outbox.store.changes(full)
        return {(KIND, name): data for name, data in changes.items()}

    def committed(self, documents: Documents) -> None:
        """Send the messages of a commit, which are durable now."""
        self._workers.wake(self.outbox.store.committed(_own(documents)))

    def refused(self, documents: Documents) -> None:
        """Send the messages of a failed commit: a full disk must not stop alerts."""
        self.outbox.store.refused(_own(documents))
        self._workers.wake(self.outbox.store.release())

    # -- running -----------------------------------------------------------------------

    def enqueue(self, requests: Iterable[NotificationRequest]) -> None:
        """Enqueue the requests of rules; messages are sent after the commit."""
        for request in requests:
            sender = self._alertmanagers.get(request.receiver)
            if sender is not None:
                sender.wake()
            else:
                self.outbox.enqueue(request, self._clock())
            self._request_commit()

    async def start(self) -> None:
        """Start sending."""
        self._start()

    def use(self, config: NotifyConfig) -> None:
        """Apply a new configuration."""
        self.config = config
        self.outbox.use(policies(config.receivers, config.grouping), self._clock())
        self._start()

    async def stop(self) -> None:
        """Stop after running requests, or a few seconds."""
        for task in self._tasks:
            task.cancel()
        await self._workers.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    # -- administration ----------------------------------------------------------------

    def messages(self) -> Iterator[MessageRecord]:
        """Return an iterator over all messages, newest first, for any thread."""
        return message_records(self.outbox, self._clock())

    def receivers(self) -> tuple[ReceiverRecord, ...]:
        """Return the state of each receiver."""
        now = self._clock()
        return tuple(
            self._alertmanagers[name].record()
            if name in self._alertmanagers
            else receiver_record(self.outbox, name, config.type, now)
            for name, config in self.config.receivers.items()
        )

    def problem(self) -> str:
        """Return which receivers are down or cannot work, and why; empty for none."""
        defects = self._defects.refresh(self.config, self._clock())
        down = [
            f"receiver {one.name} is down: {one.disabled or one.error}"
            for one in self.receivers()
            if one.up is False
        ]
        return "; ".join([*down, *(note.text for note in defects)])

    def retry(self, name: str | None) -> int:
        """Send a dead message again, or all of them; return how many."""
        count = self.outbox.retry(name, self._clock())
        self._workers.wake()
        self._request_commit()
        return count

    def purge(self, name: str | None) -> int:
        """Delete a dead message, or all of them; return how many."""
        count = self.outbox.purge(name)
        self._request_commit()
        return count

    def test(self, receiver: str) -> None:
        """Send a receiver two test messages: an alert that fires, and its end."""
        now = self._clock()
        alert = sample(now, host=host_name())
        self.enqueue(
            NotificationRequest(receiver, NotificationKind.TEST, state)
            for state in (alert, resolve(alert, now))
        )

    # -- inside ------------------------------------------------------------------------

    def _read_gauges(self) -> None:
        """Let the gauges be read from the messages, so that they are never behind."""
        outbox, metrics = self.outbox, self.outbox.metrics
        metrics.depth.set_function(
            lambda: {(name,): outbox.store.depth(name) for name in outbox.receivers}
        )
        metrics.oldest.set_function(lambda: oldest_wait(outbox, self._clock()))
        metrics.up.set_function(
            lambda: {
                (one.name,): one.up for one in self.receivers() if one.up is not None
            }
        )

    def _start(self) -> None:
        """Start the workers, the heartbeat, and the senders for Alertmanagers."""
        defects = self._defects.find(self.config, self._clock())
        warnings = find_warnings(self.config.receivers, self.config.heartbeat)
        self.note = "; ".join(note.text for note in warnings)
        for note in (*defects, *warnings):
            log.warning("configuration problem", problem=note.text, fix=note.fix)
        self._workers.use(build(self.config.receivers, self._http))
        for task in self._tasks:
            task.cancel()
        heartbeat = Heartbeat(
            self.config.heartbeat, self._http, self._healthy, self.heartbeats
        )
        self._alertmanagers = {
            name: AlertmanagerSender(
                config, self._http, self._alerts, self.outbox.metrics, self._clock
            )
            for name, config in self.config.receivers.items()
            if isinstance(config, AlertmanagerConfig)
        }
        self._tasks = [asyncio.create_task(heartbeat.run(), name="heartbeat")]
        self._tasks += [
            asyncio.create_task(sender.run(), name=f"notify {name}")
            for name, sender in self._alertmanagers.items()
        ]


def _own(documents: Documents) -> list[str]:
    return [name for kind, name in documents if kind == KIND]


class _Defects:
    """Why receivers cannot work as they are configured, found again now and then."""

    def __init__(self) -> None:
        self._notes: list[ConfigNote] = []
        self._found = 0.0

    def find(self, config: NotifyConfig, now: float) -> list[ConfigNote]:
        """Look for defects, and return them."""
        self._found = now
        self._notes = find_defects(config.receivers, config.heartbeat)
        return self._notes

    def refresh(self, config: NotifyConfig, now: float) -> list[ConfigNote]:
        """Return the defects; a missing file may have been added since."""
        if self._notes and not 0 <= now - self._found < CHECK_SECONDS:
            return self.find(config, now)
        return self._notes
