"""Rules and delivery on a virtual clock, for tests of rules and for backtests.

    EvalInput -> Engine.evaluate -> requests -> Outbox -> messages

Rules, outbox and receivers are the real ones. Only the answers are simulated: each
receiver accepts every message, except during the given outages.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from kaywatch_agent.model.alerts import (
    AlertDetails,
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
from kaywatch_agent.rules.engine import Engine
from kaywatch_agent.rules.evaluation import StateChange
from kaywatch_agent.rules.rule import AlertSettings
from kaywatch_agent.rules.windows import EvalInput
from kaywatch_agent.units import parse_duration

__all__ = ["OutagePeriod", "SimulatedDelivery", "SimulatedMessage", "Simulation"]

# Messages that are kept, the newest; all are counted.
MAX_MESSAGES: Final = 10_000


class SimulatedMessage(NamedTuple):
    """A message, and when it was sent."""

    time: float
    notification: Notification

    @property
    def size(self) -> int:
        """How many alerts it is about."""
        return len(self.notification.alerts) + self.notification.left_out


class OutagePeriod(NamedTuple):
    """When a receiver is unreachable, Unix seconds."""

    receiver: str
    start: float
    end: float


class SimulatedDelivery:
    """An outbox, and the messages that were sent.

    Attributes:
        messages: the newest MAX_MESSAGES.
        sent: the number of messages, by receiver and kind.
        alerts: the number of alerts in them, by receiver.
        by_rule: the number of messages about a rule, by receiver, rule and kind.
    """

    def __init__(
        self,
        settings: AlertSettings,
        receivers: Mapping[str, ReceiverConfig],
        outages: Sequence[OutagePeriod] = (),
    ) -> None:
        """Start with an empty outbox.

        Args:
            settings: for grouping.
            receivers: by name; their secrets are not read.
            outages: when receivers are unreachable.
        """
        self.messages: deque[SimulatedMessage] = deque(maxlen=MAX_MESSAGES)
        self.sent: Counter[tuple[str, NotificationKind]] = Counter()
        self.alerts: Counter[str] = Counter()
        self.by_rule: Counter[tuple[str, str, NotificationKind]] = Counter()
        self._configs = receivers
        self._receivers = build(receivers, HttpClient())
        self._outages = outages
        # Without randomness, each run of a test has the same result.
        self._outbox = Outbox(
            policies(receivers, settings.grouping), random=lambda: 1.0, entropy=bytes
        )
        self._now = 0.0

    def deliver(self, until: float) -> None:
        """Send the messages that are due until a time, each when it is due."""
        while (next_due := self._next_due()) is not None and next_due[0] <= until:
            due, receiver = next_due
            self._now = max(self._now, due)
            message = self._outbox.claim(receiver, self._now)
            if message is not None:
                self._attempt(message)
        self._now = max(self._now, until)

    def enqueue(
        self,
        requests: Iterable[NotificationRequest],
        alerts_for: Callable[[str, float], Sequence[AlertDetails]],
    ) -> None:
        """Enqueue requests.

        An Alertmanager has no outbox. It is sent all its alerts, which `alerts_for`
        returns, when there is a request about one of them.
        """
        direct: dict[str, list[NotificationRequest]] = {}
        for request in requests:
            if isinstance(self._configs[request.receiver], AlertmanagerConfig):
                direct.setdefault(request.receiver, []).append(request)
            else:
                self._outbox.enqueue(request, self._now)
        self._commit()
        for receiver, its_requests in direct.items():
            notification = Notification(
                id="",
                receiver=receiver,
                kind=most_urgent(request.kind for request in its_requests),
                alerts=tuple(alerts_for(receiver, self._now)),
                created=self._now,
                due=self._now,
            )
            self._record(notification, {r.alert.rule for r in its_requests})

    def render(self, message: SimulatedMessage) -> Any:
        """Return the body of a message as its receiver gets it."""
        notification = message.notification
        config = self._configs[notification.receiver]
        if isinstance(config, AlertmanagerConfig):
            resend = parse_duration(config.resend_interval)
            body: Any = [
                alertmanager.render(alert, message.time, resend)
                for alert in notification.alerts
            ]
        else:
            receiver = self._receivers[notification.receiver]
            body = receiver.render(notification, message.time)
        return msgspec.json.decode(msgspec.json.encode(body))

    # -- inside ------------------------------------------------------------------------

    def _next_due(self) -> tuple[float, str] | None:
        """Return when the next message is due, and its receiver; None for none."""
        due = [
            (time, name)
            for name in self._receivers
            if (time := self._outbox.next_due(name, self._now)) is not None
        ]
        return min(due, default=None)

    def _attempt(self, message: OutboxMessage) -> None:
        result = self._answer(message.receiver)
        if result.outcome is DeliveryOutcome.SENT:
            rules = {entry.alert.rule for entry in message.entries}
            self._record(self._outbox.notification(message), rules)
        self._outbox.finish(message.id, result, self._now)
        self._commit()

    def _answer(self, receiver: str) -> DeliveryResult:
        """Return the simulated answer of a receiver."""
        for name, start, end in self._outages:
            if name == receiver and start <= self._now < end:
                return DeliveryResult(
                    DeliveryOutcome.RETRY, 0, "no connection", undelivered=True
                )
        config = self._configs[receiver]
        if config.follow_up != "post":
            # Later messages refer to the first one; those of a bot to its channel, too.
            place = config.channel if isinstance(config, SlackConfig) else receiver
            return sent(ref=f"{place} {self._now:.6f}")
        return sent()

    def _record(self, notification: Notification, rules: Iterable[str]) -> None:
        message = SimulatedMessage(self._now, notification)
        receiver, kind = notification.receiver, notification.kind
        self.messages.append(message)
        self.sent[receiver, kind] += 1
        self.alerts[receiver] += message.size
        for rule in rules:
            self.by_rule[receiver, rule, kind] += 1

    def _commit(self) -> None:
        self._outbox.store.committed(self._outbox.store.changes())


class Simulation:
    """An engine and a delivery on a virtual clock, and their results.

    Attributes:
        engine: the rules and alerts.
        delivery: the messages.
        changes: the changes of state.
        suppressed: the number of suppressed notifications, by reason.
        refused: the most alerts over the limit at once, by rule.
    """

    def __init__(
        self,
        settings: AlertSettings,
        receivers: Mapping[str, ReceiverConfig],
        *,
        host: str = "",
        outages: Sequence[OutagePeriod] = (),
    ) -> None:
        """Start without alerts.

        Args:
            settings: the rules and everything else that is configured.
            receivers: by name; their secrets are not read.
            host: the agent's host name in messages.
            outages: when receivers are unreachable.
        """
        severities = {name: config.min_severity for name, config in receivers.items()}
        self.engine = Engine(settings, host=host, min_severity=severities)
        self.delivery = SimulatedDelivery(settings, receivers, outages)
        self.changes: list[StateChange] = []
        self.suppressed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._mono = 0.0

    def evaluate(self, data: EvalInput, passed: float) -> None:
        """Evaluate the rules, `passed` seconds after the last time."""
        self.delivery.deliver(data.now)
        self._mono += passed
        # Stored and synthetic data were observed without gaps.
        self.engine.max_step = max(self.engine.max_step, passed)
        result = self.engine.evaluate(data, self._mono)
        self.changes += result.changes
        self.suppressed += result.suppressed
        self.refused |= result.refused
        self.delivery.enqueue(result.requests, self.engine.alerts_for)
        self.delivery.deliver(data.now)
