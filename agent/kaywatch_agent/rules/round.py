"""One evaluation: what the rules found is taken to the alerts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import numpy as np

from kaywatch_agent.rules.evaluate import BREACH, FINDINGS, Found
from kaywatch_agent.rules.instance import Instance
from kaywatch_agent.rules.rule import Rule, Settings
from kaywatch_agent.rules.scene import Windows
from kaywatch_agent.rules.state import Crossing, Finding, Life, State, advance, end
from kaywatch_agent.rules.witness import witnesses

__all__ = ["CLOCK", "Book", "Clock", "Document", "Round", "Turn"]

CLOCK: Final = "clock"

Document = tuple[str, str]  # (kind, id)


class Clock(msgspec.Struct):
    """The alerts' clock, and the wall's when it was written down."""

    seconds: float
    wall: float


@dataclass
class Book:
    """What is remembered from evaluation to evaluation.

    Attributes:
        instances: the alerts, by rule and the values of their labels.
        clock: the alerts' own, in seconds.
        written: when each was written down, by id and that clock.
    """

    instances: dict[tuple[str, tuple[str, ...]], Instance] = field(default_factory=dict)
    clock: float = 0.0
    written: dict[str, float] = field(default_factory=dict)


class Turn(NamedTuple):
    """That an alert went from one state to another, or lost its data."""

    instance: Instance
    before: State
    after: State


class Round:
    """One evaluation of all rules: what becomes of the alerts.

    Attributes:
        now: Unix seconds.
        dirty: alerts that changed, by id.
        ticking: those of which only a timer went on.
        refused: how many alerts were too many, by rule.
        turns: what went from one state to another.
    """

    def __init__(
        self, book: Book, settings: Settings, windows: Windows, elapsed: float
    ) -> None:
        self.now = windows.scene.now
        self.dirty: dict[str, Instance] = {}
        self.ticking: dict[str, Instance] = {}
        self.refused: Counter[str] = Counter()
        self.turns: list[Turn] = []
        self._book = book
        self._by_rule: dict[str, list[Instance]] = defaultdict(list)
        for instance in book.instances.values():
            self._by_rule[instance.rule].append(instance)
        self._settings = settings
        self._windows = windows
        self._elapsed = elapsed

    def judge(self, rule: Rule, found: Found) -> None:
        """Take what a rule found to its alerts."""
        number = {group: n for n, group in enumerate(found.groups)}
        seen = set()
        fired: list[Instance] = []
        for instance in self._by_rule.get(rule.name, ()):
            group = tuple(instance.labels.values())
            if tuple(instance.labels) != found.labels or (
                instance.meaning != rule.meaning and group not in number
            ):
                self._end(instance, "rule_changed")
                continue
            seen.add(group)
            if self._advance(instance, rule, found, number.get(group)):
                fired.append(instance)
        room = self._settings.max_instances - len(seen)
        for n in np.flatnonzero(found.codes == BREACH).tolist():
            group = found.groups[n]
            if group in seen or group in found.gone:
                continue
            if room <= 0:
                self.refused[rule.name] += 1
                continue
            room -= 1
            labels = dict(zip(found.labels, group, strict=True))
            instance = Instance(rule.name, labels, rule.meaning)
            self._book.instances[instance.key] = instance
            if self._advance(instance, rule, found, n):
                fired.append(instance)
        if fired:
            seen_of = witnesses(rule, fired, self._windows)
            for instance, witness in zip(fired, seen_of, strict=True):
                instance.witness = witness

    def orphans(self) -> None:
        """End the alerts whose rules are gone."""
        for name, instances in self._by_rule.items():
            if name not in self._settings.rules:
                for instance in instances:
                    self._end(instance, "rule_removed")

    def _advance(
        self, instance: Instance, rule: Rule, found: Found, n: int | None
    ) -> bool:
        """Take one finding to one alert; return whether an episode began."""
        before = instance.life
        finding = Finding.UNKNOWN if n is None else FINDINGS[found.codes[n]]
        if n is not None:
            self._note(instance, found, n)
            if found.groups[n] in found.gone:
                self._end(instance, "forgotten")
                return False
        if instance.meaning != rule.meaning:
            if finding is Finding.CLEAR and before.burning:
                self._end(instance, "rule_changed")
                return False
            if finding is not Finding.UNKNOWN:
                instance.meaning = rule.meaning
        instance.life, crossing = advance(
            before, finding, self._elapsed, rule.timing, self.now
        )
        self._follow(instance, before, crossing)
        if crossing is Crossing.FIRED:
            instance.worst = None
        known = finding is not Finding.UNKNOWN and instance.life.burning
        if known and instance.weigh(self.now, falls=rule.falls):
            self.ticking[instance.id] = instance
        return crossing is Crossing.FIRED

    def _note(self, instance: Instance, found: Found, n: int) -> None:
        value = float(found.value[n])
        threshold = float(found.threshold[n])
        instance.value = value if math.isfinite(value) else None
        instance.threshold = threshold if math.isfinite(threshold) else None
        instance.executions = int(found.executions[n])
        instance.errors = int(found.errors[n])
        instance.note = found.notes.get(n, instance.note)

    def _end(self, instance: Instance, reason: str) -> None:
        before = instance.life
        instance.life, crossing = end(before, reason, self.now)
        self._follow(instance, before, crossing)

    def _follow(
        self,
        instance: Instance,
        before: Life,
        crossing: Crossing | None,
    ) -> None:
        """Remember what became of an alert."""
        after = instance.life
        if crossing is not None:
            instance.changed(self._book.clock)
        if after.state is not before.state or after.reason != before.reason:
            instance.turn(self.now, before.state)
            self.dirty[instance.id] = instance
            self.turns.append(Turn(instance, before.state, after.state))
        elif after is not before:
            self.ticking[instance.id] = instance
