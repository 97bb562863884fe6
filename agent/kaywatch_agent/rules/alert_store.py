"""All alerts, their clock, and which of them have to be written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.state import AlertState

__all__ = ["CLOCK", "AlertStore", "Document", "Documents"]

CLOCK: Final = "clock"

# Timers that go on are written this often, in seconds; all else at once.
WRITE_SECONDS: Final = 10.0

# An alert that ended after a notification is kept for a day: for cooldowns, and `why`.
REMEMBER_SECONDS: Final = 86_400.0

Document = tuple[str, str]  # (kind, id)
Documents = Mapping[Document, bytes | None]  # JSON; None for what is gone


class Clock(msgspec.Struct):
    """The alerts' clock, and the wall's when it was written."""

    seconds: float
    wall: float


class AlertStore:
    """What is remembered from evaluation to evaluation.

    Attributes:
        alerts: by rule and the values of their labels.
        clock: the alerts' own, in seconds; it includes downtime, and never goes back.
    """

    def __init__(self) -> None:
        self.alerts: dict[tuple[str, tuple[str, ...]], Alert] = {}
        self.clock = 0.0
        self._written: dict[str, float] = {}  # when, by id and the alerts' clock
        self._changed: dict[str, Alert | None] = {}
        self._ticking: dict[str, Alert] = {}  # only a timer went on

    def restore(self, documents: Mapping[Document, bytes], now: float) -> float:
        """Continue after a restart; return for how many seconds nobody looked."""
        away = 0.0
        for (kind, _), data in documents.items():
            if kind == "alert":
                alert = msgspec.json.decode(data, type=Alert)
                self.alerts[alert.key] = alert
            elif kind == CLOCK:
                clock = msgspec.json.decode(data, type=Clock)
                away = max(0.0, now - clock.wall)
                self.clock = clock.seconds + away
        return away

    def changed(self, alert: Alert, *, timer_only: bool = False) -> None:
        """Have an alert written: soon, if only a timer went on."""
        (self._ticking if timer_only else self._changed)[alert.id] = alert

    def forget(self, now: float) -> None:
        """Drop the alerts of which nothing has to be remembered any more."""
        for key, alert in list(self.alerts.items()):
            if alert.life.state is not AlertState.OK:
                continue
            ended = alert.life.ended
            recent = ended is not None and now - ended < REMEMBER_SECONDS
            told = alert.told.values()
            if not recent and all(self.clock - t.at > REMEMBER_SECONDS for t in told):
                del self.alerts[key]
                self._changed[alert.id] = None

    def documents(
        self, now: float, *, full: bool = False
    ) -> dict[Document, bytes | None]:
        """Return what changed since the last call, or all of it."""
        changed = self._changed
        for name, alert in self._ticking.items():
            if self._due(name):
                changed.setdefault(name, alert)
        if full:
            changed |= {alert.id: alert for alert in list(self.alerts.values())}
        self._changed, self._ticking = {}, {}
        found: dict[Document, bytes | None] = {}
        for name, known in changed.items():
            found["alert", name] = None if known is None else msgspec.json.encode(known)
            self._written[name] = self.clock
            if known is None:
                del self._written[name]
        if found or full or self._due(CLOCK):
            found[CLOCK, CLOCK] = msgspec.json.encode(Clock(self.clock, now))
            self._written[CLOCK] = self.clock
        return found

    def _due(self, name: str) -> bool:
        return self.clock - self._written.get(name, -math.inf) >= WRITE_SECONDS
