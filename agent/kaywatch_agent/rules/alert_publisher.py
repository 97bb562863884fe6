"""The alert topics of one broker: the state of each firing alert, and every change.

    PREFIX/v1/alerts/RULE/ID/state   retained while the alert fires; at its end `ok`
                                     once, not retained, then empty to clear it
    PREFIX/v1/agent/changes          every change of every alert, not retained

Strategy: what the broker should hold is known here, and which topics are due. After a
lost connection all of them are. What the broker holds from an earlier process is found
by reading it, and cleared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import quote

from kaywatch import wire
from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.snapshot import AlertsSnapshot

__all__ = ["TopicMessage", "AlertPublisher"]

# Changes that wait to be published. There are none while the broker is away.
MAX_CHANGES: Final = 1_000


class TopicMessage(NamedTuple):
    """A message to publish."""

    topic: str
    payload: bytes
    retain: bool


class AlertPublisher:
    """What one broker should hold of alerts, and what to publish next.

    Attributes:
        filter: the subscription that feeds `found`.
        dropped: changes that were not published, since too many waited.
    """

    def __init__(
        self, prefix: str, encode: Callable[[AlertsSnapshot, Alert], bytes]
    ) -> None:
        """Begin without alerts.

        Args:
            prefix: of the topics.
            encode: returns an alert's payload.
        """
        self.filter = alert_topic(prefix, "+", "+")
        self.dropped = 0
        self._prefix = prefix
        self._start = wire.topic(prefix, "alerts", "")
        self._changes_topic = wire.topic(prefix, "agent", "changes")
        self._encode = encode
        self._firing: dict[str, tuple[AlertsSnapshot, Alert]] = {}  # by topic
        self._ended: dict[str, tuple[AlertsSnapshot, Alert]] = {}  # `ok` is due
        self._due: dict[str, None] = {}  # topics, in order
        self._changes: deque[tuple[AlertsSnapshot, Alert]] = deque()
        self._connected = False

    def changed(self, picture: AlertsSnapshot) -> None:
        """Take alerts whose state has changed; at the start, those that fire."""
        background = _background(picture)
        for alert in picture.instances:
            topic, change = self._topic(alert), (background, alert)
            if alert.life.is_firing:
                self._ended.pop(topic, None)
                self._firing[topic] = change
                self._due[topic] = None
            elif self._firing.pop(topic, None):
                self._ended[topic] = change
                self._due[topic] = None
            if self._connected:
                self._changes.append(change)
        while len(self._changes) > MAX_CHANGES:
            self._changes.popleft()
            self.dropped += 1

    def connected(self) -> None:
        """Publish all firing alerts: the broker may hold none."""
        self._connected = True
        self._due.update(dict.fromkeys(self._firing))

    def disconnected(self) -> None:
        """Keep what is due, and leave out the changes on the way there."""
        self._connected = False
        self._changes.clear()

    def owns(self, topic: str) -> bool:
        """Return whether a topic is that of an alert."""
        return topic.startswith(self._start) and topic.endswith("/state")

    def found(self, topic: str) -> None:
        """Clear a topic that the broker holds, unless its alert fires."""
        if topic not in self._firing:
            self._due[topic] = None

    def messages(self) -> Iterator[TopicMessage]:
        """Yield what to publish, in order, until nothing is due."""
        while True:
            if self._due:
                yield self._state(next(iter(self._due)))
            elif self._changes:
                yield self._message(self._changes_topic, self._changes.popleft(), False)
            else:
                return

    # -- inside ----------------------------------------------------------------------

    def _state(self, topic: str) -> TopicMessage:
        if topic in self._ended:  # it stays due, to be cleared
            return self._message(topic, self._ended.pop(topic), False)
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


def _background(picture: AlertsSnapshot) -> AlertsSnapshot:
    """Return what one alert of a picture needs; it is kept while that alert fires."""
    return picture._replace(instances=(), found={})


def alert_topic(prefix: str, rule: str, alert: str) -> str:
    """Return the topic of an alert's state.

    Its last word is none of a client's: an ACL lets a client with slashes in its id
    write to every topic that ends in `up`.
    """
    return wire.topic(prefix, f"alerts/{rule}/{alert}", "state")
