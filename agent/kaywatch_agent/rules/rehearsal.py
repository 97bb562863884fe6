"""The rules on a virtual clock: what they would do, for tests and for the past.

It is the engine that works live, given other pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from kaywatch_agent.notification import Alert, NoticeKind, Severity
from kaywatch_agent.rules.engine import Engine
from kaywatch_agent.rules.rule import Settings
from kaywatch_agent.rules.scene import Scene
from kaywatch_agent.rules.state import State

__all__ = ["Message", "Passage", "Rehearsal"]

# Messages that are remembered whole; more are only counted.
MAX_MESSAGES: Final = 10_000


class Passage(NamedTuple):
    """That an alert went from one state to another."""

    time: float
    alert: str
    rule: str
    labels: Mapping[str, str]
    before: State
    after: State
    reason: str
    value: float | None


class Message(NamedTuple):
    """What a receiver would have been told."""

    time: float
    receiver: str
    kind: NoticeKind
    alert: Alert


class Rehearsal:
    """One engine, and all that it did.

    Attributes:
        engine: what decides.
        passages: what went from one state to another.
        messages: who was told what, at most MAX_MESSAGES of them.
        told: how often whom, by receiver, rule and kind.
        suppressed: how many messages were held back, by reason.
        refused: the most alerts that were too many at once, by rule.
    """

    def __init__(
        self, settings: Settings, least: Mapping[str, Severity], host: str = ""
    ) -> None:
        self.engine = Engine(settings, host=host, least=least)
        self.passages: list[Passage] = []
        self.messages: list[Message] = []
        self.told: Counter[tuple[str, str, NoticeKind]] = Counter()
        self.suppressed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._mono = 0.0

    def look(self, scene: Scene, passed: float) -> None:
        """Evaluate the rules, so many seconds after the last time."""
        self._mono += passed
        # Of the past, every second was observed.
        self.engine.max_step = max(self.engine.max_step, passed)
        done = self.engine.evaluate(scene, self._mono)
        for instance, before, after in done.turns:
            passage = Passage(
                scene.now,
                instance.id,
                instance.rule,
                instance.labels,
                before,
                after,
                instance.life.reason,
                instance.value,
            )
            self.passages.append(passage)
        for notice in done.notices:
            self.told[notice.receiver, notice.alert.rule, notice.kind] += 1
            if len(self.messages) < MAX_MESSAGES:
                self.messages.append(Message(scene.now, *notice))
        self.suppressed += done.suppressed
        self.refused |= done.refused
