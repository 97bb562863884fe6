"""One alert of one rule: all that is remembered of it, and kept over restarts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Final, Literal

import msgspec

from kaywatch_agent.model.alerts import Evidence, fingerprint
from kaywatch_agent.model.bounds import Count, Moment
from kaywatch_agent.rules.state import AlertState, Lifecycle

__all__ = [
    "FLAPS",
    "Alert",
    "LastNotification",
    "Suppression",
    "SuppressionReason",
    "TimelineEntry",
    "FiringContext",
    "Worst",
    "identity",
]

# Of each alert, for `kaywatch why`: what is older is forgotten, but for the turns that
# began the present episode, however long it has lasted.
MAX_ENTRIES: Final = 60
_BEGINNINGS: Final = frozenset({AlertState.PENDING, AlertState.FIRING})

# An alert that changes this often within an hour is flapping.
FLAPS: Final = 4
FLAP_SECONDS: Final = 3600.0
MAX_CHANGES: Final = 64


class LastNotification(msgspec.Struct, frozen=True):
    """What a receiver was notified of last; times are of the alerts' own clock.

    Attributes:
        episode: the number of the alert's episode.
        last: whether the alert fired or ended.
        at: when it was notified.
        fired_at: when it was notified last that an episode began.
    """

    episode: int
    last: Literal["firing", "resolved"]
    at: float
    fired_at: float


class SuppressionReason(StrEnum):
    """Why a receiver is not notified; also the label of a metric."""

    SILENCED = "silenced"
    INHIBITED = "inhibited"
    COOLDOWN = "cooldown"
    SEVERITY = "severity"


class Suppression(msgspec.Struct, frozen=True):
    """Why a receiver is not notified that an alert fires.

    Attributes:
        reason: the kind of reason.
        text: the details.
        until: when it is over, by the alerts' clock; None where that isn't known.
        by: the id of the silence, or of the alert that inhibits; empty for neither.
    """

    reason: SuppressionReason
    text: str
    until: float | None = None
    by: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}"


class TimelineEntry(msgspec.Struct, frozen=True):
    """A change of an alert's state, or that a receiver was notified, or was not.

    For a change, `before` and `after` are the states, and the rest is the result of the
    evaluation; else they are empty, null and 0.
    """

    time: Moment
    text: str
    before: str = ""
    after: str = ""
    episode: Count = 0
    value: float | None = None
    threshold: float | None = None
    executions: Count = 0
    errors: Count = 0


class Worst(msgspec.Struct, frozen=True):
    """The evaluation of an episode whose value was the worst."""

    time: Moment
    value: float
    executions: Count = 0
    errors: Count = 0


class FiringContext(msgspec.Struct, frozen=True):
    """What was seen when an episode began; frozen, and kept with it."""

    error_classes: tuple[tuple[str, int], ...] = ()
    transition: str = ""
    history: tuple[float | None, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    completeness: float | None = None
    budget_left: float | None = None  # of an objective's, as a share


class Alert(msgspec.Struct, dict=True):
    """One alert.

    Attributes:
        rule: its rule's name.
        labels: what tells it from the rule's other alerts.
        meaning: of the rule that judged it last.
        life: its state.
        value, threshold, executions, errors, note: of the last evaluation.
        told: by receiver, what that knows.
        held: by receiver, why it isn't told.
        changes: when it began to fire or ended, by the alerts' clock.
        log: its story.
        left_out: how many lines of it were forgotten.
        context: what was seen when the episode began.
        worst: of the episode; None where no value was known.
    """

    rule: str
    labels: dict[str, str]
    meaning: str = ""
    life: Lifecycle = Lifecycle()
    value: float | None = None
    threshold: float | None = None
    executions: int = 0
    errors: int = 0
    note: str = ""
    told: dict[str, LastNotification] = {}
    held: dict[str, Suppression] = {}
    changes: list[float] = []
    log: list[TimelineEntry] = []
    left_out: int = 0
    context: FiringContext = FiringContext()
    worst: Worst | None = None

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """What it is found by: its rule, and the values of its labels."""
        return self.rule, tuple(self.labels.values())

    @cached_property
    def id(self) -> str:
        """What it is called in the store, the API and on the command line."""
        return identity(self.rule, self.labels)

    @property
    def held_back(self) -> dict[str, str]:
        """By receiver, why it isn't told, in words."""
        return {name: str(held) for name, held in self.held.items()}

    def say(self, time: float, text: str) -> None:
        """Add to its story what a receiver is told, or isn't."""
        self._add(TimelineEntry(time, text, episode=self.life.episode))

    def turn(self, time: float, before: AlertState) -> None:
        """Add to its story that it came into another state, and what was found."""
        after = self.life.state
        reason = f", {self.life.reason}" if self.life.reason else ""
        begun = AlertState.PENDING in (before, after) and after is not AlertState.FIRING
        self._add(
            TimelineEntry(
                time,
                f"{before} -> {after}{reason}",
                before,
                after,
                self.life.episode + begun,
                self.value,
                self.threshold,
                self.executions,
                self.errors,
            )
        )

    def weigh(self, time: float, *, falls: bool) -> bool:
        """Remember an evaluation if it is the worst of its episode; return whether."""
        value, worst = self.value, self.worst
        if value is None or (
            worst is not None
            and (value >= worst.value if falls else value <= worst.value)
        ):
            return False
        self.worst = Worst(time, value, self.executions, self.errors)
        return True

    def changed(self, clock: float) -> None:
        """Note that it began to fire or ended."""
        self.changes = [at for at in self.changes if clock - at <= FLAP_SECONDS]
        self.changes.append(clock)
        del self.changes[:-MAX_CHANGES]

    def flaps(self, clock: float) -> int:
        """Return how often it changed within the hour."""
        return sum(clock - at <= FLAP_SECONDS for at in self.changes)

    def flapping(self, clock: float) -> bool:
        """Return whether it fires and ends again and again."""
        return self.flaps(clock) >= FLAPS

    def frozen(self) -> Alert:
        """Return a copy that changes no more."""
        found = msgspec.structs.replace(
            self,
            told=dict(self.told),
            held=dict(self.held),
            changes=list(self.changes),
            log=list(self.log),
        )
        # The id takes longer to make than all the rest.
        found.__dict__["id"] = self.id
        return found

    def _add(self, entry: TimelineEntry) -> None:
        self.log.append(entry)
        while len(self.log) > MAX_ENTRIES:
            spare = (n for n, old in enumerate(self.log) if not self._begins(old))
            del self.log[next(spare, 0)]
            self.left_out += 1

    def _begins(self, entry: TimelineEntry) -> bool:
        """Whether it is one of the first turns of what goes on."""
        episode = self.life.episode + (self.life.state is AlertState.PENDING)
        first = entry.after in _BEGINNINGS and entry.before != AlertState.RECOVERING
        return first and entry.episode == episode


def identity(rule: str, labels: Mapping[str, str]) -> str:
    """Return what identifies an alert: 16 hexadecimal digits."""
    return fingerprint({**labels, "alertname": rule})
