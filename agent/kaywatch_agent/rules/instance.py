"""One alert of one rule: all that is remembered of it, and kept over restarts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final, Literal

import msgspec

from kaywatch_agent.notification import Evidence, fingerprint
from kaywatch_agent.rules.state import Life

__all__ = ["Entry", "Instance", "Told", "Witness", "identity"]

# Of each alert, for `kaywatch why`: what is older is forgotten.
MAX_ENTRIES: Final = 60

# Flapping is looked for within an hour.
FLAP_SECONDS: Final = 3600.0
MAX_CHANGES: Final = 64


class Told(msgspec.Struct, frozen=True):
    """What a receiver knows of an alert; times are of the alerts' own clock.

    Attributes:
        episode: the last one that it was told of.
        last: whether it was told last that the alert fires, or that it ended.
        at: when it was told anything.
        fired_at: when it was told last that an episode began.
    """

    episode: int
    last: Literal["firing", "resolved"]
    at: float
    fired_at: float


class Entry(msgspec.Struct, frozen=True):
    """One line of an alert's story."""

    time: float
    text: str
    value: float | None = None


class Witness(msgspec.Struct, frozen=True):
    """What was seen when an episode began; frozen, and kept with it."""

    error_classes: tuple[tuple[str, int], ...] = ()
    transition: str = ""
    history: tuple[float | None, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    completeness: float | None = None


class Instance(msgspec.Struct, dict=True):
    """One alert.

    Attributes:
        rule: its rule's name.
        labels: what tells it from the rule's other alerts.
        meaning: of the rule that judged it last.
        life: its state.
        value, threshold, executions, errors, note: of the last evaluation.
        told: by receiver, what that knows.
        held_back: by receiver, why it isn't told.
        changes: when it began to fire or ended, by the alerts' clock.
        log: its story.
        witness: of the episode.
    """

    rule: str
    labels: dict[str, str]
    meaning: str = ""
    life: Life = Life()
    value: float | None = None
    threshold: float | None = None
    executions: int = 0
    errors: int = 0
    note: str = ""
    told: dict[str, Told] = {}
    held_back: dict[str, str] = {}
    changes: list[float] = []
    log: list[Entry] = []
    witness: Witness = Witness()

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """What it is found by: its rule, and the values of its labels."""
        return self.rule, tuple(self.labels.values())

    @cached_property
    def id(self) -> str:
        """What it is called in the store, the API and on the command line."""
        return identity(self.rule, self.labels)

    def say(self, time: float, text: str, value: float | None = None) -> None:
        """Add to its story."""
        self.log.append(Entry(time, text, value))
        del self.log[:-MAX_ENTRIES]

    def changed(self, clock: float) -> None:
        """Note that it began to fire or ended."""
        self.changes = [at for at in self.changes if clock - at <= FLAP_SECONDS]
        self.changes.append(clock)
        del self.changes[:-MAX_CHANGES]

    def flaps(self, clock: float) -> int:
        """Return how often it changed within the hour."""
        return sum(clock - at <= FLAP_SECONDS for at in self.changes)

    @property
    def idle(self) -> bool:
        """Whether nothing about it has to be remembered."""
        return not self.told and not self.changes and not self.log


def identity(rule: str, labels: Mapping[str, str]) -> str:
    """Return what identifies an alert: 16 hexadecimal digits."""
    return fingerprint({**labels, "alertname": rule})
