"""One alert of one rule, with everything about it that survives a restart."""

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
    "FiringContext",
    "LastNotification",
    "Suppression",
    "SuppressionReason",
    "TimelineEntry",
    "WorstValue",
    "alert_id",
]

# Entries per timeline. Older entries are dropped, except the start of the current
# episode: `kaywatch why` shows it, however long the episode lasts.
MAX_ENTRIES: Final = 60
_BEGINNINGS: Final = frozenset({AlertState.PENDING, AlertState.FIRING})

# An alert that fires or resolves this often within an hour is flapping.
FLAPS: Final = 4
FLAP_SECONDS: Final = 3600.0
# Enough to double a cooldown sixteen times; it is limited to an hour in any case.
MAX_FLAP_TIMES: Final = 64


class LastNotification(msgspec.Struct, frozen=True):
    """The last notification of an alert to one receiver.

    Attributes:
        episode: the number of the alert's episode.
        last: whether the notification was about firing or resolving.
        at: when it was planned, in seconds of the alert clock.
        fired_at: when the last `firing` notification was planned, likewise.
    """

    episode: int
    last: Literal["firing", "resolved"]
    at: float
    fired_at: float


class SuppressionReason(StrEnum):
    """Why a receiver is not notified; also a label value of a metric."""

    SILENCED = "silenced"
    INHIBITED = "inhibited"
    COOLDOWN = "cooldown"
    SEVERITY = "severity"


class Suppression(msgspec.Struct, frozen=True):
    """Why a receiver is not notified that an alert fires.

    Attributes:
        reason: the kind of reason.
        text: the details.
        until: when it ends, in seconds of the alert clock; None if unknown.
        by: the id of the silence or of the inhibiting alert; empty otherwise.
    """

    reason: SuppressionReason
    text: str
    until: float | None = None
    by: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}"


