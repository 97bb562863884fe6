"""Delivery: requests become messages, messages become durable, and then are sent.

requests -> Outbox -> commit -> Workers -> receivers
alerts, again and again -> Resender -> Alertmanager
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from kaywatch_agent.model.alerts import (
    AlertDetails,
    MessageRecord,
    NotificationKind,
    NotificationRequest,
    ReceiverRecord,
    Severity,
)
from kaywatch_agent.notify.config import (
    AlertmanagerConfig,
    HeartbeatConfig,
    ReceiverConfig,
    policies,
)
from kaywatch_agent.notify.heartbeat import Heartbeat, HeartbeatMetrics
from kaywatch_agent.notify.http import Http
from kaywatch_agent.notify.outbox import Outbox
from kaywatch_agent.notify.receivers import build
from kaywatch_agent.notify.receivers.alertmanager import Resender
from kaywatch_agent.notify.sample import ended, sample
from kaywatch_agent.notify.worker import Workers
from kaywatch_agent.rules.rule import Grouping

__all__ = ["Delivery", "NotifyConfig"]

KIND: Final = "outbox"

Documents = Mapping[tuple[str, str], bytes | None]


@dataclass(frozen=True)
class NotifyConfig:
    """Whom to notify, and how.

    Attributes:
        receivers: by name.
        grouping: how alerts share messages.
        heartbeat: what is pinged while the agent is healthy.
    """

    receivers: Mapping[str, ReceiverConfig] = field(default_factory=dict)
    grouping: Grouping = field(default_factory=Grouping)
    heartbeat: HeartbeatConfig = field(default_factory=HeartbeatConfig)

    @property
    def min_severity(self) -> dict[str, Severity]:
        """By receiver, the least severity that it is notified of."""
        return {name: config.min_severity for name, config in self.receivers.items()}


class Delivery:
    """The outbox and the receivers of one agent; `Durable` for the store."""

    def __init__(
        self,
        config: NotifyConfig,
        *,
        alerts: Callable[[str], Sequence[AlertDetails]],
        healthy: Callable[[], bool],
        request_commit: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Open nothing yet.

        Args:
            config: whom to notify, and how.
            alerts: returns those that an Alertmanager has to know of: what fires, and
                what ended lately.
            healthy: whether rules are evaluated and events taken in.
            request_commit: asks for a commit.
            clock: returns Unix seconds.
        """
        self.outbox = Outbox(
            policies(config.receivers, config.grouping),
            random=random.random,
            entropy=os.urandom,
        )
        self._config = config
        self.heartbeats = HeartbeatMetrics()
        self._alerts = alerts
        self._healthy = healthy
        self._request_commit = request_commit
        self._clock = clock
        self._http = Http()
        self._workers = Workers(self.outbox, request_commit=request_commit, clock=clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._resenders: dict[str, Resender] = {}

    # -- with the store ----------------------------------------------------------------

    def restore(self, documents: Mapping[tuple[str, str], bytes]) -> None:
        """Continue with what was committed before a restart; before `start`."""
        own = {name: data for (kind, name), data in documents.items() if kind == KIND}
        self.outbox.restore(own, self._clock())

    def changes(self, full: bool) -> Documents:
        """Return the messages that changed since the last call, or all of them."""
        changes = self.outbox.store.changes(full)
        return {(KIND, name): data for name, data in changes.items()}

    def committed(self, documents: Documents) -> None:
        """Send the messages of a commit: they are durable."""
        self._workers.wake(self.outbox.store.committed(_own(documents)))

    def refused(self, documents: Documents) -> None:
        """Send messages that can't be made durable: the disk is full."""
        self.outbox.store.refused(_own(documents))
        self._workers.wake(self.outbox.store.release())

    # -- at work -----------------------------------------------------------------------

    def enqueue(self, requests: Iterable[NotificationRequest]) -> None:
        """Take what rules request; it is sent once it is committed."""
        for request in requests:
            resender = self._resenders.get(request.receiver)
            if resender is not None:
                resender.wake()
            else:
                self.outbox.enqueue(request, self._clock())
            self._request_commit()

    async def start(self) -> None:
        """Begin to send."""
        self._begin()

    def use(self, config: NotifyConfig) -> None:
        """Take another configuration."""
        self._config = config
        self.outbox.use(policies(config.receivers, config.grouping), self._clock())
        self._begin()

    def measure(self) -> None:
        """Bring the gauges up to date."""
        self.outbox.measure(self._clock())

    async def stop(self) -> None:
        """End, after what is under way or a moment."""
        for task in self._tasks:
            task.cancel()
        await self._workers.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()

    # -- for people --------------------------------------------------------------------

    def messages(self) -> Iterator[MessageRecord]:
        """Return an iterator over all messages, the newest first, for any thread."""
        return self.outbox.records(self._clock())

    def receivers(self) -> tuple[ReceiverRecord, ...]:
        """Return how each receiver does."""
        now = self._clock()
        return tuple(
            self._resenders[name].record()
            if name in self._resenders
            else self.outbox.receiver(name, config.type, now)
            for name, config in self._config.receivers.items()
        )

    def retry(self, name: str | None) -> int:
        """Send a dead message again, or all of them; return how many."""
        count = self.outbox.retry(name, self._clock())
        self._workers.wake()
        self._request_commit()
        return count

    def purge(self, name: str | None) -> int:
        """Forget a dead message, or all of them; return how many."""
        count = self.outbox.purge(name)
        self._request_commit()
        return count

    def test(self, receiver: str) -> None:
        """Send a receiver a test: an alert that fires, and its end."""
        now = self._clock()
        alert = sample(now, host=socket.gethostname())
        self.enqueue(
            NotificationRequest(receiver, NotificationKind.TEST, one)
            for one in (alert, ended(alert, now))
        )

    # -- inside ------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start the workers, the heartbeat, and what keeps Alertmanagers informed."""
        self._workers.use(build(self._config.receivers, self._http))
        for task in self._tasks:
            task.cancel()
        heartbeat = Heartbeat(
            self._config.heartbeat, self._http, self._healthy, self.heartbeats
        )
        self._resenders = {
            name: Resender(
                config, self._http, self._alerts, self.outbox.metrics, self._clock
            )
            for name, config in self._config.receivers.items()
            if isinstance(config, AlertmanagerConfig)
        }
        self._tasks = [asyncio.create_task(heartbeat.run(), name="heartbeat")]
        self._tasks += [
            asyncio.create_task(resender.run(), name=f"notify {name}")
            for name, resender in self._resenders.items()
        ]


def _own(documents: Documents) -> list[str]:
    return [name for kind, name in documents if kind == KIND]
