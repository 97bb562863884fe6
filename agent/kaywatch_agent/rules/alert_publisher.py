"""Which alert messages to publish to one MQTT broker.

    PREFIX/v1/alerts/RULE/ID/state   the state of a firing alert, retained; when it
                                     resolves, its last state, not retained, and then
                                     an empty message that clears the topic
    PREFIX/v1/agent/changes          every change of every alert, not retained

Strategy: the publisher knows what the broker should retain, and which topics are due.
After a lost connection all of them are. Topics retained from an earlier process are
discovered by subscribing to them, and cleared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import quote

from kaywatch import wire
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.snapshot import AlertsSnapshot

__all__ = ["AlertPublisher", "TopicMessage"]

# Changes waiting to be published; none are queued while the broker is away.
MAX_CHANGES: Final = 1_000


class TopicMessage(NamedTuple):
    """A message to publish."""

    topic: str
    payload: bytes
    retain: bool


class AlertPublisher:
    """The alerts that one broker should retain, and the next messages to publish.

    Attributes:
        filter: the subscription whose topics go to `discovered`.
        dropped: changes that were dropped because too many were waiting.
    """

    def __init__(
        self, prefix: str, encode: Callable[[AlertsSnapshot, Alert], bytes]
    ) -> None:
        """Start without alerts.

        Args:
            prefix: of the topics.
            encode: returns the payload of an alert.
        """
        self.filter = alert_topic(prefix, "+", "+")
        self.dropped = 0
        self._prefix = prefix
        self._start = wire.topic(prefix, "alerts", "")
        self._changes_topic = wire.topic(prefix, "agent", "changes")
        self._encode = encode
        self._firing: dict[str, tuple[AlertsSnapshot, Alert]] = {}  # by topic
        self._resolved: dict[str, tuple[AlertsSnapshot, Alert]] = {}  # to be published
        self._due: dict[str, None] = {}  # topics, in order
        self._changes: deque[tuple[AlertsSnapshot, Alert]] = deque()
        self._connected = False

    def changed(self, snapshot: AlertsSnapshot) -> None:
        """Queue alerts whose state changed; at the start, firing alerts."""
        # An alert is kept while it fires: without the other alerts and the results.
        background = snapshot._replace(alerts=(), results={})
        for alert in snapshot.alerts:
            topic, change = self._topic(alert), (background, alert)
            if alert.lifecycle.is_firing:
                self._resolved.pop(topic, None)
                self._firing[topic] = change
                self._due[topic] = None
            elif self._firing.pop(topic, None):
                self._resolved[topic] = change
                self._due[topic] = None
            # Without a connection, only the latest states matter: they are published
            # once it is back, and the changes in between are in the timelines.
            if self._connected:
                self._changes.append(change)
        while len(self._changes) > MAX_CHANGES:
            self._changes.popleft()
            self.dropped += 1

    def connected(self) -> None:
        """Publish all firing alerts: the broker may have lost them."""
        self._connected = True
        self._due.update(dict.fromkeys(self._firing))

    def disconnected(self) -> None:
        """Keep the topics that are due, and discard the queued changes."""
        self._connected = False
        self._changes.clear()

    def owns(self, topic: str) -> bool:
        """Return whether a topic is that of an alert."""
        return topic.startswith(self._start) and topic.endswith("/state")

    def discovered(self, topic: str) -> None:
        """Clear a topic that the broker retains, unless its alert fires."""
        # A firing alert is published again anyway after each connection.
        if topic not in self._firing:
            self._due[topic] = None

    def messages(self) -> Iterator[TopicMessage]:
        """Yield the messages to publish, in order, until nothing is due."""
        while True:
            if self._due:
                yield self._next_state(next(iter(self._due)))
            elif self._changes:
                yield self._message(self._changes_topic, self._changes.popleft(), False)
            else:
                return

    # -- inside ----------------------------------------------------------------------

    def _next_state(self, topic: str) -> TopicMessage:
        if topic in self._resolved:  # it stays due, to be cleared next
            return self._message(topic, self._resolved.pop(topic), False)
        del self._due[topic]
        if topic in self._firing:
            return self._message(topic, self._firing[topic], True)
        return TopicMessage(topic, b"", True)

    def _message(
        self, topic: str, change: tuple[AlertsSnapshot, Alert], retain: bool
    ) -> TopicMessage:
        return TopicMessage(topic, self._encode(*change), retain)

    def _topic(self, alert: Alert) -> str:
        return alert_topic(self._prefix, quote(alert.rule, safe=""), alert.id)


def alert_topic(prefix: str, rule: str, alert: str) -> str:
    """Return the topic of an alert's state.

    No client topic ends in `state`. An ACL lets a client whose id contains slashes
    write to every topic that ends in `up`.
    """
    return wire.topic(prefix, f"alerts/{rule}/{alert}", "state")
