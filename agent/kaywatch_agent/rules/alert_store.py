"""All alerts, the alert clock, and the documents that have to be written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from kaywatch_agent.rules.alert import Alert
from kaywatch_agent.rules.state import AlertState

__all__ = ["CLOCK", "AlertStore", "Document", "Documents"]

CLOCK: Final = "clock"

# An alert of which only a timer advanced is written this often, in seconds; any other
# change is written at once.
WRITE_SECONDS: Final = 10.0

# A resolved alert is kept for a day: for cooldowns, and for `kaywatch why`.
RETENTION_SECONDS: Final = 86_400.0

Document = tuple[str, str]  # (kind, id)
Documents = Mapping[Document, bytes | None]  # JSON; None for a deleted document


class Clock(msgspec.Struct):
    """The alert clock, and the wall clock when it was written."""

    seconds: float
    wall: float


class AlertStore:
    """The alerts between evaluations.

    Attributes:
        alerts: by rule and the values of their labels.
        clock: the alert clock, in seconds. It includes downtime and never goes back,
            unlike the wall clock.
    """

    def __init__(self) -> None:
        self.alerts: dict[tuple[str, tuple[str, ...]], Alert] = {}
        self.clock = 0.0
        self._written: dict[str, float] = {}  # alert clock, by id
        self._changed: dict[str, Alert | None] = {}
        self._timer_only: dict[str, Alert] = {}

    def restore(self, documents: Mapping[Document, bytes], now: float) -> float:
        """Restore the alerts after a restart; return the downtime in seconds."""
        downtime = 0.0
        for (kind, _), data in documents.items():
            if kind == "alert":
                alert = msgspec.json.decode(data, type=Alert)
                self.alerts[alert.key] = alert
            elif kind == CLOCK:
                clock = msgspec.json.decode(data, type=Clock)
                # The wall clock may have been set back since then.
                downtime = max(0.0, now - clock.wall)
                self.clock = clock.seconds + downtime
        return downtime

    def mark_changed(self, alert: Alert, *, timer_only: bool = False) -> None:
        """Have an alert written: later, if only a timer advanced."""
        (self._timer_only if timer_only else self._changed)[alert.id] = alert

    def forget(self, now: float) -> None:
        """Delete alerts that resolved long ago and that no cooldown needs."""
        for key, alert in list(self.alerts.items()):
            if alert.lifecycle.state is not AlertState.OK:
                continue
            ended = alert.lifecycle.ended
            recent = ended is not None and now - ended < RETENTION_SECONDS
            oldest = self.clock - RETENTION_SECONDS
            if not recent and all(n.at < oldest for n in alert.notified.values()):
                del self.alerts[key]
                self._changed[alert.id] = None

    def documents(
        self, now: float, *, full: bool = False
    ) -> dict[Document, bytes | None]:
        """Return the documents that changed since the last call, or all of them."""
        changed = self._changed
        for alert_id, alert in self._timer_only.items():
            if self._is_due(alert_id):
                changed.setdefault(alert_id, alert)
        if full:
            changed |= {alert.id: alert for alert in list(self.alerts.values())}
        self._changed, self._timer_only = {}, {}
        documents: dict[Document, bytes | None] = {}
        for alert_id, state in changed.items():
            if state is None:
                documents["alert", alert_id] = None
                self._written.pop(alert_id, None)
            else:
                documents["alert", alert_id] = msgspec.json.encode(state)
                self._written[alert_id] = self.clock
        # The times in an alert refer to the clock, so both have to be in one commit:
        # after a restart, a cooldown would otherwise end too late.
        if documents or full or self._is_due(CLOCK):
            documents[CLOCK, CLOCK] = msgspec.json.encode(Clock(self.clock, now))
            self._written[CLOCK] = self.clock
        return documents

    def _is_due(self, document: str) -> bool:
        return self.clock - self._written.get(document, -math.inf) >= WRITE_SECONDS
