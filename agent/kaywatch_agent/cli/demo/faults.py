"""Faults of the demo's application: each begins some seconds after its start."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["FAULTS", "FAULT_SECONDS", "Fault"]

# The time before a fault, to compare with.
FAULT_SECONDS: Final = 30.0

# The effect of each fault, by its name.
FAULTS: Final[Mapping[str, str]] = {
    "failing": "60 % of the executions of Review fail, after a paid call",
    "runaway": "a run loops between Draft and Review without an end",
    "dead-end": "Triage returns an action without an edge",
    "slow": "the model of Draft takes twenty times as long",
    "waste": "60 % of the paid answers in Draft are useless",
}


class Fault:
    """Decides when a fault occurs."""

    def __init__(self, stop: threading.Event) -> None:
        """Start without a fault.

        Args:
            stop: ends a fault, so that the application can end.
        """
        self._stop = stop
        self._name: str | None = None
        self._begin = 0.0
        self._endless: dict[str, Any] | None = None  # the run that does not end

    def inject(self, name: str, after: float) -> None:
        """Begin a fault after `after` seconds. `FAULTS` has the names."""
        self._name, self._begin = name, time.monotonic() + after

    def occurs(self, name: str, share: float = 1.0) -> bool:
        """Return whether a fault occurs in the caller's execution.

        Args:
            name: the name of the fault.
            share: the share of executions with the fault.
        """
        is_active = self._name == name and time.monotonic() >= self._begin
        return is_active and not self._stop.is_set() and random.random() < share

    def is_endless(self, run: dict[str, Any]) -> bool:
        """Return whether a run must not end; the first run that asks is selected."""
        if not self.occurs("runaway"):
            return False
        if self._endless is None:
            self._endless = run
        return self._endless is run