class TimelineEntry(msgspec.Struct, frozen=True):
    """A change of state, or a notification that was planned or suppressed.

    For a change of state, `before` and `after` are the states, and the other fields are
    the result of the evaluation. For a notification they are empty, null and 0. `note`
    is that of an evaluation with which an alert began to fire.
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
    note: str = ""


class WorstValue(msgspec.Struct, frozen=True):
    """The evaluation of an episode that had the worst value."""

    time: Moment
    value: float
    executions: Count = 0
    errors: Count = 0


class FiringContext(msgspec.Struct, frozen=True):
    """What was known when an episode began; it does not change afterwards.

    `budget_left` is the remaining share of the error budget, for burn-rate rules;
    `cost` is what the failure had cost.
    """

    error_classes: tuple[tuple[str, int], ...] = ()
    transition: str = ""
    history: tuple[float | None, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    completeness: float | None = None
    budget_left: float | None = None
    cost: str = ""


# The keys of the stored documents, where they are older than the attributes' names.
_STORED: Final = {
    "rule_fingerprint": "meaning",
    "lifecycle": "life",
    "notified": "told",
    "suppressions": "held",
    "flap_times": "changes",
    "timeline": "log",
    "dropped_entries": "left_out",
}


# `dict` makes room for the cached id.
class Alert(msgspec.Struct, dict=True, rename=_STORED):
    """One alert.

    Attributes:
        rule: the name of its rule.
        labels: the labels that distinguish it from the rule's other alerts.
        rule_fingerprint: of the rule when it was last evaluated.
        lifecycle: its state and timers.
        value, threshold, executions, errors, note: results of the last evaluation.
        notified: the last notification, by receiver.
        suppressions: why a receiver is not notified, by receiver.
        flap_times: when it fired or resolved, in seconds of the alert clock.
        timeline: changes of state and notifications, the oldest first.
        dropped_entries: how many entries of the timeline were dropped.
        context: the evidence when the episode began.
        worst: of the episode; None if no value was known.
        departed: which process took with it what the episode was about; else empty.
    """

    rule: str
    labels: dict[str, str]
    rule_fingerprint: str = ""
    lifecycle: Lifecycle = Lifecycle()
    value: float | None = None
    threshold: float | None = None
    executions: int = 0
    errors: int = 0
    note: str = ""
    notified: dict[str, LastNotification] = {}
    suppressions: dict[str, Suppression] = {}
    flap_times: list[float] = []
    timeline: list[TimelineEntry] = []
    dropped_entries: int = 0
    context: FiringContext = FiringContext()
    worst: WorstValue | None = None
    departed: str = ""

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Its rule, and the values of its labels."""
        return self.rule, tuple(self.labels.values())

    @cached_property
    def id(self) -> str:
        """Its id in the store, over HTTP and on the command line."""
        return alert_id(self.rule, self.labels)

    def add_note(self, time: float, text: str) -> None:
        """Add to the timeline that a receiver was notified, or why it was not."""
        self._add(TimelineEntry(time, text, episode=self.lifecycle.episode))

    def add_change(self, time: float, before: AlertState) -> None:
        """Add to the timeline that the state changed, with the evaluation's result."""
        life = self.lifecycle
        after, reason = life.state, f", {life.reason}" if life.reason else ""
        # A pending alert belongs to the episode that it may begin.
        pending = AlertState.PENDING in (before, after)
        begins = pending and after is not AlertState.FIRING
        self._add(
            TimelineEntry(
                time,
                f"{before} -> {after}{reason}",
                before,
                after,
                life.episode + begins,
                self.value,
                self.threshold,
                self.executions,
                self.errors,
                self.note if after is AlertState.FIRING else "",
            )
        )

    def update_worst(self, time: float, *, low_is_bad: bool) -> bool:
        """Store the evaluation if it is the episode's worst; return whether it is."""
        value, worst = self.value, self.worst
        if value is None:
            return False
        if worst is not None:
            # An equal value is not worse: the alert would be stored again for each of
            # them.
            better = value >= worst.value if low_is_bad else value <= worst.value
            if better:
                return False
        self.worst = WorstValue(time, value, self.executions, self.errors)
        return True

    def add_flap(self, clock: float) -> None:
        """Record that it fired or resolved."""
        recent = [at for at in self.flap_times if clock - at <= FLAP_SECONDS]
        self.flap_times = [*recent, clock][-MAX_FLAP_TIMES:]

    def count_flaps(self, clock: float) -> int:
        """Return how often it fired or resolved within the last hour."""
        return sum(clock - at <= FLAP_SECONDS for at in self.flap_times)

    def is_flapping(self, clock: float) -> bool:
        """Return whether it fires and resolves repeatedly."""
        return self.count_flaps(clock) >= FLAPS

    def snapshot(self) -> Alert:
        """Return a copy that later evaluations do not change."""
        # The other attributes are immutable: they are replaced, never changed.
        copy = msgspec.structs.replace(
            self,
            notified=dict(self.notified),
            suppressions=dict(self.suppressions),
            flap_times=list(self.flap_times),
            timeline=list(self.timeline),
        )
        # Computing the id takes longer than the rest of the copy.
        copy.__dict__["id"] = self.id
        return copy

    def _add(self, entry: TimelineEntry) -> None:
        self.timeline.append(entry)
        while len(self.timeline) > MAX_ENTRIES:
            entries = enumerate(self.timeline)
            spare = (n for n, old in entries if not self._begins_episode(old))
            # If all of them began the episode, the oldest goes: the limit always holds.
            del self.timeline[next(spare, 0)]
            self.dropped_entries += 1

    def _begins_episode(self, entry: TimelineEntry) -> bool:
        """Return whether an entry is one of the changes that began the episode."""
        episode = self.lifecycle.episode + (self.lifecycle.state is AlertState.PENDING)
        first = entry.after in _BEGINNINGS and entry.before != AlertState.RECOVERING
        return first and entry.episode == episode


def alert_id(rule: str, labels: Mapping[str, str]) -> str:
    """Return the id of an alert: 16 hexadecimal digits."""
    return fingerprint({**labels, "alertname": rule})
