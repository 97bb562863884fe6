"""What one broker is told of alerts: the state of each that fires, and every change.

    PREFIX/v1/alerts/RULE/ID/state   retained while it fires; when it is over, `ok`
                                     once, and then nothing
    PREFIX/v1/agent/changes          every change of every alert, to those who listen

Strategy: what the broker should hold is known here, and which of that it has to be
told. After a lost connection that is all of it. What it holds from a former life is
found by reading it, and cleared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from urllib.parse import quote

from kaywatch import wire
from kaywatch_agent.rules.alert import Instance
from kaywatch_agent.rules.snapshot import AlertsSnapshot

__all__ = ["Announcement", "Announcing"]

# Changes that wait for the broker; it is told of none that came while it was away.
MAX_CHANGES: Final = 1_000


class Announcement(NamedTuple):
    """A message to publish."""

    topic: str
    payload: bytes
    retain: bool


class Announcing:
    """What one broker should hold of alerts, and what it has to be told next.

    Attributes:
        filter: what to subscribe to, for `found`.
        dropped: changes that were too many, so far.
    """

    def __init__(
        self, prefix: str, encode: Callable[[AlertsSnapshot, Instance], bytes]
    ) -> None:
        """Know of no alert.

        Args:
            prefix: of the topics.
            encode: returns an alert as it is told.
        """
        self.filter = alert_topic(prefix, "+", "+")
        self.dropped = 0
        self._prefix = prefix
        self._changes_topic = wire.topic(prefix, "agent", "changes")
        self._encode = encode
        self._standing: dict[str, tuple[AlertsSnapshot, Instance]] = {}  # these fire
        self._over: dict[
            str, tuple[AlertsSnapshot, Instance]
        ] = {}  # and that is to be told
        self._due: dict[str, None] = {}  # topics, in order
        self._changes: deque[tuple[AlertsSnapshot, Instance]] = deque()
        self._listening = False

    def know(self, picture: AlertsSnapshot) -> None:
        """Take the alerts that there are, at the start."""
        background = _background(picture)
        for instance in picture.instances:
            if instance.life.is_firing:
                self._standing[self._topic(instance)] = (background, instance)

    def turned(self, picture: AlertsSnapshot) -> None:
        """Take the alerts that went from one state to another."""
        background = _background(picture)
        for instance in picture.instances:
            topic, turned = self._topic(instance), (background, instance)
            if instance.life.is_firing:
                self._over.pop(topic, None)
                self._standing[topic] = turned
                self._due[topic] = None
            elif self._standing.pop(topic, None):
                self._over[topic] = turned
                self._due[topic] = None
            if self._listening:
                self._changes.append(turned)
        while len(self._changes) > MAX_CHANGES:
            self._changes.popleft()
            self.dropped += 1

    def connected(self) -> None:
        """The broker may know nothing: tell it all."""
        self._listening = True
        self._due.update(dict.fromkeys(self._standing))

    def disconnected(self) -> None:
        """It is told what has become of alerts when it is back, and not how."""
        self._listening = False
        self._changes.clear()

    def found(self, topic: str) -> None:
        """The broker holds an alert: clear it, if it doesn't fire any more."""
        if topic not in self._standing:
            self._due[topic] = None

    def take(self, most: int) -> Iterable[Announcement]:
        """Return what is to be told next, at most so many messages."""
        for _ in range(most):
            if self._due:
                yield self._state(next(iter(self._due)))
            elif self._changes:
                yield self._tell(self._changes_topic, self._changes.popleft(), False)
            else:
                return

    # -- inside ----------------------------------------------------------------------

    def _state(self, topic: str) -> Announcement:
        """Return what a broker has to be told of an alert."""
        if topic in self._over:  # it stays due, to be cleared
            return self._tell(topic, self._over.pop(topic), False)
        del self._due[topic]
        if topic in self._standing:
            return self._tell(topic, self._standing[topic], True)
        return Announcement(topic, b"", True)

    def _tell(
        self, topic: str, turned: tuple[AlertsSnapshot, Instance], retain: bool
    ) -> Announcement:
        return Announcement(topic, self._encode(*turned), retain)

    def _topic(self, instance: Instance) -> str:
        return alert_topic(self._prefix, quote(instance.rule, safe=""), instance.id)


def _background(picture: AlertsSnapshot) -> AlertsSnapshot:
    """Return what one alert of a picture needs; it is kept while that fires."""
    return picture._replace(instances=(), found={})


def alert_topic(prefix: str, rule: str, name: str) -> str:
    """Return where the state of an alert is.

    Its last word is no client's: an ACL lets one write to whatever ends in `up`, by way
    of a client id with slashes.
    """
    return wire.topic(prefix, f"alerts/{rule}/{name}", "state")
