"""Delivery at work: notices become messages, messages become durable, and then go out.

notices -> Outbox -> commit -> Deliverer -> receivers
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
    Alert,
    MessageRecord,
    NoticeKind,
    ReceiverRecord,
    Severity,
)
from kaywatch_agent.notify.config import (
    AlertmanagerConfig,
    Grouping,
    HeartbeatConfig,
    ReceiverConfig,
    policies,
)
from kaywatch_agent.notify.heartbeat import Heartbeat
from kaywatch_agent.notify.http import Http
from kaywatch_agent.notify.outbox import Outbox, ReceiverStatus
from kaywatch_agent.notify.receivers import build
from kaywatch_agent.notify.receivers.alertmanager import Resender
from kaywatch_agent.notify.record import records
from kaywatch_agent.notify.sample import ended, sample
from kaywatch_agent.notify.worker import Deliverer
from kaywatch_agent.rules.tell import Notice
from kaywatch_agent.runtime.telemetry import Telemetry

__all__ = ["Delivery", "NotifyConfig"]

KIND: Final = "outbox"

Documents = Mapping[tuple[str, str], bytes | None]


@dataclass(frozen=True)
class NotifyConfig:
    """Who is told, and how.

    Attributes:
        receivers: by name.
        grouping: how alerts share messages.
        heartbeat: who is told that we live.
    """

    receivers: Mapping[str, ReceiverConfig] = field(default_factory=dict)
    grouping: Grouping = field(default_factory=Grouping)
    heartbeat: HeartbeatConfig = field(default_factory=HeartbeatConfig)

    @property
    def least(self) -> dict[str, Severity]:
        """By receiver, the least severity that it wants to hear of."""
        return {name: config.min_severity for name, config in self.receivers.items()}


class Delivery:
    """The outbox and the receivers of one agent."""

    def __init__(
        self,
        config: NotifyConfig,
        telemetry: Telemetry,
        *,
        alerts: Callable[[str], Sequence[Alert]],
        healthy: Callable[[], bool],
        hurry: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Open nothing yet.

        Args:
            config: who is told, and how.
            telemetry: where what happens is counted.
            alerts: returns those that a receiver has to know of: what fires, and what
                ended lately.
            healthy: whether rules are evaluated and events taken in.
            hurry: asks for a commit.
            clock: Unix seconds.
        """
        self._config = config
        self._telemetry = telemetry
        self._alerts = alerts
        self._healthy = healthy
        self._hurry = hurry
        self._clock = clock
        self._http = Http()
        self._tasks: list[asyncio.Task[None]] = []
        self._resenders: dict[str, Resender] = {}
        self.outbox = self._outbox({})
        self._deliverer = Deliverer(self.outbox, {}, hurry=hurry, clock=clock)
        self._delivering: asyncio.Task[None] | None = None

    # -- with the store ----------------------------------------------------------------

    def restore(self, documents: Mapping[tuple[str, str], bytes]) -> None:
        """Go on from what was kept before a restart; before `start`."""
        self.outbox = self._outbox(
            {name: data for (kind, name), data in documents.items() if kind == KIND}
        )

    def changes(self, whole: bool) -> Documents:
        """Return the messages that changed since the last call, or all of them."""
        if whole:
            self.outbox.rewrite()
        return {(KIND, name): data for name, data in self.outbox.changes().items()}

    def committed(self, documents: Documents) -> None:
        """Messages are durable: they may go."""
        self._deliverer.wake(self.outbox.committed(_ours(documents)))

    def refused(self, documents: Documents) -> None:
        """Messages can't be made durable: they go all the same, as the disk is full."""
        self.outbox.refused(_ours(documents))
        self._deliverer.wake(self.outbox.release())

    # -- at work -----------------------------------------------------------------------

    def tell(self, notices: Iterable[Notice], text: str = "") -> None:
        """Take notices to the outbox, with a text above them."""
        now = self._clock()
        for notice in notices:
            resender = self._resenders.get(notice.receiver)
            if resender is not None:
                resender.wake()
            else:
                self.outbox.put(notice.receiver, notice.kind, notice.alert, now, text)
            self._hurry()

    async def start(self) -> None:
        """Begin to send."""
        receivers = build(self._config.receivers, self._http)
        self._deliverer = Deliverer(
            self.outbox, receivers, hurry=self._hurry, clock=self._clock
        )
        self._delivering = asyncio.create_task(self._deliverer.run(), name="notify")
        self._begin()

    def use(self, config: NotifyConfig) -> None:
        """Go on with other receivers."""
        self._config = config
        self.outbox.use(policies(config.receivers, config.grouping), self._clock())
        self._deliverer.use(build(config.receivers, self._http))
        self._begin()

    def measure(self) -> None:
        """Bring the gauges up to date."""
        self.outbox.measure(self._clock())

    async def stop(self) -> None:
        """End; what is under way may end for a moment."""
        for task in self._tasks:
            task.cancel()
        self._deliverer.stop()
        if self._delivering is not None:
            await self._delivering
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()

    # -- for those who look, and help --------------------------------------------------

    def messages(self) -> Iterator[MessageRecord]:
        """Yield all messages that are kept now, the newest first, in any thread."""
        now = self._clock()
        return records(self.outbox.rows(), self.outbox.status(now), now)

    def receivers(self) -> tuple[ReceiverRecord, ...]:
        """Return how each receiver does."""
        known = self.outbox.status(self._clock())
        return tuple(
            self._receiver(name, config, known.get(name))
            for name, config in self._config.receivers.items()
        )

    def retry(self, name: str | None) -> int:
        """Send a dead message again, or all of them; return how many."""
        found = self.outbox.retry(name, self._clock())
        self._deliverer.wake()
        self._hurry()
        return found

    def purge(self, name: str | None) -> int:
        """Forget a dead message, or all of them; return how many."""
        found = self.outbox.purge(name)
        self._hurry()
        return found

    def test(self, receiver: str) -> None:
        """Send a receiver a test: that an alert fires, and that it is over."""
        now = self._clock()
        alert = sample(now, host=socket.gethostname())
        for told in (alert, ended(alert, now)):
            self.outbox.put(receiver, NoticeKind.TEST, told, now)
        self._hurry()

    # -- inside ------------------------------------------------------------------------

    def _outbox(self, documents: Mapping[str, bytes]) -> Outbox:
        return Outbox(
            policies(self._config.receivers, self._config.grouping),
            documents,
            telemetry=self._telemetry,
            random=random.random,
            entropy=os.urandom,
        )

    def _begin(self) -> None:
        """Start what is no consumer of the outbox: Alertmanagers, and the heartbeat."""
        for task in self._tasks:
            task.cancel()
        heartbeat = Heartbeat(
            self._config.heartbeat, self._http, self._healthy, self._telemetry
        )
        self._resenders = {
            name: self._resender(name, config)
            for name, config in self._config.receivers.items()
            if isinstance(config, AlertmanagerConfig)
        }
        self._tasks = [asyncio.create_task(heartbeat.run(), name="heartbeat")]
        self._tasks += [
            asyncio.create_task(resender.run(), name=f"notify {name}")
            for name, resender in self._resenders.items()
        ]

    def _receiver(
        self, name: str, config: ReceiverConfig, status: ReceiverStatus | None
    ) -> ReceiverRecord:
        if status is None:
            problems = self._resenders[name].problems if name in self._resenders else {}
            error = next(filter(None, problems.values()), "")
            return ReceiverRecord(
                name=name, type=config.type, up=not error, error=error
            )
        return ReceiverRecord(
            name=name,
            type=config.type,
            up=status.up,
            waiting=status.waiting,
            dead=status.dead,
            error=status.error,
            disabled=status.disabled,
            paused_until=status.paused_until,
            sent_at=status.sent_at,
        )

    def _resender(self, name: str, config: AlertmanagerConfig) -> Resender:
        return Resender(
            config,
            self._http,
            lambda: self._alerts(name),
            self._telemetry,
            self._clock,
        )


def _ours(documents: Documents) -> list[str]:
    return [name for kind, name in documents if kind == KIND]
