"""Rules and delivery on a virtual clock: what they would do, in tests and in the past.

    EvalInput -> Engine.evaluate -> notices -> Outbox -> messages

All of it is what works live, given other pictures. Only the answers are made up: each
receiver takes what it is sent, but for the outages that are said.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from kaywatch_agent.model.alerts import (
    Notification,
    NotificationKind,
    NotificationRequest,
)
from kaywatch_agent.notify.config import (
    AlertmanagerConfig,
    ReceiverConfig,
    SlackConfig,
    policies,
)
from kaywatch_agent.notify.http import HttpClient
from kaywatch_agent.notify.message import OutboxMessage, most_urgent
from kaywatch_agent.notify.outbox import Outbox
from kaywatch_agent.notify.receivers import alertmanager, build
from kaywatch_agent.notify.result import DeliveryOutcome, DeliveryResult, sent
from kaywatch_agent.rules.engine import Engine, EvaluationResult
from kaywatch_agent.rules.evaluation import StateChange
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.rules.windows import EvalInput
from kaywatch_agent.units import parse_duration

__all__ = ["SimulatedMessage", "Outage", "Simulation"]

# Messages that are remembered, the last ones; all are counted.
MAX_MESSAGES: Final = 10_000


class SimulatedMessage(NamedTuple):
    """A message, and when it was sent."""

    time: float
    notification: Notification

    @property
    def size(self) -> int:
        """How many alerts it is about."""
        return len(self.notification.alerts) + self.notification.left_out


class Outage(NamedTuple):
    """When a receiver can't be reached, Unix seconds."""

    receiver: str
    start: float
    end: float


class Simulation:
    """One engine, one outbox, and all that they did.

    Attributes:
        engine: what decides.
        changes: what went from one state to another.
        messages: those that were sent, the last MAX_MESSAGES of them.
        sent: how many were sent, by receiver and kind.
        alerts: how many alerts were in them, by receiver.
        told: how many of them were about a rule, by receiver, rule and kind.
        suppressed: how many notices were held back, by reason.
        refused: the most alerts that were too many at once, by rule.
    """

    def __init__(
        self,
        settings: AlertSettings,
        receivers: Mapping[str, ReceiverConfig],
        *,
        host: str = "",
        outages: Sequence[Outage] = (),
    ) -> None:
        """Begin without any alert.

        Args:
            settings: rules, and what else is set.
            receivers: by name; no secret of theirs is read.
            host: where the agent seems to run.
            outages: when receivers can't be reached.
        """
        severities = {name: config.min_severity for name, config in receivers.items()}
        self.engine = Engine(settings, host=host, min_severity=severities)
        self.changes: list[StateChange] = []
        self.messages: deque[SimulatedMessage] = deque(maxlen=MAX_MESSAGES)
        self.sent: Counter[tuple[str, NotificationKind]] = Counter()
        self.alerts: Counter[str] = Counter()
        self.told: Counter[tuple[str, str, NotificationKind]] = Counter()
        self.suppressed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._configs = receivers
        self._receivers = build(receivers, HttpClient())
        self._outages = outages
        self._outbox = _outbox(settings, receivers)
        self._now = 0.0
        self._mono = 0.0

    def look(self, scene: EvalInput, passed: float) -> None:
        """Evaluate the rules, so many seconds after the last time."""
        self.deliver(scene.now)
        self._mono += passed
        # Of the past, every second was observed.
        self.engine.max_step = max(self.engine.max_step, passed)
        done = self.engine.evaluate(scene, self._mono)
        self._remember(done)
        self._tell(done.requests)
        self.deliver(scene.now)

    def deliver(self, until: float) -> None:
        """Send what is due by a time, each message when it is due."""
        while (found := self._next()) is not None and found[0] <= until:
            due, name = found
            self._now = max(self._now, due)
            row = self._outbox.claim(name, self._now)
            if row is not None:
                self._attempt(row)
        self._now = max(self._now, until)

    def render(self, message: SimulatedMessage) -> Any:
        """Return the body of a message, as who gets it would read it."""
        notification = message.notification
        config = self._configs[notification.receiver]
        if isinstance(config, AlertmanagerConfig):
            again = parse_duration(config.resend_interval)
            body: Any = [
                alertmanager.render(alert, message.time, again)
                for alert in notification.alerts
            ]
        else:
            receiver = self._receivers[notification.receiver]
            body = receiver.render(notification, message.time)
        return msgspec.json.decode(msgspec.json.encode(body))

    # -- inside ------------------------------------------------------------------------

    def _remember(self, done: EvaluationResult) -> None:
        self.changes += done.changes
        self.suppressed += done.suppressed
        self.refused |= done.refused

    def _tell(self, requests: Iterable[NotificationRequest]) -> None:
        informed: dict[str, list[NotificationRequest]] = {}
        for request in requests:
            if isinstance(self._configs[request.receiver], AlertmanagerConfig):
                informed.setdefault(request.receiver, []).append(request)
            else:
                self._outbox.enqueue(request, self._now)
        self._commit()
        for receiver, news in informed.items():
            self._inform(receiver, news)

    def _inform(self, receiver: str, news: Sequence[NotificationRequest]) -> None:
        """Tell an Alertmanager all that it has to know of, as something is new."""
        notification = Notification(
            id="",
            receiver=receiver,
            kind=most_urgent(notice.kind for notice in news),
            alerts=tuple(self.engine.alerts_for(receiver, self._now)),
            created=self._now,
            due=self._now,
        )
        self._take(notification, {notice.alert.rule for notice in news})

    def _next(self) -> tuple[float, str] | None:
        """Return when something is due next, and to whom; None if nothing waits."""
        found = [
            (due, name)
            for name in self._receivers
            if (due := self._outbox.next_due(name, self._now)) is not None
        ]
        return min(found, default=None)

    def _attempt(self, message: OutboxMessage) -> None:
        result = self._answer(message.receiver)
        if result.outcome is DeliveryOutcome.SENT:
            rules = {entry.alert.rule for entry in message.entries}
            self._take(self._outbox.notification(message), rules)
        self._outbox.finish(message.id, result, self._now)
        self._commit()

    def _answer(self, receiver: str) -> DeliveryResult:
        """Return how a receiver answers."""
        for name, start, end in self._outages:
            if name == receiver and start <= self._now < end:
                return DeliveryResult(
                    DeliveryOutcome.RETRY, 0, "no connection", undelivered=True
                )
        config = self._configs[receiver]
        if isinstance(config, SlackConfig):
            # A bot is told the channel and the time, and goes on from that message.
            return sent(ref=f"{config.channel} {self._now:.6f}")
        return sent()

    def _take(self, notification: Notification, rules: Iterable[str]) -> None:
        message = SimulatedMessage(self._now, notification)
        receiver, kind = notification.receiver, notification.kind
        self.messages.append(message)
        self.sent[receiver, kind] += 1
        self.alerts[receiver] += message.size
        for rule in rules:
            self.told[receiver, rule, kind] += 1

    def _commit(self) -> None:
        self._outbox.store.committed(self._outbox.store.changes())


def _outbox(settings: AlertSettings, receivers: Mapping[str, ReceiverConfig]) -> Outbox:
    """Return an outbox that leaves nothing to chance."""
    return Outbox(
        policies(receivers, settings.grouping),
        random=lambda: 1.0,
        entropy=bytes,
    )
